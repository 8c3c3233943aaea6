"""How much the temporal layers count: diffusers' `AlphaBlender` with another weight.

A blender returns `a spatial + (1 - a) temporal` with a learned a; those of the decoder were saved
the other way round and switch the two. Here t is always the weight of the temporal branch. The
temporal branch stands on top of the spatial one, so t = 0 drops exactly what it adds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.resnet import AlphaBlender
from torch import Tensor, nn

from methods.svd.layers import choose_layers
from methods.svd.options import Blend

_PARTS = {"resnet": "resnets", "attention": "attentions"}

# (image_only_indicator, ndims) -> a, as `AlphaBlender.get_alpha`.
GetAlpha = Callable[[Any, int], Tensor]


def temporal_weight(learned: Tensor, options: Blend) -> Tensor:
    """Return the weight of the temporal branch in place of the learned one, any shape, 0 .. 1.

    Above 1 where a gain extrapolates.
    """
    if options.value is not None:
        return torch.full_like(learned, options.value)
    if options.shift:
        return torch.sigmoid(torch.logit(learned) + options.shift)
    return learned * options.gain


@contextmanager
def blended(net: nn.Module, options: Blend) -> Iterator[None]:
    """Give the blenders of a UNet or a temporal autoencoder other weights, for a `with` block.

    Nothing happens to a network that does not take part, or when the weights are the learned ones.
    On leaving, also by an exception, the blenders are as before; weights are never written.

    Raises UserError when the network takes part and has no blender where the options say.
    """
    with ExitStack() as undo:
        for blender in _chosen(net, options).values():
            before = blender.__dict__.get("get_alpha")
            undo.callback(_restore, blender, before)
            blender.__dict__["get_alpha"] = _reweighted(blender, options)
        yield


def _chosen(net: nn.Module, options: Blend) -> dict[str, nn.Module]:
    network = "unet" if isinstance(net, UNetSpatioTemporalConditionModel) else "vae"
    if options.is_stock or network not in options.networks:
        return {}
    parts = "|".join(_PARTS[layer] for layer in options.layers)
    name = re.compile(rf"\.({parts})\.\d+\.time_mixer$")
    return choose_layers(net, options, name, "alpha")


def _reweighted(blender: Any, options: Blend) -> GetAlpha:
    learned: GetAlpha = blender.__dict__.get("get_alpha") or partial(_learned, blender)
    if blender.switch_spatial_to_temporal_mix:
        return lambda indicator, ndims: temporal_weight(learned(indicator, ndims), options)
    return lambda indicator, ndims: 1 - temporal_weight(1 - learned(indicator, ndims), options)


def _learned(blender: Any, indicator: Any, ndims: int) -> Tensor:
    """The blender's own a in float32, so that a logit comes back from it; see `GetAlpha`."""
    weights = SimpleNamespace(
        merge_strategy=blender.merge_strategy, mix_factor=blender.mix_factor.float()
    )
    a: Tensor = AlphaBlender.get_alpha(weights, indicator, ndims)
    return a


def _restore(blender: nn.Module, before: GetAlpha | None) -> None:
    if before is None:
        del blender.__dict__["get_alpha"]
    else:
        blender.__dict__["get_alpha"] = before
