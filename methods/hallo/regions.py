"""Regions of one portrait: where its face and lips are, and the masks that options make of it.

Boxes are (x0, x1, y0, y1) in pixels, upper ends exclusive.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from crossframe.errors import Problem, UserError
from methods.hallo.calls import Masks
from methods.hallo.landmarks import Landmarker
from methods.hallo.masks import (
    FACE_POINTS,
    LIP_POINTS,
    Box,
    box_of_points,
    expand_box,
    hard_images,
    locator_mask,
    mask_pyramid,
    region_images,
)
from methods.hallo.options import LargeBoxes, Regions

NO_BOXES = Problem(
    "regions",
    "nothing says where the face and the lips are in the portrait",
    fix="give regions.face and regions.lip as [x0, x1, y0, y1] in parts of the sides, or name "
    "backbone.landmarks, a face_landmarker_v2_with_blendshapes.task, and "
    "`pip install 'crossframe[portraits]'`",
)


def boxes_are_known(
    options: Regions, truth: Mapping[str, Tensor], landmarks: Landmarker | None
) -> bool:
    """Tell whether `find_boxes` has where to look."""
    return options.face is not None or {"face", "lip"} <= truth.keys() or landmarks is not None


def find_boxes(
    picture: Tensor,
    frame: int,
    options: Regions,
    truth: Mapping[str, Tensor],
    landmarks: Landmarker | None,
) -> tuple[Box, Box]:
    """Return the boxes of face and lips in a portrait (3, h, w), before they are expanded.

    The options' own come first, then what the clip knows of that frame, then landmarks. Raises
    UserError where none of them says, and for a face that the frame does not show.
    """
    height, width = picture.shape[-2:]
    if options.face is not None and options.lip is not None:
        return _in_pixels(options.face, width, height), _in_pixels(options.lip, width, height)
    if "face" in truth and "lip" in truth:
        return _known(truth["face"][frame], "face"), _known(truth["lip"][frame], "lip")
    if landmarks is None:
        raise UserError(NO_BOXES)
    points = landmarks(picture)
    return box_of_points(points, FACE_POINTS), box_of_points(points, LIP_POINTS)


def make_masks(
    face: Box,
    lip: Box,
    size: tuple[int, int],
    options: Regions,
    side: int,
    large: LargeBoxes = "fixed",
) -> Masks:
    """Return masks of the regions at the four levels, each (1, 1, 3, s, s) in [0, 1].

    face, lip: before they are expanded. size: width and height of the portrait. side: of the
    latents. large: what becomes of boxes as large as the portrait or larger, see `Quirks`.
    """
    width, height = size
    face = expand_box(face, width, height, options.face_ratio, large)
    lip = expand_box(lip, width, height, options.lip_ratio, large)
    if not options.soft:
        return mask_pyramid(hard_images(face, lip, width, height), side)
    levels = options.levels_8bit
    images = region_images(face, lip, width, height, levels_8bit=levels, large=large)
    return mask_pyramid(images, side)


def make_locator(
    face: Box,
    size: tuple[int, int],
    options: Regions,
    side: int,
    large: LargeBoxes = "fixed",
) -> Tensor:
    """Return the face locator's input (1, 3, 8 side, 8 side); arguments as in `make_masks`."""
    width, height = size
    box = expand_box(face, width, height, options.face_ratio, large)
    return locator_mask(box, width, height, 8 * side)[None]


def _in_pixels(box: tuple[float, float, float, float], width: int, height: int) -> Box:
    x0, x1, y0, y1 = box
    left, right = round(x0 * width), round(x1 * width)
    top, bottom = round(y0 * height), round(y1 * height)
    return left, max(right, left + 1), top, max(bottom, top + 1)


def _known(region: Tensor, name: str) -> Box:
    """The box of a region (h, w) bool."""
    columns, rows = (torch.where(region.any(axis))[0].tolist() for axis in (0, 1))
    if not rows:
        fix = "set reference.frame to a frame that does"
        raise UserError(Problem("portrait", f"the frame does not show the {name}", fix=fix))
    return columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
