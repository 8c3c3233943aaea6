"""Control maps: what a ControlNet is shown of the source clip.

`edges` and `depth` take the clip's exact arrays where it has them; `canny` always looks at the
frames. No estimator with weights is built in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from crossframe.errors import Problem, UserError, did_you_mean

# Hysteresis thresholds on the 8-bit gradient, as ControlVideo's util.py:61 and ControlNet's demo.
CANNY_THRESHOLDS = (100, 200)

Array = np.ndarray[Any, Any]
Condition = Callable[[Array, Array | None, Array | None], Array]


def control_map(
    kind: str, frames: Array, *, edges: Array | None = None, depth: Array | None = None
) -> Tensor:
    """Return one control map of a clip, (f, 3, h, w) float32 in [0, 1], three equal channels.

    Args:
        kind: `edges` (exact edges where given, otherwise Canny), `canny` (Canny of the frames) or
            `depth` (exact depth, 1 = near).
        frames: (f, h, w, 3) uint8 RGB.
        edges: exact edges of the clip, (f, h, w) in {0, 1}, white lines on black.
        depth: exact depth of the clip, (f, h, w) in [0, 1], 1 = near.

    Raises UserError for another kind, for `depth` without depth, and for arrays that do not fit.
    """
    if kind not in _CONDITIONS:
        raise UserError(
            Problem(
                "controls",
                f"unknown control {kind!r}",
                ", ".join(_CONDITIONS),
                did_you_mean(kind, _CONDITIONS),
            )
        )
    grey = _CONDITIONS[kind](frames, edges, depth)
    _check_shape(kind, grey, frames)
    tensor = torch.from_numpy(np.ascontiguousarray(grey, dtype=np.float32))
    return tensor[:, None].expand(-1, 3, -1, -1).contiguous()


def canny(frames: Array, low: int = CANNY_THRESHOLDS[0], high: int = CANNY_THRESHOLDS[1]) -> Array:
    """Return Canny edges of each frame: (f, h, w, 3) uint8 RGB -> (f, h, w) float32 in {0, 1}.

    low, high: hysteresis thresholds of OpenCV on the 8-bit grey image (3x3 Sobel, L1 norm).
    """
    greys = (cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames)
    return np.stack([cv2.Canny(grey, low, high) > 0 for grey in greys]).astype(np.float32)


def _edges(frames: Array, edges: Array | None, depth: Array | None) -> Array:
    return canny(frames) if edges is None else edges


def _canny(frames: Array, edges: Array | None, depth: Array | None) -> Array:
    return canny(frames)


def _depth(frames: Array, edges: Array | None, depth: Array | None) -> Array:
    if depth is None:
        raise UserError(
            Problem(
                "controls: depth",
                "this clip has no depth maps and no depth estimator is built in",
                "edges, canny for footage",
                "use controls: [edges], a world: clip, or register a clip source whose truth "
                "holds depth maps (f, h, w) in [0, 1], 1 = near",
            )
        )
    return depth


_CONDITIONS: Mapping[str, Condition] = {"edges": _edges, "depth": _depth, "canny": _canny}


def _check_shape(kind: str, grey: Array, frames: Array) -> None:
    if grey.shape != frames.shape[:3]:
        what = f"maps of shape {grey.shape} do not fit frames of shape {frames.shape[:3]}"
        raise UserError(Problem(f"controls: {kind}", what))
    if grey.size and not (np.min(grey) >= 0 and np.max(grey) <= 1):
        what = f"values from {np.min(grey):g} to {np.max(grey):g}"
        raise UserError(Problem(f"controls: {kind}", what, "0..1"))
