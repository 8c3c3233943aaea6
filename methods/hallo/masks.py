"""Regions of a portrait: around the face, in it, lips; as masks at the UNet's four levels.

The released code makes them of landmarks: bounding boxes, expanded about their middles and blurred,
all in 8-bit images (hallo/utils/util.py). Boxes are (x0, x1, y0, y1) in pixels, upper ends
exclusive. Images of regions are uint8, or float32 in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from methods.hallo.calls import Masks
from methods.hallo.options import LargeBoxes
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

BLURRED_AT = 64
"""Side of the images in which boxes are blurred, pixels."""
FACE_BLUR, LIP_BLUR = 51, 31
"""Kernels; their deviations are OpenCV's for that size, 8 and 5 pixels."""


def box_of_points(points: np.ndarray, chosen: Sequence[int]) -> Box:
    """Return the box around some of the points (n, 2), x and y in pixels, rounded to even."""
    found = points[list(chosen)]
    (x0, y0), (x1, y1) = np.round(found.min(0)), np.round(found.max(0))
    return int(x0), int(x1), int(y0), int(y1)


def expand_box(box: Box, width: int, height: int, ratio: float, large: LargeBoxes = "fixed") -> Box:
    """Return a box `ratio` times as large about the same middle, moved inside of the image.

    One that would be larger than the image is cut to it; with `large="parity"` it is a strip at the
    far border: the released code leaves its beginning negative, which counts from the other end.
    """
    x0, x1 = _expand(box[0], box[1], width, ratio, large)
    y0, y1 = _expand(box[2], box[3], height, ratio, large)
    return x0, x1, y0, y1


def box_image(box: Box, width: int, height: int) -> np.ndarray:
    """Return an image (height, width) uint8 that is 255 in the box and 0 elsewhere."""
    image = np.zeros((height, width), np.uint8)
    x0, x1, y0, y1 = box
    image[y0:y1, x0:x1] = 255
    return image


def region_images(
    face: Box,
    lip: Box,
    width: int,
    height: int,
    *,
    levels_8bit: bool = True,
    large: LargeBoxes = "parity",
) -> np.ndarray:
    """Return soft masks of the regions full, face and lip, (3, 64, 64).

    levels_8bit: uint8 as in the released code, else float32. large: see `_blurred`. full is 1 -
    face before lips are taken from it; the released code truncates it to 8 bits.
    """
    faces, lips = (
        _blurred(box_image(box, width, height), kernel, levels_8bit, large)
        for box, kernel in ((face, FACE_BLUR), (lip, LIP_BLUR))
    )
    if not levels_8bit:
        return np.stack([1 - faces, np.maximum(faces - lips, 0), lips])
    full = ((1 - faces / 255.0) * 255).astype(np.uint8)
    return np.stack([full, cv2.subtract(faces, lips), lips])


def hard_images(face: Box, lip: Box, width: int, height: int) -> np.ndarray:
    """Return the regions full, face and lip without blur, (3, height, width) uint8."""
    faces, lips = (box_image(box, width, height) for box in (face, lip))
    return np.stack([255 - faces, cv2.subtract(faces, lips), lips])


def mask_pyramid(images: np.ndarray, side: int) -> Masks:
    """Return masks of the four levels, each (1, 1, 3, s, s) float32 in [0, 1].

    images: (3, h, w), the regions in order. side: of the latents; halves from level to level.
    """
    return tuple(_resized(images, side >> level)[None, None] for level in range(LEVELS))


def locator_mask(face: Box, width: int, height: int, side: int) -> Tensor:
    """Return the face locator's input, the hard box of the face: (3, side, side) in [0, 1]."""
    return _resized(box_image(face, width, height)[None], side).expand(3, -1, -1)


def _expand(low: int, high: int, limit: int, ratio: float, large: LargeBoxes) -> tuple[int, int]:
    middle, half = (low + high) // 2, (high - low) * ratio // 2
    first, last = middle - half, middle + half
    if first < 0:
        first, last = 0, last - first
    if last > limit:
        first, last = first - (last - limit), limit
    if first < 0 and large == "parity":
        first += limit
    return max(round(first), 0), round(last)


def _blurred(image: np.ndarray, kernel: int, levels_8bit: bool, large: LargeBoxes) -> np.ndarray:
    """Blur uint8 at 64x64, then stretch to the whole range; float32 unless `levels_8bit`.

    A box that fills the image leaves nothing to stretch: it stays 1, or becomes 0 with
    `large="parity"`, as OpenCV's stretching has it in the released code.
    """
    small = cv2.resize(image, (BLURRED_AT, BLURRED_AT))
    if not levels_8bit:
        small = small.astype(np.float32) / 255
    if np.ptp(small) == 0:
        return small if large == "fixed" else np.zeros_like(small)
    soft = cv2.GaussianBlur(small, (kernel, kernel), 0)
    return cv2.normalize(soft, None, 0, 255 if levels_8bit else 1, cv2.NORM_MINMAX)


def _resized(images: np.ndarray, side: int) -> Tensor:
    """Resize (n, h, w) by antialiased bilinear interpolation; (n, side, side) in [0, 1].

    Images of 8 bits stay so, and are resized as the released code does it.
    """
    if images.dtype != np.uint8:
        size = (side, side)
        whole = torch.from_numpy(images)[None]
        return F.interpolate(whole, size, mode="bilinear", antialias=True)[0].clamp(0, 1)
    method = Image.Resampling.BILINEAR
    small = [np.asarray(Image.fromarray(image).resize((side, side), method)) for image in images]
    return torch.from_numpy(np.stack(small)).float() / 255
