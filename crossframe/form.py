"""The form of frames as specs, manifests and requests state it: a side, or width and height."""

from __future__ import annotations

from collections.abc import Sequence

Size = int | tuple[int, int]
"""Pixels: the side of a square, or width and height."""


def width_height(size: int | Sequence[int]) -> tuple[int, int]:
    """Return width and height in pixels of a `Size`, or of one that JSON made a list."""
    if isinstance(size, int):
        return size, size
    width, height = size
    return width, height


def show_size(size: int | Sequence[int]) -> str:
    """Return `512x512`, `1024x576`."""
    return "x".join(map(str, width_height(size)))
