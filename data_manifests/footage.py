"""Clips from video files, gifs, pictures and folders of them, with what a sidecar says of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from crossframe.cache import file_state
from crossframe.errors import Problem, UserError
from crossframe.sound import has_sound, read_sound
from crossframe.video import probe, read_video
from crossframe.voice import Voice
from data_manifests.clips import Clip, ClipRequest, clip_id
from data_manifests.pictures import SUFFIXES, picture_paths, read_picture, read_pictures
from data_manifests.sidecar import Sidecar, read_sidecar

__all__ = ["PICTURES_FPS", "Sidecar", "load_footage", "read_moving", "read_sidecar", "read_voice"]

PICTURES_FPS = 10.0
"""Frames per second of a folder of pictures for which nobody states a rate; only for viewing."""

TALKING_FPS = 25.0
"""Frames per second of a picture with a voice, unless its sidecar says otherwise (Hallo's rate)."""


def load_footage(name: str, request: ClipRequest) -> Clip:
    """Return the part of the video, frame folder or picture `name` that `request` asks for.

    Caption, prompts, rate, control maps and voice are taken from `name` with the suffix .yaml,
    where that exists; a video's own sound is its voice unless the sidecar names another. A picture
    with a voice is shown for as long as the voice lasts. Raises UserError when the video, a
    picture, the sound or the sidecar cannot be read, and for maps that are not of the frames.
    """
    path = Path(name)
    sidecar = read_sidecar(path.with_suffix(".yaml"))
    if sidecar.voice and path.suffix.lower() in SUFFIXES:
        return _portrait(path, sidecar, request)
    frames, fps = read_moving(path, request, sidecar.fps)
    return Clip(
        clip_id(request.ref),
        frames,
        fps,
        sidecar.caption,
        sidecar.edits,
        controls=_read_maps(path, sidecar, request),
        voice=read_voice(path, request, fps, sidecar.voice),
    )


def _portrait(path: Path, sidecar: Sidecar, request: ClipRequest) -> Clip:
    """Return a picture repeated, with the part of its voice that the request asks for.

    Raises UserError when the voice ends before the last frame begins.
    """
    fps = (sidecar.fps or TALKING_FPS) / request.stride
    voice = read_sound(path.parent / Path(sidecar.voice).expanduser())
    begin = request.start / (fps * request.stride)
    fitting = math.ceil(max(voice.seconds - begin, 0) * fps - 1e-6)
    if request.frames > fitting:
        what = f"lasts {voice.seconds:.2f} s; {request.frames} frames from {begin:.2f} s at {fps:g}"
        what += f" fps need {begin + request.frames / fps:.2f} s"
        raise UserError(Problem(sidecar.voice, what, f"frames up to {fitting}"))
    picture = read_picture(path, request.size)
    return Clip(
        clip_id(request.ref),
        np.repeat(picture[None], request.frames, 0),
        fps,
        sidecar.caption,
        sidecar.edits,
        controls=_read_maps(path, sidecar, request),
        voice=voice.cut(begin, request.frames / fps),
    )


def read_voice(path: Path, request: ClipRequest, fps: float, named: str = "") -> Voice | None:
    """Return what is heard during the requested frames, or None when there is no sound.

    path: of the video or folder. fps: rate of the requested frames, the stride taken into account.
    named: a file whose sound takes the place of the video's own. Silence stands where the sound is
    shorter than the frames. Raises UserError when a sound cannot be read.
    """
    sound = path.parent / Path(named).expanduser() if named else path
    if not named and (path.is_dir() or not has_sound(path)):
        return None
    voice = read_sound(sound)
    return voice.cut(request.start / (fps * request.stride), request.frames / fps)


def noted_states(source: str, name: str) -> list[Any]:
    """Return the states of all files that a sidecar names: control maps, and the voice.

    [None] when that cannot be told.
    """
    path = Path(name)
    try:
        sidecar = read_sidecar(path.with_suffix(".yaml"))
        named = _map_paths(path, sidecar)
        files = [f for p in named.values() for f in (picture_paths(p) if p.is_dir() else [p])]
    except UserError:
        return [None]
    if sidecar.voice:
        files.append(path.parent / Path(sidecar.voice).expanduser())
    return [file_state(file) for file in files]


def _map_paths(path: Path, sidecar: Sidecar) -> dict[str, Path]:
    return {kind: path.parent / Path(to).expanduser() for kind, to in sidecar.controls.items()}


def _read_maps(path: Path, sidecar: Sidecar, request: ClipRequest) -> Mapping[str, np.ndarray]:
    """Read the same frames of every control map as of the clip, uint8 (f, h, w, 3) each.

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
    """Return the requested frames, uint8 (f, h, w, 3), of a video or a folder of pictures.

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
