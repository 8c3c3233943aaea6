"""Camera motion over flat layers: similarity paths, and the exact flow and occlusion they cause.

Points of the plane are complex numbers, x to the right, y down. The screen is the unit square
about its centre: pixel j of n lies at (j + 0.5) / n - 0.5. A frame that is no square is the middle
part of the screen that has its form, and n its longer side. A layer's point u is seen at
``x = factor * u + shift``, so that the flow of a pixel of that layer is
``x' - x`` with ``x' = factor' * (x - shift) / factor + shift'``.

Shapes: f frames of h x w pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossframe.form import Size, width_height
from data_manifests.clips import Truth

Array = NDArray[np.floating]
Points = NDArray[np.complexfloating]

HALF_PERIOD = 24
"""Frames in which a path is run through once; then it runs backwards, and so on."""

DISC_RADIUS = 0.2
"""Radius of the moving disc, as a part of the frame's side."""

DEPTHS = (0.25, 0.75)
"""Inverse depth of background and disc, 1 = near: the order of the layers, nothing more."""


@dataclass(frozen=True)
class Pose:
    """How a layer lies on the screen at f times: `x = factor * u + shift`, both (f,) complex."""

    factor: Points
    shift: Points

    def to_screen(self, u: Points) -> Points:
        """Return screen points (f, ...) of layer points (f, ...)."""
        return _over(self.factor, u) * u + _over(self.shift, u)

    def to_layer(self, x: Points) -> Points:
        """Return layer points (f, ...) of screen points (f, ...)."""
        return (x - _over(self.shift, x)) / _over(self.factor, x)


Path = Callable[[Array], Pose]


def progress(t: Array) -> Array:
    """Return how far along its path a motion is at times `t` (in frames): -0.5 to 0.5 and back."""
    phase = np.mod(t / HALF_PERIOD, 2)
    return np.where(phase <= 1, phase, 2 - phase) - 0.5


def _view(side: Array, angle: Array, centre: Points) -> Pose:
    """Return the pose of a photograph whose central square has side 1, seen through a window.

    side, angle (radians) and centre describe the window on the photograph.
    """
    zoom = np.exp(-1j * angle) / side
    return Pose(zoom, -zoom * centre)


def pan(t: Array) -> Pose:
    """A window of 0.7 of the square moves right by 1.7 % of its side, down by 0.7 %, per frame."""
    s = progress(t)
    return _view(np.full_like(s, 0.7), 0 * s, s * (0.28 + 0.12j))


def zoom(t: Array) -> Pose:
    """A window shrinks from 0.95 to 0.5 of the square, 2.7 % per frame."""
    s = progress(t)
    return _view(0.95 * (0.5 / 0.95) ** (s + 0.5), 0 * s, 0j * s)


def rotation(t: Array) -> Pose:
    """A window of 0.75 of the square turns by 1.5 degrees per frame."""
    s = progress(t)
    return _view(np.full_like(s, 0.75), s * np.deg2rad(36), 0j * s)


def drift(t: Array) -> Pose:
    """A window of 0.8 of the square moves left, 0.5 % of its side per frame."""
    s = progress(t)
    return _view(np.full_like(s, 0.8), 0 * s, -0.1 * s + 0j)


def crossing(t: Array) -> Pose:
    """A disc of radius 1 in its own coordinates crosses the frame, 2.7 % of its side per frame.

    It turns by 2.5 degrees per frame.
    """
    s = progress(t)
    return Pose(DISC_RADIUS * np.exp(1j * s * np.deg2rad(60)), s * (0.64 + 0.1j) + 0.03j)


MOTIONS: Mapping[str, tuple[Path, ...]] = {
    "pan": (pan,),
    "zoom": (zoom,),
    "rotation": (rotation,),
    "occluder": (drift, crossing),
}
"""Motion -> the paths of its layers, background first; a second layer is a disc of radius 1."""


def screen(size: Size) -> Points:
    """Return the pixel centres, (h, w) complex; see the module's docstring."""
    across, down = (_axis(count, max(width_height(size))) for count in width_height(size))
    return across[None, :] + 1j * down[:, None]


def _axis(count: int, longest: int) -> Array:
    """Return `count` pixel centres about 0, 1 / longest apart."""
    return ((np.arange(count) + 0.5) / count - 0.5) * (count / longest)


def points(size: Size, count: int) -> Points:
    """Return the pixel centres of `count` frames, (count, h, w) complex."""
    centres = screen(size)
    return np.broadcast_to(centres, (count, *centres.shape))


def visible(poses: Sequence[Pose], x: Points) -> NDArray[np.int8]:
    """Return the layer seen at screen points (f, ...): 0 background, 1 disc."""
    layer = np.zeros(x.shape, np.int8)
    for index, pose in enumerate(poses[1:], start=1):
        layer[np.abs(pose.to_layer(x)) < 1] = index
    return layer


def flow(paths: Sequence[Path], t: Array, t_next: Array, size: Size) -> tuple[Array, NDArray]:
    """Return exact flow (f, h, w, 2) float32 in pixels, and where it has no visible end.

    t, t_next: (f,) times in frames. The flow lies on the pixels of `t`. A pixel has no visible end
    when another layer is seen there at `t_next`, or when it lies beyond the last pixel centres,
    where nothing can be sampled.
    """
    now, then = [path(t) for path in paths], [path(t_next) for path in paths]
    x = points(size, len(t))
    layer = visible(now, x)
    end = x
    for index, (before, after) in enumerate(zip(now, then, strict=True)):
        end = np.where(layer == index, after.to_screen(before.to_layer(x)), end)
    longest = max(width_height(size))
    half = [0.5 * count / longest - 0.5 / longest for count in width_height(size)]
    outside = (np.abs(end.real) > half[0]) | (np.abs(end.imag) > half[1])
    moved = (end - x) * longest
    vectors = np.stack([moved.real, moved.imag], -1).astype(np.float32)
    return vectors, outside | (visible(then, end) != layer)


def truth(motion: str, t: Array, size: Size) -> Truth:
    """Return all that is known exactly of frames at times `t` under `motion`; edges are not."""
    paths = MOTIONS[motion]
    x = points(size, len(t))
    layer = visible([path(t) for path in paths], x)
    forward, hidden_forward = flow(paths, t[:-1], t[1:], size)
    backward, hidden_backward = flow(paths, t[1:], t[:-1], size)
    masks = [layer == index for index in range(1, len(paths))]
    return Truth(
        flow_forward=forward,
        flow_backward=backward,
        occluded_forward=hidden_forward,
        occluded_backward=hidden_backward,
        depth=np.array(DEPTHS, np.float32)[layer],
        masks=np.stack(masks, 1) if masks else np.zeros((len(t), 0, *x.shape[1:]), bool),
        edges=None,
    )


def _over(values: Points, like: Points) -> Points:
    """Return (f,) values shaped to broadcast over (f, ...) points."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
