"""Features of the source, from a single step at the cleanest timestep (paper section 4.1).

Shapes: b guidance rows, f frames, d tokens, c channels; (b f) with b outermost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from methods.ddim import add_noise
from methods.fresco.hooks import edited_inputs, up_block
from methods.networks import Networks
from methods.patterns import INDIVIDUAL


@dataclass(frozen=True)
class SourceFeatures:
    """What a UNet makes of the source frames.

    tokens: what enters each self-attention, by layer name, (b f, d, c). blocks: what enters each up
    block, by its index (0 = deepest), (b f, c, h, w).
    """

    tokens: dict[str, Tensor] = field(default_factory=dict)
    blocks: dict[int, Tensor] = field(default_factory=dict)


def source_features(
    networks: Networks,
    clean: Tensor,
    noise: Tensor,
    timestep: int,
    alpha_bar: float,
    *,
    layers: Sequence[str],
    blocks: Sequence[int],
) -> SourceFeatures:
    """Show the network the source, barely noised, with the run's prompts and without ControlNet.

    Each frame is on its own. clean, noise: (f, 4, h, w). timestep, alpha_bar: of the run's last
    step. layers: self-attentions, blocks: up blocks whose input is kept.
    """
    noisy, f = add_noise(clean, noise, alpha_bar), len(clean)
    batch = noisy.to(networks.text.dtype).repeat(len(networks.text), 1, 1, 1)
    unet = networks.unet
    with (
        kept_inputs(unet.net, layers, blocks) as features,
        unet.frames(f, timestep=timestep, pattern=INDIVIDUAL),
    ):
        unet.net(batch, timestep, unet.text_of(networks.text, f))
    return features


@contextmanager
def kept_inputs(
    net: nn.Module, layers: Sequence[str], blocks: Sequence[int]
) -> Iterator[SourceFeatures]:
    """Yield what enters the named attentions and numbered up blocks in the latest call inside."""
    features = SourceFeatures()
    places = [
        *((net.get_submodule(x), partial(_keep, features.tokens, x)) for x in layers),
        *((up_block(net, x), partial(_keep, features.blocks, x)) for x in blocks),
    ]
    with edited_inputs(places):
        yield features


def _keep(kept: dict[Any, Tensor], key: Any, hidden: Tensor) -> Tensor:
    kept[key] = hidden
    return hidden
