"""Training clips of the miniature Hallo: talking faces as latents, with their sound, in shards.

Shapes: n clips, f frames. Latents are scaled posterior means. Boxes are (x0, x1, y0, y1) in pixels,
upper ends exclusive.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models import AutoencoderKL
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from crossframe.files import replacing
from crossframe.keys import derive_seed
from methods.hallo.calls import Masks
from methods.hallo.masks import (
    Box,
    expand_box,
    locator_mask,
    mask_pyramid,
    region_images,
)
from methods.hallo.options import Regions
from methods.hallo.sound import SpectralFeatures
from miniature.face import VERSION, face_of, voice_of
from miniature.faces import face_boxes, lip_boxes, render_frames
from miniature.fit import device, work_folder
from miniature.world import SIZE

CLIPS, FRAMES = 400, 24
SHARD = 20
LATENT = 16
SOUND = SpectralFeatures()
AT_INFERENCE = Regions()
LATEST = 200
"""Clips begin at a frame drawn from 0 .. `LATEST`."""
FACE_FOCUS, LIP_FOCUS = 1.0, 4.0
"""What a latent inside the box of face or lips weighs more in the loss than one outside of both."""


@dataclass(frozen=True)
class Talk:
    """What training needs of a clip.

    latents: (f, 4, 16, 16). sound: features (f, blocks, channels). identity: (16,).
    face, lip: boxes (f, 4).
    """

    latents: Tensor
    sound: Tensor
    identity: Tensor
    face: Tensor
    lip: Tensor


def pictures_of(split: str, number: int, start: int, frames: int) -> Tensor:
    """Frames of a face from source frame ``start`` on, (f, 3, 128, 128) in [0, 1]."""
    drawn = render_frames(face_of(split, number), start + np.arange(frames, dtype=np.float64))
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Scaled posterior means (n, 4, h/8, w/8) of pictures (n, 3, h, w) in [0, 1]."""
    parts = [vae.encode(p.to(device()) * 2 - 1).latent_dist.mean for p in pictures.split(8)]
    return torch.cat(parts) * vae.config.scaling_factor


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Pictures (n, 3, 8 h, 8 w) in [0, 1] of scaled latents (n, 4, h, w)."""
    parts = [vae.decode(p).sample for p in (latents / vae.config.scaling_factor).split(8)]
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)


def corners(region: NDArray[np.bool_]) -> Tensor:
    """Boxes (f, 4) int64 of regions (f, h, w) that are upright boxes."""
    rows, columns = (np.asarray(region.any(axis)) for axis in (2, 1))

    def ends(line: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return line.argmax(1), line.shape[1] - line[:, ::-1].argmax(1)

    return torch.from_numpy(np.stack([*ends(columns), *ends(rows)], 1))


def start_of(number: int) -> int:
    """Source frame at which training clip ``number`` begins."""
    rng = np.random.default_rng(derive_seed(VERSION, "hallo clip", number))
    return int(rng.integers(LATEST + 1))


def encode_talk(vae: AutoencoderKL, number: int) -> dict[str, Tensor]:
    """The fields of `Talk` for training clip ``number``."""
    face, start = face_of("train", number), start_of(number)
    times = start + np.arange(FRAMES, dtype=np.float64)
    return {
        "latents": encode(vae, pictures_of("train", number, start, FRAMES)).cpu().half(),
        "sound": SOUND(voice_of(face, start, FRAMES)).half(),
        "identity": torch.from_numpy(face.identity),
        "face": corners(face_boxes(face, times)).short(),
        "lip": corners(lip_boxes(face, times)).short(),
    }


def shard_path(shard: int) -> Path:
    """File of training clips ``shard * SHARD ..``."""
    return work_folder() / "hallo-clips" / f"{shard:04d}.safetensors"


def encode_shard(vae: AutoencoderKL, shard: int) -> None:
    """Write `SHARD` clips into one file."""
    rows = [encode_talk(vae, number) for number in range(shard * SHARD, (shard + 1) * SHARD)]
    path = shard_path(shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        save_file({k: torch.stack([row[k] for row in rows]).contiguous() for k in rows[0]}, file)


class Talks:
    """Training clips, encoded when they are first asked for and kept."""

    def __init__(self, vae: AutoencoderKL, clips: int = CLIPS) -> None:
        self.vae, self.clips = vae, clips
        self.shards: dict[int, dict[str, Tensor]] = {}
        self.grey = encode(vae, torch.full((1, 3, SIZE, SIZE), 0.5))[0].cpu()

    def encode_missing(self) -> None:
        """Write the shards that are not there yet."""
        for shard in range(-(-self.clips // SHARD)):
            if not shard_path(shard).exists():
                encode_shard(self.vae, shard)

    def __getitem__(self, number: int) -> Talk:
        shard, row = divmod(number, SHARD)
        if shard not in self.shards:
            if not shard_path(shard).exists():
                encode_shard(self.vae, shard)
            self.shards[shard] = load_file(shard_path(shard))
        fields = {key: value[row] for key, value in self.shards[shard].items()}
        return Talk(
            latents=fields["latents"].float(),
            sound=fields["sound"].float(),
            identity=fields["identity"].float(),
            face=fields["face"].long(),
            lip=fields["lip"].long(),
        )


def union(boxes: Tensor) -> Box:
    """The box that holds boxes (f, 4)."""
    low, high = boxes.amin(0).tolist(), boxes.amax(0).tolist()
    return low[0], high[1], low[2], high[3]


def boxes_for(face: Tensor, lip: Tensor, reference: int | None) -> tuple[Box, Box]:
    """Boxes of face and lips from which a clip's masks are made, of boxes (f, 4).

    reference: the frame of which they are taken, expanded as at inference; None takes what holds
    those of all frames, as the released training does.
    """
    if reference is None:
        return union(face), union(lip)
    one = slice(reference, reference + 1)
    return (
        expand_box(union(face[one]), SIZE, SIZE, AT_INFERENCE.face_ratio),
        expand_box(union(lip[one]), SIZE, SIZE, AT_INFERENCE.lip_ratio),
    )


def regions(face: Box, lip: Box) -> tuple[Masks, Tensor]:
    """Masks of the four levels, (1, 1, 3, s, s) each, and the locator's input (3, 128, 128)."""
    images = region_images(face, lip, SIZE, SIZE)
    return mask_pyramid(images, LATENT), locator_mask(face, SIZE, SIZE, SIZE)


def focus(face: Tensor, lip: Tensor) -> Tensor:
    """Weights of the loss (..., 16, 16) for boxes (..., 4), one on average."""
    weight = 1 + FACE_FOCUS * _covered(face) + LIP_FOCUS * _covered(lip)
    return weight / weight.mean((-2, -1), keepdim=True)


def _covered(boxes: Tensor) -> Tensor:
    """How much of each latent's pixels lies in boxes (..., 4): (..., 16, 16) in [0, 1]."""
    side = SIZE // LATENT
    low = torch.arange(LATENT) * side
    x0, x1, y0, y1 = boxes.unsqueeze(-1).unbind(-2)
    across, down = (
        (torch.minimum(b, low + side) - torch.maximum(a, low)).clamp(0, side) / side
        for a, b in ((x0, x1), (y0, y1))
    )
    return down.unsqueeze(-1) * across.unsqueeze(-2)
