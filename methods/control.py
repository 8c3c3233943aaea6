"""ControlNets of a run: control maps embedded once, residuals of several networks summed.

Shapes: f frames, networks see (b f) with the guidance halves b outermost.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crossframe.errors import Problem
from methods.axes import scale_of
from methods.backbones import Backbone
from methods.inflation import FrameAttentionPlan, InflatedNet, inflate

# (down residuals, middle residual) of one ControlNet.
Residuals = tuple[list[Tensor], Tensor]


@dataclass(frozen=True)
class Branch:
    """One ControlNet with its control maps.

    condition: the maps after the network's own embedding, (f, c, h, w): equal in every step and
        guidance half, so computed once. May lie in main memory.
    scale: weight of its residuals.
    """

    net: InflatedNet
    condition: Tensor
    scale: float


@contextmanager
def control_branches(
    backbone: Backbone,
    maps: Mapping[str, Tensor],
    kinds: Sequence[str],
    plan: FrameAttentionPlan,
    scale: float | Mapping[str, float],
    chunk: int | None = None,
) -> Iterator[tuple[Branch, ...]]:
    """Inflate the ControlNets for `kinds` by `plan` and embed their maps; undone on leaving.

    maps: by kind, each (f, 3, h, w) in [0, 1]. scale: weight of every network's residuals, or one
        by kind (1 where it names none). Two kinds may share one network. chunk: frames embedded at
        once; embeddings then lie in main memory, and the device holds those of the frames at work.
        None embeds all at once and keeps them on the device.

    Raises UserError when the backbone has no ControlNet for a kind.
    """
    wanted = {kind: backbone.controlnet_for(kind) for kind in kinds}
    conditions = {
        kind: _embed(backbone.controlnets[name], maps[kind], chunk) for kind, name in wanted.items()
    }
    with ExitStack() as stack:
        nets = {}
        for name in dict.fromkeys(wanted.values()):
            net = backbone.controlnets[name]
            nets[name] = stack.enter_context(inflate(net, plan))
            stack.enter_context(takes_embedded_condition(net))
        yield tuple(
            Branch(nets[name], conditions[kind], scale_of(scale, kind))
            for kind, name in wanted.items()
        )


def embed_condition(net: Any, maps: Tensor) -> Tensor:
    """Return a ControlNet's embedding of control maps (f, 3, H, W): (f, c, h, w).

    A network that wants blue first flips the channels of whatever it is given, so the embedding is
    handed over flipped.
    """
    weight = next(net.controlnet_cond_embedding.parameters())
    maps = maps.to(weight.device, weight.dtype)
    if net.config.controlnet_conditioning_channel_order == "bgr":
        return net.controlnet_cond_embedding(maps.flip(1)).flip(1)
    return net.controlnet_cond_embedding(maps)


def _embed(net: Any, maps: Tensor, chunk: int | None) -> Tensor:
    if chunk is None:
        return embed_condition(net, maps)
    return torch.cat([embed_condition(net, part).cpu() for part in maps.split(chunk)])


@contextmanager
def takes_embedded_condition(net: Any) -> Iterator[None]:
    """Inside the block a ControlNet's `controlnet_cond` is the embedding of the maps."""
    embedding = net.controlnet_cond_embedding
    net.controlnet_cond_embedding = nn.Identity()
    try:
        yield
    finally:
        net.controlnet_cond_embedding = embedding


def branch_residuals(
    branch: Branch,
    batch: Tensor,
    timestep: int,
    states: Tensor,
    frames: Sequence[int] | None = None,
) -> Residuals:
    """Return (down residuals, mid residual) of one ControlNet for a batch (b f, 4, h, w).

    frames: the frames of the clip that the batch holds; None means all.
    """
    own = range(len(branch.condition)) if frames is None else frames
    condition = branch.condition[list(own)].to(batch.device).repeat(len(batch) // len(own), 1, 1, 1)
    with branch.net.frames(len(own), timestep=timestep):
        down, mid = branch.net.net(
            batch, timestep, states, condition, conditioning_scale=branch.scale, return_dict=False
        )
    return list(down), mid


def residual_arguments(residuals: Sequence[Residuals]) -> dict[str, Any]:
    """Sum the residuals of several ControlNets into the arguments of a UNet call."""
    if not residuals:
        return {}
    downs, mids = zip(*residuals, strict=True)
    return {
        "down_block_additional_residuals": tuple(map(_sum, zip(*downs, strict=True))),
        "mid_block_additional_residual": _sum(mids),
    }


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    return functools.reduce(operator.add, tensors)


def control_problems(
    maps: Mapping[str, Tensor], kinds: Sequence[str], shape: torch.Size
) -> list[Problem]:
    """Return what is wrong with the maps of `kinds`: absent, or not of frames' `shape`."""
    problems = []
    for kind in kinds:
        if kind not in maps:
            problems.append(Problem(f"controls: {kind}", "the request holds no such maps"))
        elif maps[kind].shape != shape:
            what = f"maps of shape {tuple(maps[kind].shape)} do not fit frames of {tuple(shape)}"
            problems.append(Problem(f"controls: {kind}", what))
    return problems
