"""Warping error: how far a frame is from another one, aligned by optical flow.

Shapes: f frames, p = f-1 pairs, c channels, h height, w width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crossframe.errors import NotAvailable
from crossframe.flow.estimators import both_ways
from crossframe.flow.fields import FlowFields, from_first, to_levels, visible_lai2018, warp_backward
from metrics.accumulate import ClipMean
from metrics.base import MetricInputs, MetricValue, mean_of, require_pairs
from metrics.shared import estimator
from metrics.shared import source_flow as flow_of_source

NAME, OUTPUT, LONG = "warp/source_flow", "warp/output_flow", "warp/long_term"
LAI, PIXEL = "warp/lai2018", "pixel_mse/fresco"
LEAST_COVERAGE = 0.3


def residual(frames: Tensor, forward: Tensor) -> Tensor:
    """(f, c, h, w), forward flow (p, 2, h, w) -> (p, c, h, w): warped frame t+1 minus frame t."""
    return warp_backward(frames[1:], forward) - frames[:-1]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """(p, c, h, w), (p, h, w) bool -> (p,) float64 mean over channels and True pixels, or 0."""
    total = (values.double().mean(1) * mask).sum((1, 2))
    return total / mask.sum((1, 2)).clamp(min=1)


def warp_error(frames: Tensor, forward: Tensor, mask: Tensor) -> Tensor:
    """Mean squared warping error of each pair, (p,) float64, in [0, 1] for frames in [0, 1].

    frames: (f, c, h, w). forward: (p, 2, h, w) pixels, t -> t+1. mask: (p, h, w) bool, the pixels
    of frame t to be scored; a pair without any counts 0. E_warp of Lai et al. (2018), "Learning
    Blind Video Temporal Consistency", averaged over channels as their released code does.
    """
    return masked_mean(residual(frames, forward).square(), mask)


def long_term_error(frames: Tensor, path: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of frames 1.. against frame 0, (p,) float64.

    frames: (f, c, h, w). path: (p, 2, h, w) pixels, flow from frame 0 to each later frame. mask:
    (p, h, w) bool, the pixels of frame 0 to be scored.
    """
    return masked_mean((warp_backward(frames[1:], path) - frames[:1]).square(), mask)


def source_flow(inputs: MetricInputs) -> MetricValue:
    """`warp/source_flow`: the warping error along the flow of the source, one value per pair.

    Raises NotAvailable for a single frame, or where too few pixels can be compared.
    """
    require_pairs(NAME, len(inputs.frames))
    return _short_term(NAME, inputs.frames, flow_of_source(NAME, inputs))


def output_flow(inputs: MetricInputs) -> MetricValue:
    """`warp/output_flow`: the warping error along the output's own flow, one value per pair.

    Raises NotAvailable for a single frame, or where too few pixels can be compared.
    """
    require_pairs(OUTPUT, len(inputs.frames))
    used = estimator(inputs)
    flow = inputs.memo.get(
        f"output_flow {used.name}", lambda: both_ways(used, to_levels(inputs.frames))
    )
    return _short_term(OUTPUT, inputs.frames, flow)


def _short_term(metric: str, frames: Tensor, flow: FlowFields) -> MetricValue:
    require_coverage(flow, metric)
    difference = residual(frames, flow.forward)
    return mean_of(
        masked_mean(difference.square(), flow.valid),
        flow=flow.source,
        coverage=flow.coverage,
        coverage_min=flow.pair_coverage.min().item(),
        mean_absolute=masked_mean(difference.abs(), flow.valid).mean().item(),
    )


def long_term(inputs: MetricInputs) -> MetricValue:
    """`warp/long_term`: error against frame 0 along the source's flow, one value per frame t >= 2.

    Frames to which less than 30 % of the pixels can be followed are left out. Raises
    NotAvailable when none is left.
    """
    if len(inputs.frames) < 3:
        count = len(inputs.frames)
        raise NotAvailable(LONG, f"needs 3 frames, but the clip has {count}")
    flow = flow_of_source(LONG, inputs)
    path, seen = from_first(flow)
    coverage = seen.double().mean((1, 2))
    kept = coverage >= LEAST_COVERAGE
    kept[0] = False  # the neighbour of frame 0 is short-term
    if not kept.any():
        what = f"only {coverage[1]:.0%} of the pixels of frame 0 can be followed to frame 2"
        raise NotAvailable(LONG, what, "choose slower frames or a smaller clip.stride")
    errors = long_term_error(inputs.frames, path, seen)
    return mean_of(
        errors[kept],
        flow=flow.source,
        frames=[t + 1 for t in torch.nonzero(kept).flatten().tolist()],
        coverage=coverage[kept].mean().item(),
        coverage_min=coverage[kept].min().item(),
    )


def lai2018(inputs: MetricInputs) -> MetricValue:
    """`warp/lai2018`: error and masks of Lai et al. (2018) along the source's flow, per pair.

    Raises NotAvailable for a single frame, or where too few pixels can be compared.
    """
    require_pairs(LAI, len(inputs.frames))
    flow = flow_of_source(LAI, inputs)
    visible = visible_lai2018(flow.forward, flow.backward)
    masked = FlowFields(flow.forward, flow.backward, visible, visible, flow.source)
    return _short_term(LAI, inputs.frames, masked)


def pixel_mse(inputs: MetricInputs) -> MetricValue:
    """`pixel_mse/fresco`: mean squared error of aligned frames, all pixels, one value per pair."""
    require_pairs(PIXEL, len(inputs.frames))
    flow = flow_of_source(PIXEL, inputs)
    return mean_of(unmasked_error(inputs.frames, flow.forward), flow=flow.source)


def unmasked_error(frames: Tensor, forward: Tensor) -> Tensor:
    """Mean squared error of aligned consecutive frames over all pixels: (p,) float64.

    frames: (f, c, h, w). forward: (p, 2, h, w) pixels. Outside the picture the border is repeated.
    """
    return residual(frames, forward).double().square().mean((1, 2, 3))


def require_coverage(flow: FlowFields, metric: str = NAME) -> None:
    """Raise NotAvailable when a pair has fewer than 30 % pixels that can be compared."""
    lowest, pair = flow.pair_coverage.min(0)
    if lowest < LEAST_COVERAGE:
        t = int(pair)
        whose = "" if metric == OUTPUT else "source "
        raise NotAvailable(
            metric,
            f"only {lowest:.0%} of the pixels of {whose}frame {t} can be followed to frame {t + 1} "
            f"({LEAST_COVERAGE:.0%} are needed)",
            "there may be a cut or fast motion: choose other frames or a smaller clip.stride",
        )


def _covered_error(frames: Tensor, flow: FlowFields) -> Tensor:
    require_coverage(flow)
    return warp_error(frames, flow.forward, flow.valid)


class SourceFlowWarpError(ClipMean):
    """`warp/source_flow`, `warp/output_flow` over clips: frames (f, 3, h, w) in [0, 1], flow."""

    higher_is_better = False
    series = staticmethod(_covered_error)


class LaiWarpError(ClipMean):
    """`warp/lai2018` over clips: frames (f, 3, h, w) in [0, 1], flow and mask as `warp_error`."""

    higher_is_better = False
    series = staticmethod(warp_error)


class LongTermWarpError(ClipMean):
    """`warp/long_term` over clips: frames (f, 3, h, w) in [0, 1], path, mask."""

    higher_is_better = False
    series = staticmethod(long_term_error)


class AlignedPixelError(ClipMean):
    """`pixel_mse/fresco` over clips: frames (f, 3, h, w) in [0, 1], flow (p, 2, h, w)."""

    higher_is_better = False
    series = staticmethod(unmasked_error)
