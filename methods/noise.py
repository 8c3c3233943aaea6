"""Noise of a clip's frames: drawn on the CPU from named streams of one seed.

A frame's noise depends on the seed, the stream and the frame's index only: not on the device, the
number of frames, the number of steps or any other sample.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crossframe.keys import derive_seed


def frame_noise(
    seed: int, stream: tuple[str | int, ...], frames: int, shape: tuple[int, ...], shared: float
) -> Tensor:
    """Return standard normal noise, (frames, *shape) float32 on the CPU.

    Every frame is sqrt(shared) common + sqrt(1 - shared) own, so that each frame is standard normal
    and two frames correlate by `shared` (the mixed noise of PYoCo, arXiv 2305.10474, where
    shared = alpha^2 / (1 + alpha^2)).

    Args:
        seed: of the sample, 0 <= seed < 2**63.
        stream: what the noise is for; other streams are independent.
        shared: fraction of the variance common to all frames, 0 .. 1.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, *stream))
    common = torch.randn((1, *shape), generator=generator)
    if shared == 1:
        return common.expand(frames, *shape).clone()
    own = torch.cat([torch.randn((1, *shape), generator=generator) for _ in range(frames)])
    return math.sqrt(shared) * common + math.sqrt(1 - shared) * own
