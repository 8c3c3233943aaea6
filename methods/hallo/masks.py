"""Regions of a portrait: around the face, in it, lips; as soft masks at the UNet's four levels.

The released code makes them of landmarks: bounding boxes, expanded about their middles and blurred,
all in 8-bit images (hallo/utils/util.py). Boxes are (x0, x1, y0, y1) in pixels, upper ends
exclusive.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from methods.hallo.calls import Masks
from methods.hallo.sizes import LEVELS

Box = tuple[int, int, int, int]

# Points of MediaPipe's 478 face landmarks.
FACE_POINTS = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152,
    148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
LIP_POINTS = (
    61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 146, 91, 181, 84, 17, 314, 405, 321, 375,
)  # fmt: skip
FACE_RATIO, LIP_RATIO = 1.2, 2.0
"""Expansion of the boxes at inference; the training has 1 and the union over a clip's frames."""

_SIDE = 64
_FACE_BLUR, _LIP_BLUR = 51, 31


def box_of_points(points: np.ndarray, chosen: Sequence[int]) -> Box:
    """Return the box around some of the points (n, 2), x and y in pixels, rounded to even."""
    found = points[list(chosen)]
    (x0, y0), (x1, y1) = np.round(found.min(0)), np.round(found.max(0))
    return int(x0), int(x1), int(y0), int(y1)


def expand_box(box: Box, width: int, height: int, ratio: float) -> Box:
    """Return a box `ratio` times as large about the same middle, moved inside of the image.

    A box that would be larger than the image is cut to it; the released code makes it a strip at
    the far border instead.
    """
    x0, x1 = _expand(box[0], box[1], width, ratio)
    y0, y1 = _expand(box[2], box[3], height, ratio)
    return x0, x1, y0, y1


def box_image(box: Box, width: int, height: int) -> np.ndarray:
    """Return an image (height, width) uint8 that is 255 in the box and 0 elsewhere."""
    image = np.zeros((height, width), np.uint8)
    x0, x1, y0, y1 = box
    image[y0:y1, x0:x1] = 255
    return image


def region_images(face: Box, lip: Box, width: int, height: int) -> np.ndarray:
    """Return soft masks of the regions full, face and lip, (3, 64, 64) uint8.

    full: 1 - face before lips are taken from it, truncated to 8 bits as in the released code.
    """
    face_soft = _blurred(box_image(face, width, height), _FACE_BLUR)
    lip_soft = _blurred(box_image(lip, width, height), _LIP_BLUR)
    full = ((1 - face_soft / 255.0) * 255).astype(np.uint8)
    return np.stack([full, cv2.subtract(face_soft, lip_soft), lip_soft])


def mask_pyramid(images: np.ndarray, side: int) -> Masks:
    """Return masks of the four levels, each (1, 1, 3, s, s) float32 in [0, 1].

    images: (3, h, w) uint8, the regions in order. side: of the latents; halves from level to level.
    """
    return tuple(_resized(images, side >> level)[None, None] for level in range(LEVELS))


def locator_mask(face: Box, width: int, height: int, side: int) -> Tensor:
    """Return the face locator's input, the hard box of the face: (3, side, side) in [0, 1]."""
    return _resized(box_image(face, width, height)[None], side).expand(3, -1, -1)


def _expand(low: int, high: int, limit: int, ratio: float) -> tuple[int, int]:
    middle, half = (low + high) // 2, (high - low) * ratio // 2
    first, last = middle - half, middle + half
    if first < 0:
        first, last = 0, last - first
    if last > limit:
        first, last = first - (last - limit), limit
    return max(round(first), 0), round(last)


def _blurred(image: np.ndarray, kernel: int) -> np.ndarray:
    """Blur at 64x64, then stretch to 0..255; sigma is OpenCV's for the kernel's size."""
    small = cv2.resize(image, (_SIDE, _SIDE))
    soft = cv2.GaussianBlur(small, (kernel, kernel), 0)
    stretched: np.ndarray = cv2.normalize(soft, None, 0, 255, cv2.NORM_MINMAX)
    return stretched


def _resized(images: np.ndarray, side: int) -> Tensor:
    """Resize (n, h, w) uint8 by antialiased bilinear interpolation; (n, side, side) in [0, 1]."""
    method = Image.Resampling.BILINEAR
    small = [np.asarray(Image.fromarray(image).resize((side, side), method)) for image in images]
    return torch.from_numpy(np.stack(small)).float() / 255
