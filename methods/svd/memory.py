"""Less memory for the same result: feed-forward layers in pieces, idle networks off the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from crossframe.errors import Problem, UserError
from methods.svd.backbone import SvdBackbone
from methods.svd.options import Memory


@contextmanager
def spare(backbone: SvdBackbone, options: Memory, frames: int) -> Iterator[None]:
    """Save memory for a `with` block; on leaving, also by an exception, all is as before.

    frames: of each guidance row in every call of the UNet (the window's, for windows).

    Raises UserError when `forward_chunk` does not divide the frames.
    """
    with ExitStack() as undo:
        if options.forward_chunk is not None:
            _chunk_forward(backbone.unet, options.forward_chunk, frames, undo)
        if options.offload:
            networks = (backbone.image_encoder, backbone.vae, backbone.unet)
            _offload(networks, backbone.device, undo)
        yield


def _chunk_forward(unet: Any, chunk: int, frames: int, undo: ExitStack) -> None:
    """Feed-forward layers take `chunk` frames at a time; tokens are independent in them."""
    if frames % chunk:
        divisors = ", ".join(str(n) for n in range(1, frames + 1) if frames % n == 0)
        what = f"{frames} frames are no multiple of {chunk}"
        raise UserError(Problem("backbone.forward_chunk", what, divisors))
    for module in unet.modules():
        if hasattr(module, "set_chunk_feed_forward"):
            undo.callback(_set_chunk, module, module._chunk_size, module._chunk_dim)
    unet.enable_forward_chunking(chunk)


def _set_chunk(block: Any, size: int | None, dim: int | None) -> None:
    block._chunk_size, block._chunk_dim = size, dim


def _offload(networks: Sequence[nn.Module], device: torch.device, undo: ExitStack) -> None:
    """Keep on the device only the network that was called last."""
    for net in networks:
        undo.callback(net.to, next((p.device for p in net.parameters()), device))
    for net in networks:
        others = [other for other in networks if other is not net]
        for entry in _entries(net):
            hook = entry.register_forward_pre_hook(partial(_bring, net, others, device))
            undo.callback(hook.remove)
        net.to("cpu")


def _entries(net: nn.Module) -> list[nn.Module]:
    """The modules that run first when a network is used: an autoencoder is used by its halves."""
    return [half for name, half in net.named_children() if name in ("encoder", "decoder")] or [net]


def _bring(
    net: nn.Module, others: Sequence[nn.Module], device: torch.device, *call: object
) -> None:
    for other in others:
        other.to("cpu")
    net.to(device)
