"""Ancestral steps against diffusers' DDPMScheduler and against DDIM."""

from __future__ import annotations

import diffusers.schedulers.scheduling_ddpm as ddpm_module
import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from tiny_backbone import SCHEDULER
from torch import Tensor

from methods.ddim import ddim_step
from methods.ddpm import ddpm_step, make_ddpm_schedule


def draw(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 4, 4, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("steps", [4, 20])
def test_steps_are_those_of_diffusers(steps, monkeypatch):
    scheduler = DDPMScheduler.from_config({**SCHEDULER, "timestep_spacing": "leading"})
    scheduler.set_timesteps(steps)
    schedule = make_ddpm_schedule(SCHEDULER, steps)
    assert list(schedule.timesteps) == scheduler.timesteps.tolist()
    for index, timestep in enumerate(schedule.timesteps):
        latents, output, noise = draw(index), draw(100 + index), draw(200 + index)
        monkeypatch.setattr(ddpm_module, "randn_tensor", lambda *a, noise=noise, **k: noise)
        expected = scheduler.step(output, timestep, latents).prev_sample
        got = ddpm_step(schedule, index, latents, output, noise)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_skipped_steps_leave_the_published_timesteps():
    """20 steps of which 5 are skipped, on the schedule of Stable Diffusion 1.5."""
    schedule = make_ddpm_schedule(SCHEDULER, 20, strength=0.75)
    assert schedule.timesteps == tuple(range(701, 0, -50))


def test_without_an_edit_it_is_ddim_with_eta_one():
    schedule = make_ddpm_schedule(SCHEDULER, 10)
    for index in range(9):
        latents, output, noise = draw(0), draw(1), draw(2)
        ours = ddpm_step(schedule, index, latents, output, noise)
        theirs = ddim_step(schedule, index, latents, output, eta=1.0, noise=noise)
        torch.testing.assert_close(ours, theirs)


def test_an_edit_moves_the_mean_by_its_coefficient():
    schedule = make_ddpm_schedule(SCHEDULER, 10)
    latents, output, noise, shift = draw(0), draw(1), draw(2), draw(3)
    for index in range(10):
        plain = ddpm_step(schedule, index, latents, output, noise)
        edited = ddpm_step(
            schedule, index, latents, output, noise, edit=lambda clean, _: clean + shift
        )
        now, after = schedule.alpha_bar[index], schedule.alpha_bar_next[index]
        slope = after**0.5 * (1 - now / after) / (1 - now)
        torch.testing.assert_close(edited - plain, slope * shift)


def test_the_last_step_returns_the_clean_latents():
    schedule = make_ddpm_schedule(SCHEDULER, 5)
    replaced = draw(7)
    out = ddpm_step(schedule, 4, draw(0), draw(1), draw(2), edit=lambda clean, _: replaced)
    torch.testing.assert_close(out, replaced)
