"""Regions of one portrait: where its face and lips are, and the masks that options make of it.

Boxes are (x0, x1, y0, y1) in pixels, upper ends exclusive.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossframe.errors import Problem, UserError
from methods.hallo.calls import Masks
from methods.hallo.landmarks import Landmarker
from methods.hallo.masks import (
    FACE_POINTS,
    LIP_POINTS,
    Box,
    box_image,
    box_of_points,
    expand_box,
    locator_mask,
    mask_pyramid,
    region_images,
)
from methods.hallo.options import Regions
from methods.hallo.sizes import LEVELS

SIDE = 64
"""Pixels of the images in which boxes are blurred, as released."""
FACE_BLUR, LIP_BLUR = (51, 8.0), (31, 5.0)
"""Kernel and sigma, which is OpenCV's for the kernel."""


NO_BOXES = Problem(
    "regions",
    "nothing says where the face and the lips are in the portrait",
    fix="give regions.face and regions.lip as [x0, x1, y0, y1] in parts of the sides, or name "
    "backbone.landmarks, a face_landmarker_v2_with_blendshapes.task, and `pip install mediapipe`",
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


def make_masks(face: Box, lip: Box, size: tuple[int, int], options: Regions, side: int) -> Masks:
    """Return masks of the regions at the four levels, each (1, 1, 3, s, s) in [0, 1].

    face, lip: before they are expanded. size: width and height of the portrait. side: of the
    latents.
    """
    width, height = size
    face = expand_box(face, width, height, options.face_ratio)
    lip = expand_box(lip, width, height, options.lip_ratio)
    if not options.soft:
        return mask_pyramid(hard_images(face, lip, width, height), side)
    if options.levels_8bit:
        return mask_pyramid(region_images(face, lip, width, height), side)
    images = torch.from_numpy(soft_images(face, lip, width, height))
    sides = [side >> level for level in range(LEVELS)]
    return tuple(_smaller(images, s)[None, None] for s in sides)


def make_locator(face: Box, size: tuple[int, int], options: Regions, side: int) -> Tensor:
    """Return the face locator's input (1, 3, 8 side, 8 side); arguments as in `make_masks`."""
    width, height = size
    return locator_mask(
        expand_box(face, width, height, options.face_ratio), width, height, 8 * side
    )[None]


def hard_images(face: Box, lip: Box, width: int, height: int) -> np.ndarray:
    """Return the regions full, face and lip without blur, (3, height, width) uint8."""
    faces, lips = (box_image(box, width, height) for box in (face, lip))
    return np.stack([255 - faces, cv2.subtract(faces, lips), lips])


def soft_images(face: Box, lip: Box, width: int, height: int) -> np.ndarray:
    """Return `region_images` without steps of 1/255: (3, 64, 64) float32 in [0, 1]."""
    faces, lips = (
        _blurred(box_image(box, width, height), *blur)
        for box, blur in ((face, FACE_BLUR), (lip, LIP_BLUR))
    )
    return np.stack([1 - faces, np.maximum(faces - lips, 0), lips])


def _blurred(image: np.ndarray, kernel: int, sigma: float) -> np.ndarray:
    small = cv2.resize(image.astype(np.float32) / 255, (SIDE, SIDE))
    soft = cv2.GaussianBlur(small, (kernel, kernel), sigma)
    low, high = float(soft.min()), float(soft.max())
    stretched: np.ndarray = (soft - low) / (high - low) if high > low else soft
    return stretched.astype(np.float32)


def _smaller(images: Tensor, side: int) -> Tensor:
    """Resize (n, h, w) by antialiased bilinear interpolation."""
    resized = F.interpolate(images[None], (side, side), mode="bilinear", antialias=True)
    return resized[0].clamp(0, 1)


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
