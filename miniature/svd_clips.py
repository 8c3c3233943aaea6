"""Training clips of the miniature Stable Video Diffusion, and their latents in shards.

Motion means something in them. A clip is played at a drawn number of frames a second, `fps`, and a
drawn part of the world's time passes from one frame to the next. Its speed v is the mean length of
the exact flow over all pixels and pairs of frames, in pixels of a 128-pixel frame, times `fps`:
pixels a second. Its motion bucket is

    bucket = min(255, 32 sqrt(v)),        v = (bucket / 32)^2,

so that 127 is 16 pixels a second, 2 a frame at 8 frames a second; 20, 60 and 180 are .4, 3.5 and
31.6 pixels a second. What moves from frame to frame is v / fps: more for a higher bucket, less for
more frames a second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from diffusers.models import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from crossframe.files import replacing
from crossframe.keys import derive_seed
from methods.svd.conditioning import clip_pixels
from miniature.clip import MEAN, STD
from miniature.fit import device, work_folder
from miniature.world import (
    DESIGN_FRAMES,
    SIZE,
    VERSION,
    Array,
    Scene,
    flow,
    render_frames,
    scene_of,
)

FRAMES = 8
RATES = (5, 12)
"""Frames a second, drawn log-uniformly and rounded."""
PACES = (0.1, 2.4)
"""Frames of the world from one frame to the next, drawn log-uniformly."""
AUGMENTATION = (-3.0, 0.5)
"""Mean and deviation of the log of the noise on the given picture, in [-1, 1]: as SVD's authors."""
BUCKETS, BUCKET_SCALE = 255.0, 32.0
SHARD = 100
FLOW_SIZE = 32
"""Side of the pictures on which speed is measured: flow is smooth inside a layer."""


@dataclass(frozen=True)
class Take:
    """A clip of a scene: the world's times (f,) of its frames, and how fast they are played."""

    scene: Scene
    times: Array
    fps: int

    @property
    def speed(self) -> float:
        """Mean length of the exact flow, pixels a second."""
        pace = float(self.times[1] - self.times[0])
        moved, _ = flow(self.scene, self.times[:-1], pace, FLOW_SIZE)
        return float(np.linalg.norm(moved, axis=-1).mean()) * (SIZE / FLOW_SIZE) * self.fps

    def frames(self) -> Tensor:
        """Its pictures (f, 3, h, w) in [0, 1]."""
        return torch.from_numpy(render_frames(self.scene, self.times)).permute(0, 3, 1, 2) / 255


def bucket_of(speed: float) -> float:
    """Motion bucket in [0, 255] of a speed in pixels a second."""
    return min(BUCKETS, BUCKET_SCALE * math.sqrt(speed))


def draw_take(split: str, number: int, sprites: int | None = None) -> Take:
    """Clip ``number`` of a split, centred in the part of its scene in which sprites are in view.

    sprites: how many; None for the scene's own number.
    """
    rng = np.random.default_rng(derive_seed(VERSION, "take", split, number))
    pace = float(np.exp(rng.uniform(*np.log(PACES))))
    fps = round(float(np.exp(rng.uniform(*np.log(RATES)))))
    spare = DESIGN_FRAMES - pace * (FRAMES - 1)
    start = rng.uniform(0, spare) if spare > 0 else spare / 2
    return Take(scene_of(split, number, sprites), start + pace * np.arange(FRAMES), fps)


@torch.no_grad()
def image_embeddings(encoder: CLIPVisionModelWithProjection, images: Tensor) -> Tensor:
    """CLIP's embeddings (n, 1, d) of pictures (n, 3, h, w) in [0, 1]: the UNet's only context."""
    pixels = clip_pixels(images, encoder.config.image_size, MEAN, STD)
    embeds: Tensor = encoder(pixel_values=pixels).image_embeds
    return embeds[:, None]


@dataclass(frozen=True)
class Encoders:
    """The frozen networks that latents and context come from."""

    vae: AutoencoderKL
    image: CLIPVisionModelWithProjection

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Unscaled posterior means (n, 4, h/8, w/8) of pictures (n, 3, h, w) in [-1, 1]."""
        mean: Tensor = self.vae.encode(images.to(device())).latent_dist.mean
        return mean.cpu()


def encode_take(encoders: Encoders, take: Take, generator: torch.Generator) -> dict[str, Tensor]:
    """What training needs of a clip: played forwards and, for its last two axes, backwards too.

    latents: (f, 4, 16, 16), scaled. given: (2, 4, 16, 16), unscaled latents of the first and the
    last frame with noise. context: (2, 1, d), CLIP's embeddings of the two, clean. ids: (3,), what
    `added_time_ids` holds: fps - 1, motion bucket, strength of the noise.
    """
    frames = take.frames()
    ends = frames[[0, -1]]
    mean, deviation = AUGMENTATION
    strength = float(torch.exp(mean + deviation * torch.randn((), generator=generator)))
    noisy = ends * 2 - 1 + strength * torch.randn(ends.shape, generator=generator)
    found = encoders.latents(torch.cat([frames * 2 - 1, noisy]))
    return {
        "latents": (found[:FRAMES] * encoders.vae.config.scaling_factor).half(),
        "given": found[FRAMES:].half(),
        "context": image_embeddings(encoders.image, ends.to(device())).cpu().half(),
        "ids": torch.tensor([take.fps - 1, bucket_of(take.speed), strength]),
    }


def shard_path(shard: int) -> Path:
    """File of training clips ``shard * SHARD ..``."""
    return work_folder() / "svd-clips" / f"{shard:04d}.safetensors"


def encode_shard(encoders: Encoders, shard: int) -> None:
    """Encode `SHARD` clips into one file."""
    rows = [
        encode_take(
            encoders,
            draw_take("train", number),
            torch.Generator().manual_seed(derive_seed(VERSION, "augmentation", number)),
        )
        for number in range(shard * SHARD, (shard + 1) * SHARD)
    ]
    path = shard_path(shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        stacked = {key: torch.stack([row[key] for row in rows]).contiguous() for key in rows[0]}
        save_file(stacked, file)


@cache
def load_shard(encoders: Encoders, shard: int) -> dict[str, Tensor]:
    """The tensors of `encode_take` for `SHARD` clips, encoded when they are first asked for."""
    if not shard_path(shard).exists():
        encode_shard(encoders, shard)
    return {key: value.float() for key, value in load_file(shard_path(shard)).items()}


@dataclass(frozen=True)
class Batch:
    """Clips of a step, by number n.

    latents: (n, f, 4, 16, 16). given: (n, 4, 16, 16). context: (n, 1, d). ids: (n, 3).
    """

    latents: Tensor
    given: Tensor
    context: Tensor
    ids: Tensor


def draw_batch(encoders: Encoders, clips: int, count: int) -> Batch:
    """``count`` of the first ``clips`` training clips, half backwards, from torch's generator."""
    numbers = torch.randint(0, clips, (count,)).tolist()
    backwards = torch.randint(0, 2, (count,)).tolist()
    rows = []
    for number, back in zip(numbers, backwards, strict=True):
        shard = load_shard(encoders, number // SHARD)
        row = {key: value[number % SHARD] for key, value in shard.items()}
        latents = row["latents"].flip(0) if back else row["latents"]
        rows.append((latents, row["given"][back], row["context"][back], row["ids"]))
    latents, given, context, ids = (torch.stack(c).to(device()) for c in zip(*rows, strict=True))
    return Batch(latents, given, context, ids)
