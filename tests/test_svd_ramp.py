"""Guidance scales of the frames: stock values, closed forms, equal means, parts of the run."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from crossframe.errors import UserError
from methods.svd.options import FrameRamp, within
from methods.svd.ramp import frame_scales, is_guided

FRAMES = (2, 5, 14, 25)


@pytest.mark.parametrize("frames", [1, *FRAMES])
def test_default_is_the_linear_ramp_of_diffusers(frames: int) -> None:
    assert torch.equal(frame_scales(FrameRamp(), frames), torch.linspace(1.0, 3.0, frames))


def wave(u: float) -> float:
    """The triangle of SV3D with one period, as its paper's code writes it."""
    return 2 * abs(u - math.floor(u + 0.5))


CLOSED_FORMS = {
    "constant": lambda u: 0.5,
    "linear": lambda u: u,
    "cosine": lambda u: math.sin(math.pi * u / 2) ** 2,
    "triangle": wave,
}


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("shape", CLOSED_FORMS)
def test_shapes(shape: str, frames: int) -> None:
    scales = frame_scales(FrameRamp(min=1.5, max=4.0, shape=shape), frames)
    expected = [1.5 + 2.5 * CLOSED_FORMS[shape](i / (frames - 1)) for i in range(frames)]
    assert scales.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("frames", FRAMES)
def test_three_shapes_share_their_mean_and_the_triangle_does_not(frames: int) -> None:
    means = {
        shape: frame_scales(FrameRamp(min=1, max=3, shape=shape), frames).mean().item()
        for shape in CLOSED_FORMS
    }
    triangle = means.pop("triangle")
    assert list(means.values()) == pytest.approx([2.0] * 3, abs=1e-6)
    assert triangle < 2 - 1e-2
    share = {2: 0, 5: 2 / 5, 14: 6 / 13, 25: 12 / 25}[frames]
    assert triangle == pytest.approx(1 + 2 * share, abs=1e-6)


@pytest.mark.parametrize("shape", CLOSED_FORMS)
def test_mean_shifts_the_course(shape: str) -> None:
    plain = frame_scales(FrameRamp(shape=shape), 14)
    shifted = frame_scales(FrameRamp(shape=shape, mean=2.25), 14)
    assert shifted.mean().item() == pytest.approx(2.25, abs=1e-6)
    assert torch.allclose(shifted.diff(), plain.diff(), atol=1e-6)


def test_a_mean_that_would_make_scales_negative_is_refused() -> None:
    assert frame_scales(FrameRamp(min=1, max=3, mean=1.0), 5).tolist() == [0, 0.5, 1, 1.5, 2]
    assert frame_scales(FrameRamp(shape="constant", mean=0.5), 3).tolist() == [0.5] * 3
    for shape in ("linear", "cosine"):
        with pytest.raises(ValidationError, match="a mean below 1, half of max - min"):
            FrameRamp(min=1, max=3, shape=shape, mean=0.5)
    # The triangle of 5 frames has 2/5 of the way as its mean: 1 + 2 * 2/5 = 1.8.
    for ramp, least in (
        (FrameRamp(min=1, max=3, shape="triangle", mean=0.5), "0.8"),
        (FrameRamp(values=(4, 1, 1, 1, 1), mean=0.5), "0.6"),
    ):
        with pytest.raises(UserError, match=f"guidance.ramp.mean.*at least {least}"):
            frame_scales(ramp, 5)


def test_reversed_falling_and_listed() -> None:
    rising = frame_scales(FrameRamp(min=1, max=2), 4)
    assert torch.equal(frame_scales(FrameRamp(min=1, max=2, reversed=True), 4), rising.flip(0))
    assert torch.allclose(frame_scales(FrameRamp(min=2, max=1), 4), rising.flip(0))
    assert frame_scales(FrameRamp(values=(1.0, 4.0, 2.0)), 3).tolist() == [1.0, 4.0, 2.0]


def test_listed_values_must_be_one_per_frame() -> None:
    with pytest.raises(UserError, match=r"guidance.ramp.values: 2 values for a video of 3 frames"):
        frame_scales(FrameRamp(values=(1.0, 2.0)), 3)
    with pytest.raises(ValidationError, match="a scale for each frame"):
        FrameRamp(values=())


def test_guidance_on_a_part_of_the_steps() -> None:
    ramp = FrameRamp(steps=(0.2, 0.5))
    guided = [is_guided(frame_scales(ramp, 5, step, 10)) for step in range(10)]
    assert guided == [False] * 2 + [True] * 3 + [False] * 5
    assert torch.equal(frame_scales(ramp, 5, 9, 10), torch.ones(5))


@pytest.mark.parametrize("steps", [1, 2, 7, 25])
def test_two_halves_of_a_run_hold_each_step_once(steps: int) -> None:
    for cut in (0.3, 0.5, 0.77):
        halves = [within((0, cut), k, steps) + within((cut, 1), k, steps) for k in range(steps)]
        assert set(halves) == {1}
        assert all(within((0, 1), k, steps) for k in range(steps))


def test_a_part_of_the_run_is_ordered() -> None:
    with pytest.raises(ValidationError, match="from < to"):
        FrameRamp(steps=(0.5, 0.5))
