"""What every metric receives and returns.

Shapes: f frames, c channels, h height, w width, p = f-1 pairs (t, t+1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from crossframe.errors import Diverged, NotAvailable, Problem, UserError

if TYPE_CHECKING:
    from crossframe.flow.estimators import FlowEstimator
    from crossframe.flow.fields import FlowFields
    from metrics.encoders import ImageTextEncoder

Made = TypeVar("Made")


@dataclass(frozen=True)
class MetricValue:
    """The result of one metric on one clip.

    value: the score. series: the per-frame or per-pair values behind it. detail: facts worth
    keeping with the score (coverage, flow source, encoder). Raises Diverged if not finite.
    """

    value: float
    series: tuple[float, ...]
    detail: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.value, *self.series))):
            raise Diverged(
                Problem("metric", f"not finite: value {self.value}, series {self.series}")
            )

    def record(self) -> dict[str, Any]:
        """Return the entry of `result.json`."""
        return {"value": self.value, "series": list(self.series), "detail": dict(self.detail)}


@dataclass(frozen=True)
class ClipFeatures:
    """What a metric over sets of clips keeps of one clip, which has no value by itself.

    Raises Diverged if a feature is not finite.
    """

    features: tuple[float, ...]
    detail: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.features)):
            raise Diverged(Problem("metric", "its features are not finite"))

    def record(self) -> dict[str, Any]:
        """Return the entry of `result.json`; nine digits bring back a float32 exactly."""
        rounded = [float(f"{value:.9g}") for value in self.features]
        return {"features": rounded, "detail": dict(self.detail)}


@dataclass(frozen=True)
class Unavailable:
    """Stands where a `MetricValue` would, for a metric that could not be computed."""

    reason: str

    def record(self) -> dict[str, Any]:
        """Return the entry of `result.json`."""
        return {"unavailable": self.reason}


def mean_of(series: Tensor, **detail: Any) -> MetricValue:
    """Return the mean of a (n,) series, in float64, with the series itself."""
    values = series.double()
    return MetricValue(values.mean().item(), tuple(values.tolist()), detail)


class Memo:
    """Things made once and wanted by several metrics: features, flow, networks."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def get(self, name: str, make: Callable[[], Made]) -> Made:
        """Return what is kept under `name`, after making it the first time."""
        if name not in self._values:
            self._values[name] = make()
        made: Made = self._values[name]
        return made


@dataclass(frozen=True)
class Face:
    """A talking face, for metrics of lip and head motion.

    mouth: (f, h, w) bool, a region that holds the mouth in every frame, open or closed; a box will
    do. envelope: (f,) loudness of the voice during each frame, of any unit. box: (f, h, w) bool,
    the box around the face in each frame of the source, or None. pose: (f, 2), where the head of
    the source is, (x, y) in pixels off its middle, or None. hanging: (f, h, w) bool, the visible
    part of an object outside of the face that goes up and down as the head of the source goes
    aside, or None.
    """

    mouth: Tensor
    envelope: Tensor
    box: Tensor | None = None
    pose: Tensor | None = None
    hanging: Tensor | None = None


@dataclass(frozen=True)
class MetricInputs:
    """One output clip and what it is compared with.

    frames: (f, 3, h, w) in [0, 1]. source: the clip it was made from, of the same shape, or None.
    prompt: what was asked for, or "". flow: flow of the source, estimated when a metric needs it
    and it is None. encoder: for metrics that need "clip". source_prompt: what the source shows, or
    "". fps: frames per second. masks: (f, h, w) bool, the pixels of the edited objects. face: of a
    talking head. borders: frames 0 < t < f that were decoded apart from frame t - 1, None where
    nobody told. recorded: what is known of making the frames, as far as it is: seconds_per_frame,
    peak_memory_bytes, attended_tokens, inversion_error. estimator: of flow, where it is not given;
    DIS when None. memo: shared by the metrics of this output. resident: networks, shared by the
    metrics of all outputs. Raises UserError for frames that are out of range, not finite, or of
    another shape than the source or the masks.
    """

    frames: Tensor
    source: Tensor | None = None
    prompt: str = ""
    flow: FlowFields | None = None
    encoder: ImageTextEncoder | None = None
    source_prompt: str = ""
    fps: float | None = None
    masks: Tensor | None = None
    face: Face | None = None
    borders: tuple[int, ...] | None = None
    recorded: Mapping[str, float] = field(default_factory=dict)
    estimator: FlowEstimator | None = None
    memo: Memo = field(default_factory=Memo, repr=False)
    resident: Memo = field(default_factory=Memo, repr=False)

    def __post_init__(self) -> None:
        check_frames("frames", self.frames)
        if self.source is not None:
            check_frames("source", self.source)
            if self.frames.shape != self.source.shape:
                what = f"shape {tuple(self.frames.shape)}, but the source's is"
                raise UserError(Problem("frames", f"{what} {tuple(self.source.shape)}"))
        count, _, height, width = self.frames.shape
        if self.masks is not None and self.masks.shape != (count, height, width):
            allowed = f"{(count, height, width)}, as the frames"
            raise UserError(Problem("masks", f"shape {tuple(self.masks.shape)}", allowed))


def check_frames(name: str, frames: Tensor) -> None:
    """Raise UserError unless `frames` is (f, 3, h, w), floating point, finite and in [0, 1]."""
    if frames.ndim != 4 or frames.shape[1] != 3 or not frames.numel():
        raise UserError(Problem(name, f"shape {tuple(frames.shape)}", allowed="(f, 3, h, w)"))
    if not frames.is_floating_point():
        raise UserError(
            Problem(name, f"dtype {frames.dtype}", allowed="floats in [0, 1]", fix="divide by 255")
        )
    low, high = frames.min().item(), frames.max().item()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(Problem(name, "holds NaN or infinity"))
    if low < 0 or high > 1:
        raise UserError(Problem(name, f"values from {low:g} to {high:g}", allowed="[0, 1]"))


def require_pairs(metric: str, count: int) -> None:
    """Raise NotAvailable unless there are at least two frames."""
    if count < 2:
        raise NotAvailable(
            metric, f"compares frames, but the clip has {count}", "use clip: {frames: 2} or more"
        )
