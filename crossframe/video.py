"""Video in and out: decoding with clear errors, lossless PNG frames, and mp4 for viewing.

Everywhere frames are numpy uint8 (f, h, w, 3), RGB, full range.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from crossframe.errors import Problem, UserError
from crossframe.files import replacing, replacing_folder
from crossframe.form import Size, width_height
from crossframe.voice import Voice

# Codes of ITU-T H.273: 1 is BT.709 for primaries, transfer and matrix alike.
BT709 = 1
# Visually lossless for x264; the scores are taken from the PNG frames, not from the mp4.
MP4_QUALITY = {"crf": "18"}
# The denominator that writes 23.976, 29.97 and 59.94 fps exactly.
NTSC_DENOMINATOR = 1001


@dataclass(frozen=True)
class VideoInfo:
    """What a video holds: the number of frames, their size in pixels as displayed, and the rate."""

    frames: int
    width: int
    height: int
    fps: float


def probe(path: str | Path) -> VideoInfo:
    """Return what the video at `path` holds; frames are counted, only the first is decoded.

    Raises UserError as `read_video` does for a file that is no readable video.
    """
    with _opened(Path(path)) as (container, stream):
        first = next(container.decode(stream), None)
        if first is None:
            raise UserError(too_few(Path(path), 0, range(1)))
        height, width = _rgb(first).shape[:2]
        container.seek(0)
        count = sum(1 for packet in container.demux(stream) if packet.size)
        return VideoInfo(count, width, height, _rate(Path(path), stream))


def read_video(
    path: str | Path, *, frames: int, start: int = 0, stride: int = 1, size: Size | None = None
) -> tuple[np.ndarray, float]:
    """Return frames start, start+stride, ... as uint8 (frames, h, w, 3), and their rate in fps.

    The rate is that of the returned frames: the file's divided by `stride`. With `size` each
    frame is cropped and resized as `fit_frame` does. A rotation stored with the video is applied.
    Video without colour tags is read as BT.601, which is FFmpeg's rule.

    Raises UserError when the file is missing, empty, not a video, without pictures, damaged, or
    too short; the last one tells how many frames there are and what would fit.
    """
    path = Path(path)
    wanted = range(start, start + frames * stride, stride)
    picked: list[np.ndarray] = []
    seen = 0
    with _opened(path) as (container, stream):
        rate = _rate(path, stream)
        for index, frame in enumerate(container.decode(stream)):
            seen = index + 1
            if index in wanted:
                picked.append(fit_frame(_rgb(frame), size))
            if len(picked) == frames:
                return np.stack(picked), rate / stride
    raise UserError(too_few(path, seen, wanted))


def write_mp4(path: str | Path, frames: np.ndarray, fps: float, voice: Voice | None = None) -> None:
    """Write uint8 (f, h, w, 3) RGB frames as H.264 that browsers play, atomically.

    4:2:0, limited range, converted to and tagged as BT.709; the index comes first in the file
    (`+faststart`). An odd height or width is padded by repeating the last row or column. A voice
    becomes its sound track, AAC, one channel at the voice's own rate.
    """
    _check(frames)
    even = np.pad(frames, ((0, 0), _to_even(frames, 1), _to_even(frames, 2), (0, 0)), mode="edge")
    with (
        replacing(path) as temporary,
        av.open(temporary, "w", format="mp4", options={"movflags": "+faststart"}) as container,
    ):
        rate = Fraction(fps).limit_denominator(NTSC_DENOMINATOR)
        stream = container.add_stream("libx264", rate=rate, options=MP4_QUALITY)
        stream.height, stream.width = even.shape[1:3]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = ColorRange.MPEG
        sound = (
            None if voice is None else container.add_stream("aac", rate=voice.rate, layout="mono")
        )
        for rgb in even:
            container.mux(stream.encode(_to_bt709(rgb)))
        container.mux(stream.encode(None))
        if sound is not None and voice is not None:
            container.mux(sound.encode(_to_audio(voice)))
            container.mux(sound.encode(None))


def write_frames(folder: str | Path, frames: np.ndarray) -> None:
    """Write uint8 (f, h, w, 3) RGB frames losslessly as 0000.png, 0001.png, ... in `folder`.

    The folder appears whole or not at all, and replaces an older one of the same name.
    """
    _check(frames)
    with replacing_folder(folder) as temporary:
        for index, rgb in enumerate(frames):
            Image.fromarray(rgb).save(temporary / f"{index:04d}.png")


def read_frames(folder: str | Path) -> np.ndarray:
    """Return the PNG frames in `folder` as uint8 (f, h, w, 3) RGB, in the order of their numbers.

    Raises UserError when the folder is missing or holds no PNG file.
    """
    paths = sorted(Path(folder).glob("*.png"), key=lambda path: (len(path.stem), path.stem))
    if not paths:
        what = "holds no PNG frames" if Path(folder).is_dir() else "no such folder"
        raise UserError(Problem(str(folder), what))
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])


@contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Yield the open file and its first real video stream; FFmpeg's errors become UserErrors."""
    _check_file(path)
    try:
        # FFmpeg takes what stands before a colon for a protocol, unless the path is absolute.
        with av.open(path.absolute()) as container:
            streams = [s for s in container.streams.video if not _is_cover(s)]
            if not streams:
                raise UserError(Problem(str(path), _without_pictures(container)))
            streams[0].thread_type = "AUTO"
            yield container, streams[0]
    except av.FFmpegError as error:
        raise UserError(_unreadable(path, error)) from error


def _check_file(path: Path) -> None:
    if not path.exists():
        what = "no file matches" if glob.has_magic(str(path)) else "no such file"
        raise UserError(Problem(str(path), what))
    if path.is_dir():
        raise UserError(Problem(str(path), "is a folder", allowed="a video file"))
    if path.stat().st_size == 0:
        raise UserError(Problem(str(path), "is empty (0 bytes)", fix=_AGAIN))


_AGAIN = "copy or download it again"


def _is_cover(stream: av.VideoStream) -> bool:
    """Tell whether a stream is the cover picture of an audio file."""
    return bool(stream.disposition & Disposition.attached_pic)


def _without_pictures(container: av.container.InputContainer) -> str:
    kinds = sorted({stream.type for stream in container.streams})
    return f"has no video stream, only {' and '.join(kinds)}" if kinds else "holds no frames at all"


def _unreadable(path: Path, error: av.FFmpegError) -> Problem:
    """Tell what a file that FFmpeg refuses seems to be, from its first bytes."""
    with open(path, "rb") as file:
        head = file.read(1024)
    if head.startswith(b"version https://git-lfs"):
        return Problem(str(path), "is a Git LFS pointer, not the video", fix="run `git lfs pull`")
    if _is_text(head):
        return Problem(str(path), "is a text file, not a video")
    if head[4:8] == b"ftyp":
        return Problem(str(path), f"is damaged or cut short ({error.strerror})", fix=_AGAIN)
    return Problem(str(path), f"FFmpeg cannot read it as a video ({error.strerror})")


def _is_text(head: bytes) -> bool:
    # A character of up to four bytes may be cut at the end of what was read.
    text = head.decode(errors="ignore")
    whole = len(head) - len(text.encode()) < 4
    return whole and all(char.isprintable() or char.isspace() for char in text)


def _rate(path: Path, stream: av.VideoStream) -> float:
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise UserError(Problem(str(path), "states no frame rate", fix="convert it to mp4"))
    return float(rate)


def _rgb(frame: av.VideoFrame) -> np.ndarray:
    """Return a decoded frame as displayed: (h, w, 3) uint8 RGB, turned by its stored rotation."""
    rgb = frame.to_ndarray(format="rgb24")
    return np.rot90(rgb, round(frame.rotation / 90))


def fit_frame(rgb: np.ndarray, size: Size | None) -> np.ndarray:
    """Return (h, w, 3) cut to the largest part of that form about its centre, and resized to it.

    Nothing is stretched or padded: a square keeps the shorter side, a wider form than the picture's
    all of its width. Area average when that shrinks it, bicubic when it grows; without `size` as
    it is.
    """
    if size is None:
        return rgb
    width, height = width_height(size)
    high, wide = rgb.shape[:2]
    across, down = float(wide), float(high)
    if wide * height > high * width:
        across = high * width / height
    else:
        down = wide * height / width
    left, top = (wide - across) / 2, (high - down) / 2
    method = Image.Resampling.BOX if across >= width else Image.Resampling.BICUBIC
    image = Image.fromarray(np.ascontiguousarray(rgb))
    box = (left, top, left + across, top + down)
    return np.asarray(image.resize((width, height), method, box))


def too_few(path: Path, count: int, wanted: range) -> Problem:
    """Return how many frames `path` has, and which number and stride would fit into them."""
    if count == 0:
        return Problem(str(path), "has a video stream without a single frame", fix=_AGAIN)
    asked = f"{len(wanted)} frames from frame {wanted.start} at stride {wanted.step}"
    what = f"has {count} frame{'s' * (count > 1)}; {asked} need {wanted[-1] + 1}"
    if wanted.start >= count:
        return Problem(str(path), what, allowed=f"start up to {count - 1}")
    fitting = len(range(wanted.start, count, wanted.step))
    options = [f"frames up to {fitting} at stride {wanted.step}"]
    if count - wanted.start >= len(wanted):
        widest = (count - 1 - wanted.start) // (len(wanted) - 1)
        options.append(f"stride up to {widest} for {len(wanted)} frames")
    return Problem(str(path), what, allowed=", or ".join(options))


def _check(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(f"expected uint8 (f, h, w, 3), got {frames.dtype} {frames.shape}")


def _to_even(frames: np.ndarray, axis: int) -> tuple[int, int]:
    return (0, frames.shape[axis] % 2)


def _to_audio(voice: Voice) -> av.AudioFrame:
    samples = np.ascontiguousarray(voice.samples[None])
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate = voice.rate
    frame.pts = 0
    return frame


def _to_bt709(rgb: np.ndarray) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    return frame.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
    )
