"""The voices of the talking faces: synthesised speech-like sound that says how the face moves.

Everything is a function of time in closed form, so any part of a voice can be had by itself and
two parts fit together sample by sample. Syllables (3 to 4 a second, in phrases with pauses) give
the loudness, which the mouth follows; a slow signal bends the pitch, which the head follows. The
sound is a train of glottal pulses, all harmonics of the pitch in phase, under three formants that
move.

Shapes: n samples or times. Times are in seconds, signals without units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossframe.voice import RATE, Voice

Array = NDArray[np.floating]

PITCH = 140.0
"""Hz of every voice while its slow signal is 0."""

BEND = 0.45
"""Octaves by which the slow signal at 1 raises the pitch."""

HARMONICS = 24
LEVELS = 32767
LOUDNESS = 0.12
"""Root mean square of a voice at its loudest; pulses reach about four times as high."""

HUM = 0.08
"""Part of that loudness which stays in pauses, so that the pitch can always be heard."""

TILT = 1.1
"""Harmonic n of the source has the amplitude n ** -TILT."""

BANDWIDTH = 0.16
"""Width of a formant relative to its frequency."""


@dataclass(frozen=True)
class Wave:
    """A sine: amplitude, frequency in Hz, phase in rad; some waves shift the phase of another."""

    amplitude: float
    frequency: float
    phase: float

    def at(self, t: Array) -> Array:
        """Values at times `t`."""
        return self.amplitude * np.sin(2 * np.pi * self.frequency * t + self.phase)

    def integral(self, t: Array) -> Array:
        """What integrates to `at`, up to a constant."""
        turn = 2 * np.pi * self.frequency
        return -self.amplitude / turn * np.cos(turn * t + self.phase)


@dataclass(frozen=True)
class Speech:
    """A drawn voice. syllables: rate in Hz, phase; jitter: what shifts the syllables' phase.

    phrases: the wave that opens and closes phrases. slow: waves that add up to the slow signal.
    vowels: the wave that moves the formants. formants: their middle frequencies in Hz.
    """

    syllables: tuple[float, float]
    jitter: Wave
    phrases: Wave
    slow: tuple[Wave, ...]
    vowels: Wave
    formants: tuple[float, float, float]

    def opening(self, t: Array) -> Array:
        """How loud the voice is and how far the mouth is open, in [0, 1]."""
        rate, phase = self.syllables
        syllable = 0.5 - 0.5 * np.cos(2 * np.pi * rate * t + phase + self.jitter.at(t))
        return syllable * _smooth_step(self.phrases.at(t) + 0.75)

    def head(self, t: Array) -> Array:
        """The slow signal, in [-1, 1]."""
        return sum((wave.at(t) for wave in self.slow), np.zeros_like(t))

    def pitch(self, t: Array) -> Array:
        """The fundamental in Hz: `PITCH` is raised by `BEND` of the signal, in straight lines."""
        return PITCH * (1 + (2**BEND - 1) * self.head(t))

    def samples(self, first: int, count: int, rate: int = RATE) -> Voice:
        """Return `count` samples from sample `first` on, rounded to 16 bits.

        So the last bit of a cosine, which may differ between machines, hardly ever matters.
        """
        t = (first + np.arange(count)) / rate
        swing = sum((wave.integral(t) for wave in self.slow), np.zeros_like(t))
        phase = 2 * np.pi * PITCH * (t + (2**BEND - 1) * swing)
        numbers = np.arange(1, HARMONICS + 1)[:, None]
        gains = numbers**-TILT * self._formant_gains(numbers * self.pitch(t), t)
        gains /= np.sqrt((gains**2).sum(0) / 2)
        loud = LOUDNESS * (HUM + (1 - HUM) * self.opening(t))
        levels = np.round(LEVELS * loud * (gains * np.cos(numbers * phase)).sum(0))
        return Voice((levels / LEVELS).astype(np.float32), rate)

    def _formant_gains(self, hertz: Array, t: Array) -> Array:
        """Gains (HARMONICS, n) at frequencies of that shape: a sum of resonances."""
        shift = 2.0 ** self.vowels.at(t)
        moved = zip(self.formants, (shift, 1 / shift, np.ones_like(t)), strict=True)
        return sum(
            (
                1 / (1 + ((hertz - centre * way) / (BANDWIDTH * centre * way)) ** 2)
                for centre, way in moved
            ),
            np.zeros_like(hertz),
        )


def draw_speech(seed: int) -> Speech:
    """Draw a voice."""
    rng = np.random.default_rng(seed)

    def wave(amplitude: float, low: float, high: float) -> Wave:
        return Wave(amplitude, float(rng.uniform(low, high)), float(rng.uniform(0, 2 * np.pi)))

    return Speech(
        syllables=(float(rng.uniform(2.8, 3.8)), float(rng.uniform(0, 2 * np.pi))),
        jitter=wave(1.1, 0.25, 0.5),
        phrases=wave(1.0, 0.35, 0.6),
        slow=(wave(0.75, 0.4, 0.6), wave(0.25, 0.15, 0.3)),
        vowels=wave(0.35, 0.7, 1.2),
        formants=(
            float(rng.uniform(480, 620)),
            float(rng.uniform(1300, 1700)),
            float(rng.uniform(2400, 2800)),
        ),
    )


def _smooth_step(x: Array) -> Array:
    """0 below 0, 1 above 1, and a cubic without corners between."""
    bounded = np.clip(x, 0, 1)
    return bounded**2 * (3 - 2 * bounded)
