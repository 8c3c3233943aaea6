"""Voices: a waveform with its rate, cuts of it, and what can be heard in each video frame.

Shapes: n samples, f video frames. Torch-free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from crossframe.errors import Problem, UserError
from crossframe.keys import array_sha256, identity

RATE = 16_000
"""Samples per second of all voices that are read or rendered here, which wav2vec 2.0 is fed."""

PITCHES = (70.0, 320.0)
"""Hz: between these lies the fundamental of a speaking voice."""

PITCH_SECONDS = 0.05
"""Length of the window in which a pitch is looked for: three and a half periods of the lowest."""

VOICED = 0.5
"""Normalised autocorrelation above which a window counts as voiced."""


@dataclass(frozen=True, eq=False)
class Voice:
    """A mono waveform. samples: (n,) float32 in [-1, 1]. rate: samples per second.

    Raises UserError for samples of another shape or type, outside [-1, 1] or not finite.
    """

    samples: NDArray[np.float32]
    rate: int = RATE

    def __post_init__(self) -> None:
        given = self.samples
        if given.ndim != 1 or given.dtype != np.float32 or not given.size:
            what = f"{given.dtype} samples of shape {given.shape}"
            raise UserError(Problem("voice", what, "float32 samples (n,)"))
        peak = float(np.abs(given).max())
        if not peak <= 1:
            raise UserError(Problem("voice", f"samples as large as {peak:g}", "[-1, 1]"))

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / self.rate

    @cached_property
    def sha256(self) -> str:
        """The sha256 of samples and rate."""
        return identity([array_sha256(self.samples), self.rate])

    def cut(self, start: float, seconds: float) -> Voice:
        """Return the part from `start` on, `seconds` long; silence stands where there is none."""
        first, count = round(start * self.rate), round(seconds * self.rate)
        part = self.samples[first : first + count]
        silence = np.zeros(count - len(part), np.float32)
        return Voice(np.concatenate([part, silence]), self.rate)


def frame_edges(frames: int, fps: float, rate: int) -> NDArray[np.intp]:
    """Return the samples (f+1,) at which video frames begin; the last one ends the last frame."""
    return np.round(np.arange(frames + 1) * (rate / fps)).astype(np.intp)


def envelope(voice: Voice, frames: int, fps: float) -> NDArray[np.float32]:
    """Return the loudness of a voice during each of `frames` video frames, (f,) in [0, 1].

    The root mean square of the frame's own samples. Silence counts where the voice is shorter.
    """
    edges = frame_edges(frames, fps, voice.rate)
    samples = voice.cut(0, edges[-1] / voice.rate).samples.astype(np.float64)
    energy = np.add.reduceat(samples**2, edges[:-1])
    return np.sqrt(energy / np.diff(edges)).astype(np.float32)


def pitch(
    voice: Voice, frames: int, fps: float, between: tuple[float, float] = PITCHES
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the fundamental of a voice at each of `frames` video frames, and how sure it is.

    The first value is in Hz, (f,), 0 where the frame is not voiced; the second is the height of the
    peak of the normalised autocorrelation, (f,) in [0, 1]. Windows of 50 ms are centred on the
    frames; the shortest period whose peak comes within 5 % of the highest counts, which avoids
    octaves too low (Boersma 1993); a parabola through the peak gives parts of a sample.
    """
    edges = frame_edges(frames, fps, voice.rate)
    centres = (edges[1:] + edges[:-1]) // 2
    length = round(PITCH_SECONDS * voice.rate)
    longest = math.ceil(voice.rate / between[0])
    shortest = math.floor(voice.rate / between[1])
    reach = length + longest
    padded = np.pad(voice.samples.astype(np.float64), reach)
    starts = np.clip(centres + reach - (length + longest) // 2, 0, len(padded) - reach)
    windows = padded[starts[:, None] + np.arange(reach)]
    likeness = _autocorrelation(windows, length, longest)
    return _highest(likeness, shortest, voice.rate)


def _autocorrelation(
    windows: NDArray[np.float64], length: int, longest: int
) -> NDArray[np.float64]:
    """Return the normalised autocorrelation (f, longest+1) of windows (f, length+longest)."""
    size = 1 << (windows.shape[1] + length - 1).bit_length()
    head = np.fft.rfft(windows[:, :length], size)
    product = np.fft.irfft(np.fft.rfft(windows, size) * head.conj(), size)[:, : longest + 1]
    energy = np.cumsum(np.pad(windows**2, ((0, 0), (1, 0))), 1)
    moved = energy[:, length : length + longest + 1] - energy[:, : longest + 1]
    norm = np.sqrt(np.maximum(moved * moved[:, :1], 0)) + 1e-9
    return product / norm


def _highest(
    likeness: NDArray[np.float64], shortest: int, rate: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return pitch and height of the peaks of autocorrelations (f, lags)."""
    inner = likeness[:, shortest:-1]
    peak = (inner >= likeness[:, shortest - 1 : -2]) & (inner >= likeness[:, shortest + 1 :])
    height = np.where(peak, inner, 0).max(1)
    good = peak & (inner >= 0.95 * height[:, None]) & (height[:, None] > 0)
    lag = shortest + good.argmax(1)
    rows = np.arange(len(likeness))
    before, at, after = (likeness[rows, lag + step] for step in (-1, 0, 1))
    bend = before - 2 * at + after
    part = np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, 1), 0)
    hertz = np.where(height > VOICED, rate / (lag + part), 0)
    return hertz.astype(np.float32), np.clip(height, 0, 1).astype(np.float32)
