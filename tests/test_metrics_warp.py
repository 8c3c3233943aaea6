import numpy as np
import pytest
import torch
from test_metrics_flow import constant_flow, golden, rolling

from metrics.base import MetricInputs
from metrics.errors import MetricUnavailable
from metrics.flow import dis_flow, exact_flow
from metrics.motion import MotionRatio, mean_length, motion_ratio, ratio
from metrics.warp import SourceFlowWarpError, residual, source_flow, warp_error


def to_tensor(frames):
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255


def true_flow(pairs, side, dx, dy, hidden=None):
    forward = np.broadcast_to(np.float32([dx, dy]), (pairs, side, side, 2)).copy()
    nothing = np.zeros((pairs, side, side), bool)
    return exact_flow(forward, -forward, nothing if hidden is None else hidden, nothing)


def inputs(frames, source=None, **options):
    return MetricInputs(frames, frames if source is None else source, **options)


def test_warp_error_is_that_of_the_published_code():
    case, tolerances = golden("lai_warp_error")
    frames = to_tensor(case["input/frames"].numpy())
    errors = warp_error(frames, case["input/fw_flow"], ~case["input/occlusion"])
    expected = case["output/pair_error"]
    tolerance = tolerances["output/pair_error"]
    assert (errors - expected).abs().max() <= tolerance
    assert abs(errors.mean() - case["output/video_error"].item()) <= tolerance


def test_a_translated_clip_has_no_error_where_it_can_be_compared():
    frames = to_tensor(rolling(4, 3, -2))
    value = source_flow(inputs(frames, flow=true_flow(3, 64, 3, -2)))
    assert value.value < 1e-9
    assert value.series == pytest.approx([0, 0, 0], abs=1e-9)
    assert value.detail["coverage"] == pytest.approx(61 * 62 / 64**2)
    assert value.detail["flow"] == "exact"


@pytest.mark.parametrize("step", [0.1, 0.25])
def test_a_brightness_step_gives_its_square(step):
    frames = torch.full((4, 3, 16, 16), 0.5)
    frames[1::2] += step
    value = source_flow(inputs(frames, flow=true_flow(3, 16, 1, 0)))
    assert value.value == pytest.approx(step**2, rel=1e-5)
    assert value.detail["mean_absolute"] == pytest.approx(step, rel=1e-5)


def test_channels_are_averaged_not_summed():
    frames = torch.zeros(2, 3, 16, 16)
    frames[1, 0] = 0.6
    assert source_flow(inputs(frames, flow=true_flow(1, 16, 0, 0))).value == pytest.approx(0.12)


def test_a_constant_video_is_perfect_under_any_flow():
    frames = torch.full((3, 3, 16, 16), 0.3)
    assert source_flow(inputs(frames, flow=true_flow(2, 16, 4, -5))).value < 1e-12


def test_zero_flow_compares_frames_as_they_are():
    frames = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = frames.diff(dim=0).square().mean((1, 2, 3))
    value = source_flow(inputs(frames, flow=true_flow(2, 16, 0, 0)))
    assert value.series == pytest.approx(expected.tolist(), rel=1e-4)


def test_occluded_pixels_do_not_count():
    frames = torch.full((2, 3, 16, 16), 0.5)
    frames[1, :, :4] = 1.0
    hidden = np.zeros((1, 16, 16), bool)
    assert source_flow(inputs(frames, flow=true_flow(1, 16, 0, 0, hidden))).value > 0.05
    hidden[:, :4] = True
    value = source_flow(inputs(frames, flow=true_flow(1, 16, 0, 0, hidden)))
    assert value.value < 1e-12
    assert value.detail["coverage"] == 0.75


def test_the_frozen_frame_errs_by_the_motion_it_lacks():
    source = to_tensor(rolling(3, 3, 0))
    frozen = source[:1].expand_as(source)
    flow = true_flow(2, 64, 3, 0)
    assert source_flow(inputs(frozen, source, flow=flow)).value > 1e-3
    assert source_flow(inputs(source, flow=flow)).value < 1e-9


def test_too_few_comparable_pixels_are_refused_with_the_pair():
    frames = torch.rand(4, 3, 16, 16)
    hidden = np.zeros((3, 16, 16), bool)
    hidden[1, :12] = True
    with pytest.raises(MetricUnavailable, match=r"only 25% .* source frame 1 .* to frame 2"):
        source_flow(inputs(frames, flow=true_flow(3, 16, 0, 0, hidden)))


def test_warp_error_estimates_a_flow_that_is_not_given():
    frames = to_tensor(rolling(3, 2, 1))
    value = source_flow(inputs(frames))
    unaligned = frames.diff(dim=0).square().mean().item()
    assert value.detail["flow"] == "dis"
    assert value.value < unaligned / 20


@pytest.mark.parametrize("metric", [source_flow, ratio])
def test_one_frame_cannot_be_compared(metric):
    with pytest.raises(MetricUnavailable, match="has 1"):
        metric(inputs(torch.rand(1, 3, 16, 16)))


def test_residual_is_signed():
    frames = torch.zeros(2, 3, 8, 8)
    frames[0] = 0.25
    assert torch.equal(residual(frames, torch.zeros(1, 2, 8, 8)), torch.full((1, 3, 8, 8), -0.25))


def test_mean_length():
    flow = constant_flow(2, 4, 5, 3, 4).clone()
    flow[1] = 0
    assert mean_length(flow).tolist() == [5, 0]


def test_motion_ratio_is_the_ratio_of_means():
    series = motion_ratio(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]))
    assert series.mean() == 1.5 / 2


@pytest.mark.parametrize(("dx", "expected"), [(4, 2.0), (2, 1.0), (1, 0.5)])
def test_motion_ratio_of_translations(dx, expected):
    source = to_tensor(rolling(4, 2, 0))
    value = ratio(inputs(to_tensor(rolling(4, dx, 0)), source))
    assert value.value == pytest.approx(expected, rel=0.1)
    assert len(value.series) == 3


def test_the_source_has_ratio_one_and_the_frozen_frame_zero():
    source = to_tensor(rolling(3, 2, 1))
    exact = true_flow(2, 64, 2, 1)
    assert ratio(inputs(source, flow=exact)).value == pytest.approx(1, abs=1e-12)
    assert ratio(inputs(source)).value == pytest.approx(1, abs=1e-12)
    assert ratio(inputs(source[:1].expand_as(source), source)).value == 0


def test_a_still_source_has_no_ratio():
    still = to_tensor(rolling(1, 0, 0)).expand(3, -1, -1, -1)
    with pytest.raises(MetricUnavailable, match="source moves"):
        ratio(inputs(still))


def test_accumulators_average_clips():
    side = 16
    metric = SourceFlowWarpError()
    for step, count in ((0.1, 2), (0.3, 5)):
        frames = torch.full((count, 3, side, side), 0.5)
        frames[1::2] += step
        metric.update(frames, true_flow(count - 1, side, 0, 0))
    assert metric.compute() == pytest.approx((0.01 + 0.09) / 2, rel=1e-4)
    motion = MotionRatio()
    motion.update(constant_flow(2, 4, 4, 3, 4), constant_flow(2, 4, 4, 0, 10))
    assert motion.compute() == pytest.approx(0.5)


def test_accumulator_refuses_what_the_metric_refuses():
    hidden = np.ones((1, 16, 16), bool)
    with pytest.raises(MetricUnavailable):
        SourceFlowWarpError().update(torch.rand(2, 3, 16, 16), true_flow(1, 16, 0, 0, hidden))


def test_shared_dis_flow_and_its_own_estimate_agree():
    frames = rolling(3, 2, 0)
    given = ratio(inputs(to_tensor(rolling(3, 3, 0)), to_tensor(frames), flow=dis_flow(frames)))
    own = ratio(inputs(to_tensor(rolling(3, 3, 0)), to_tensor(frames)))
    assert given == own
