"""LSE-D and LSE-C, the lip-sync error of published tables, from embeddings of a SyncNet.

SyncNet (Chung and Zisserman 2016) puts five frames of a mouth and the 0.2 s of sound beside them
near each other. Its weights may not be passed on; whoever has them embeds a video by joonson's
syncnet_python and gives the embeddings here.

Shapes: f windows of five frames, d numbers of an embedding (1024).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from crossframe.errors import NotAvailable, Problem, UserError

REACH = 15
"""Frames by which sound is shifted either way."""


@dataclass(frozen=True)
class LipSync:
    """distance: LSE-D, lower is better. confidence: LSE-C, higher is better. offset: in frames,
    by how much the sound comes too early where both are nearest; 0 in sync.
    """

    distance: float
    confidence: float
    offset: int


def lip_sync(video: Tensor, sound: Tensor, reach: int = REACH) -> LipSync:
    """Return the lip-sync errors of one clip (syncnet_python, SyncNetInstance.py:evaluate).

    video, sound: embeddings (f, d), one per window. The mean distance is taken for every shift up
    to `reach`; zeros stand for sound beyond the clip. The least mean is LSE-D, and how far it lies
    below the median of all is LSE-C. Raises UserError for embeddings of different shapes,
    NotAvailable for none.
    """
    if video.shape != sound.shape or video.ndim != 2:
        what = f"shapes {tuple(video.shape)} and {tuple(sound.shape)}"
        raise UserError(Problem("lip sync", what, "(f, d) for both"))
    if not len(video):
        raise NotAvailable("lip sync", "needs five frames or more")
    padded = F.pad(sound, (0, 0, reach, reach))
    shifted = padded.unfold(0, len(sound), 1)  # (2 reach + 1, d, f)
    distances = F.pairwise_distance(video[None], shifted.mT).mean(1)
    nearest = int(distances.argmin())
    least = distances[nearest]
    confidence = torch.median(distances) - least
    return LipSync(least.item(), confidence.item(), reach - nearest)
