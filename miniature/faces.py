"""Talking cartoon faces: clips driven by a synthesised voice, with exact truth.

Who a face is and how it moves stands in `miniature.face`, what its pictures are made of in
`miniature.face_layers`. The flow of a pixel of the layer seen there is exact, and a pixel is
occluded when another layer, or nothing, is seen at its end.

Shapes: f frames, h = w = size pixels. Coordinates and times as in `miniature.face`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crossframe.errors import Problem, UserError, did_you_mean
from crossframe.voice import Voice, envelope
from data_manifests.clips import Clip, ClipRequest, Truth
from miniature.face import FPS, Array, Face, Points, face_of, voice_of
from miniature.face_layers import (
    HEAD,
    Layer,
    Placed,
    coverage,
    layers,
    mouth,
    over,
    skin,
    tone_distance,
)
from miniature.world import SIZE, SPLITS, boundaries

CAPTION = "a talking face"


def render_frames(face: Face, times: Array, size: int = SIZE) -> NDArray[np.uint8]:
    """Frames (f, h, w, 3), uint8, of a face at `times` (in frames)."""
    t, pixel = np.asarray(times, np.float64), SIZE / size
    image = np.zeros((len(t), size, size, 3))
    for layer in layers(face):
        placed = layer.place(t)
        rows, columns = _window(layer, placed, size)
        u = placed.to_layer(_screen(size)[None, rows, columns])
        cover = coverage(layer.outline(u, placed), pixel)[..., None]
        part = image[:, rows, columns]
        image[:, rows, columns] = np.where(
            cover > 0, part * (1 - cover) + cover * layer.paint(u, placed, pixel), part
        )
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def visible_layer(face: Face, x: Points, t: Array) -> NDArray[np.int8]:
    """Number of the layer seen at points `x` (f, ...) at times `t`; 0 is the background."""
    stack = [(layer, layer.place(t)) for layer in layers(face)[1:]]
    seen = np.zeros(x.shape, np.int8)
    for i in range(len(t)):
        seen[i] = _seen([(layer, placed.at(i)) for layer, placed in stack], x[i])
    return seen


def _seen(stack: Sequence[tuple[Layer, Placed]], x: Points) -> NDArray[np.int8]:
    """`visible_layer` at one time; each layer is only asked about the points near it."""
    seen = np.zeros(x.shape, np.int8)
    for number, (layer, placed) in enumerate(stack, start=1):
        apart = x - placed.centre[0]
        near = (np.abs(apart.real) < layer.reach) & (np.abs(apart.imag) < layer.reach)
        points = x[near][None]
        inside = layer.outline(placed.to_layer(points), placed)[0] < 0
        seen[near] = np.where(inside, number, seen[near])
    return seen


def _flow(face: Face, t: Array, step: int, size: int) -> tuple[Array, NDArray[np.bool_]]:
    """Flow (f, h, w, 2) in pixels from `t` to `t + step`, and where it has no visible end."""
    x = np.broadcast_to(_screen(size), (len(t), size, size))
    seen = visible_layer(face, x, t)
    end: Points = np.empty(x.shape, complex)
    for number, layer in enumerate(layers(face)):
        before, after = layer.place(t), layer.place(t + step)
        for i in range(len(t)):
            here = seen[i] == number
            end[i, here] = after.at(i).to_screen(before.at(i).to_layer(x[i, here][None]))[0]
    half = SIZE / 2 - SIZE / size / 2  # the last pixel centre: beyond it nothing can be sampled
    outside = (np.abs(end.real) > half) | (np.abs(end.imag) > half)
    hidden = visible_layer(face, end, t + step) != seen
    flow = (end - x) * (size / SIZE)
    return np.stack([flow.real, flow.imag], -1).astype(np.float32), outside | hidden


def face_boxes(face: Face, times: Array, size: int = SIZE) -> NDArray[np.bool_]:
    """Pixels (f, h, w) of the upright box around the face's oval, hair left out."""
    return _boxes(_extent(skin(face).place(np.asarray(times, np.float64))), size)


def lip_boxes(face: Face, times: Array, size: int = SIZE) -> NDArray[np.bool_]:
    """Pixels (f, h, w) of the upright box around the lips as they are, open or closed."""
    return _boxes(_extent(mouth(face)[0].place(np.asarray(times, np.float64))), size)


def mouth_region(face: Face, times: Array, size: int = SIZE) -> NDArray[np.bool_]:
    """Pixels (f, h, w) of the smallest box that holds the lips of all of these times.

    It is the same in every frame, so that a still picture has the same darkness in it throughout.
    """
    low, high = _extent(mouth(face)[0].place(np.asarray(times, np.float64)))
    whole = (
        np.full_like(low, complex(low.real.min(), low.imag.min())),
        np.full_like(high, complex(high.real.max(), high.imag.max())),
    )
    return _boxes(whole, size)


def face_truth(face: Face, t: Array, step: int, voice: Voice, size: int = SIZE) -> Truth:
    """All that is known exactly about frames at times `t` (f,), `step` apart, and their voice.

    masks: head, body and hanging object, in this order.
    """
    x = np.broadcast_to(_screen(size), (len(t), size, size))
    seen = visible_layer(face, x, t)
    stack = layers(face)
    names = np.array([layer.name for layer in stack])
    forward, hidden_forward = _flow(face, t[:-1], step, size)
    backward, hidden_backward = _flow(face, t[1:], -step, size)
    tone = (seen == 0) & (tone_distance(face, stack[0].place(t).to_layer(x)) < 0)
    pose = face.pose(t) * (size / SIZE)
    return Truth(
        flow_forward=forward,
        flow_backward=backward,
        occluded_forward=hidden_forward,
        occluded_backward=hidden_backward,
        depth=np.array([layer.depth for layer in stack], np.float32)[seen],
        masks=np.stack([np.isin(names, part)[seen] for part in (HEAD, ["body"], ["thing"])], 1),
        edges=boundaries(np.where(tone, -1, seen)),
        mouth=mouth_region(face, t, size),
        lip=lip_boxes(face, t, size),
        face=face_boxes(face, t, size),
        opening=face.opening(t).astype(np.float32),
        pose=np.stack([pose.real, pose.imag], -1).astype(np.float32),
        envelope=envelope(voice, len(t), FPS / step),
        identity=face.identity,
    )


def load_face_clip(name: str, request: ClipRequest) -> Clip:
    """Clip ``<split>/<index>`` of the talking faces, for example ``heldout/3``, with its voice.

    Raises:
        UserError: the name is not ``<split>/<index>``, or the request is for no square.
    """
    split, _, number = name.partition("/")
    if split not in SPLITS or not number.isdigit():
        what = f"no talking face is called {name!r}"
        allowed = f"<split>/<index>, split one of {', '.join(SPLITS)}"
        raise UserError(Problem(request.ref, what, allowed, did_you_mean(split, SPLITS)))
    face = face_of(split, int(number))
    t = request.start + request.stride * np.arange(request.frames, dtype=np.float64)
    voice = voice_of(face, request.start, request.frames * request.stride)
    return Clip(
        id=f"faces:{name}",
        frames=render_frames(face, t, request.side),
        fps=FPS / request.stride,
        caption=CAPTION,
        truth=face_truth(face, t, request.stride, voice, request.side),
        voice=voice,
    )


def _screen(size: int) -> Points:
    """Pixel centres as complex numbers x + iy (h, w), in units of a 128-pixel frame."""
    axis = (np.arange(size) + 0.5) * (SIZE / size) - SIZE / 2
    return axis[None, :] + 1j * axis[:, None]


def _window(layer: Layer, placed: Placed, size: int) -> tuple[slice, slice]:
    """Rows and columns outside of which a layer is never seen."""

    def span(centres: Array) -> slice:
        low, high = centres.min() - layer.reach - 2, centres.max() + layer.reach + 2
        first, last = ((np.array([low, high]) + SIZE / 2) * size / SIZE).astype(int)
        return slice(int(np.clip(first, 0, size)), int(np.clip(last + 1, 0, size)))

    return span(placed.centre.imag), span(placed.centre.real)


def _extent(placed: Placed) -> tuple[Points, Points]:
    """Upper left and lower right corner (f,) of the upright box around turned ellipses."""
    cos, sin = placed.turn.real, placed.turn.imag
    half = np.hypot(placed.across * cos, placed.along * sin) + 1j * np.hypot(
        placed.across * sin, placed.along * cos
    )
    return placed.centre - half, placed.centre + half


def _boxes(extent: tuple[Points, Points], size: int) -> NDArray[np.bool_]:
    """Pixels (f, h, w) whose centres lie in boxes, given by their corners (f,)."""
    low, high = (over(corner, _screen(size)[None]) for corner in extent)
    x = _screen(size)[None]
    across = (x.real >= low.real) & (x.real <= high.real)
    return across & (x.imag >= low.imag) & (x.imag <= high.imag)
