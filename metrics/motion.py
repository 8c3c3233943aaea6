"""Amount of motion, so that a frozen video cannot pass for a consistent one.

Shapes: f frames, p = f-1 pairs, n pairs of sampled frames, h height, w width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crossframe.errors import NotAvailable
from crossframe.flow.fields import to_levels
from metrics.accumulate import ClipMean
from metrics.aperture import contrast, observable, observable_length
from metrics.base import MetricInputs, MetricValue, mean_of, require_pairs
from metrics.shared import estimator, output_estimate, require_source, source_estimate

NAME, EPE, DYNAMIC = "motion/ratio", "motion/epe", "motion/dynamic_degree"
STRENGTH = "motion/strength"
STILL = 0.01  # pixels a frame, mean over the clip
SAMPLED_FPS = 8


def motion_ratio(output: Tensor, source: Tensor) -> Tensor:
    """Motion of the output and of the source, each (p,) pixels -> (p,) ratios whose mean is theirs.

    Every pair is divided by the source's mean, so that a pause of the source does no harm. Raises
    NotAvailable when the source hardly moves.
    """
    reference = source.mean()
    if reference < STILL:
        raise NotAvailable(
            NAME,
            f"the source moves {reference:.2g} pixels a frame, less than {STILL}",
            "choose frames with motion or a larger clip.stride",
        )
    return output / reference


def end_point_error(output: Tensor, source: Tensor, shown: Tensor) -> Tensor:
    """Mean length of the difference of two flows: (p,) float64 pixels.

    output, source: (p, 2, h, w). shown: (p, h, w) bool, the pixels that count.
    """
    lengths = (output - source).double().square().sum(1).sqrt()
    return (lengths * shown).sum((1, 2)) / shown.sum((1, 2)).clamp(min=1)


def top_motion(flow: Tensor) -> Tensor:
    """Mean of the longest 5 % (rounded down) of the vectors: flow (n, 2, h, w) -> (n,) pixels."""
    lengths = flow.square().sum(1).sqrt().flatten(1)
    return lengths.topk(int(lengths.shape[1] * 0.05), dim=1).values.mean(1)


def sampling_step(fps: float) -> int:
    """Frames from one sampled frame to the next, for about 8 a second; halves round to even."""
    return max(1, round(fps / SAMPLED_FPS))


def is_dynamic(scores: Tensor, height: int, width: int) -> bool:
    """Whether enough pairs move: VBench's dynamic degree of one video.

    scores: (n,) of `top_motion`. height, width: of the frames. At least round(4 (n+1) / 16) pairs
    (halves to even) must exceed 6 min(height, width) / 256 pixels; for two frames that is none.
    """
    moving = (scores > 6 * min(height, width) / 256).sum().item()
    return moving >= round(4 * (len(scores) + 1) / 16)


def ratio(inputs: MetricInputs) -> MetricValue:
    """`motion/ratio`: one value per pair. Both motions are estimated in the same way."""
    require_pairs(NAME, len(inputs.frames))
    # The source's contrast for both: in the output's, noise would show motion where there is none.
    seen = contrast(to_levels(require_source(NAME, inputs))[:-1])
    source = observable_length(source_estimate(NAME, inputs), seen)
    output = observable_length(output_estimate(inputs), seen)
    return mean_of(
        motion_ratio(output, source),
        flow=estimator(inputs).name,
        source_pixels_per_frame=source.mean().item(),
        output_pixels_per_frame=output.mean().item(),
    )


def strength(inputs: MetricInputs) -> MetricValue:
    """`motion/strength`: one value per pair, pixels a frame. NotAvailable for a single frame."""
    require_pairs(STRENGTH, len(inputs.frames))
    seen = contrast(to_levels(inputs.frames)[:-1])
    series = observable_length(output_estimate(inputs), seen)
    return mean_of(series, flow=estimator(inputs).name)


def epe(inputs: MetricInputs) -> MetricValue:
    """`motion/epe`: one value per pair, pixels. Both flows are estimated in the same way."""
    require_pairs(EPE, len(inputs.frames))
    seen = contrast(to_levels(require_source(EPE, inputs))[:-1])
    flows = output_estimate(inputs), source_estimate(EPE, inputs)
    output, source = (observable(flow, seen) for flow in flows)
    return mean_of(end_point_error(output, source, seen.shown), flow=estimator(inputs).name)


def dynamic_degree(inputs: MetricInputs) -> MetricValue:
    """`motion/dynamic_degree`: 0 or 1; the series is the fast motion of each sampled pair, pixels.

    Raises NotAvailable when the frame rate is unknown or fewer than two frames are sampled.
    """
    if not inputs.fps:
        raise NotAvailable(DYNAMIC, "samples 8 frames a second, but the rate is not known")
    step = sampling_step(inputs.fps)
    sampled = inputs.frames[::step]
    require_pairs(DYNAMIC, len(sampled))
    used = estimator(inputs)
    flow = output_estimate(inputs) if step == 1 else used.forward(to_levels(sampled))
    scores = top_motion(flow)
    moving = is_dynamic(scores, *inputs.frames.shape[-2:])
    detail = {"flow": used.name, "frames_used": len(sampled)}
    return MetricValue(float(moving), tuple(scores.double().tolist()), detail)


def _dynamic_series(flow: Tensor, height: int, width: int) -> Tensor:
    return torch.tensor([float(is_dynamic(top_motion(flow), height, width))])


class MotionRatio(ClipMean):
    """`motion/ratio` over clips: motion of output and source, each (p,) pixels a frame.

    Best at 1, so neither higher nor lower is better.
    """

    series = staticmethod(motion_ratio)


class MotionStrength(ClipMean):
    """`motion/strength` over clips: flow (p, 2, h, w), `metrics.aperture.contrast` of p frames."""

    higher_is_better = True
    series = staticmethod(observable_length)


class EndPointError(ClipMean):
    """`motion/epe` over clips: flow of output and source (p, 2, h, w), pixels that count."""

    higher_is_better = False
    series = staticmethod(end_point_error)


class DynamicDegree(ClipMean):
    """`motion/dynamic_degree`: share of moving clips, by flow (n, 2, h', w') and frame h, w."""

    higher_is_better = True
    series = staticmethod(_dynamic_series)
