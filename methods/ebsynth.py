"""EbSynth (Fiser et al. 2017), an external program: a key frame's look carried to another frame.

The program is not part of this project; its options are those of its public release.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from crossframe.errors import NotAvailable, Problem, UserError

Picture = np.ndarray[Any, Any]

SETTINGS = ("-searchvoteiters", "12", "-patchmatchiters", "6")
WEIGHTS: Mapping[str, float] = {"colour": 6.0, "edges": 0.5, "carried": 0.5, "place": 2.0}
"""Weights of the guides, as FRESCO's released blending sets them."""


def require_ebsynth(program: str) -> None:
    """Raise NotAvailable unless `program` is an executable file."""
    if not (Path(program).is_file() and os.access(program, os.X_OK)):
        what = f"there is no program {program!r}"
        raise NotAvailable("between.ebsynth", what, "give its path, or set between.by to flow")


def synthesise(
    program: str, style: Picture, guides: Mapping[str, tuple[Picture, Picture]]
) -> Picture:
    """Paint a frame in the look of a key frame; returns (h, w, 3) float32 RGB in [0, 1].

    style: the painted key frame, (h, w, 3) in [0, 1]. guides: by name of `WEIGHTS`, how the source
    looks at the key frame and at the wanted frame, each (h, w) or (h, w, 3) in [0, 1].

    Raises NotAvailable where the program is absent, UserError where it fails.
    """
    require_ebsynth(program)
    with tempfile.TemporaryDirectory(prefix="crossframe-ebsynth-") as folder:
        path = Path(folder)
        command = [program, "-style", _write(path / "style.png", style)]
        for name, pair in guides.items():
            files = [_write(path / f"{name}-{i}.png", picture) for i, picture in enumerate(pair)]
            command += ["-guide", *files, "-weight", f"{WEIGHTS[name]:g}"]
        output = path / "output.png"
        _run([*command, "-output", str(output), *SETTINGS])
        painted = cv2.imread(str(output), cv2.IMREAD_COLOR)
    if painted is None or painted.shape != style.shape:
        what = f"{program!r} ended without an error and left no picture of the size of its style"
        raise UserError(Problem("between.ebsynth", what))
    return cv2.cvtColor(painted, cv2.COLOR_BGR2RGB).astype(np.float32) / 255


def guide_pictures(
    key: Picture, frame: Picture, style: Picture, flow: Picture, carried: Picture
) -> dict[str, tuple[Picture, Picture]]:
    """Return the guides of a frame: its colours, edges, place, and the style carried by flow.

    key, frame: source pictures (h, w, 3) in [0, 1]. style: the painted key frame. flow: (h, w, 2)
    pixels, from the frame to the key. carried: the style as the flow brings it to the frame.
    """
    height, width = flow.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    here = np.stack([x, y], -1)
    return {
        "colour": (key, frame),
        "edges": (_edges(key), _edges(frame)),
        "carried": (style, carried),
        "place": (_place(here), _place(here + flow)),
    }


def _place(positions: Picture) -> Picture:
    """Positions (h, w, 2) as colours: x in red, y in green, both over the size of the picture."""
    height, width = positions.shape[:2]
    scaled = positions / np.array([width, height], np.float32)
    return np.dstack([scaled, np.zeros((height, width), np.float32)]).clip(0, 1)


def _edges(picture: Picture) -> Picture:
    grey = cv2.cvtColor(np.ascontiguousarray(picture, np.float32), cv2.COLOR_RGB2GRAY)
    return (cv2.Laplacian(grey, cv2.CV_32F) / 2 + 0.5).clip(0, 1)


def _write(path: Path, picture: Picture) -> str:
    levels = (picture * 255).round().astype(np.uint8)
    cv2.imwrite(str(path), levels[..., ::-1] if levels.ndim == 3 else levels)
    return str(path)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(Problem("between.ebsynth", f"{command[0]!r}: {error.strerror}")) from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it printed nothing"]
        what = f"{command[0]!r} failed with exit code {done.returncode}: {lines[-1]}"
        raise UserError(Problem("between.ebsynth", what))
