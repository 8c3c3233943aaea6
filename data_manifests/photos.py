"""Photographs under known camera motion: real texture with exact flow and occlusion.

The photographs lie in the wheel of scikit-image; nothing is downloaded. Each is smoothed once, to
what the widest view of the motion can show, and taken as a continuous image by cubic splines. All
frames are point samples of that one image, so following the flow from one frame to the next finds
the same value, up to the interpolation of whoever follows it and the rounding to 8 bits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates, spline_filter

from crossframe.errors import Problem, UserError, did_you_mean
from crossframe.form import Size, width_height
from crossframe.keys import file_sha256
from data_manifests.camera import DISC_RADIUS, HALF_PERIOD, MOTIONS, Points, Pose, points, truth
from data_manifests.clips import Clip, ClipRequest
from data_manifests.datasets import dataset_folder
from data_manifests.manifest import Manifest, manifest

Array = NDArray[np.floating]

SMOOTHING = 0.6
"""Standard deviation of the prefilter in pixels of the widest frame: a fifth is left at Nyquist."""

DISC_PART = 0.9
"""Part of a photograph's central square that the disc shows, side to diameter."""


def load_photo_clip(name: str, request: ClipRequest) -> Clip:
    """Return `<photograph>/<motion>`, for example `astronaut/pan`, with its exact truth.

    Speeds are parts of the frame's longer side per source frame (see `camera.MOTIONS`), so that
    size does not change what is seen; a frame that is no square shows the middle of the square's.
    In `occluder` a disc cut from the next photograph crosses the frame.
    Raises UserError for an unknown name, and for a photograph that is absent or altered.
    """
    facts = manifest("photos")
    if name not in facts.names():
        raise UserError(_unknown(facts, request.ref, name))
    photo, _, motion = name.partition("/")
    names = list(facts.clips)
    disc = names[(names.index(photo) + 1) % len(names)]
    layers = (photo, disc)[: len(MOTIONS[motion])]
    t = request.start + request.stride * np.arange(request.frames, dtype=np.float64)
    known = facts.facts(name)
    passing = f", a round picture passing in front: {facts.clips[disc].caption}"
    suffix = passing if len(layers) > 1 else ""
    return Clip(
        id=f"photo:{name}",
        frames=render([read_photo(facts, layer) for layer in layers], motion, t, request.size),
        fps=(facts.fps or 1.0) / request.stride,
        caption=known.caption + suffix,
        edits={kind: prompt + suffix for kind, prompt in known.edits.items()},
        truth=truth(motion, t, request.size),
    )


def read_photo(facts: Manifest, name: str) -> Array:
    """Return a photograph as (h, w, 3) float64 RGB in [0, 255]; a grey one has equal channels.

    Raises UserError when its file is absent or is not the one in the manifest.
    """
    wanted = facts.clips[name].file
    file = next(file for file in facts.files if file.name == wanted)
    path = dataset_folder(facts) / wanted
    if not path.is_file():
        raise UserError(Problem(str(path), "no such file", fix=facts.place))
    if file_sha256(path) != file.sha256:
        what = f"is not the photograph that is expected (sha256 {file.sha256})"
        raise UserError(Problem(str(path), what, fix="install the pinned scikit-image"))
    return decode(path)


def decode(path: Path) -> Array:
    """Return a picture file as (h, w, 3) float64 RGB in [0, 255]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.float64)


def render(photos: list[Array], motion: str, t: Array, size: Size) -> NDArray[np.uint8]:
    """Return frames (f, h, w, 3) uint8 at times `t` (in frames).

    photos: (h, w, 3) in [0, 255], one per layer of the motion, background first. The disc's border
    is antialiased, one pixel wide.
    """
    path, *discs = MOTIONS[motion]
    x = points(size, len(t))
    image = _seen(photos[0], 1.0, _widest(path(_whole_path())), path(t), x)
    for photo, disc in zip(photos[1:], discs, strict=True):
        patch = _seen(photo, DISC_PART / 2, DISC_PART / 2 / DISC_RADIUS, disc(t), x)
        distance = (np.abs(disc(t).to_layer(x)) - 1) * DISC_RADIUS * max(width_height(size))
        cover = np.clip(0.5 - distance, 0, 1)[..., None]
        image = image * (1 - cover) + patch * cover
    return np.round(np.clip(image, 0, 255)).astype(np.uint8)


def _whole_path() -> Array:
    return np.arange(2 * HALF_PERIOD, dtype=np.float64)


def _widest(pose: Pose) -> float:
    """Return the largest part of the photograph's square that the frame ever shows."""
    return float((1 / np.abs(pose.factor)).max())


def _seen(photo: Array, unit: float, widest: float, pose: Pose, x: Points) -> Array:
    """Return what a photograph shows at screen points (f, h, w): (f, h, w, 3).

    unit: parts of the photograph's central square in one unit of the layer. widest: parts of it
    that the frame's longer side covers when it covers most, which sets the smoothing.
    """
    height, width = photo.shape[:2]
    side = min(height, width)
    u = pose.to_layer(x) * unit * side
    where = np.stack([u.imag + (height - 1) / 2, u.real + (width - 1) / 2])
    sigma = SMOOTHING * widest * side / max(x.shape[1:])
    channels = [
        map_coordinates(
            _smooth(photo[..., c], sigma), where, order=3, mode="mirror", prefilter=False
        )
        for c in range(3)
    ]
    return np.stack(channels, -1)


def _smooth(channel: Array, sigma: float) -> Array:
    """Return cubic spline coefficients of a channel after a Gaussian of `sigma` pixels."""
    smooth = gaussian_filter(channel, sigma, mode="mirror")
    coefficients: Array = spline_filter(smooth, order=3, mode="mirror")
    return coefficients


def _unknown(facts: Manifest, ref: str, name: str) -> Problem:
    photos, motions = ", ".join(facts.clips), ", ".join(facts.variants)
    what = f"no photograph under motion is called {name!r}"
    allowed = f"<photograph>/<motion>: {photos}; {motions}"
    return Problem(ref, what, allowed, did_you_mean(name, facts.names()))
