"""Clips from video files, gifs and folders of pictures, with what a sidecar says about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crossframe.video import read_video
from data_manifests.clips import Clip, ClipRequest, clip_id
from data_manifests.pictures import read_pictures
from data_manifests.sidecar import Sidecar, read_sidecar

__all__ = ["PICTURES_FPS", "Sidecar", "load_footage", "read_moving", "read_sidecar"]

PICTURES_FPS = 10.0
"""Frames per second of a folder of pictures for which nobody states a rate; only for viewing."""


def load_footage(name: str, request: ClipRequest) -> Clip:
    """Return the part of the video or frame folder `name` that `request` asks for.

    Caption, prompts and rate are taken from `name` with the suffix .yaml, where that exists.
    Raises UserError when the video, a picture or the sidecar cannot be read.
    """
    path = Path(name)
    sidecar = read_sidecar(path.with_suffix(".yaml"))
    frames, fps = read_moving(path, request, sidecar.fps)
    return Clip(clip_id(request.ref), frames, fps, sidecar.caption, sidecar.edits)


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
