import numpy as np
import pytest
import torch
from test_flow import golden, rolling

from crossframe.errors import NotAvailable
from crossframe.flow.fields import exact_flow
from metrics.base import MetricInputs
from metrics.warp import (
    AlignedPixelError,
    LaiWarpError,
    LongTermWarpError,
    SourceFlowWarpError,
    lai2018,
    long_term,
    output_flow,
    pixel_mse,
    residual,
    source_flow,
    warp_error,
)


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
    with pytest.raises(NotAvailable, match=r"only 25% .* source frame 1 .* to frame 2"):
        source_flow(inputs(frames, flow=true_flow(3, 16, 0, 0, hidden)))


def test_warp_error_estimates_a_flow_that_is_not_given():
    frames = to_tensor(rolling(3, 2, 1))
    value = source_flow(inputs(frames))
    unaligned = frames.diff(dim=0).square().mean().item()
    assert value.detail["flow"] == "dis"
    assert value.value < unaligned / 20


@pytest.mark.parametrize("metric", [source_flow, output_flow, long_term, lai2018, pixel_mse])
def test_one_frame_cannot_be_compared(metric):
    with pytest.raises(NotAvailable, match=r"has 1|needs 3"):
        metric(inputs(torch.rand(1, 3, 16, 16)))


def test_residual_is_signed():
    frames = torch.zeros(2, 3, 8, 8)
    frames[0] = 0.25
    assert torch.equal(residual(frames, torch.zeros(1, 2, 8, 8)), torch.full((1, 3, 8, 8), -0.25))


def test_accumulators_average_clips():
    side = 16
    metric = SourceFlowWarpError()
    for step, count in ((0.1, 2), (0.3, 5)):
        frames = torch.full((count, 3, side, side), 0.5)
        frames[1::2] += step
        metric.update(frames, true_flow(count - 1, side, 0, 0))
    assert metric.compute() == pytest.approx((0.01 + 0.09) / 2, rel=1e-4)


def test_accumulator_refuses_what_the_metric_refuses():
    hidden = np.ones((1, 16, 16), bool)
    with pytest.raises(NotAvailable):
        SourceFlowWarpError().update(torch.rand(2, 3, 16, 16), true_flow(1, 16, 0, 0, hidden))


def test_lai_compares_what_leaves_the_picture_with_its_border():
    """A pure translation is 0 with the in-picture test and not in the published definition."""
    frames = to_tensor(rolling(3, 5, 0))
    flow = true_flow(2, 64, 5, 0)
    published, ours = lai2018(inputs(frames, flow=flow)), source_flow(inputs(frames, flow=flow))
    assert published.detail["coverage"] == 1
    assert published.value > 1e-4
    assert ours.value < 1e-9


def test_lai_masks_the_edges_of_motion_that_the_truth_does_not():
    forward = np.zeros((1, 16, 16, 2), np.float32)
    forward[:, :, 8:, 0] = 1.0
    nothing = np.zeros((1, 16, 16), bool)
    flow = exact_flow(forward, np.zeros_like(forward), nothing, nothing)
    frames = torch.full((2, 3, 16, 16), 0.5)
    frames[1, :, :, 7] = 1.0
    assert source_flow(inputs(frames, flow=flow)).value > 0.01
    assert lai2018(inputs(frames, flow=flow)).value == 0


def test_pixel_mse_has_no_mask():
    frames = torch.full((2, 3, 16, 16), 0.5)
    frames[1, :, :4] = 1.0
    hidden = np.zeros((1, 16, 16), bool)
    hidden[:, :4] = True
    flow = true_flow(1, 16, 0, 0, hidden)
    assert source_flow(inputs(frames, flow=flow)).value < 1e-12
    assert pixel_mse(inputs(frames, flow=flow)).value == pytest.approx(0.25 * 0.25)


def test_output_flow_follows_the_output_and_needs_no_source():
    frames = to_tensor(rolling(3, 2, 1))
    value = output_flow(MetricInputs(frames))
    assert value.detail["flow"] == "dis"
    assert value.value < frames.diff(dim=0).square().mean().item() / 20
    still = to_tensor(rolling(1, 0, 0)).expand(3, -1, -1, -1)
    moving_source = inputs(still, frames, flow=true_flow(2, 64, 2, 1))
    assert output_flow(moving_source).value < 1e-12
    assert source_flow(moving_source).value > 1e-4


def test_long_term_sees_drift_and_short_term_sees_flicker():
    """Closed form: brightness 0, a/7, .. a against 0, a, 0, a, over 8 frames, without motion."""
    flow = true_flow(7, 16, 0, 0)
    ramp = torch.arange(8).view(8, 1, 1, 1) / 7 * 0.1 + 0.5
    drift = inputs(ramp.expand(8, 3, 16, 16), flow=flow)
    assert source_flow(drift).value == pytest.approx((0.1 / 7) ** 2, rel=1e-3)
    squares = sum((0.1 * t / 7) ** 2 for t in range(2, 8)) / 6
    assert long_term(drift).value == pytest.approx(squares, rel=1e-3)
    switching = torch.full((8, 3, 16, 16), 0.5)
    switching[1::2] += 0.1
    flicker = inputs(switching, flow=flow)
    assert source_flow(flicker).value == pytest.approx(0.01, rel=1e-3)
    assert long_term(flicker).value == pytest.approx(0.01 * 3 / 6, rel=1e-3)


def test_long_term_follows_a_translation_and_leaves_out_what_is_gone():
    frames = to_tensor(rolling(6, 12, 0))
    value = long_term(inputs(frames, flow=true_flow(5, 64, 12, 0)))
    assert value.value < 1e-8
    # The shift is 24, 36, 48, 60 of 64 pixels at frames 2..5.
    assert value.detail["frames"] == [2, 3]
    assert value.detail["coverage_min"] == pytest.approx(28 / 64)
    with pytest.raises(NotAvailable, match="followed to frame 2"):
        long_term(inputs(frames, flow=true_flow(5, 64, 25, 0)))


def test_accumulators_of_the_other_errors():
    frames, zero = torch.full((3, 3, 8, 8), 0.5), torch.zeros(2, 2, 8, 8)
    frames[1] += 0.2
    everywhere = torch.ones(2, 8, 8, dtype=torch.bool)
    for metric, arguments, expected in (
        (LaiWarpError(), (frames, zero, everywhere), 0.04),
        (LongTermWarpError(), (frames, zero, everywhere), 0.02),
        (AlignedPixelError(), (frames, zero), 0.04),
    ):
        metric.update(*arguments)
        assert metric.compute() == pytest.approx(expected, rel=1e-4)


def test_without_a_source_there_is_no_source_flow():
    with pytest.raises(NotAvailable, match="none is given"):
        source_flow(MetricInputs(torch.rand(2, 3, 16, 16)))
