"""Latents of training pictures in shards, so that denoisers train without the autoencoder."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from crossframe.files import replacing
from miniature.data import pictures
from miniature.fit import device, work_folder

PICTURES = 12_000
SHARD = 500


def shard_path(shard: int) -> Path:
    """File of pictures ``shard * SHARD ..`` of the training split."""
    return work_folder() / "latents" / f"{shard:04d}.safetensors"


@torch.no_grad()
def encode_shard(vae: AutoencoderKL, shard: int) -> None:
    """Write one shard: scaled posterior means, (SHARD, 4, 16, 16) fp16."""
    images, _ = pictures(shard * SHARD, SHARD)
    parts = [
        vae.encode(part.to(device()) * 2 - 1).latent_dist.mean.cpu() for part in images.split(10)
    ]
    path = shard_path(shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        save_file(
            {"latents": (torch.cat(parts) * vae.config.scaling_factor).half().contiguous()}, file
        )


def encode(vae: AutoencoderKL, first: int = 0, step: int = 1) -> None:
    """Encode what is missing of every ``step``-th shard from ``first`` on: two may share."""
    for shard in range(first, PICTURES // SHARD, step):
        if not shard_path(shard).exists():
            encode_shard(vae, shard)


def load(vae: AutoencoderKL) -> Tensor:
    """All latents, (PICTURES, 4, 16, 16) float32, encoding what is missing."""
    encode(vae)
    files = [load_file(shard_path(shard))["latents"] for shard in range(PICTURES // SHARD)]
    return torch.cat(files).float()
