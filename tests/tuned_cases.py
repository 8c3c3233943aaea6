"""What tests of tuning and inversion start from: published cases, and a request that shares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from crossframe.keys import identity
from methods.base import SampleRequest
from methods.inflation import FrameAttentionPlan
from methods.patterns import parse_pattern
from methods.tuneavideo.network import is_temporal
from tests.golden_case import GOLDEN, Golden, plain_config
from tests.tiny_backbone import SIZE

SPARSE_CAUSAL = parse_pattern("first+previous")
PLAN = FrameAttentionPlan(SPARSE_CAUSAL, group_norm="pooled")


def quiet(done: int, total: int) -> None:
    """Report no progress."""


def plain_unet(config: Mapping[str, Any]) -> Any:
    """A UNet of plain diffusers for a configuration with 3-D block names."""
    return UNet2DConditionModel(**plain_config(config)).eval().requires_grad_(False)


def golden_unet() -> tuple[Any, dict[str, Tensor], Golden]:
    """The small published network: a plain UNet and the tensors that are added to it."""
    golden = Golden("tuneavideo/unet3d")
    net = plain_unet(golden.config["unet"])
    added = {name: t for name, t in golden.weights.items() if is_temporal(name)}
    net.load_state_dict({n: t for n, t in golden.weights.items() if n not in added})
    return net, added, golden


def fold(x_bcfhw: Tensor) -> Tensor:
    return x_bcfhw.transpose(1, 2).flatten(0, 1)


def unfold(x: Tensor, f: int) -> Tensor:
    return x.unflatten(0, (-1, f)).transpose(1, 2)


def layout() -> tuple[dict[str, Any], Any]:
    listed = json.loads((GOLDEN / "tuneavideo" / "train_grads.json").read_text())["layouts"]["sd14"]
    return listed, plain_unet(listed["unet"])


class Shelf:
    """A `Shared` that keeps everything, and its notes."""

    def __init__(self) -> None:
        self.kept: dict[str, Mapping[str, Tensor]] = {}
        self.made: list[str] = []
        self.notes: dict[str, Any] = {}

    def shared(self, stage: str, parts: Any, make: Any) -> Mapping[str, Tensor]:
        key = identity([stage, parts])
        if key not in self.kept:
            self.kept[key] = {name: t.cpu() for name, t in make().items()}
            self.made.append(stage)
        return self.kept[key]

    def request(self, **changed: Any) -> SampleRequest:
        frames = torch.rand((3, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
        given = {"prompt": "a blue star", "source_prompt": "a red star", "seed": 4, **changed}
        return SampleRequest(
            frames=frames, shared=self.shared, note=self.notes.__setitem__, **given
        )
