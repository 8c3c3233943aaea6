"""Control maps: what a ControlNet is shown of the source clip.

Where they come from, in this order: files that a person named for the clip; the clip's exact truth;
what the kind's own function sees in the frames (see `methods.condition_kinds`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from crossframe.errors import NotAvailable, Problem, UserError, did_you_mean
from methods.condition_kinds import (
    CANNY_THRESHOLDS,
    CONDITIONS,
    THRESHOLDS,
    Control,
    parse_control,
    thresholds,
)

Array = np.ndarray[Any, Any]


def control_map(
    control: str,
    frames: Array,
    *,
    edges: Array | None = None,
    depth: Array | None = None,
    files: Mapping[str, Array] | None = None,
    annotator_range: str = "correct",
) -> Tensor:
    """Return one control map of a clip, (f, 3, h, w) float32 in [0, 1].

    Args:
        control: a kind of `CONDITIONS`, with its option in brackets if wanted. With an option the
            frames are looked at even where the exact map is known.
        frames: (f, h, w, 3) uint8 RGB.
        edges: exact edges of the clip, (f, h, w) in {0, 1}, white lines on black.
        depth: exact depth of the clip, (f, h, w) in [0, 1], 1 = near.
        files: maps by kind that were read from files, (f, h, w, 3) uint8 RGB.
        annotator_range: `repo_wrapped` shows annotators the frames as `wrapped` does. Maps from
            files and exact ones have no annotator.

    Raises UserError for an unknown control, for one that this clip has no maps for and nothing here
    can make, and for arrays that do not fit.
    """
    wanted, files = parse_control(control), files or {}
    exact = {"edges": edges, "depth": depth}
    maps = _known(wanted, exact, files)
    if maps is None:
        seen = wrapped(frames) if annotator_range == "repo_wrapped" else frames
        maps = _annotated(wanted, seen, files)
    _check(wanted, maps, frames)
    tensor = torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float32))
    if tensor.ndim == 3:
        return tensor[:, None].expand(-1, 3, -1, -1).contiguous()
    return tensor.permute(0, 3, 1, 2).contiguous()


def canny(frames: Array, low: int = CANNY_THRESHOLDS[0], high: int = CANNY_THRESHOLDS[1]) -> Array:
    """Return Canny edges of each frame: (f, h, w, 3) uint8 RGB -> (f, h, w) float32 in {0, 1}.

    low, high: hysteresis thresholds of OpenCV on the 8-bit grey image (3x3 Sobel, L1 norm).
    """
    greys = (cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames)
    return np.stack([cv2.Canny(grey, low, high) > 0 for grey in greys]).astype(np.float32)


def canny_maps(frames: Array, option: str) -> Array:
    """`canny` with the thresholds of an option `LOW,HIGH`; "" for the published ones."""
    return canny(frames, *thresholds(option))


def wrapped(frames: Array) -> Array:
    """Return frames as ControlVideo's released code shows them to its annotators, uint8.

    It scales pixels p to x = p / 127.5 - 1 (util.py:51), and the picture made of x (util.py:58) is
    the low byte of the whole part of 255 x. So dark pixels become 2p + 1 and bright ones 2p - 255,
    a sawtooth that breaks at mid-grey; where 255 x misses a whole number in float32 the part
    towards zero counts, which makes 64 of the values one larger (below mid-grey).
    """
    pixels = np.arange(256, dtype=np.float32)
    whole = np.trunc((pixels / np.float32(127.5) - np.float32(1)) * np.float32(255))
    table = (whole.astype(np.int64) % 256).astype(np.uint8)
    return table[frames]


def _known(
    wanted: Control, exact: Mapping[str, Array | None], files: Mapping[str, Array]
) -> Array | None:
    """Return maps that need no annotator, or None."""
    if wanted.kind in files:
        return files[wanted.kind].astype(np.float32) / 255
    truth = CONDITIONS.entry(wanted.kind).extra.get("truth", "")
    return None if wanted.option else exact.get(truth)


def _annotated(wanted: Control, frames: Array, files: Mapping[str, Array]) -> Array:
    """Ask the kind's own function; a refusal tells which files there are."""
    try:
        option = wanted.option or _default(wanted.kind)
        maps: Array = CONDITIONS.load(wanted.kind)(frames, option)
    except NotAvailable as error:
        told = _told(error.problems[0], wanted, files)
        raise NotAvailable(told.where, told.what, told.fix, told.allowed) from error
    except UserError as error:
        raise UserError(_told(problem, wanted, files) for problem in error.problems) from error
    return maps


def _default(kind: str) -> str:
    """Return the annotator that a kind takes by itself; "" for kinds without annotators."""
    options = tuple(CONDITIONS.entry(kind).extra.get("options", ()))
    return "" if options in ((), (THRESHOLDS,)) else str(options[0])


def _told(problem: Problem, wanted: Control, files: Mapping[str, Array]) -> Problem:
    named = f"; its .yaml names maps for {', '.join(files)}" if files else ""
    hint = did_you_mean(wanted.kind, files)
    fix = f"name maps of its frames in its .yaml, as controls: {{{wanted.kind}: FOLDER}}"
    return Problem(
        f"controls: {wanted}",
        f"this clip has no {wanted.kind} maps{named}, and {problem.what}",
        problem.allowed,
        f"{hint} {problem.fix}, or {fix}".strip(),
    )


def _check(wanted: Control, maps: Array, frames: Array) -> None:
    where = f"controls: {wanted}"
    if maps.shape not in (frames.shape, frames.shape[:3]):
        what = f"maps of shape {maps.shape} do not fit frames of shape {frames.shape[:3]}"
        raise UserError(Problem(where, what))
    if maps.size and not (np.min(maps) >= 0 and np.max(maps) <= 1):
        what = f"values from {np.min(maps):g} to {np.max(maps):g}"
        raise UserError(Problem(where, what, "0..1"))
