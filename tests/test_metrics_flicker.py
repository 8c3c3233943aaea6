import numpy as np
import pytest
import torch
from test_flow import golden, rolling
from test_metrics_warp import inputs, to_tensor, true_flow

from crossframe.errors import NotAvailable
from metrics.base import MetricInputs
from metrics.flicker import (
    AlignedFlicker,
    ConsecutiveDifference,
    VBenchSteadiness,
    aligned_residual,
    consecutive_mae,
    mae,
    vbench,
)


def test_flicker_is_that_of_the_published_code():
    case, tolerances = golden("vbench_flicker")
    frames = to_tensor(case["input/frames"].numpy())
    gap = (255 * consecutive_mae(frames) - case["output/pair_mae"]).abs().max()
    assert gap <= tolerances["output/pair_mae"]
    score = vbench(MetricInputs(frames)).value
    assert abs(score - case["output/score"].item()) <= tolerances["output/score"]


@pytest.mark.parametrize("levels", [1, 10])
@pytest.mark.parametrize("side", [8, 24])
def test_brightness_steps_give_their_size_at_any_resolution(levels, side):
    frames = torch.full((4, 3, side, side), 100 / 255)
    frames[1::2] = (100 + levels) / 255
    value = mae(MetricInputs(frames))
    assert value.series == pytest.approx((levels / 255,) * 3)
    assert vbench(MetricInputs(frames)).value == pytest.approx(1 - levels / 255)


def test_a_frozen_video_does_not_flicker():
    frozen = torch.rand(1, 3, 16, 16).expand(3, -1, -1, -1)
    assert mae(MetricInputs(frozen)).value == 0
    assert vbench(MetricInputs(frozen)).value == 1


def test_the_aligned_residual_ignores_what_the_source_does_too():
    source = 0.2 + 0.6 * to_tensor(rolling(3, 2, 0))
    source[1] += 0.1  # the light changes in the source itself
    flow = true_flow(2, 64, 2, 0)
    assert aligned_residual(inputs(source, flow=flow)).value == 0
    output = source.clone()
    output[2] -= 0.05
    value = aligned_residual(inputs(output, source, flow=flow))
    assert value.series == pytest.approx((0, 0.05), abs=1e-6)
    assert value.detail["coverage"] == pytest.approx(62 / 64)


def test_motion_counts_only_where_nothing_is_aligned():
    moving = to_tensor(rolling(3, 3, 0))
    assert mae(MetricInputs(moving)).value > 0.01
    assert aligned_residual(inputs(moving, flow=true_flow(2, 64, 3, 0))).value == 0


@pytest.mark.parametrize("metric", [mae, vbench, aligned_residual])
def test_one_frame_does_not_flicker(metric):
    with pytest.raises(NotAvailable, match="has 1"):
        metric(inputs(torch.rand(1, 3, 16, 16)))


def test_too_few_comparable_pixels_are_refused():
    hidden = np.ones((1, 16, 16), bool)
    with pytest.raises(NotAvailable, match="flicker/aligned_residual: only 0%"):
        aligned_residual(inputs(torch.rand(2, 3, 16, 16), flow=true_flow(1, 16, 0, 0, hidden)))


def test_accumulators_average_clips():
    frames = torch.full((3, 3, 16, 16), 0.5)
    stepping = frames.clone()
    stepping[1] += 0.2
    plain, steady, aligned = ConsecutiveDifference(), VBenchSteadiness(), AlignedFlicker()
    for clip in (frames, stepping):
        plain.update(clip)
        steady.update(clip)
        aligned.update(clip, frames, true_flow(2, 16, 0, 0))
    assert plain.compute() == pytest.approx(0.1, rel=1e-5)
    assert steady.compute() == pytest.approx(0.9, rel=1e-5)
    assert aligned.compute() == pytest.approx(0.1, rel=1e-5)
