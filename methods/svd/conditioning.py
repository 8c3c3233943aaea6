"""What the UNet of Stable Video Diffusion is told of an image (arXiv 2311.15127, app. D).

Three things: the image's CLIP embedding, by cross-attention; the mode of its latents, not scaled,
as further channels of every frame, after a little noise was added to its pixels; and three numbers
beside the noise level. The unconditional half of guidance has zeros for the first two, and the same
numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from methods.base import SampleRequest
from methods.noise import frame_noise
from methods.svd.backbone import SvdBackbone, upcast
from methods.svd.config import SvdConfig


@dataclass(frozen=True)
class Conditions:
    """Of one video, on the backbone's device in its arithmetic.

    embedding: (1, 1, d), CLIP's of the image. latents: (f, c, h, w), of the image, for each frame.
    numbers: (1, 3), fps - 1, motion bucket and strength of the noise on the image.
    """

    embedding: Tensor
    latents: Tensor
    numbers: Tensor

    def of(self, frames: range, halves: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return embeddings (b, 1, d), latents (b, k, c, h, w) and numbers (b, 3) for some frames.

        halves: 2 for an unconditional and a conditional row, 1 for the latter alone.
        """
        latents = self.latents[None, frames.start : frames.stop]
        if halves == 1:
            return self.embedding, latents, self.numbers
        told = [torch.cat([torch.zeros_like(x), x]) for x in (self.embedding, latents)]
        return told[0], told[1], self.numbers.repeat(2, 1)


def conditions(
    backbone: SvdBackbone, request: SampleRequest, config: SvdConfig, frames: int
) -> Conditions:
    """Return what a video of `frames` is conditioned on: the first frame of the request."""
    image, wanted, noise_aug = request.frames[:1], config.image, config.noise_aug
    noise = frame_noise(request.seed, ("augmentation",), 1, tuple(image.shape[1:]), 1.0)
    latents = image_latents(backbone, image, noise_aug.strength * noise, scaled=wanted.scaled)
    latents = latents.expand(frames, -1, -1, -1).clone()
    latents[{"all": frames, "first": 1, "none": 0}[wanted.latents] :] = 0
    embedding = image_embedding(backbone, image)
    told = noise_aug.strength if noise_aug.told is None else noise_aug.told
    numbers = torch.tensor([[config.fps - 1, config.motion_bucket, told]])
    return Conditions(
        embedding=embedding if wanted.clip else torch.zeros_like(embedding),
        latents=latents,
        numbers=numbers.to(backbone.device, backbone.dtype),
    )


def image_embedding(backbone: SvdBackbone, images: Tensor) -> Tensor:
    """Return CLIP embeddings, (n, 1, d) in the backbone's arithmetic.

    images: (n, 3, h, w) in [0, 1], any size. They are resized while in [-1, 1], not cropped.
    """
    size = backbone.image_encoder.config.image_size
    mean, std = torch.tensor(backbone.image_mean), torch.tensor(backbone.image_std)
    seen = clip_pixels(images, size, mean.view(-1, 1, 1), std.view(-1, 1, 1))
    made: Tensor = backbone.image_encoder(seen.to(backbone.device, backbone.dtype)).image_embeds
    return made.unsqueeze(1)


def clip_pixels(images: Tensor, size: int, mean: Tensor | float, std: Tensor | float) -> Tensor:
    """Return what CLIP sees of pictures (n, 3, h, w) in [0, 1]: (n, 3, size, size), normalised."""
    return ((antialiased(images.float() * 2 - 1, size) + 1) / 2 - mean) / std


def image_latents(
    backbone: SvdBackbone, images: Tensor, noise: Tensor, *, scaled: bool = False
) -> Tensor:
    """Return the modes of the posteriors, (n, c, h / factor, w / factor), in the backbone's dtype.

    images: (n, 3, h, w) in [0, 1]. noise: added to them while in [-1, 1], same shape. scaled: times
    the autoencoder's scale, as the latents of videos are.
    """
    shown = images * 2 - 1 + noise
    with upcast(backbone) as dtype:
        modes = [
            backbone.vae.encode(part.to(backbone.device, dtype)).latent_dist.mode()
            for part in shown.split(backbone.chunk)
        ]
    factor = backbone.vae.config.scaling_factor if scaled else 1
    return (torch.cat(modes) * factor).to(backbone.dtype)


def antialiased(images: Tensor, size: int) -> Tensor:
    """Return images (n, c, h, w) float32 as (n, c, size, size): blurred, then read bicubically.

    A Gaussian of standard deviation (h / size - 1) / 2, cut at two of them, edges reflected; the
    corners of both grids coincide. Enlarging blurs by nothing.
    """
    blurred = images
    for axis in (-1, -2):
        blurred = _blurred(blurred, axis, images.shape[axis] / size)
    return functional.interpolate(blurred, (size, size), mode="bicubic", align_corners=True)


def _blurred(images: Tensor, axis: int, factor: float) -> Tensor:
    """Blur along one axis for shrinking by `factor`."""
    sigma = max((factor - 1) / 2, 0.001)
    taps = int(max(4 * sigma, 3)) | 1  # odd
    x = torch.arange(taps, dtype=images.dtype) - taps // 2
    kernel = torch.exp(-x.pow(2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(images)
    half = taps // 2
    flat = images.flatten(0, 1).unsqueeze(1)
    if axis == -1:
        padded = functional.pad(flat, (half, half, 0, 0), mode="reflect")
        return functional.conv2d(padded, kernel.view(1, 1, 1, -1)).view_as(images)
    padded = functional.pad(flat, (0, 0, half, half), mode="reflect")
    return functional.conv2d(padded, kernel.view(1, 1, -1, 1)).view_as(images)
