"""Decoding by the temporal decoder, in chunks that may overlap.

The decoder mixes the frames that it gets together, by convolutions, norms and a last convolution
over time, so chunks show at their seams: an axis, and the price of memory.

Shapes: latents (f, 4, h, w), frames (f, 3, h * factor, w * factor).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor

from methods.svd.alpha import blended
from methods.svd.backbone import SvdBackbone
from methods.svd.long import fusion_weights, windows
from methods.svd.options import Blend, Decoding


def chunks(frames: int, options: Decoding) -> tuple[range, ...]:
    """Return the frames that are decoded together.

    Side by side, the last one shorter, as in diffusers; with an overlap all of one length.
    """
    if options.overlap:
        return windows(frames, options.chunk, options.overlap)
    length = options.chunk or frames
    return tuple(range(s, min(s + length, frames)) for s in range(0, frames, length))


def borders(frames: int, options: Decoding) -> tuple[int, ...]:
    """Return the frames 0 < t < f that come mostly from another chunk than frame t - 1."""
    parts = chunks(frames, options)
    owner = fusion_weights(parts, frames, "nearest").argmax(0).tolist()
    return tuple(t for t in range(1, frames) if owner[t] != owner[t - 1])


@torch.no_grad()
def decode(backbone: SvdBackbone, latents: Tensor, options: Decoding) -> Tensor:
    """Return frames, (f, 3, H, W) float32 in [0, 1] on the CPU.

    latents: scaled, (f, 4, h, w), of one video: chunks of several would be taken for one clip.
    Where chunks overlap, neighbours fade linearly into each other.
    """
    vae, parts = backbone.vae, chunks(len(latents), options)
    scaled = (1 / vae.config.scaling_factor * latents).to(backbone.device, backbone.dtype)
    with framewise(vae) if options.framewise else nullcontext():
        if not options.overlap:
            frames = torch.cat([_decoded(vae, scaled, part) for part in parts])
        else:
            frames = _faded(vae, scaled, parts)
    return (frames / 2 + 0.5).clamp(0, 1)


@contextmanager
def framewise(vae: AutoencoderKLTemporalDecoder) -> Iterator[None]:
    """Let the decoder decode every frame by itself, for a `with` block.

    The temporal layers get no weight, and the last convolution over time is left out.
    """
    hook = vae.decoder.time_conv_out.register_forward_hook(lambda conv, given, made: given[0])
    try:
        with blended(vae, Blend(value=0.0, networks=("vae",))):
            yield
    finally:
        hook.remove()


def _decoded(vae: AutoencoderKLTemporalDecoder, latents: Tensor, part: range) -> Tensor:
    """Decode the frames `part` together: (k, 3, H, W) float32 in about [-1, 1], on the CPU."""
    made: Tensor = vae.decode(latents[part.start : part.stop], num_frames=len(part)).sample
    return made.float().cpu()


def _faded(vae: AutoencoderKLTemporalDecoder, latents: Tensor, parts: tuple[range, ...]) -> Tensor:
    weights = fusion_weights(parts, len(latents))
    first = _decoded(vae, latents, parts[0])
    frames = first.new_zeros(len(latents), *first.shape[1:])
    for number, (part, weight) in enumerate(zip(parts, weights, strict=True)):
        made = _decoded(vae, latents, part) if number else first
        span = slice(part.start, part.stop)
        frames[span] += weight[span, None, None, None] * made
    return frames
