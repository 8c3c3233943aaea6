"""Shapes of sprites and patterns of backgrounds, as signed distances, negative inside.

Shapes are in units of the sprite's radius; patterns in pixels, to the boundary of two tones.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def _polygon(radius: Array, angle: Array, corners: int, inner: float) -> Array:
    """Distance to a regular star polygon with outer radius 1 and inner radius ``inner``."""
    sector = np.pi / corners
    # 0 at an inner corner, ``sector`` at a tip
    folded = np.abs(np.mod(angle, 2 * sector) - sector)
    x, y = radius * np.cos(folded), radius * np.sin(folded)
    tip = np.array([np.cos(sector), np.sin(sector)])
    edge = tip - np.array([inner, 0.0])
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return (x - inner) * normal[0] + y * normal[1]


def _circle(u: Array, v: Array) -> Array:
    return np.hypot(u, v) - 0.9


def _square(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u), np.abs(v)) - 0.78


def _triangle(u: Array, v: Array) -> Array:
    return _polygon(np.hypot(u, v + 0.0), np.arctan2(u, v), 3, 0.5) - 0.1


def _star(u: Array, v: Array) -> Array:
    return _polygon(np.hypot(u, v), np.arctan2(u, v), 5, 0.46) - 0.06


def _cross(u: Array, v: Array) -> Array:
    a, b = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(a - 0.3, b - 0.95), np.maximum(a - 0.95, b - 0.3))


def _ring(u: Array, v: Array) -> Array:
    return np.abs(np.hypot(u, v) - 0.7) - 0.26


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
}


def _striped(x: Array, y: Array, period: float) -> Array:
    return np.abs(np.mod(x, period) - period / 2) - period / 4


def _checkered(x: Array, y: Array, period: float) -> Array:
    a, b = _striped(x, y, period), _striped(y, x, period)
    return np.where(a * b > 0, 1.0, -1.0) * np.minimum(np.abs(a), np.abs(b))


def _dotted(x: Array, y: Array, period: float) -> Array:
    a, b = np.mod(x, period) - period / 2, np.mod(y, period) - period / 2
    return np.hypot(a, b) - 0.3 * period


def _wavy(x: Array, y: Array, period: float) -> Array:
    return _striped(x + 0.35 * period * np.sin(2 * np.pi * y / (1.6 * period)), y, period) * 0.8


PATTERNS: dict[str, Callable[[Array, Array, float], Array]] = {
    "striped": _striped,
    "checkered": _checkered,
    "dotted": _dotted,
    "wavy": _wavy,
}
