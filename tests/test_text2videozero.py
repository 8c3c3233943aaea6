"""Text2Video-Zero: its motion field and its forward noise in closed form, and whole runs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from methods.base import SampleRequest
from methods.controlvideo.config import ControlVideoConfig
from methods.controlvideo.sampler import sample as controlvideo
from methods.ddim import make_schedule
from methods.text2videozero.config import Text2VideoZeroConfig
from methods.text2videozero.motion import kept_between, moved, noised, shift_of
from methods.text2videozero.sampler import sample
from tests.tiny_backbone import SCHEDULER, SIZE, tiny_backbone


def numbered(size: int) -> torch.Tensor:
    """(1, 1, size, size): each position holds its own number."""
    return torch.arange(size * size, dtype=torch.float32).reshape(1, 1, size, size)


def warped_by_grid(latents: torch.Tensor, frame: int, x: float, y: float) -> torch.Tensor:
    """The published construction: a field on 512x512 pixels, brought to latents, then sampled."""
    pixels = torch.arange(512, dtype=torch.float64)
    columns = ((pixels + frame * x) / 512 * 2 - 1).expand(512, 512)
    rows = ((pixels + frame * y) / 512 * 2 - 1)[:, None].expand(512, 512)
    field = torch.stack([columns, rows])[None]
    size = latents.shape[-2:]
    field = F.interpolate(field, size=size, mode="bilinear").permute(0, 2, 3, 1)
    return F.grid_sample(
        latents.double(), field, mode="nearest", padding_mode="reflection", align_corners=False
    )


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize(("x", "y"), [(12, 12), (-20, 7), (33, 0)])
def test_repo_grid_is_nearest_sampling_with_reflection(size: int, x: float, y: float) -> None:
    latents = numbered(size)
    for frame in range(8):
        expected = warped_by_grid(latents, frame, x, y)
        assert torch.equal(moved(latents, frame, x, y, "repo").double(), expected), frame


def test_centred_grid_moves_by_whole_positions() -> None:
    """12 pixels are 1.5 latents at 64: halves go towards zero, so frames move 0 1 3 4 6 7 9 10."""
    assert [shift_of(64, 12 * k, "centred") for k in range(8)] == [0, 1, 3, 4, 6, 7, 9, 10]
    assert [shift_of(64, -12 * k, "centred") for k in range(4)] == [0, -1, -3, -4]
    assert [shift_of(64, 12 * k, "repo") for k in range(8)] == [0, 1, 3, 4, 6, 7, 9, 10]
    # The two part where the half pixel crosses a half position.
    assert shift_of(64, 4.2, "centred") == 1
    assert shift_of(64, 4.2, "repo") == 0
    latents = numbered(4)
    right = moved(latents, 1, 128, 0)[0, 0]
    assert torch.equal(right[0], torch.tensor([1.0, 2, 3, 3]))
    assert torch.equal(moved(latents, 1, 0, -256)[0, 0, :, 0], torch.tensor([4.0, 0, 0, 4]))
    assert torch.equal(moved(latents, 0, 99, 99), latents)


def test_forward_noise_is_the_product_of_alphas() -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = 1 - betas
    exact = math.prod(alphas[882:942].tolist())
    assert kept_between(SCHEDULER, 881, 941, "exact") == pytest.approx(exact, rel=1e-4)
    early = math.prod(alphas[881:941].tolist())
    assert kept_between(SCHEDULER, 881, 941, "repo") == pytest.approx(early, rel=1e-4)
    assert kept_between(SCHEDULER, 0, 4, "repo") == pytest.approx(math.prod(alphas[:4].tolist()))
    assert abs(early - exact) > 1e-4
    schedule = make_schedule(SCHEDULER, 50)
    assert (schedule.timesteps[50 - 47 - 1], schedule.timesteps[50 - 44 - 1]) == (941, 881)


def test_noise_keeps_the_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn((2, 1, 4, 64, 64), generator=generator)
    result = noised(one, other, 0.36)
    torch.testing.assert_close(result, 0.6 * one + 0.8 * other)
    assert float(result.var()) == pytest.approx(1, abs=0.05)


# --- Whole runs on random networks


def request(frames: int = 3, seed: int = 1) -> SampleRequest:
    generator = torch.Generator().manual_seed(7)
    source, edges = torch.rand((2, frames, 3, SIZE, SIZE), generator=generator)
    return SampleRequest(source, "a red star", controls={"edges": edges}, seed=seed)


def test_with_controls_it_is_controlvideos_loop_with_the_first_frame() -> None:
    """The paper's own view: first-only attention in UNet and ControlNet, shared noise."""
    steps = []
    ours = sample(
        tiny_backbone(),
        request(),
        Text2VideoZeroConfig(steps=3),
        lambda done, total: steps.append((done, total)),
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]
    options = ControlVideoConfig(
        steps=3,
        attention={"pattern": "first"},
        controlnet_attention={"pattern": "first"},
        noise="shared",
        guidance={"scale": 9.0},
    )
    theirs = controlvideo(tiny_backbone(), request(), options, lambda done, total: None)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_chunks_that_begin_with_the_first_frame_change_no_frame() -> None:
    """The released code samples frames 0 and 3, 4 by themselves, from the same noise."""
    options = Text2VideoZeroConfig(steps=3)
    whole = sample(tiny_backbone(), request(5), options, silent)
    asked, chunk = request(5), [0, 3, 4]
    part = replace(
        asked, frames=asked.frames[chunk], controls={"edges": asked.controls["edges"][chunk]}
    )
    made = sample(tiny_backbone(), part, options, silent)
    torch.testing.assert_close(made, whole[chunk], rtol=0, atol=1e-5)
    assert not torch.allclose(whole[3], whole[4], atol=1e-3)


def text_options(**extra: object) -> Text2VideoZeroConfig:
    motion = {"t0": 2, "t1": 4, "x": 128, "y": 0, **extra}
    return Text2VideoZeroConfig(preset="paper_text", steps=6, motion=motion)


def silent(done: int, total: int) -> None:
    """Nobody watches."""


def test_text_alone_counts_its_steps_and_ignores_the_source() -> None:
    """6 steps: 1 alone, 2 alone to the meeting, then 5 of all frames."""
    steps = []
    video = sample(
        tiny_backbone(), request(), text_options(), lambda done, total: steps.append((done, total))
    )
    assert steps == [(i, 8) for i in range(1, 9)]
    assert video.shape == (3, 3, SIZE, SIZE)
    other = SampleRequest(torch.zeros(3, 3, SIZE, SIZE), "a red star", seed=1)
    assert torch.equal(sample(tiny_backbone(), other, text_options(), silent), video)


def test_the_first_frame_does_not_know_of_the_others() -> None:
    """Its own noise, its own keys: a clip of one frame gives the same picture."""
    many = sample(tiny_backbone(), request(4), text_options(), silent)
    alone = sample(tiny_backbone(), request(1), text_options(), silent)
    torch.testing.assert_close(many[:1], alone, rtol=0, atol=1e-5)
    still = sample(tiny_backbone(), request(4), text_options(x=0), silent)
    torch.testing.assert_close(still[:1], alone, rtol=0, atol=1e-5)
    assert not torch.allclose(still[1:], many[1:], atol=1e-3)


def test_noise_of_steps_is_that_of_the_step_and_not_of_the_stretch() -> None:
    options = text_options().model_copy(update={"eta": 1.0})
    many = sample(tiny_backbone(), request(2), options, silent)
    alone = sample(tiny_backbone(), request(1), options, silent)
    torch.testing.assert_close(many[:1], alone, rtol=0, atol=1e-5)


def test_presets_and_what_cannot_be() -> None:
    text = Text2VideoZeroConfig(preset="repo_text")
    assert (text.steps, text.guidance.scale, text.controls) == (50, 7.5, ())
    assert (text.motion.grid, text.motion.forward, text.motion.on) == ("repo", "repo", True)
    controlled = Text2VideoZeroConfig(preset="repo")
    assert (controlled.steps, controlled.guidance.scale, controlled.noise) == (20, 9.0, "shared")
    assert controlled.residuals_in_place
    assert not controlled.motion.on
    assert Text2VideoZeroConfig() == Text2VideoZeroConfig(preset="paper")
    assert text.attention.pattern == text.controlnet_attention.pattern == "first"
    with pytest.raises(ValidationError, match="published 44 and 47 are of 50 steps"):
        Text2VideoZeroConfig(preset="paper_text", steps=12)
