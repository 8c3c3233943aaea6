"""Steps other than DDIM's: against diffusers, closed forms, and edits of the clean latents."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import Tensor

from methods.ddim import ddim_step, make_schedule
from methods.denoising import denoise
from methods.solvers import DpmSolver, PlainAt, make_step, schedule_for, slope, towards
from tests.tiny_backbone import SCHEDULER

SHAPE = (2, 4, 5, 5)


def drawn(count: int, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((count, *SHAPE), generator=generator).unbind()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_dpm_solver_equals_the_scheduler(prediction: str) -> None:
    settings = {**SCHEDULER, "prediction_type": prediction}
    schedule = make_schedule(settings, 7)
    # The end of DDIM's run, below the first timestep, is diffusers' smallest sigma.
    scheduler = DPMSolverMultistepScheduler.from_config(
        settings, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="sigma_min"
    )
    scheduler.set_timesteps(timesteps=list(schedule.timesteps))
    solver = DpmSolver()
    expected = actual = drawn(1)[0]
    for index, timestep in enumerate(schedule.timesteps):
        (output,) = drawn(1, seed=index + 1)
        expected = scheduler.step(output, timestep, expected).prev_sample
        actual = solver(schedule, index, actual, output)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("end", [False, True])
def test_the_first_order_is_ddim_without_noise(end: bool) -> None:
    schedule = make_schedule({**SCHEDULER, "set_alpha_to_one": end}, 4)
    latents, output = drawn(2)
    for index in range(4):
        expected = ddim_step(schedule, index, latents, output)
        torch.testing.assert_close(DpmSolver()(schedule, index, latents, output), expected)


def test_a_clean_part_on_a_line_in_log_snr_is_integrated_to_second_order() -> None:
    """Over a step of the same width the slope is a half: the target is 1.5 now - 0.5 before."""
    odds = [0.1, 1.0, 10.0, 100.0]  # signal / noise variances, equally far apart in their logs
    bars = tuple(x / (1 + x) for x in odds)
    schedule = replace(
        make_schedule(SCHEDULER, 3),
        alpha_bar=bars[:3],
        alpha_bar_next=bars[1:],
        prediction="sample",
    )
    assert slope(schedule, 1) == pytest.approx(0.5)
    latents, one, two, other = drawn(4)
    solver = DpmSolver()
    latents = solver(schedule, 0, latents, one)
    expected = towards(schedule, 1, latents, 1.5 * two - 0.5 * one)
    latents = solver(schedule, 1, latents, two)
    torch.testing.assert_close(latents, expected)
    last = solver(schedule, 2, latents, other)
    torch.testing.assert_close(last, towards(schedule, 2, latents, other))


def test_an_edit_is_laid_on_and_not_extrapolated() -> None:
    schedule = replace(make_schedule(SCHEDULER, 4), prediction="sample")
    latents, clean, wanted = drawn(3)
    solver = DpmSolver()
    latents = solver(schedule, 0, latents, clean)
    expected = towards(schedule, 1, latents, wanted)
    latents = solver(schedule, 1, latents, clean, edit=lambda found, index: wanted)
    torch.testing.assert_close(latents, expected)
    expected = towards(schedule, 2, latents, wanted)
    torch.testing.assert_close(solver(schedule, 2, latents, wanted), expected)


def test_steps_that_are_plain_ignore_eta_in_closed_form() -> None:
    """As in the released smoother: sqrt(after) edited + sqrt(1 - after) of the predicted noise."""
    schedule = make_schedule(SCHEDULER, 5)
    latents, output, noise, edited = drawn(4)
    step = PlainAt(make_step("ddim", 0.8), {2})
    after = schedule.alpha_bar_next[2]
    actual = step(schedule, 2, latents, output, noise=noise, edit=lambda clean, index: edited)
    torch.testing.assert_close(
        actual, math.sqrt(after) * edited + math.sqrt(1 - after) * output, rtol=1e-5, atol=1e-5
    )
    usual = ddim_step(schedule, 3, latents, output, eta=0.8, noise=noise)
    assert torch.equal(step(schedule, 3, latents, output, noise=noise), usual)
    assert not torch.equal(usual, ddim_step(schedule, 3, latents, output))


def test_true_predictions_lead_back_by_every_scheduler() -> None:
    clean, noise, other = drawn(3)
    for name in ("ddim", "ddpm", "dpmpp"):
        schedule = replace(schedule_for(name, SCHEDULER, 6), prediction="sample")
        end = denoise(
            lambda x, t, s: clean,
            schedule,
            [1.0] * 6,
            noise,
            step=make_step(name, 0.0),
            step_noise=lambda index: other,
        )
        left = math.sqrt(1 - schedule.alpha_bar_next[-1])
        assert (end - clean).abs().max() <= 8 * left + 1e-5
    assert schedule_for("ddpm", SCHEDULER, 6).alpha_bar_next[-1] == 1
