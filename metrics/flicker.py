"""Flicker: brightness that changes from frame to frame.

Shapes: f frames, p = f-1 pairs, h height, w width.
"""

from __future__ import annotations

from torch import Tensor

from crossframe.flow.fields import FlowFields
from metrics.accumulate import ClipMean
from metrics.base import MetricInputs, MetricValue, mean_of, require_pairs
from metrics.shared import require_source, source_flow
from metrics.warp import masked_mean, require_coverage, residual

MAE, VBENCH, ALIGNED = "flicker/mae", "flicker/vbench", "flicker/aligned_residual"


def consecutive_mae(frames: Tensor) -> Tensor:
    """Mean absolute difference of consecutive frames: (f, 3, h, w) in [0, 1] -> (p,) float64."""
    require_pairs(MAE, len(frames))
    return frames.double().diff(dim=0).abs().mean((1, 2, 3))


def vbench_steadiness(frames: Tensor) -> Tensor:
    """1 minus `consecutive_mae`: (p,) float64 (VBench, temporal flickering)."""
    return 1 - consecutive_mae(frames)


def aligned_flicker(frames: Tensor, source: Tensor, flow: FlowFields) -> Tensor:
    """Change along the motion that the source does not have: (p,) float64 in [0, 2].

    frames, source: (f, 3, h, w) in [0, 1]. flow: of the source. Both videos are aligned along it;
    the mean absolute difference of their residuals is taken over valid pixels. Raises
    NotAvailable where fewer than 30 % are valid.
    """
    require_coverage(flow, ALIGNED)
    difference = residual(frames, flow.forward) - residual(source, flow.forward)
    return masked_mean(difference.abs(), flow.valid)


def mae(inputs: MetricInputs) -> MetricValue:
    """`flicker/mae`: one value per pair. Raises NotAvailable for a single frame."""
    return mean_of(consecutive_mae(inputs.frames))


def vbench(inputs: MetricInputs) -> MetricValue:
    """`flicker/vbench`: one value per pair. Raises NotAvailable for a single frame."""
    require_pairs(VBENCH, len(inputs.frames))
    return mean_of(vbench_steadiness(inputs.frames))


def aligned_residual(inputs: MetricInputs) -> MetricValue:
    """`flicker/aligned_residual`: one value per pair.

    Raises NotAvailable for a single frame, or where too few pixels can be compared.
    """
    require_pairs(ALIGNED, len(inputs.frames))
    source, flow = require_source(ALIGNED, inputs), source_flow(ALIGNED, inputs)
    series = aligned_flicker(inputs.frames, source, flow)
    return mean_of(series, flow=flow.source, coverage=flow.coverage)


class ConsecutiveDifference(ClipMean):
    """`flicker/mae` over many clips, given by their frames (f, 3, h, w) in [0, 1]."""

    higher_is_better = False
    series = staticmethod(consecutive_mae)


class VBenchSteadiness(ClipMean):
    """`flicker/vbench` over many clips, given by their frames (f, 3, h, w) in [0, 1]."""

    higher_is_better = True
    series = staticmethod(vbench_steadiness)


class AlignedFlicker(ClipMean):
    """`flicker/aligned_residual` over clips: frames and source (f, 3, h, w) in [0, 1], flow."""

    higher_is_better = False
    series = staticmethod(aligned_flicker)
