"""Training pictures of the miniature world as tensors: a batch is a function of its number."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from crossframe.keys import derive_seed
from miniature.world import SIZE, VERSION, Scene, render_frames, training_frames

APART = 2.0


def pictures(
    start: int, count: int, size: int = SIZE, sprites: int | None = None
) -> tuple[Tensor, list[Scene]]:
    """Single frames of training scenes: (count, 3, h, w) float32 in [0, 1], and the scenes."""
    drawn = list(training_frames(start, count, sprites))
    frames = np.stack([render_frames(scene, np.array([t]), size)[0] for scene, t in drawn])
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    return images, [scene for scene, _ in drawn]


def later_pictures(start: int, count: int, size: int = SIZE) -> Tensor:
    """Another frame of each scene of `pictures`, (count, 3, h, w): at most `APART` frames away."""
    frames = []
    for index, (scene, t) in enumerate(training_frames(start, count), start):
        rng = np.random.default_rng(derive_seed(VERSION, "another time", index))
        frames.append(render_frames(scene, t + rng.uniform(-APART, APART, 1), size)[0])
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255


def crops(images: Tensor, size: int, count: int) -> Tensor:
    """``count`` crops of each image, (n * count, 3, size, size), from torch's global generator."""
    corners = torch.randint(0, SIZE - size + 1, (len(images) * count, 2)).tolist()
    return torch.stack(
        [images[i // count, :, y : y + size, x : x + size] for i, (y, x) in enumerate(corners)]
    )
