"""Shared by all tests: one thread per process, no network, and small media files."""

from __future__ import annotations

import os

# Read by numpy's and torch's thread pools when they are first imported, hence before all imports.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from pathlib import Path

import av
import numpy as np
import pytest

CLIP_FRAMES, CLIP_HEIGHT, CLIP_WIDTH, CLIP_FPS = 12, 48, 64, 10


def clip_level(index: int) -> int:
    """Grey level of frame `index` of `clip_mp4`, so that a test can tell which frame it got."""
    return 20 + 15 * index


def write_h264(path: Path, frames: np.ndarray, fps: int = CLIP_FPS, rotation: int = 0) -> Path:
    """Write (f, h, w, 3) RGB with PyAV alone, independently of crossframe.video."""
    with av.open(path, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "1"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        container.start_encoding()
        for rgb in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        if len(frames):
            container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="session")
def clip_mp4(media: Path) -> Path:
    """12 grey frames of 64x48 at 10 fps, each brighter than the last (see `clip_level`)."""
    levels = np.array([clip_level(i) for i in range(CLIP_FRAMES)], np.uint8)
    shape = (CLIP_FRAMES, CLIP_HEIGHT, CLIP_WIDTH, 3)
    return write_h264(
        media / "clip.mp4", np.broadcast_to(levels[:, None, None, None], shape).copy()
    )


@pytest.fixture(scope="session")
def audio_only(media: Path) -> Path:
    """An mp4 with a tenth of a second of silence and no picture."""
    path = media / "audio.mp4"
    silence = np.zeros((1, 1600), np.float32)
    with av.open(path, "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def zero_frames(media: Path) -> Path:
    """A well-formed mp4 into which no frame was ever written."""
    return write_h264(media / "zero.mp4", np.zeros((0, 48, 64, 3), np.uint8))


@pytest.fixture(scope="session")
def text_mp4(media: Path) -> Path:
    """A text file called .mp4."""
    path = media / "text.mp4"
    path.write_text("Not a video at all: größer als nötig.\n" * 40, encoding="utf-8")
    return path
