import numpy as np
import pytest
import torch
from test_flow import constant_flow, golden, rolling, textured
from test_metrics_warp import inputs, to_tensor, true_flow

from crossframe.errors import NotAvailable
from crossframe.flow.fields import dis_flow
from metrics.aperture import contrast, observable, observable_length
from metrics.base import MetricInputs
from metrics.motion import (
    DynamicDegree,
    EndPointError,
    MotionRatio,
    MotionStrength,
    dynamic_degree,
    epe,
    is_dynamic,
    motion_ratio,
    ratio,
    sampling_step,
    strength,
    top_motion,
)


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
    with pytest.raises(NotAvailable, match="source moves"):
        ratio(inputs(still))


def stripes(angle, shift=0.0, side=96, period=24):
    """Stripes at an angle; `shift` moves them across themselves. (side, side, 3) uint8."""
    y, x = np.mgrid[:side, :side]
    across = x * np.cos(angle) + y * np.sin(angle) - shift
    grey = 128 + 60 * np.sin(2 * np.pi * across / period)
    return np.repeat(grey[..., None], 3, axis=2).round().astype(np.uint8)


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2, 2.5])
def test_motion_along_stripes_is_not_counted(angle):
    picture = stripes(angle)[None]
    across, along = (np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))
    flow = constant_flow(1, 96, 96, *(2 * across[i] + 7 * along[i] for i in (0, 1)))
    assert observable_length(flow, contrast(picture)).item() == pytest.approx(2, rel=0.05)


def test_on_texture_the_whole_vector_is_counted():
    flow = constant_flow(1, 64, 64, 3, 4)
    seen = observable(flow, contrast(textured()[None]))
    assert seen.square().sum(1).sqrt().median() == pytest.approx(5, rel=1e-4)
    assert observable_length(flow, contrast(textured()[None])).item() == pytest.approx(5, rel=0.05)


def test_a_flat_picture_shows_no_motion():
    flat = np.full((1, 32, 32, 3), 90, np.uint8)
    assert observable_length(constant_flow(1, 32, 32, 3, 4), contrast(flat)).item() == 0


def test_sliding_stripes_move_as_much_as_they_can_be_seen_to():
    """DIS adds any motion along the stripes that it likes; the ratio must not follow."""
    source = to_tensor(np.stack([stripes(1.4, 2.0 * t) for t in range(3)]))
    faster = to_tensor(np.stack([stripes(1.4, 4.0 * t) for t in range(3)]))
    value = ratio(inputs(faster, source))
    assert value.value == pytest.approx(2, rel=0.1)
    assert value.detail["source_pixels_per_frame"] == pytest.approx(2, rel=0.1)


def test_noise_on_stripes_does_not_pass_for_motion_along_them():
    source = to_tensor(np.stack([stripes(1.4, 2.0 * t) for t in range(4)]))
    noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(0))
    noisy = (source + 0.02 * noise).clamp(0, 1)
    assert ratio(inputs(noisy, source)).value == pytest.approx(1, abs=0.3)


def test_shared_dis_flow_and_its_own_estimate_agree():
    frames = rolling(3, 2, 0)
    given = ratio(inputs(to_tensor(rolling(3, 3, 0)), to_tensor(frames), flow=dis_flow(frames)))
    own = ratio(inputs(to_tensor(rolling(3, 3, 0)), to_tensor(frames)))
    assert given == own


def test_epe_of_translations():
    source = to_tensor(rolling(3, 2, 0))
    assert epe(inputs(source)).value == 0
    value = epe(inputs(to_tensor(rolling(3, 2, 3)), source))
    assert value.value == pytest.approx(3, rel=0.15)
    frozen = epe(inputs(source[:1].expand_as(source), source)).value
    own = ratio(inputs(source)).detail["source_pixels_per_frame"]
    assert frozen == pytest.approx(own, rel=0.02)


def test_dynamic_degree_is_that_of_the_published_code():
    case, tolerances = golden("vbench_dynamic")
    decoded, fps = [37, 6, 6, 32, 10], [30.0, 3.0, 25.0, 20.0, 8.0]
    sizes = [(24, 40), (32, 40), (32, 24), (24, 24), (24, 40)]
    used = [len(range(0, n, sampling_step(rate))) for n, rate in zip(decoded, fps, strict=True)]
    assert used == case["output/frames_used"].tolist()
    for k, size in enumerate(sizes):
        scores = top_motion(case[f"input/flows_{k}"])
        name = f"output/pair_score_{k}"
        assert (scores - case[name]).abs().max() <= tolerances[name]
        assert is_dynamic(scores, *size) == case["output/moves"][k]


def test_dynamic_degree_samples_the_clip():
    fast = to_tensor(rolling(9, 2, 0))
    value = dynamic_degree(MetricInputs(fast, fps=16.0))
    assert value.detail["frames_used"] == 5
    assert len(value.series) == 4
    assert value.series[0] == pytest.approx(4, rel=0.3)
    assert value.value == 1
    still = fast[:1].expand_as(fast)
    assert dynamic_degree(MetricInputs(still, fps=16.0)).value == 0


@pytest.mark.parametrize(("fps", "message"), [(None, "rate is not known"), (80.0, "has 1")])
def test_dynamic_degree_needs_a_rate_and_two_sampled_frames(fps, message):
    with pytest.raises(NotAvailable, match=message):
        dynamic_degree(MetricInputs(torch.rand(5, 3, 32, 32), fps=fps))


@pytest.mark.parametrize("dx", [0, 1, 3])
def test_strength_is_the_length_of_a_translation_without_any_source(dx):
    value = strength(MetricInputs(to_tensor(rolling(4, dx, 0))))
    assert value.value == pytest.approx(dx, abs=0.1 * dx)
    assert len(value.series) == 3


def test_strength_of_stripes_is_what_can_be_seen_of_it():
    sliding = np.stack([stripes(1.4, 2.0 * t) for t in range(3)])
    assert strength(MetricInputs(to_tensor(sliding))).value == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("metric", [ratio, epe, strength])
def test_one_frame_cannot_be_compared(metric):
    with pytest.raises(NotAvailable, match="has 1"):
        metric(inputs(torch.rand(1, 3, 16, 16)))


def test_accumulators_average_clips():
    motion = MotionRatio()
    motion.update(torch.tensor([5.0, 5.0]), torch.tensor([10.0, 10.0]))
    assert motion.compute() == pytest.approx(0.5)
    error = EndPointError()
    shown = torch.ones(2, 4, 4, dtype=torch.bool)
    shown[:, 0] = False
    error.update(constant_flow(2, 4, 4, 3, 4), torch.zeros(2, 2, 4, 4), shown)
    assert error.compute() == pytest.approx(5)
    amount = MotionStrength()
    amount.update(constant_flow(1, 64, 64, 3, 4), contrast(textured()[None]))
    assert amount.compute() == pytest.approx(5, rel=0.05)
    degree = DynamicDegree()
    degree.update(constant_flow(4, 32, 32, 3, 0), 32, 32)
    degree.update(constant_flow(4, 32, 32, 0, 0), 32, 32)
    assert degree.compute() == pytest.approx(0.5)
