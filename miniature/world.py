"""The miniature world: captioned clips of textured sprites on moving patterns, with exact truth.

A scene is drawn from one seed; every quantity of its clips follows in closed form. All layers move
by similarity transforms ``x = s R(a) u + c`` (layer coordinates u, screen coordinates x), so the
flow of a pixel is ``T(t+1) T(t)^-1 x - x`` for the layer visible there, and a pixel is occluded
when another layer (or nothing) is visible at its end point. Appearance that the caption does not
name (background hue and phase, texture, light) is drawn at random: that freedom is what makes
independently generated frames flicker.

Shapes: f frames, h = w = size pixels, n sprites. Coordinates are pixels of a 128-pixel frame,
origin at its centre, x to the right, y down; colours are RGB in [0, 1].
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crossframe.errors import Problem, UserError, did_you_mean
from crossframe.keys import derive_seed
from data_manifests.clips import Clip, ClipRequest, Truth
from miniature.shapes import PATTERNS, SHAPES

Array = NDArray[np.floating]
Points = NDArray[np.complexfloating]
"""Points of the plane, and scaled rotations about its origin, as complex numbers."""

VERSION = 1
"""Raised whenever the same seed gives other pixels."""

SIZE = 128
SPLITS = ("train", "heldout")
DESIGN_FRAMES = 16
"""Paths are laid out so that sprites stay in view over this many frames."""

COLOURS: dict[str, tuple[float, float, float]] = {  # hue in degrees, saturation, value
    "red": (0, 0.85, 0.85),
    "orange": (28, 0.90, 0.95),
    "yellow": (56, 0.80, 0.95),
    "green": (120, 0.75, 0.65),
    "cyan": (180, 0.75, 0.85),
    "blue": (226, 0.80, 0.85),
    "purple": (276, 0.65, 0.70),
    "pink": (330, 0.45, 0.98),
}


# --- scenes ---
@dataclass(frozen=True)
class Motion:
    """A similarity transform over time: centre (px), angle (rad), log scale; rates per frame."""

    centre: tuple[float, float] = (0.0, 0.0)
    velocity: tuple[float, float] = (0.0, 0.0)
    angle: float = 0.0
    spin: float = 0.0
    log_scale: float = 0.0
    growth: float = 0.0

    def at(self, t: Array) -> tuple[Points, Points]:
        """Complex scale-rotation and complex centre (f,) at times ``t`` (f,) since frame 0."""
        factor = np.exp(self.log_scale + self.growth * t + 1j * (self.angle + self.spin * t))
        return factor, complex(*self.centre) + complex(*self.velocity) * t


@dataclass(frozen=True)
class Sprite:
    """One sprite; colour and shape are named in the caption, the rest is free appearance."""

    colour: str
    shape: str
    rgb: tuple[float, float, float]
    radius: float
    motion: Motion
    texture: tuple[float, float, float, float]  # amplitude, angle, period in radii, phase
    depth: float


@dataclass(frozen=True)
class Scene:
    """A drawn scene: all that rendering a frame needs. ``sprites`` are ordered far to near."""

    pattern: str
    tones: tuple[tuple[float, float, float], tuple[float, float, float]]
    period: float
    camera: Motion
    phase: tuple[float, float]
    light: tuple[float, float]  # strength, direction (rad)
    sprites: tuple[Sprite, ...]

    @property
    def caption(self) -> str:
        """The nearest sprite is named first."""
        nouns = " and ".join(
            f"{_article(s.colour)} {s.colour} {s.shape}" for s in reversed(self.sprites)
        )
        return f"{nouns} on a {self.pattern} background"

    def edits(self) -> dict[str, str]:
        """Prompts that ask for another object colour, another background pattern, or both."""
        colours, patterns = list(COLOURS), list(PATTERNS)
        near = self.sprites[-1]
        recoloured = replace(near, colour=colours[(colours.index(near.colour) + 4) % len(colours)])
        repainted = patterns[(patterns.index(self.pattern) + 1) % len(patterns)]
        swapped = replace(self, sprites=(*self.sprites[:-1], recoloured))
        return {
            "object": swapped.caption,
            "background": replace(self, pattern=repainted).caption,
            "both": replace(swapped, pattern=repainted).caption,
        }


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _hsv(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    r, g, b = colorsys.hsv_to_rgb(
        hue % 360 / 360, min(max(saturation, 0), 1), min(max(value, 0), 1)
    )
    return (r, g, b)


def _draw_sprite(rng: np.random.Generator, colour: str, depth: float, scale: float) -> Sprite:
    hue, saturation, value = COLOURS[colour]
    start, end = rng.uniform(-34, 34, 2), rng.uniform(-34, 34, 2)
    velocity = (end - start) / DESIGN_FRAMES
    return Sprite(
        colour=colour,
        shape=str(rng.choice(list(SHAPES))),
        rgb=_hsv(
            hue + rng.uniform(-6, 6),
            saturation * rng.uniform(0.9, 1.08),
            value * rng.uniform(0.9, 1.05),
        ),
        radius=float(rng.uniform(20, 32)) * scale,
        motion=Motion(
            centre=(float(start[0]), float(start[1])),
            velocity=(float(velocity[0]), float(velocity[1])),
            angle=float(rng.uniform(-0.5, 0.5)),
            spin=float(rng.uniform(-0.06, 0.06)),
            growth=float(rng.uniform(-0.012, 0.012)),
        ),
        texture=(
            float(rng.uniform(0.06, 0.2)),
            float(rng.uniform(0, np.pi)),
            float(rng.uniform(0.7, 1.3)),
            float(rng.uniform(0, 2 * np.pi)),
        ),
        depth=depth,
    )


def draw_scene(seed: int, sprites: int | None = None) -> Scene:
    """Draw a scene; ``sprites`` fixes their number (1 or 2), else two with probability .3."""
    rng = np.random.default_rng(seed)
    count = sprites or (2 if rng.random() < 0.3 else 1)
    colours = rng.choice(list(COLOURS), size=count, replace=False)
    hue, saturation, value = (
        rng.uniform(0, 360),
        rng.uniform(0.25, 0.55),
        rng.uniform(0.4, 0.7),
    )
    contrast = rng.uniform(0.2, 0.3)
    tones = (
        _hsv(hue, saturation, value + contrast / 2),
        _hsv(hue + rng.uniform(-25, 25), saturation * 1.1, value - contrast / 2),
    )
    camera = Motion(
        centre=(0.0, 0.0),
        velocity=(float(rng.uniform(-1.5, 1.5)), float(rng.uniform(-1.5, 1.5))),
        angle=float(rng.uniform(0, 2 * np.pi)),
        growth=float(rng.uniform(-0.006, 0.006)),
    )
    return Scene(
        pattern=str(rng.choice(list(PATTERNS))),
        tones=tones,
        period=float(rng.uniform(26, 40)),
        camera=camera,
        phase=(float(rng.uniform(0, 40)), float(rng.uniform(0, 40))),
        light=(float(rng.uniform(0.05, 0.22)), float(rng.uniform(0, 2 * np.pi))),
        sprites=tuple(
            _draw_sprite(rng, str(c), depth, 0.85 if count == 2 else 1.0)
            for c, depth in zip(colours, np.linspace(0.55, 0.9, count), strict=True)
        ),
    )


# --- rendering ---
@dataclass(frozen=True)
class Rendering:
    """Frames of a scene and their exact truth (:class:`data_manifests.clips.Truth`)."""

    frames: NDArray[np.uint8]
    truth: Truth


def _screen(size: int) -> Points:
    """Pixel centres as complex numbers x + iy (h, w), in units of a 128-pixel frame."""
    axis = (np.arange(size) + 0.5) * (SIZE / size) - SIZE / 2
    return axis[None, :] + 1j * axis[:, None]


def _to_layer(x: Points, motion: Motion, t: Array) -> tuple[Points, Array]:
    """Layer coordinates of screen points ``x`` (f, h, w) at times ``t`` (f,); scale (f, 1, 1)."""
    factor, centre = motion.at(t)
    return (x - centre[:, None, None]) / factor[:, None, None], np.abs(factor)[:, None, None]


def _sprite_distance(sprite: Sprite, x: Points, t: Array) -> tuple[Array, Points]:
    """Signed distance in pixels to the sprite's outline, and the sprite's coordinates in radii."""
    u, scale = _to_layer(x, sprite.motion, t)
    u = u / sprite.radius
    return SHAPES[sprite.shape](u.real, u.imag) * sprite.radius * scale, u


def _pattern_distance(scene: Scene, x: Points, t: Array) -> Array:
    """Signed distance in pixels to the boundary between the background's two tones."""
    u, scale = _to_layer(x, scene.camera, t)
    u = u + complex(*scene.phase)
    return PATTERNS[scene.pattern](u.real, u.imag, scene.period) * scale


def visible_layer(scene: Scene, x: Points, t: Array) -> NDArray[np.int8]:
    """Layer seen at points ``x`` (f, h, w) at times ``t``: 0 background, k the k-th sprite."""
    layer = np.zeros(x.shape, np.int8)
    for k, sprite in enumerate(scene.sprites, start=1):
        layer[_sprite_distance(sprite, x, t)[0] < 0] = k
    return layer


def _coverage(distance: Array, pixel: float) -> Array:
    """Antialiased coverage of a pixel whose centre lies ``distance`` from the boundary."""
    return np.clip(0.5 - distance / pixel, 0, 1)


def render_frames(scene: Scene, times: Array, size: int = SIZE) -> NDArray[np.uint8]:
    """Frames (f, h, w, 3), uint8, of ``scene`` at ``times`` (in frames)."""
    pixel = SIZE / size
    t = np.asarray(times, np.float64)
    x = np.broadcast_to(_screen(size), (len(t), size, size))
    mix = _coverage(_pattern_distance(scene, x, t), pixel)[..., None]
    image: Array = mix * np.array(scene.tones[0]) + (1 - mix) * np.array(scene.tones[1])
    for sprite in scene.sprites:
        distance, u = _sprite_distance(sprite, x, t)
        amplitude, angle, period, phase = sprite.texture
        shade = 1 + amplitude * np.cos(2 * np.pi * (u * np.exp(-1j * angle)).real / period + phase)
        cover = _coverage(distance, pixel)[..., None]
        image = image * (1 - cover) + cover * shade[..., None] * np.array(sprite.rgb)
    strength, direction = scene.light
    image = image * (1 + strength * (x * np.exp(-1j * direction)).real / (SIZE / 2))[..., None]
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def flow(scene: Scene, t: Array, step: float, size: int) -> tuple[Array, NDArray[np.bool_]]:
    """Flow (f, h, w, 2) in pixels from ``t`` to ``t + step``, and where it has no visible end."""
    x = np.broadcast_to(_screen(size), (len(t), size, size))
    layer = visible_layer(scene, x, t)
    end: Points = np.empty(x.shape, complex)
    for k, motion in enumerate([scene.camera, *(s.motion for s in scene.sprites)]):
        u, _ = _to_layer(x, motion, t)
        factor, centre = motion.at(t + step)
        there = u * factor[:, None, None] + centre[:, None, None]
        end = np.where(layer == k, there, end)
    half = SIZE / 2 - SIZE / size / 2  # the last pixel centre: beyond it nothing can be sampled
    outside = (np.abs(end.real) > half) | (np.abs(end.imag) > half)
    hidden = visible_layer(scene, end, t + step) != layer
    moved = (end - x) * (size / SIZE)
    return np.stack([moved.real, moved.imag], -1).astype(np.float32), outside | hidden


def render(
    scene: Scene, frames: int, size: int = SIZE, start: int = 0, stride: int = 1
) -> Rendering:
    """Render ``frames`` frames (times start, start + stride, ...) with their exact truth."""
    t = start + stride * np.arange(frames, dtype=np.float64)
    x = np.broadcast_to(_screen(size), (frames, size, size))
    layer = visible_layer(scene, x, t)
    forward, hidden_forward = flow(scene, t[:-1], stride, size)
    backward, hidden_backward = flow(scene, t[1:], -stride, size)
    masks = np.stack([layer == k for k in range(1, len(scene.sprites) + 1)], 1)
    truth = Truth(
        flow_forward=forward,
        flow_backward=backward,
        occluded_forward=hidden_forward,
        occluded_backward=hidden_backward,
        depth=depths(scene, t, size),
        masks=masks,
        edges=edges(scene, t, size),
    )
    return Rendering(render_frames(scene, t, size), truth)


def covered(scene: Scene, times: Array, size: int = SIZE) -> NDArray[np.bool_]:
    """Pixels (f, h, w) in which a sprite is seen."""
    t = np.asarray(times, np.float64)
    return visible_layer(scene, np.broadcast_to(_screen(size), (len(t), size, size)), t) > 0


def boundaries(region: NDArray[np.integer]) -> NDArray[np.float32]:
    """Pixels whose right or lower neighbour lies in another region: (f, h, w) in {0, 1}."""
    edge = np.zeros(region.shape, bool)
    edge[:, :, :-1] |= region[:, :, 1:] != region[:, :, :-1]
    edge[:, :-1, :] |= region[:, 1:, :] != region[:, :-1, :]
    return edge.astype(np.float32)


def edges(
    scene: Scene, times: Array, size: int = SIZE, patterned: bool = True
) -> NDArray[np.float32]:
    """Exact edges (f, h, w) in {0, 1}: sprite outlines and, if ``patterned``, tone boundaries."""
    t = np.asarray(times, np.float64)
    x = np.broadcast_to(_screen(size), (len(t), size, size))
    layer = visible_layer(scene, x, t)
    tone = (
        (layer == 0) & (_pattern_distance(scene, x, t) < 0)
        if patterned
        else np.zeros_like(layer, bool)
    )
    return boundaries(np.where(tone, -1, layer))


def depths(scene: Scene, times: Array, size: int = SIZE) -> NDArray[np.float32]:
    """Exact inverse depth (f, h, w) in [0, 1], 1 = near: a rising floor and flat sprites."""
    t = np.asarray(times, np.float64)
    layer = visible_layer(scene, np.broadcast_to(_screen(size), (len(t), size, size)), t)
    floor = 0.1 + 0.25 * (np.arange(size) + 0.5)[:, None] / size * np.ones((1, size))
    levels = np.array([0.0, *(sprite.depth for sprite in scene.sprites)])
    return np.where(layer == 0, floor, levels[layer]).astype(np.float32)


# --- clips ---
def scene_of(split: str, index: int, sprites: int | None = None) -> Scene:
    """The scene number ``index`` of a split; splits never share a seed."""
    return draw_scene(derive_seed(VERSION, "world", split, index), sprites)


def training_frames(
    start: int, count: int, sprites: int | None = None
) -> Iterator[tuple[Scene, float]]:
    """Training scenes ``start .. start + count``, each with one random time of its clip."""
    for index in range(start, start + count):
        rng = np.random.default_rng(derive_seed(VERSION, "time", index))
        yield scene_of("train", index, sprites), float(rng.uniform(0, DESIGN_FRAMES))


def load_world_clip(name: str, request: ClipRequest) -> Clip:
    """Clip ``<split>/<index>`` of the world, for example ``heldout/3``.

    Raises:
        UserError: the name is not ``<split>/<index>``, or the request is for no square.
    """
    split, _, number = name.partition("/")
    if split not in SPLITS or not number.isdigit():
        raise UserError(
            Problem(
                request.ref,
                f"no world clip is called {name!r}",
                f"<split>/<index>, split one of {', '.join(SPLITS)}",
                did_you_mean(split, SPLITS),
            )
        )
    scene = scene_of(split, int(number))
    rendering = render(scene, request.frames, request.side, request.start, request.stride)
    return Clip(
        id=f"world:{name}",
        frames=rendering.frames,
        fps=8.0,
        caption=scene.caption,
        edits=scene.edits(),
        truth=rendering.truth,
    )
