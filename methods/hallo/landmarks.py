"""Landmarks of a face, of which Hallo's regions are made: MediaPipe's 478 points.

The released code reads them with MediaPipe's face landmarker, whose weights
(face_landmarker_v2_with_blendshapes.task) lie beside insightface's in the released folder.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from crossframe.errors import NotAvailable, Problem, UserError

# A portrait (3, h, w) in [0, 1] -> the points of its face (478, 2), x and y in pixels.
Landmarker = Callable[[Tensor], np.ndarray]


class MediaPipeLandmarks:
    """MediaPipe's landmarker. detect: image (h, w, 3) uint8 -> its `FaceLandmarkerResult`."""

    def __init__(self, detect: Callable[[np.ndarray], Any]) -> None:
        self.detect = detect

    def __call__(self, image: Tensor) -> np.ndarray:
        """Return the points (n, 2) of the one face of an image (3, h, w) in [0, 1].

        Raises UserError unless there is exactly one face, as the released code needs.
        """
        height, width = image.shape[-2:]
        pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        faces = self.detect(np.ascontiguousarray(pixels)).face_landmarks
        if len(faces) != 1:
            what = f"MediaPipe finds {len(faces)} faces in it"
            fix = "use a portrait of one face, or give regions.face and regions.lip"
            raise UserError(Problem("portrait", what, "one", fix))
        return np.array([[point.x * width, point.y * height] for point in faces[0]])


def load_landmarker(path: Path) -> Landmarker:
    """Return the landmarker of a `.task` file; raises NotAvailable without mediapipe."""
    try:
        mediapipe: Any = importlib.import_module("mediapipe")
        vision: Any = importlib.import_module("mediapipe.tasks.python.vision")
        tasks: Any = importlib.import_module("mediapipe.tasks.python")
    except ImportError as error:
        what, fix = f"mediapipe: {error}", "install it: pip install 'crossframe[portraits]'"
        raise NotAvailable("backbone.landmarks", what, fix) from error
    base = tasks.BaseOptions(model_asset_path=str(path))
    # Two, so that a second face is noticed.
    options = vision.FaceLandmarkerOptions(base_options=base, num_faces=2)
    landmarker = vision.FaceLandmarker.create_from_options(options)

    def detect(pixels: np.ndarray) -> Any:
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
        return landmarker.detect(image)

    return MediaPipeLandmarks(detect)
