"""Motion of lips and head against the voice, for talking faces.

Shapes: f frames, h height, w width.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossframe.errors import NotAvailable
from metrics.accumulate import ClipMean
from metrics.base import Face, MetricInputs, MetricValue, mean_of
from metrics.shared import require_source

NAME = "sync/mouth_corr"
HEAD = "sync/head_corr"
RANGE = "sync/mouth_range"
OUTSIDE = "sync/outside_corr"
LEAST_FRAMES = 5
STILL = 1e-6
"""Standard deviation below which a series counts as constant."""
LUMA = (0.299, 0.587, 0.114)
REACH, OBJECT_REACH = 8, 5
"""A head, or an object that hangs beside it, is looked for as far as one part in so many of the
frame's side from where it was."""


def mouth_openness(frames: Tensor, mouth: Tensor) -> Tensor:
    """How dark the mouth's region is: (f,) float64 in [0, 1].

    frames: (f, 3, h, w) in [0, 1]. mouth: (f, h, w) bool, a region that holds the mouth. An open
    mouth shows its dark inside, so darkness follows opening up to scale and offset, which a
    correlation ignores.
    """
    return ((1 - _luma(frames)) * mouth).sum((1, 2)) / mouth.sum((1, 2)).clamp(min=1)


def correlation_terms(opening: Tensor, envelope: Tensor) -> Tensor:
    """Products of two standardised series (f,), whose mean is Pearson's correlation.

    All 0 when `opening` is constant: a still mouth follows nothing. Raises NotAvailable for
    fewer than 5 frames or a constant envelope.
    """
    return _terms(NAME, opening, envelope, "the voice is as loud in every frame")


def _terms(name: str, made: Tensor, wanted: Tensor, constant: str) -> Tensor:
    """`correlation_terms` of any two series; `constant` is said when `wanted` does not vary."""
    if len(made) < LEAST_FRAMES:
        raise NotAvailable(name, f"needs {LEAST_FRAMES} frames, not {len(made)}")
    centred = [series.double() - series.double().mean() for series in (made, wanted)]
    spreads = [series.square().mean().sqrt() for series in centred]
    if spreads[1] < STILL:
        raise NotAvailable(name, constant)
    if spreads[0] < STILL:
        return centred[0] * 0
    return centred[0] * centred[1] / (spreads[0] * spreads[1])


def mouth_corr(inputs: MetricInputs) -> MetricValue:
    """`sync/mouth_corr`: one term per frame. NotAvailable for clips that are no faces.

    `detail` has both curves, openness and loudness, for plots.
    """
    face = _require_mouth(NAME, inputs)
    opening = mouth_openness(inputs.frames, face.mouth)
    terms = correlation_terms(opening, face.envelope)
    return mean_of(terms, opening=_plain(opening), envelope=_plain(face.envelope))


def mouth_range_terms(opening: Tensor, wanted: Tensor) -> Tensor:
    """Distance of each value of a series (f,) from its mean, over the mean distance in another.

    Their mean says how far a mouth opens: 1 as far as wanted, 0 when it stands still. Raises
    NotAvailable when `wanted` does not vary.
    """
    moved, asked = (
        (series.double() - series.double().mean()).abs() for series in (opening, wanted)
    )
    if asked.mean() < STILL:
        raise NotAvailable(RANGE, "the mouth of the source stands still")
    return moved / asked.mean()


def mouth_range(inputs: MetricInputs) -> MetricValue:
    """`sync/mouth_range`: one value per frame. NotAvailable for clips that are no faces."""
    mouth = _require_mouth(RANGE, inputs).mouth
    source = require_source(RANGE, inputs)
    opening, wanted = (mouth_openness(frames, mouth) for frames in (inputs.frames, source))
    return mean_of(mouth_range_terms(opening, wanted))


def _require_mouth(name: str, inputs: MetricInputs) -> Face:
    face = inputs.face
    if face is None:
        what = "needs the region of a mouth and the loudness of a voice, and the clip has none"
        raise NotAvailable(name, what)
    if not face.mouth.flatten(1).any(1).all():
        raise NotAvailable(name, "the region of the mouth is empty in some frame")
    return face


def _plain(series: Tensor) -> list[float]:
    return [float(f"{value:.5g}") for value in series.tolist()]


def head_offsets(frames: Tensor, portrait: Tensor, box: Tensor) -> Tensor:
    """How far the face of a portrait has moved aside in each frame: (f,) float64, in pixels.

    frames: (f, 3, h, w) in [0, 1]. portrait: (3, h, w). box: (h, w) bool, the box around its face.
    The face in grey is laid over each frame wherever it is up to an eighth of the frame's side
    away; the place with the highest normalised cross-correlation counts, to parts of a pixel by a
    parabola.
    """
    face = _cut(_luma(portrait[None])[:, None], box)

    def likeness(window: np.ndarray) -> np.ndarray:
        return cv2.matchTemplate(window, face, cv2.TM_CCOEFF_NORMED)

    return _moved(_luma(frames)[:, None], box, frames.shape[-1] // REACH, likeness)[:, 0]


def object_offsets(frames: Tensor, portrait: Tensor, part: Tensor) -> Tensor:
    """How far an object of a portrait has moved in each frame: (f, 2) float64, (x, y) in pixels.

    frames: (f, 3, h, w) in [0, 1]. portrait: (3, h, w). part: (h, w) bool, the object's pixels in
    it. The object is laid over each frame wherever it is up to a fifth of the frame's side away;
    the place with the least squared difference of RGB counts, to parts of a pixel by parabolas.
    """
    template = _cut(portrait[None], part)
    mask = np.repeat(_cut(part[None, None].float(), part)[..., None], 3, 2)

    def likeness(window: np.ndarray) -> np.ndarray:
        return -cv2.matchTemplate(window, template, cv2.TM_SQDIFF, mask=mask)

    return _moved(frames, part, frames.shape[-1] // OBJECT_REACH, likeness)


def _moved(
    pictures: Tensor, part: Tensor, reach: int, likeness: Callable[[np.ndarray], np.ndarray]
) -> Tensor:
    """Where a part (h, w) bool lies in pictures (f, c, h, w), from its own place: (f, 2) float64.

    likeness: of a window around the part, `reach` pixels wider on all sides, to the part at every
    place in it; the highest counts.
    """
    top, bottom, left, right = _extent(part)
    padded = F.pad(pictures.float(), [reach] * 4, mode="replicate")
    windows = padded[:, :, top : bottom + 2 * reach, left : right + 2 * reach]
    places = [_highest(likeness(_plane(window))) for window in windows]
    return torch.tensor(places, dtype=torch.float64) - reach


def _extent(part: Tensor) -> tuple[int, int, int, int]:
    """First and last row and column (ends exclusive) of a part (h, w) bool."""
    rows, columns = (torch.where(part.any(axis))[0] for axis in (1, 0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _cut(picture: Tensor, part: Tensor) -> np.ndarray:
    """The box around a part of a picture (1, c, h, w), as OpenCV takes it."""
    top, bottom, left, right = _extent(part)
    return _plane(picture[0, :, top:bottom, left:right].float())


def _plane(picture: Tensor) -> np.ndarray:
    """A picture (c, h, w) as (h, w, c), or (h, w) where c is 1."""
    moved = picture[0] if len(picture) == 1 else picture.permute(1, 2, 0)
    return np.ascontiguousarray(moved.numpy())


def _highest(likeness: np.ndarray) -> tuple[float, float]:
    """Place (x, y) of the highest value of a map (h, w), to parts of a pixel."""
    y, x = (int(i) for i in np.unravel_index(int(likeness.argmax()), likeness.shape))
    return _refined(likeness[y], x), _refined(likeness[:, x], y)


def _refined(values: np.ndarray, at: int) -> float:
    """The top of the parabola through the highest of some values and its neighbours."""
    if not 0 < at < len(values) - 1:
        return float(at)
    before, here, after = (float(value) for value in values[at - 1 : at + 2])
    bend = before - 2 * here + after
    return at + (0.5 * (before - after) / bend if bend < 0 else 0.0)


def head_corr(inputs: MetricInputs) -> MetricValue:
    """`sync/head_corr`: one term per frame. NotAvailable for clips whose head's pose is unknown."""
    face = inputs.face
    if face is None or face.box is None or face.pose is None:
        raise NotAvailable(HEAD, "needs to know the face's box and pose, and the clip does not say")
    source = require_source(HEAD, inputs)
    moved = head_offsets(inputs.frames, source[0], face.box[0])
    terms = _terms(HEAD, moved, face.pose[:, 0], "the head of the source stands still")
    return mean_of(terms)


def outside_corr(inputs: MetricInputs) -> MetricValue:
    """`sync/outside_corr`: one term per frame. NotAvailable where no such object is known."""
    face = inputs.face
    if face is None or face.hanging is None:
        what = "needs to know an object outside of the face that moves with the head"
        raise NotAvailable(OUTSIDE, f"{what}, and the clip does not say")
    source = require_source(OUTSIDE, inputs)
    return mean_of(_outside_series(inputs.frames, source[0], face.hanging))


def _outside_series(frames: Tensor, portrait: Tensor, hanging: Tensor) -> Tensor:
    if not hanging.flatten(1).any(1).all():
        raise NotAvailable(OUTSIDE, "the object is not seen in some frame of the source")
    rows = torch.arange(hanging.shape[1], dtype=torch.float64)
    shown = hanging.double().sum(2)
    heights = (shown * rows).sum(1) / shown.sum(1)
    found = object_offsets(frames, portrait, hanging[0])[:, 1]
    return _terms(OUTSIDE, found, heights, "the object of the source stands still")


def _luma(frames: Tensor) -> Tensor:
    """Rec. 601 luma (f, h, w) float64 of frames (f, 3, h, w)."""
    return (frames.double() * frames.new_tensor(LUMA).double().view(1, 3, 1, 1)).sum(1)


def _corr_series(frames: Tensor, mouth: Tensor, envelope: Tensor) -> Tensor:
    return correlation_terms(mouth_openness(frames, mouth), envelope)


def _range_series(frames: Tensor, source: Tensor, mouth: Tensor) -> Tensor:
    return mouth_range_terms(mouth_openness(frames, mouth), mouth_openness(source, mouth))


def _head_series(frames: Tensor, portrait: Tensor, box: Tensor, pose: Tensor) -> Tensor:
    moved = head_offsets(frames, portrait, box)
    return _terms(HEAD, moved, pose[:, 0], "the head of the source stands still")


class HeadCorrelation(ClipMean):
    """`sync/head_corr` over clips: frames (f, 3, h, w), portrait (3, h, w), box, pose (f, 2)."""

    higher_is_better = True
    series = staticmethod(_head_series)


class OutsideCorrelation(ClipMean):
    """`sync/outside_corr` over clips: frames (f, 3, h, w), portrait (3, h, w), object (f, h, w)."""

    higher_is_better = True
    series = staticmethod(_outside_series)


class MouthCorrelation(ClipMean):
    """`sync/mouth_corr` over clips: frames (f, 3, h, w), mouth (f, h, w) bool, envelope (f,)."""

    higher_is_better = True
    series = staticmethod(_corr_series)


class MouthRange(ClipMean):
    """`sync/mouth_range` over clips: frames and source (f, 3, h, w), mouth (f, h, w) bool."""

    series = staticmethod(_range_series)
