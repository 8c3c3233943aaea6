"""Talking cartoon faces: clips driven by a synthesised voice, with exact truth.

A face is drawn from one seed; every quantity follows in closed form from the time. The mouth opens
with the loudness of the voice; its pitch moves the head, and with the head what is outside the
face: the background slides the other way and a hanging object swings, so that motion outside the
face can be told from motion of the face. Eyes blink by a schedule that cannot be heard.

A picture is a stack of flat layers. Each lies on the screen by ``x = c + r (a Re u + i b Im u)``
with centre c, unit turn r and the extents a, b, which change as a mouth opens or an eye closes; so
the flow of a pixel of the layer seen there is exact, and a pixel is occluded when another layer, or
nothing, is seen at its end.

Shapes: f frames, h = w = size pixels. Coordinates are pixels of a 128-pixel frame as complex
numbers, origin at its centre, x to the right, y down. Times are in frames at 25 per second.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossframe.errors import Problem, UserError, did_you_mean
from crossframe.keys import derive_seed
from crossframe.voice import RATE, Voice, envelope
from data_manifests.clips import Clip, ClipRequest, Truth
from miniature.voices import Speech, draw_speech
from miniature.world import PATTERNS, SHAPES, SIZE, SPLITS, boundaries

Array = NDArray[np.floating]
Points = NDArray[np.complexfloating]
Colour = tuple[float, float, float]

VERSION = 1
"""Raised whenever the same seed gives other pixels or another sound."""

FPS = 25.0
CAPTION = "a talking face"
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
        head = self.speech.head(_seconds(t))
        return np.asarray(SWAY * (head + 0.3j * head**2), complex)

    def opening(self, t: Array) -> Array:
        """How far the mouth is open, (f,) in [0, 1]."""
        return self.speech.opening(_seconds(t))

    def lids(self, t: Array) -> Array:
        """How far the eyes are closed, (f,) in [0, 1]: a cosine bump per blink."""
        every, phase = self.blinks
        number = np.round(_seconds(t) / every)
        apart = _seconds(t) - every * (number + 0.3 * np.sin(1.7 * number + phase))
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
        w = (x - _over(self.centre, x)) * _over(self.turn, x).conj()
        return w.real / _over(self.across, x) + 1j * (w.imag / _over(self.along, x))

    def to_screen(self, u: Points) -> Points:
        """Screen points of layer points (f, ...)."""
        w = u.real * _over(self.across, u) + 1j * (u.imag * _over(self.along, u))
        return _over(self.centre, u) + _over(self.turn, u) * w


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


# --- layers, far to near ---
def layers(face: Face) -> tuple[Layer, ...]:
    """All layers of a face's pictures, far to near; the first one is the background."""
    back = [_background(face), _thing(face), _body(face)]
    return (*back, *_long_hair(face), _skin(face), *_cap(face), *_eyes(face), *_mouth(face))


HEAD = ("long hair", "skin", "cap", "brim", "left eye", "right eye", "lips", "mouth")
"""Names of the layers that move with the head."""


def _head_place(
    face: Face, offset: complex, extents: Callable[[Array], tuple[Array, Array]]
) -> Callable[[Array], Placed]:
    """Where something lies that is fixed to the head at `offset` from the face's centre."""

    def place(t: Array) -> Placed:
        turn = np.exp(1j * TURN * face.speech.head(_seconds(t)))
        across, along = extents(t)
        return Placed(face.centre + face.pose(t) + offset * turn, turn, across, along)

    return place


def _constant(across: float, along: float) -> Callable[[Array], tuple[Array, Array]]:
    return lambda t: (np.full(len(t), across), np.full(len(t), along))


def _ellipse(u: Points, placed: Placed) -> Array:
    """Pixels to the outline |u| = 1, to first order: |u| - 1 over the length of its gradient."""
    radius = np.abs(u) + 1e-9
    gradient = np.hypot(
        u.real / radius / _over(placed.across, u), u.imag / radius / _over(placed.along, u)
    )
    return (radius - 1) / (gradient + 1e-9)


def _flat(colour: Colour) -> Paint:
    return lambda u, placed, pixel: np.broadcast_to(np.array(colour), (*u.shape, 3))


def _background(face: Face) -> Layer:
    def place(t: Array) -> Placed:
        slid = PARALLAX * face.speech.head(_seconds(t)) + 0j
        ones = np.ones(len(t))
        return Placed(slid, ones + 0j, ones, ones)

    def paint(u: Points, placed: Placed, pixel: float) -> Array:
        mix = _coverage(_tone_distance(face, u), pixel)[..., None]
        return mix * np.array(face.tones[0]) + (1 - mix) * np.array(face.tones[1])

    return Layer("background", place, lambda u, placed: np.full(u.shape, -np.inf), paint, 0.1, 1e3)


def _tone_distance(face: Face, u: Points) -> Array:
    """Pixels from points of the background to the boundary between its two tones."""
    v = u * np.exp(1j * face.angle) + face.phase
    return PATTERNS[face.pattern](v.real, v.imag, face.period)


def _thing(face: Face) -> Layer:
    shape, side, colour = face.thing
    radius = 8.5

    def place(t: Array) -> Placed:
        head = face.speech.head(_seconds(t))
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


def _skin(face: Face) -> Layer:
    cheek, brow = face.eye_apart + 3, -17.5

    def paint(u: Points, placed: Placed, pixel: float) -> Array:
        x, y = np.abs(u.real) * face.width, u.imag * face.height
        blush = 0.25 * _coverage(np.hypot(x - cheek, y - 8) - 4.5, 4 * pixel)[..., None]
        nose = 0.3 * _coverage(np.hypot(x, (y - 4) / 1.4) - 3, 2 * pixel)[..., None]
        line = np.maximum(np.abs(y - brow) - 1.2, np.abs(x - face.eye_apart) - 5)
        hairs = _coverage(line, pixel)[..., None]
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
        (np.abs(u.real) - 1) * _over(placed.across, u),
        (np.abs(u.imag) - 1) * _over(placed.along, u),
    )


def _eyes(face: Face) -> Sequence[Layer]:
    def paint(u: Points, placed: Placed, pixel: float) -> Array:
        iris = _coverage((np.abs(u) - 0.55) * 5.5, pixel)[..., None]
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


def _mouth(face: Face) -> Sequence[Layer]:
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


# --- rendering ---
def render_frames(face: Face, times: Array, size: int = SIZE) -> NDArray[np.uint8]:
    """Frames (f, h, w, 3), uint8, of a face at `times` (in frames)."""
    t, pixel = np.asarray(times, np.float64), SIZE / size
    image = np.zeros((len(t), size, size, 3))
    for layer in layers(face):
        placed = layer.place(t)
        rows, columns = _window(layer, placed, size)
        u = placed.to_layer(_screen(size)[None, rows, columns])
        cover = _coverage(layer.outline(u, placed), pixel)[..., None]
        part = image[:, rows, columns]
        image[:, rows, columns] = np.where(
            cover > 0, part * (1 - cover) + cover * layer.paint(u, placed, pixel), part
        )
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def visible_layer(face: Face, x: Points, t: Array) -> NDArray[np.int8]:
    """Number of the layer seen at points `x` (f, ...) at times `t`; 0 is the background."""
    stack = [(layer, layer.place(t)) for layer in layers(face)[1:]]
    return np.stack([_seen([(layer, p.at(i)) for layer, p in stack], x[i]) for i in range(len(t))])


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
    return _boxes(_extent(_skin(face).place(np.asarray(times, np.float64))), size)


def lip_boxes(face: Face, times: Array, size: int = SIZE) -> NDArray[np.bool_]:
    """Pixels (f, h, w) of the upright box around the lips as they are, open or closed."""
    return _boxes(_extent(_mouth(face)[0].place(np.asarray(times, np.float64))), size)


def mouth_region(face: Face, times: Array, size: int = SIZE) -> NDArray[np.bool_]:
    """Pixels (f, h, w) of the smallest box that holds the lips of all of these times.

    It is the same in every frame, so that a still picture has the same darkness in it throughout.
    """
    low, high = _extent(_mouth(face)[0].place(np.asarray(times, np.float64)))
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
    tone = (seen == 0) & (_tone_distance(face, stack[0].place(t).to_layer(x)) < 0)
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
        UserError: the name is not ``<split>/<index>``.
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
        frames=render_frames(face, t, request.size),
        fps=FPS / request.stride,
        caption=CAPTION,
        truth=face_truth(face, t, request.stride, voice, request.size),
        voice=voice,
    )


# --- small geometry ---
def _seconds(t: Array) -> Array:
    """The middle of the time for which frame `t` is shown, in seconds."""
    return (t + 0.5) / FPS


def _over(values: NDArray[Any], points: Points) -> NDArray[Any]:
    """(f,) values in the shape that goes with points (f, ...)."""
    return values.reshape(-1, *[1] * (points.ndim - 1))


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


def _coverage(distance: Array, pixel: float) -> Array:
    """Antialiased coverage of a pixel whose centre lies `distance` from the outline."""
    return np.clip(0.5 - distance / pixel, 0, 1)


def _extent(placed: Placed) -> tuple[Points, Points]:
    """Upper left and lower right corner (f,) of the upright box around turned ellipses."""
    cos, sin = placed.turn.real, placed.turn.imag
    half = np.hypot(placed.across * cos, placed.along * sin) + 1j * np.hypot(
        placed.across * sin, placed.along * cos
    )
    return placed.centre - half, placed.centre + half


def _boxes(extent: tuple[Points, Points], size: int) -> NDArray[np.bool_]:
    """Pixels (f, h, w) whose centres lie in boxes, given by their corners (f,)."""
    low, high = (_over(corner, _screen(size)[None]) for corner in extent)
    x = _screen(size)[None]
    across = (x.real >= low.real) & (x.real <= high.real)
    return across & (x.imag >= low.imag) & (x.imag <= high.imag)


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB of a hue in degrees."""
    r, g, b = colorsys.hsv_to_rgb(
        hue % 360 / 360, min(max(saturation, 0), 1), min(max(value, 0), 1)
    )
    return (r, g, b)
