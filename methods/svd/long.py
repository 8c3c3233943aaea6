"""Windows over the frames of a long video: where they lie, how they fuse, which noise they get.

Shapes: f frames, w windows. A window is a `range` of frames. Temporal norms and convolutions pool
over all frames of a call, so a window differs from the same frames in a longer call even where
their attention could not reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from crossframe.keys import derive_seed

# (latents (k, ...), the k frames) -> prediction (k, ...)
PredictFrames = Callable[[Tensor, range], Tensor]


def _centrality(place: int, length: int) -> float:
    """1 at the ends of a window, growing by 1 towards its centre."""
    return min(place + 1, length - place)


# Relative weight of position i = 0 .. n-1 in a window of n frames.
_WEIGHTS: Mapping[str, Callable[[int, int], float]] = {
    "mean": lambda place, length: 1,
    "pyramid": _centrality,
    "nearest": _centrality,
}


def windows(frames: int, window: int | None, overlap: int = 0) -> tuple[range, ...]:
    """Return windows of equal length that cover all frames, each sharing `overlap` with the next.

    The last one is moved back to end with the last frame, and may share more. One window holds all
    frames when `window` is None or not less than they are.
    """
    if window is None or window >= frames:
        return (range(frames),)
    starts = [*range(0, frames - window, window - overlap), frames - window]
    return tuple(range(start, start + window) for start in starts)


def fusion_weights(parts: Sequence[range], frames: int, fusion: str = "pyramid") -> Tensor:
    """Return the weight of each frame in each window, (w, f) float32 that sums to 1 over w.

    fusion: `mean`, equal; `pyramid`, growing linearly from the ends of a window to its centre, so
    that two windows cross-fade; `nearest`, the window in which the frame is most central, alone
    (the earlier of two).
    """
    weights = torch.zeros(len(parts), frames, dtype=torch.float64)
    for row, part in zip(weights, parts, strict=True):
        weigh, n = _WEIGHTS[fusion], len(part)
        row[part.start : part.stop] = torch.tensor([weigh(i, n) for i in range(n)]).double()
    if fusion == "nearest":
        chosen = weights.argmax(0)
        return torch.nn.functional.one_hot(chosen, len(parts)).T.float()
    return (weights / weights.sum(0)).float()


def over_windows(
    predict: PredictFrames, latents: Tensor, parts: Sequence[range], weights: Tensor
) -> Tensor:
    """Return the prediction for latents (f, ...), fused from those of the windows.

    weights: (w, f), of `fusion_weights`. A single window is one plain call.
    """
    if len(parts) == 1:
        return predict(latents, parts[0])
    fused = torch.zeros_like(latents)
    for part, weight in zip(parts, weights.to(latents), strict=True):
        frames = slice(part.start, part.stop)
        made = predict(latents[frames], part)
        fused[frames] += made * weight[frames].view(-1, *(1,) * (latents.dim() - 1))
    return fused


def rescheduled_frames(frames: int, window: int, overlap: int, seed: int) -> tuple[int, ...]:
    """Return for each frame the frame of the first window whose noise it starts from.

    The first window has its own. The frames that each following one of `windows` adds take the
    noise of those that it leaves behind, in another order (FreeNoise, arXiv 2310.15169): distant
    frames stay correlated, and no two frames of a window share noise. What all but the last window
    hold does not depend on the number of frames.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "rescheduled"))
    parts = windows(frames, window, overlap)
    source = list(parts[0])
    for before, part in pairwise(parts):
        left = source[before.start : part.start]
        source += [left[i] for i in torch.randperm(len(left), generator=generator).tolist()]
    return tuple(source)


def reschedule(noise: Tensor, window: int, overlap: int, seed: int) -> Tensor:
    """Return noise (f, ...) with that of the first window repeated in shuffled strides."""
    return noise[list(rescheduled_frames(noise.shape[0], window, overlap, seed))]
