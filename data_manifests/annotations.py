"""Objects that people marked in footage: folders of pictures whose levels number them, as DAVIS'.

A picture per frame, of one channel (with or without a palette): 0 is background, 255 is not judged
and counts as background, every other level is an object of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from crossframe.errors import Problem, UserError
from crossframe.form import Size, width_height
from crossframe.video import fit_frame
from data_manifests.clips import ClipRequest
from data_manifests.pictures import picture_paths

BACKGROUND, VOID = 0, 255
FLAT = ("1", "L", "P")
"""Pillow's modes of one channel of at most 8 bits."""


def read_masks(folder: Path, request: ClipRequest, count: int) -> np.ndarray:
    """Return the masks of the requested frames, (f, n, h, w) bool, n objects by their level.

    They are cropped and resized as the frames are; a pixel belongs to the object that covers half
    of it. count: frames of the whole clip. Raises UserError unless there is one picture per frame,
    and for those that are damaged or no numbered masks.
    """
    paths = picture_paths(folder)
    if len(paths) != count:
        what = f"holds {len(paths)} masks, the clip has {count} frames"
        raise UserError(Problem(str(folder), what, fix="give one for every frame, or none at all"))
    wanted = paths[request.start :: request.stride][: request.frames]
    read = [_read(path) for path in wanted]
    problems = [item for item in read if isinstance(item, Problem)]
    if problems:
        raise UserError(problems)
    levels = [item for item in read if not isinstance(item, Problem)]
    objects = sorted({int(n) for level in levels for n in np.unique(level)} - {BACKGROUND, VOID})
    width, height = width_height(request.size)
    masks = np.zeros((len(levels), len(objects), height, width), bool)
    for frame, level in enumerate(levels):
        for index, number in enumerate(objects):
            masks[frame, index] = _fitted(level == number, request.size)
    return masks


def _fitted(mask: np.ndarray, size: Size) -> np.ndarray:
    """(h, w) bool -> bool of that size, through the very geometry of the frames."""
    grey = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2)
    return fit_frame(grey, size)[..., 0] >= 128


def _read(path: Path) -> np.ndarray | Problem:
    try:
        with Image.open(path) as image:
            if image.mode not in FLAT:
                what = f"is a picture of mode {image.mode}"
                return Problem(str(path), what, "numbered masks: one channel, 8 bits")
            return np.asarray(image, dtype=np.uint8)
    except UnidentifiedImageError:
        return Problem(str(path), "is not a picture that Pillow can read")
    except (OSError, SyntaxError) as error:
        return Problem(str(path), f"is damaged or cut short ({error})")
