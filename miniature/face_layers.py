"""What a talking face's pictures are made of: flat layers, far to near.

Each lies on the screen by ``x = c + r (a Re u + i b Im u)`` with centre c, unit turn r and the
extents a, b, which change as a mouth opens or an eye closes.

With the head moves what is outside the face: the background slides the other way and a hanging
object swings, so that motion outside the face can be told from motion of the face.

Shapes: f times. Coordinates and times as in `miniature.face`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miniature.face import (
    MOUTH_DARK,
    PARALLAX,
    SWING,
    TURN,
    Array,
    Colour,
    Face,
    Points,
    seconds,
)
from miniature.shapes import PATTERNS, SHAPES


@dataclass(frozen=True)
class Placed:
    """Where a layer lies at f times: centre and turn (f,) complex, extents (f,)."""

    centre: Points
    turn: Points
    across: Array
    along: Array

    def at(self, i: int) -> Placed:
        """Where it lies at the i-th time alone."""
        part = slice(i, i + 1)
        return Placed(self.centre[part], self.turn[part], self.across[part], self.along[part])

    def to_layer(self, x: Points) -> Points:
        """Layer points of screen points (f, ...)."""
        w = (x - over(self.centre, x)) * over(self.turn, x).conj()
        return w.real / over(self.across, x) + 1j * (w.imag / over(self.along, x))

    def to_screen(self, u: Points) -> Points:
        """Screen points of layer points (f, ...)."""
        w = u.real * over(self.across, u) + 1j * (u.imag * over(self.along, u))
        return over(self.centre, u) + over(self.turn, u) * w


Outline = Callable[[Points, Placed], Array]
"""(layer points (f, ...), where the layer lies) -> pixels to its outline, negative inside."""

Paint = Callable[[Points, Placed, float], Array]
"""(layer points (f, ...), where the layer lies, pixels of a sample) -> colours (f, ..., 3)."""


@dataclass(frozen=True)
class Layer:
    """One flat thing. reach: no point of it is further from its centre than this, in pixels."""

    name: str
    place: Callable[[Array], Placed]
    outline: Outline
    paint: Paint
    depth: float
    reach: float


def layers(face: Face) -> tuple[Layer, ...]:
    """All layers of a face's pictures, far to near; the first one is the background."""
    back = [_background(face), _thing(face), _body(face)]
    return (*back, *_long_hair(face), skin(face), *_cap(face), *_eyes(face), *mouth(face))


HEAD = ("long hair", "skin", "cap", "brim", "left eye", "right eye", "lips", "mouth")
"""Names of the layers that move with the head."""


def _head_place(
    face: Face, offset: complex, extents: Callable[[Array], tuple[Array, Array]]
) -> Callable[[Array], Placed]:
    """Where something lies that is fixed to the head at `offset` from the face's centre."""

    def place(t: Array) -> Placed:
        turn = np.exp(1j * TURN * face.speech.head(seconds(t)))
        across, along = extents(t)
        return Placed(face.centre + face.pose(t) + offset * turn, turn, across, along)

    return place


def _constant(across: float, along: float) -> Callable[[Array], tuple[Array, Array]]:
    return lambda t: (np.full(len(t), across), np.full(len(t), along))


def _ellipse(u: Points, placed: Placed) -> Array:
    """Pixels to the outline |u| = 1, to first order: |u| - 1 over the length of its gradient."""
    radius = np.abs(u) + 1e-9
    gradient = np.hypot(
        u.real / radius / over(placed.across, u), u.imag / radius / over(placed.along, u)
    )
    return (radius - 1) / (gradient + 1e-9)


def _flat(colour: Colour) -> Paint:
    return lambda u, placed, pixel: np.broadcast_to(np.array(colour), (*u.shape, 3))


def _background(face: Face) -> Layer:
    def place(t: Array) -> Placed:
        slid = PARALLAX * face.speech.head(seconds(t)) + 0j
        ones = np.ones(len(t))
        return Placed(slid, ones + 0j, ones, ones)

    def paint(u: Points, placed: Placed, pixel: float) -> Array:
        """Two tones."""
        mix = coverage(tone_distance(face, u), pixel)[..., None]
        return mix * np.array(face.tones[0]) + (1 - mix) * np.array(face.tones[1])

    return Layer("background", place, lambda u, placed: np.full(u.shape, -np.inf), paint, 0.1, 1e3)


def tone_distance(face: Face, u: Points) -> Array:
    """Pixels from points of the background to the boundary between its two tones."""
    v = u * np.exp(1j * face.angle) + face.phase
    return PATTERNS[face.pattern](v.real, v.imag, face.period)


def _thing(face: Face) -> Layer:
    shape, side, colour = face.thing
    radius = 8.5

    def place(t: Array) -> Placed:
        head = face.speech.head(seconds(t))
        size = np.full(len(t), radius)
        return Placed(side * 53 + 1j * (SWING * head - 28), np.exp(0.5j * side * head), size, size)

    return Layer(
        "thing",
        place,
        lambda u, placed: SHAPES[shape](u.real, u.imag) * radius,
        _flat(colour),
        0.3,
        1.6 * radius,
    )


def _body(face: Face) -> Layer:
    def place(t: Array) -> Placed:
        ones = np.ones(len(t))
        return Placed(ones * (face.centre.real + 74j), ones + 0j, 45 * ones, 36 * ones)

    return Layer("body", place, _ellipse, _flat(face.shirt), 0.5, 46)


def _long_hair(face: Face) -> Sequence[Layer]:
    if face.style != "long":
        return ()
    across, along = face.width + 7, face.height + 8
    place = _head_place(face, 2j, _constant(across, along))
    return (Layer("long hair", place, _ellipse, _flat(face.hair), 0.6, along + 1),)


def skin(face: Face) -> Layer:
    """The oval of the face with brows, nose and blush."""
    cheek, brow = face.eye_apart + 3, -17.5

    def paint(u: Points, placed: Placed, pixel: float) -> Array:
        """Skin with blush, nose and brows."""
        x, y = np.abs(u.real) * face.width, u.imag * face.height
        blush = 0.25 * coverage(np.hypot(x - cheek, y - 8) - 4.5, 4 * pixel)[..., None]
        nose = 0.3 * coverage(np.hypot(x, (y - 4) / 1.4) - 3, 2 * pixel)[..., None]
        line = np.maximum(np.abs(y - brow) - 1.2, np.abs(x - face.eye_apart) - 5)
        hairs = coverage(line, pixel)[..., None]
        image = (1 - blush) * np.array(face.skin) + blush * np.array([0.95, 0.35, 0.35])
        image = image * (1 - nose * 0.5)
        return image * (1 - hairs) + hairs * 0.7 * np.array(face.hair)

    place = _head_place(face, 0j, _constant(face.width, face.height))
    return Layer("skin", place, _ellipse, paint, 0.7, face.height + 1)


def _cap(face: Face) -> Sequence[Layer]:
    """Hair on the forehead, or a hat with its brim."""
    across, along = face.width + 3, face.height + 4
    line = -0.58 if face.style != "hat" else -0.5

    def outline(u: Points, placed: Placed) -> Array:
        return np.maximum(_ellipse(u, placed), (u.imag - line) * along)

    place = _head_place(face, 0j, _constant(across, along))
    cap = Layer("cap", place, outline, _flat(face.hair), 0.75, along + 1)
    if face.style != "hat":
        return (cap,)
    middle = complex(0, line * along)
    brim = _head_place(face, middle, _constant(face.width + 8, 2.6))
    shade = (0.75 * face.hair[0], 0.75 * face.hair[1], 0.75 * face.hair[2])
    return cap, Layer("brim", brim, _box, _flat(shade), 0.8, face.width + 9)


def _box(u: Points, placed: Placed) -> Array:
    return np.maximum(
        (np.abs(u.real) - 1) * over(placed.across, u),
        (np.abs(u.imag) - 1) * over(placed.along, u),
    )


def _eyes(face: Face) -> Sequence[Layer]:
    def paint(u: Points, placed: Placed, pixel: float) -> Array:
        """White with an iris."""
        iris = coverage((np.abs(u) - 0.55) * 5.5, pixel)[..., None]
        return iris * np.array(face.eyes) + (1 - iris) * 0.96

    def extents(t: Array) -> tuple[Array, Array]:
        return np.full(len(t), 5.2), 6.2 * (1 - 0.88 * face.lids(t))

    return tuple(
        Layer(
            name, _head_place(face, complex(side * face.eye_apart, -8), extents), _ellipse, paint,
            0.8, 7.2,
        )
        for name, side in (("left eye", -1), ("right eye", 1))
    )  # fmt: skip


def mouth(face: Face) -> Sequence[Layer]:
    """The lips, and the dark between them, as open as the voice is loud."""
    offset = complex(0, 0.5 * face.height)
    lips = _head_place(face, offset, lambda t: _lip_extents(face, t))

    def inner(t: Array) -> tuple[Array, Array]:
        return np.full(len(t), 0.8 * face.mouth), 0.7 + 7.0 * face.opening(t)

    reach = face.mouth + 1
    return (
        Layer("lips", lips, _ellipse, _flat(face.lips), 0.85, reach),
        Layer("mouth", _head_place(face, offset, inner), _ellipse, _flat(MOUTH_DARK), 0.9, reach),
    )


def _lip_extents(face: Face, t: Array) -> tuple[Array, Array]:
    return np.full(len(t), face.mouth), 3.6 + 6.6 * face.opening(t)


def over(values: NDArray[Any], points: Points) -> NDArray[Any]:
    """(f,) values in the shape that goes with points (f, ...)."""
    return values.reshape(-1, *[1] * (points.ndim - 1))


def coverage(distance: Array, pixel: float) -> Array:
    """Antialiased coverage of a pixel whose centre lies `distance` from the outline."""
    return np.clip(0.5 - distance / pixel, 0, 1)
