"""Clips from video files, gifs and folders of pictures, with what a sidecar says about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from crossframe.cache import file_state
from crossframe.errors import Problem, UserError
from crossframe.video import probe, read_video
from data_manifests.clips import Clip, ClipRequest, clip_id
from data_manifests.pictures import picture_paths, read_pictures
from data_manifests.sidecar import Sidecar, read_sidecar

__all__ = ["PICTURES_FPS", "Sidecar", "load_footage", "read_moving", "read_sidecar"]

PICTURES_FPS = 10.0
"""Frames per second of a folder of pictures for which nobody states a rate; only for viewing."""


def load_footage(name: str, request: ClipRequest) -> Clip:
    """Return the part of the video or frame folder `name` that `request` asks for.

    Caption, prompts, rate and control maps are taken from `name` with the suffix .yaml, where that
    exists. Raises UserError when the video, a picture or the sidecar cannot be read, and for maps
    that are not of the frames.
    """
    path = Path(name)
    sidecar = read_sidecar(path.with_suffix(".yaml"))
    frames, fps = read_moving(path, request, sidecar.fps)
    maps = _read_maps(path, sidecar, request)
    return Clip(clip_id(request.ref), frames, fps, sidecar.caption, sidecar.edits, controls=maps)


def control_states(source: str, name: str) -> list[Any]:
    """Return the states of all files that hold control maps of a video or folder of pictures.

    [None] when that cannot be told.
    """
    path = Path(name)
    try:
        named = _map_paths(path, read_sidecar(path.with_suffix(".yaml")))
        files = [f for p in named.values() for f in (picture_paths(p) if p.is_dir() else [p])]
    except UserError:
        return [None]
    return [file_state(file) for file in files]


def _map_paths(path: Path, sidecar: Sidecar) -> dict[str, Path]:
    return {kind: path.parent / Path(to).expanduser() for kind, to in sidecar.controls.items()}


def _read_maps(path: Path, sidecar: Sidecar, request: ClipRequest) -> Mapping[str, np.ndarray]:
    """Read the same frames of every control map as of the clip, uint8 (f, size, size, 3) each.

    Raises UserError with everything that is wrong with any of them.
    """
    found, problems = {}, []
    for kind, maps in _map_paths(path, sidecar).items():
        try:
            _require_same_shape(path, kind, maps)
            found[kind] = read_moving(maps, request)[0]
        except UserError as error:
            where = f"{path.with_suffix('.yaml')}: controls.{kind}"
            problems += [replace(p, where=f"{where}: {p.where}") for p in error.problems]
    if problems:
        raise UserError(problems)
    return found


def _require_same_shape(path: Path, kind: str, maps: Path) -> None:
    """Raise UserError unless maps are as many as the frames, and show the same part of them."""
    (count, height, width), (there, map_height, map_width) = _extent(path), _extent(maps)
    if there != count:
        what = f"holds {there} maps, {path.name} has {count} frames"
        raise UserError(Problem(str(maps), what, fix="give one map for every frame"))
    # A pixel is lost on either side when a size is rounded, as annotators do.
    if abs(map_width * height - width * map_height) > 2 * max(width, height, map_width, map_height):
        what = f"is {map_width}x{map_height} pixels, {path.name} is {width}x{height}"
        raise UserError(Problem(str(maps), what, "maps of the same proportions"))


def _extent(path: Path) -> tuple[int, int, int]:
    """Return number of frames, height and width of a video or of a folder of pictures."""
    if path.is_dir():
        first = read_pictures(path, frames=1)
        return len(picture_paths(path)), *first.shape[1:3]
    info = probe(path)
    return info.frames, info.height, info.width


def read_moving(
    path: Path, request: ClipRequest, fps: float | None = None
) -> tuple[np.ndarray, float]:
    """Return the requested frames, uint8 (f, size, size, 3), of a video or a folder of pictures.

    The second value is the rate of these frames, the stride taken into account: `fps` where it is
    given, else the video's own, else `PICTURES_FPS`. Raises UserError as `read_video` and
    `read_pictures` do.
    """
    part = {"frames": request.frames, "start": request.start, "stride": request.stride}
    if path.is_dir():
        pictures = read_pictures(path, **part, size=request.size)
        return pictures, (fps or PICTURES_FPS) / request.stride
    frames, own = read_video(path, **part, size=request.size)
    return frames, fps / request.stride if fps else own
