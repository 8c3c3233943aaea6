"""How pictures are brought before an image encoder: resized, cropped, normalised, in batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from metrics.preprocessing import Preprocessing


def prepare(images: Tensor, how: Preprocessing) -> Tensor:
    """(n, 3, h, w) in [0, 1] -> (n, 3, *crop), or (n, 3, resized) without a crop; normalised."""
    if how.lower_square and images.shape[2] > images.shape[3]:
        images = images[:, :, -images.shape[3] :]
    if how.squash:
        images = _resize(images, how.squash, how)
    images = _resize(images, _target(images, how.resize), how)
    if how.crop:
        images = _centre_crop(images, how.crop)
    mean, std = (images.new_tensor(v).view(1, -1, 1, 1) for v in (how.mean, how.std))
    return (images - mean) / std


def in_batches(
    encode: Callable[[Tensor], Tensor], images: Tensor, batch: int, device: torch.device | str
) -> Tensor:
    """Encode (n, 3, h, w) part by part -> (n, d) float32 of unit length, on the CPU."""
    parts = [encode(part) for part in images.float().to(device).split(batch)]
    return F.normalize(torch.cat(parts).float(), dim=-1).cpu()


def _target(images: Tensor, resize: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(resize, tuple):
        return resize
    height, width = images.shape[-2:]
    shorter = min(height, width)
    return height * resize // shorter, width * resize // shorter


def _resize(images: Tensor, size: tuple[int, int], how: Preprocessing) -> Tensor:
    """Bicubic sampling overshoots; pictures on disk cannot, so values are kept in [0, 1]."""
    made = F.interpolate(images, size, mode=how.filter, antialias=how.antialias)
    return made.clamp(0, 1)


def _centre_crop(images: Tensor, size: tuple[int, int]) -> Tensor:
    top, left = ((have - want) // 2 for have, want in zip(images.shape[-2:], size, strict=True))
    return images[..., top : top + size[0], left : left + size[1]]
