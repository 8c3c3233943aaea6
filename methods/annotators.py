"""Annotators of the package controlnet-aux: networks that draw control maps of photographs.

Optional. Nothing is downloaded: the files lie in the local hub cache, or in a folder that the
environment variable CROSSFRAME_ANNOTATORS names. They are pickles, so each is first checked to hold
no code. Names are those of controlnet-aux; the files are those of its `lllyasviel/Annotators`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from crossframe.checkpoints import require_no_code
from crossframe.errors import Problem, UserError
from crossframe.weights import repository

REPOSITORY = "lllyasviel/Annotators"
VARIABLE = "CROSSFRAME_ANNOTATORS"
RESOLUTION = 512
"""Pixels of the shorter side that annotators work at: the default of ControlNet's demos."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Annotator:
    """One annotator. detector: class of controlnet_aux. files: its weights. options: of a call."""

    detector: str
    files: tuple[str, ...]
    options: Mapping[str, bool] = field(default_factory=dict)


_HED = ("HEDdetector", ("ControlNetHED.pth",))
_PIDI = ("PidiNetDetector", ("table5_pidinet.pth",))
_POSE = ("OpenposeDetector", ("body_pose_model.pth", "hand_pose_model.pth", "facenet.pth"))
_LINES = ("LineartDetector", ("sk_model.pth", "sk_model2.pth"))


def _parts(body: bool, hand: bool, face: bool) -> dict[str, bool]:
    return {"include_body": body, "include_hand": hand, "include_face": face}


ANNOTATORS: Mapping[str, Annotator] = {
    "depth_midas": Annotator("MidasDetector", ("dpt_hybrid-midas-501f0c75.pt",)),
    "depth_zoe": Annotator("ZoeDetector", ("ZoeD_M12_N.pt",)),
    "depth_leres": Annotator("LeresDetector", ("res101.pth", "latest_net_G.pth")),
    "openpose": Annotator(*_POSE, _parts(body=True, hand=False, face=False)),
    "openpose_full": Annotator(*_POSE, _parts(body=True, hand=True, face=True)),
    "openpose_hand": Annotator(*_POSE, _parts(body=False, hand=True, face=False)),
    "openpose_face": Annotator(*_POSE, _parts(body=True, hand=False, face=True)),
    "softedge_hed": Annotator(*_HED),
    "softedge_hedsafe": Annotator(*_HED, {"safe": True}),
    "softedge_pidinet": Annotator(*_PIDI),
    "softedge_pidsafe": Annotator(*_PIDI, {"safe": True}),
    "scribble_hed": Annotator(*_HED, {"scribble": True}),
    "scribble_pidinet": Annotator(*_PIDI, {"scribble": True}),
    "lineart_realistic": Annotator(*_LINES, {"coarse": False}),
    "lineart_coarse": Annotator(*_LINES, {"coarse": True}),
    "lineart_anime": Annotator("LineartAnimeDetector", ("netG.pth",)),
    "normal_bae": Annotator("NormalBaeDetector", ("scannet.pt",)),
    "mlsd": Annotator("MLSDdetector", ("mlsd_large_512_fp32.pth",)),
}


def annotate(frames: Array, name: str) -> Array:
    """Return the maps that the annotator `name` draws of each frame by itself.

    frames: (f, h, w, 3) uint8 RGB. Result: (f, h, w, 3) float32 in [0, 1].

    Raises UserError when controlnet-aux or a file is missing, with the command that gets it, and
    when a file holds more than tensors.
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
        fix = "install it: pip install 'crossframe[annotators]'"
        raise UserError(Problem(f"annotator {name}", what, fix=fix)) from error


def _folder(name: str, annotator: Annotator) -> Path:
    """Return the folder of the weights, in which all files lie."""
    _package(name)
    folder = repository(os.environ.get(VARIABLE) or REPOSITORY)
    missing = [file for file in annotator.files if not (folder and (folder / file).is_file())]
    if folder is None or missing:
        what = f"the annotator {name} lacks its weights {', '.join(missing)}"
        command = f"hf download {REPOSITORY} {' '.join(missing)}"
        fix = f"get them: {command} (or name a folder by {VARIABLE})"
        raise UserError(Problem(f"annotator {name}", what, fix=fix))
    return folder
