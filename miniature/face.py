"""Who a talking cartoon face is and how it moves with its voice, in closed form from one seed.

The mouth opens with the loudness of the voice; its pitch moves the head. Eyes blink by a schedule
that cannot be heard. Coordinates are pixels of a 128-pixel frame as complex numbers, origin at its
centre, x to the right, y down. Times are in frames at 25 per second.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossframe.keys import derive_seed
from crossframe.voice import RATE, Voice
from miniature.shapes import PATTERNS, SHAPES
from miniature.voices import Speech, draw_speech

Array = NDArray[np.floating]
Points = NDArray[np.complexfloating]
Colour = tuple[float, float, float]

VERSION = 1
"""Raised whenever the same seed gives other pixels or another sound."""

FPS = 25.0
HAIR = ("short", "long", "hat")
IDENTITY = 16
"""Numbers that describe who a face is; see `Face.identity`."""

SWAY = 6.0
"""Pixels by which the head moves to the side while the slow signal of the voice is 1."""

TURN = 0.09
"""Radians by which the head is tilted then."""

PARALLAX = -4.0
"""Pixels by which the background moves to the side then."""

SWING = 11.0
"""Pixels by which the hanging object has sunk then."""

BLINK_SECONDS = 0.28
MOUTH_DARK: Colour = (0.13, 0.03, 0.05)


@dataclass(frozen=True)
class Face:
    """A drawn face and its voice. Lengths in pixels, colours RGB in [0, 1]."""

    speech: Speech
    centre: complex
    width: float  # half of the face's
    height: float
    skin: Colour
    hair: Colour
    style: str
    eyes: Colour
    eye_apart: float
    mouth: float  # half of its width
    lips: Colour
    shirt: Colour
    blinks: tuple[float, float]  # seconds between two, phase in rad
    pattern: str
    tones: tuple[Colour, Colour]
    period: float
    phase: complex
    angle: float
    thing: tuple[str, float, Colour]  # shape, side (-1 or 1), colour

    def pose(self, t: Array) -> Points:
        """How far the head is from its middle at times `t`, (f,): aside, and a little down."""
        head = self.speech.head(seconds(t))
        return np.asarray(SWAY * (head + 0.3j * head**2), complex)

    def opening(self, t: Array) -> Array:
        """How far the mouth is open, (f,) in [0, 1]."""
        return self.speech.opening(seconds(t))

    def lids(self, t: Array) -> Array:
        """How far the eyes are closed, (f,) in [0, 1]: a cosine bump per blink."""
        every, phase = self.blinks
        number = np.round(seconds(t) / every)
        apart = seconds(t) - every * (number + 0.3 * np.sin(1.7 * number + phase))
        inside = np.abs(apart) < BLINK_SECONDS / 2
        return np.where(inside, 0.5 + 0.5 * np.cos(2 * np.pi * apart / BLINK_SECONDS), 0.0)

    @property
    def identity(self) -> NDArray[np.float32]:
        """Who this is, (16,) in about [-1, 1]: colours of skin, hair and eyes, proportions, hair.

        It takes the place of a face encoder's embedding: equal for all frames of a face, different
        for different faces, without background, clothes and voice.
        """
        colours = [2 * c - 1 for colour in (self.skin, self.hair, self.eyes) for c in colour]
        lengths = [
            (self.width - 27) / 3,
            (self.height - 36) / 3,
            (self.eye_apart - 11) / 2,
            (self.mouth - 11.5) / 1.5,
        ]
        styles = [1.0 if self.style == style else -1.0 for style in HAIR]
        return np.array([*colours, *lengths, *styles], np.float32)


def draw_face(seed: int) -> Face:
    """Draw a face and its voice."""
    rng = np.random.default_rng(seed)
    hue = rng.uniform(0, 360)
    tone, contrast, colourful = (
        rng.uniform(0.45, 0.7),
        rng.uniform(0.12, 0.22),
        rng.uniform(0.2, 0.5),
    )
    skin = _hsv(rng.uniform(14, 34), rng.uniform(0.25, 0.5), rng.uniform(0.62, 0.97))
    side = float(rng.choice([-1.0, 1.0]))
    return Face(
        speech=draw_speech(derive_seed(VERSION, "speech", seed)),
        centre=complex(rng.uniform(-3, 3), 3 + rng.uniform(-2, 2)),
        width=float(rng.uniform(24, 30)),
        height=float(rng.uniform(33, 39)),
        skin=skin,
        hair=_hsv(rng.uniform(0, 360), rng.uniform(0.2, 0.9), rng.uniform(0.15, 0.8)),
        style=str(rng.choice(HAIR)),
        eyes=_hsv(rng.uniform(0, 360), rng.uniform(0.5, 0.9), rng.uniform(0.2, 0.5)),
        eye_apart=float(rng.uniform(9, 13)),
        mouth=float(rng.uniform(10, 13)),
        lips=_hsv(rng.uniform(-15, 8), rng.uniform(0.45, 0.65), 0.8 * max(skin)),
        shirt=_hsv(rng.uniform(0, 360), rng.uniform(0.3, 0.8), rng.uniform(0.35, 0.85)),
        blinks=(float(rng.uniform(1.8, 3.2)), float(rng.uniform(0, 2 * np.pi))),
        pattern=str(rng.choice(list(PATTERNS))),
        tones=(
            _hsv(hue, colourful, tone + contrast / 2),
            _hsv(hue + rng.uniform(-25, 25), 1.1 * colourful, tone - contrast / 2),
        ),
        period=float(rng.uniform(26, 40)),
        phase=complex(rng.uniform(0, 40), rng.uniform(0, 40)),
        angle=float(rng.uniform(0, 2 * np.pi)),
        thing=(
            str(rng.choice(list(SHAPES))),
            side,
            _hsv(rng.uniform(0, 360), rng.uniform(0.7, 0.9), rng.uniform(0.7, 0.95)),
        ),
    )


def face_of(split: str, index: int) -> Face:
    """The face number `index` of a split; splits never share a seed."""
    return draw_face(derive_seed(VERSION, "faces", split, index))


def voice_of(face: Face, start: int, frames: int) -> Voice:
    """What is heard from source frame `start` on, for the length of `frames` source frames."""
    per_frame = round(RATE / FPS)
    return face.speech.samples(start * per_frame, frames * per_frame)


def seconds(t: Array) -> Array:
    """The middle of the time for which frame `t` is shown, in seconds."""
    return (t + 0.5) / FPS


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB of a hue in degrees."""
    r, g, b = colorsys.hsv_to_rgb(
        hue % 360 / 360, min(max(saturation, 0), 1), min(max(value, 0), 1)
    )
    return (r, g, b)
