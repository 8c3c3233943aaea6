"""The authors' sampler cases: tensors by role, and the stand-in networks that the cases define."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.attention import CallSlot, FrameAttentionProcessor, FrameCall, KeyValue
from methods.guidance import guide
from methods.patterns import Pattern, parse_pattern
from tests.golden_case import GOLDEN, Golden

FOLDER = GOLDEN / "controlvideo"
VAE_SCALE = 0.18215


def lists(case: str) -> dict[str, Any]:
    """A case that holds exact integers."""
    found: dict[str, Any] = json.loads((FOLDER / f"{case}.json").read_text(encoding="utf-8"))
    return found


class Case(Golden):
    """One case of ControlVideo's samplers, with the stand-ins that it defines."""

    def __init__(self, name: str) -> None:
        super().__init__(f"controlvideo/{name}")

    def network(self, video: int) -> StandIn:
        return StandIn(self, video)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (n, 4, h, w) -> pictures (n, 3, h, w) in [0, 1]."""
        raw = torch.einsum("pc,nchw->nphw", self.weights["vae_decode"], latents / VAE_SCALE)
        return (raw / 2 + 0.5).clamp(0, 1)

    def encode(self, pictures: Tensor, noise: Tensor | None) -> Tensor:
        """Pictures (n, 3, h, w) in [0, 1] -> latents (n, 4, h, w)."""
        found = torch.einsum("cp,nphw->nchw", self.weights["vae_encode"], pictures * 2 - 1)
        if noise is not None:
            found = found + self.config["encode_std"] * noise
        return found * VAE_SCALE


def frames_first(x_cfhw: Tensor) -> Tensor:
    """(c, f, h, w) -> (f, c, h, w)."""
    return x_cfhw.transpose(0, 1)


@dataclass
class StandIn:
    """The stand-in network of a case for one of its videos, as `predict` and `predict_part`."""

    case: Case
    video: int

    def __post_init__(self) -> None:
        weights = self.case.weights
        heads = self.case.config["heads"]
        self.attn = SimpleNamespace(
            heads=heads,
            to_q=_linear(weights, "to_q"),
            to_k=_linear(weights, "to_k"),
            to_v=_linear(weights, "to_v"),
            to_out=[_linear(weights, "to_out.0"), nn.Identity()],
        )

    def predict(self, latents: Tensor, timestep: int, scale: float) -> Tensor:
        return self.predict_part(latents, timestep, scale, range(len(latents)))

    def predict_part(
        self,
        latents: Tensor,
        timestep: int,
        scale: float,
        frames: Sequence[int],
        *,
        pattern: Pattern | None = None,
        bank: Mapping[str, Tensor | KeyValue] | None = None,
        record: dict[str, KeyValue] | None = None,
    ) -> Tensor:
        config, given = self.case.config, self.case.input
        f, (height, width) = len(frames), latents.shape[-2:]
        slot = CallSlot()
        table = (pattern or parse_pattern("full")).table(f)
        slot.current = FrameCall(f, table, bank=bank or {}, record=record)
        tokens = latents.repeat(2, 1, 1, 1).flatten(2).transpose(1, 2)
        mixed = FrameAttentionProcessor(slot, "attn1")(self.attn, tokens)
        attended = mixed.transpose(1, 2).unflatten(2, (height, width))
        text = torch.stack([given["text_uncond"][self.video], given["text"][self.video]])
        offset = (text @ self.case.weights["text_proj"]).mean(1).repeat_interleave(f, 0)
        cond = frames_first(given["cond"][self.video])[list(frames)]
        side = torch.einsum("cp,nphw->nchw", self.case.weights["cond_proj"], F.avg_pool2d(cond, 8))
        output = (
            config["x_gain"] * latents.repeat(2, 1, 1, 1)
            + config["attn_gain"] * attended
            + timestep / 1000 * offset[..., None, None]
            + config["conditioning_scale"] * side.repeat(2, 1, 1, 1)
        )
        return guide(output, scale, 2)


def _linear(weights: Mapping[str, Tensor], name: str) -> Any:
    weight = weights[f"attn1.{name}.weight"]
    return lambda x: F.linear(x, weight, weights.get(f"attn1.{name}.bias"))
