"""Amount of motion, so that a frozen video cannot pass for a consistent one.

Shapes: f frames, p = f-1 pairs, h height, w width.
"""

from __future__ import annotations

from torch import Tensor

from metrics.accumulate import ClipMean
from metrics.base import MetricInputs, MetricValue, mean_of, require_pairs
from metrics.errors import MetricUnavailable
from metrics.flow import dis_forward, to_levels
from metrics.shared import source_flow

NAME = "motion/ratio"
STILL = 0.01  # pixels a frame, mean over the clip


def mean_length(flow: Tensor) -> Tensor:
    """Flow (p, 2, h, w) -> (p,) float64 mean length of its vectors, in pixels."""
    return flow.double().square().sum(1).sqrt().mean((1, 2))


def motion_ratio(output: Tensor, source: Tensor) -> Tensor:
    """Motion of the output and of the source, each (p,) pixels -> (p,) ratios whose mean is theirs.

    Every pair is divided by the source's mean, so that a pause of the source does no harm. Raises
    MetricUnavailable when the source hardly moves.
    """
    reference = source.mean()
    if reference < STILL:
        raise MetricUnavailable(
            NAME,
            f"the source moves {reference:.2g} pixels a frame, less than {STILL}",
            "choose frames with motion or a larger clip.stride",
        )
    return output / reference


def ratio(inputs: MetricInputs) -> MetricValue:
    """`motion/ratio`: one value per pair. Both motions are estimated with DIS."""
    require_pairs(NAME, len(inputs.frames))
    source = mean_length(_source_dis(inputs))
    output = mean_length(dis_forward(to_levels(inputs.frames)))
    return mean_of(
        motion_ratio(output, source),
        flow="dis",
        source_pixels_per_frame=source.mean().item(),
        output_pixels_per_frame=output.mean().item(),
    )


def _source_dis(inputs: MetricInputs) -> Tensor:
    """DIS flow (p, 2, h, w) of the source; shared with the warping error unless that is exact."""
    if inputs.flow is not None and inputs.flow.source == "exact":
        return dis_forward(to_levels(inputs.source))
    return source_flow(inputs).forward


class MotionRatio(ClipMean):
    """`motion/ratio` over many clips; best at 1, so neither higher nor lower is better."""

    def update(self, output_flow: Tensor, source_flow: Tensor) -> None:
        """Add a clip by the estimated flow of output and source, each (p, 2, h, w) pixels."""
        self.add(motion_ratio(mean_length(output_flow), mean_length(source_flow)))
