"""Sound in: the voice of a wav, mp3, flac or ogg file, or of a video. Decoded by FFmpeg."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from crossframe.errors import Problem, UserError
from crossframe.voice import RATE, Voice

_AGAIN = "copy or convert it again"


def has_sound(path: str | Path) -> bool:
    """Tell whether a file holds a sound track; False for one that FFmpeg cannot read at all."""
    try:
        with av.open(Path(path).absolute()) as container:
            return bool(container.streams.audio)
    except (av.FFmpegError, OSError):
        return False


def read_sound(path: str | Path, rate: int = RATE) -> Voice:
    """Return the first sound track of a file, the mean of its channels, at `rate` Hz.

    Where the track begins later than the file, silence stands before it; what is louder than full
    scale is cut off. Raises UserError when the file is missing, empty, without sound or damaged.
    """
    path = Path(path)
    _check_file(path)
    try:
        with av.open(path.absolute()) as container:
            if not container.streams.audio:
                kinds = " and ".join(sorted({stream.type for stream in container.streams}))
                what = f"has no sound track, only {kinds}" if kinds else "holds no sound"
                raise UserError(Problem(str(path), what, "a file with sound"))
            samples = _decoded(container, rate)
    except av.FFmpegError as error:
        what = f"FFmpeg cannot read its sound ({error.strerror})"
        raise UserError(Problem(str(path), what, fix=_AGAIN)) from error
    if not samples.size:
        raise UserError(Problem(str(path), "has a sound track without a single sample", fix=_AGAIN))
    return Voice(np.clip(samples, -1, 1), rate)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise UserError(Problem(str(path), "no such file"))
    if path.is_dir():
        raise UserError(Problem(str(path), "is a folder", allowed="a file with sound"))
    if path.stat().st_size == 0:
        raise UserError(Problem(str(path), "is empty (0 bytes)", fix=_AGAIN))


def _decoded(container: av.container.InputContainer, rate: int) -> np.ndarray:
    """Return all samples of the first sound track, (n,) float32."""
    stream = container.streams.audio[0]
    resampler = av.AudioResampler(format="fltp", rate=rate)
    parts: list[np.ndarray] = []
    lead = 0.0
    for frame in container.decode(stream):
        if not parts and frame.time:
            lead = max(frame.time, 0.0)
        parts += [part.to_ndarray().mean(0) for part in resampler.resample(frame)]
    parts += [part.to_ndarray().mean(0) for part in resampler.resample(None)]
    silence = np.zeros(round(lead * rate), np.float32)
    return np.concatenate([silence, *parts]).astype(np.float32)
