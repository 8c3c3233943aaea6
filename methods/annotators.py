"""Annotators of the package controlnet-aux: networks that draw control maps of photographs.

Optional. Where their weights lie is told in `methods.annotator_files`. The files are pickles, so
each is first checked to hold no code.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from crossframe.checkpoints import require_no_code
from crossframe.errors import NotAvailable
from methods.annotator_files import ANNOTATORS, INSTALL, Annotator, find_weights, missing_weights

RESOLUTION = 512
"""Pixels of the shorter side that annotators work at: the default of ControlNet's demos."""

Array = np.ndarray[Any, Any]


def annotate(frames: Array, name: str) -> Array:
    """Return the maps that the annotator `name` draws of each frame by itself.

    frames: (f, h, w, 3) uint8 RGB. Result: (f, h, w, 3) float32 in [0, 1].

    Raises NotAvailable when controlnet-aux or a file is missing, with the command that gets it, and
    UserError when a file holds more than tensors.
    """
    annotator = ANNOTATORS[name]
    detector = _detector(name, _folder(name, annotator))
    drawn = [_drawn(detector, annotator, np.ascontiguousarray(frame)) for frame in frames]
    return np.stack(drawn).astype(np.float32) / 255


def _drawn(detector: Any, annotator: Annotator, frame: Array) -> Array:
    """One map, uint8 (h, w, 3), at the size of the frame."""
    drawn = np.asarray(
        detector(
            frame,
            detect_resolution=RESOLUTION,
            image_resolution=RESOLUTION,
            output_type="np",
            **annotator.options,
        )
    )
    height, width = frame.shape[:2]
    shrinks = drawn.shape[0] > height
    sized = cv2.resize(
        drawn, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return sized if sized.ndim == 3 else np.repeat(sized[..., None], 3, axis=2)


@lru_cache(maxsize=2)
def _detector(name: str, folder: Path) -> Any:
    """Load an annotator; the last two stay, because clips of a run ask for the same ones."""
    annotator = ANNOTATORS[name]
    for file in annotator.files:
        require_no_code(folder / file, f"annotator {name}")
    return getattr(_package(name), annotator.detector).from_pretrained(str(folder))


def _package(name: str) -> Any:
    try:
        return importlib.import_module("controlnet_aux")
    except Exception as error:  # a dozen packages stand behind it, each fails in its own way
        missing = getattr(error, "name", None) or str(error)
        what = f"the annotator {name} needs controlnet-aux, which cannot be imported ({missing})"
        raise NotAvailable(f"annotator {name}", what, INSTALL) from error


def _folder(name: str, annotator: Annotator) -> Path:
    """Return the folder of the weights, in which all files lie."""
    _package(name)
    if (absent := missing_weights(name)) is not None:
        raise absent
    folder, _ = find_weights(annotator)
    assert folder is not None  # nothing is lacking
    return folder
