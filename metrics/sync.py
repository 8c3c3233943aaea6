"""Lip motion against the voice, for talking faces.

Shapes: f frames, h height, w width.
"""

from __future__ import annotations

from torch import Tensor

from crossframe.errors import NotAvailable
from metrics.accumulate import ClipMean
from metrics.base import MetricInputs, MetricValue, mean_of

NAME = "sync/mouth_corr"
LEAST_FRAMES = 5
STILL = 1e-6
"""Standard deviation below which a series counts as constant."""
LUMA = (0.299, 0.587, 0.114)


def mouth_openness(frames: Tensor, mouth: Tensor) -> Tensor:
    """How dark the mouth's region is: (f,) float64 in [0, 1].

    frames: (f, 3, h, w) in [0, 1]. mouth: (f, h, w) bool, a region that holds the mouth. An open
    mouth shows its dark inside, so darkness follows opening up to scale and offset, which a
    correlation ignores.
    """
    luma = (frames.double() * frames.new_tensor(LUMA).double().view(1, 3, 1, 1)).sum(1)
    return ((1 - luma) * mouth).sum((1, 2)) / mouth.sum((1, 2)).clamp(min=1)


def correlation_terms(opening: Tensor, envelope: Tensor) -> Tensor:
    """Products of two standardised series (f,), whose mean is Pearson's correlation.

    All 0 when `opening` is constant: a still mouth follows nothing. Raises NotAvailable for
    fewer than 5 frames or a constant envelope.
    """
    if len(opening) < LEAST_FRAMES:
        raise NotAvailable(NAME, f"needs {LEAST_FRAMES} frames, not {len(opening)}")
    centred = [series.double() - series.double().mean() for series in (opening, envelope)]
    spreads = [series.square().mean().sqrt() for series in centred]
    if spreads[1] < STILL:
        raise NotAvailable(NAME, "the voice is as loud in every frame")
    if spreads[0] < STILL:
        return centred[0] * 0
    return centred[0] * centred[1] / (spreads[0] * spreads[1])


def mouth_corr(inputs: MetricInputs) -> MetricValue:
    """`sync/mouth_corr`: one term per frame. NotAvailable for clips that are no faces."""
    face = inputs.face
    if face is None:
        what = "needs the region of a mouth and the loudness of a voice, and the clip has none"
        raise NotAvailable(NAME, what)
    if not face.mouth.flatten(1).any(1).all():
        raise NotAvailable(NAME, "the region of the mouth is empty in some frame")
    return mean_of(correlation_terms(mouth_openness(inputs.frames, face.mouth), face.envelope))


def _corr_series(frames: Tensor, mouth: Tensor, envelope: Tensor) -> Tensor:
    return correlation_terms(mouth_openness(frames, mouth), envelope)


class MouthCorrelation(ClipMean):
    """`sync/mouth_corr` over clips: frames (f, 3, h, w), mouth (f, h, w) bool, envelope (f,)."""

    higher_is_better = True
    series = staticmethod(_corr_series)
