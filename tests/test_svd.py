"""Stable Video Diffusion: the loop equals diffusers' pipeline, and its options do what they say."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as published
from PIL import Image
from pydantic import ValidationError
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from crossframe.errors import UserError
from crossframe.keys import derive_seed
from methods import METHODS, method_config
from methods.base import SampleRequest
from methods.noise import frame_noise
from methods.svd.backbone import SvdBackbone
from methods.svd.conditioning import antialiased, conditions, image_embedding, image_latents
from methods.svd.config import Schedule, SvdConfig
from methods.svd.sampler import sample
from methods.svd.schedule import first_noise, interpolated, make_scheduler, take_step
from tests.tiny_svd import tiny_unet, tiny_vae

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
HEIGHT, WIDTH, SEED = 8, 16, 11


@pytest.fixture(scope="module")
def backbone() -> SvdBackbone:
    """CLIP's input is 224 pixels wide, which the pipeline does not ask for but takes as given."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=224,
        patch_size=56,
        intermediate_size=37,
    )
    processor = CLIPImageProcessor()
    nets = (tiny_unet(), tiny_vae(), CLIPVisionModelWithProjection(config).eval())
    for net in nets:
        net.requires_grad_(False)
    return SvdBackbone(
        *nets,
        image_mean=tuple(processor.image_mean),
        image_std=tuple(processor.image_std),
        scheduler_config=SCHEDULER,
    )


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def request(frames: int = 4, **more: Any) -> SampleRequest:
    """A clip whose first frame is `picture`; the others must make no difference."""
    generator = torch.Generator().manual_seed(frames)
    clip = torch.rand(frames, 3, HEIGHT, WIDTH, generator=generator)
    clip[0] = torch.from_numpy(picture()).permute(2, 0, 1) / 255
    return SampleRequest(frames=clip, prompt="", seed=SEED, **more)


def config(**given: Any) -> SvdConfig:
    return SvdConfig.model_validate({"preset": "repo", "steps": 2, **given})


def made(backbone: SvdBackbone, clip: int = 4, **given: Any) -> Tensor:
    return sample(backbone, request(clip), config(**given), lambda done, total: None)


def ramp(low: float, high: float, **more: Any) -> dict[str, Any]:
    return {"ramp": {"min": low, "max": high, **more}}


def noise(frames: int) -> Tensor:
    shape = (4, HEIGHT // 2, WIDTH // 2)
    return frame_noise(SEED, ("initial",), frames, shape, 0.0)


# --- Equality with diffusers


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("scales", [(1.0, 3.0), (1.0, 1.0)])
@torch.inference_mode()
def test_the_pipeline_of_diffusers(
    backbone: SvdBackbone, scales: tuple[float, float], chunk: int | None
) -> None:
    frames = 4
    pipeline = StableVideoDiffusionPipeline(
        backbone.vae,
        backbone.image_encoder,
        backbone.unet,
        EulerDiscreteScheduler(**SCHEDULER),
        CLIPImageProcessor(),
    )
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        Image.fromarray(picture()),
        height=HEIGHT,
        width=WIDTH,
        num_frames=frames,
        num_inference_steps=3,
        min_guidance_scale=scales[0],
        max_guidance_scale=scales[1],
        decode_chunk_size=chunk,
        generator=torch.Generator().manual_seed(derive_seed(SEED, "augmentation")),
        latents=noise(frames)[None],
        output_type="pt",
    ).frames[0]
    ours = made(backbone, frames, steps=3, guidance=ramp(*scales), decode={"chunk": chunk})
    assert ours.shape == (frames, 3, HEIGHT, WIDTH)
    assert ours.std() > 0.05
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 24), (224, 224), (300, 517), (576, 64)])
def test_resizing_for_clip_is_that_of_diffusers(shape: tuple[int, int]) -> None:
    images = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = published._resize_with_antialiasing(images, (56, 56))
    torch.testing.assert_close(antialiased(images, 56), expected, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_clip_sees_images_of_any_size(backbone: SvdBackbone) -> None:
    """The pipeline resizes pictures but not tensors, which must be 224 x 224."""
    wide = torch.from_numpy(picture(50, 90)).permute(2, 0, 1)[None] / 255
    assert image_embedding(backbone, wide).shape == (1, 1, 32)
    flat = torch.full((1, 3, 224, 224), 0.25)
    inside = backbone.image_encoder(
        torch.tensor(
            [(0.25 - m) / s for m, s in zip(backbone.image_mean, backbone.image_std, strict=True)]
        )
        .view(1, 3, 1, 1)
        .expand(1, 3, 224, 224)
    ).image_embeds
    torch.testing.assert_close(image_embedding(backbone, flat)[:, 0], inside, rtol=0, atol=1e-5)


# --- What the pipeline gets wrong


@torch.inference_mode()
def test_falling_ramps_and_single_frames_are_guided_as_any(backbone: SvdBackbone) -> None:
    falling, rising = made(backbone, guidance=ramp(3, 0.5)), made(backbone, guidance=ramp(0.5, 3))
    assert torch.isfinite(falling).all()
    assert (falling - rising).abs().max() > 1e-4
    backward = made(backbone, guidance=ramp(3, 0.5, reversed=True))
    torch.testing.assert_close(backward, rising, rtol=0, atol=1e-6)
    assert made(backbone, 1, guidance=ramp(3, 3)).shape == (1, 3, HEIGHT, WIDTH)


@torch.inference_mode()
def test_a_list_of_noise_levels_ends_at_none(backbone: SvdBackbone) -> None:
    bare = made(backbone, schedule={"sigmas": [9.0, 1.0]})
    assert torch.equal(bare, made(backbone, schedule={"sigmas": [9.0, 1.0, 0.0]}))
    scheduler = make_scheduler(SCHEDULER, Schedule(sigmas=(9.0, 1.0)), 2)
    assert scheduler.sigmas.tolist() == [9, 1, 0]
    times = [math.log(9) / 4, 0]
    assert scheduler.timesteps.tolist() == pytest.approx(times)


# --- Noise levels


def test_released_levels_are_karras() -> None:
    scheduler = make_scheduler(SCHEDULER, Schedule(), 25)
    ends = 700 ** (1 / 7), 0.002 ** (1 / 7)
    expected = [(ends[0] + i / 24 * (ends[1] - ends[0])) ** 7 for i in range(25)]
    assert scheduler.sigmas.tolist() == pytest.approx([*expected, 0], rel=1e-5)
    assert scheduler.timesteps.tolist() == pytest.approx(
        [math.log(sigma) / 4 for sigma in expected], rel=1e-4, abs=1e-6
    )
    started = first_noise(scheduler, torch.ones(2))
    assert started.tolist() == pytest.approx([math.sqrt(700**2 + 1)] * 2)


def test_other_levels() -> None:
    ends = Schedule(sigmas="exponential", sigma_max=8.0, sigma_min=0.5)
    assert make_scheduler(SCHEDULER, ends, 3).sigmas.tolist() == pytest.approx([8, 2, 0.5, 0])
    low = make_scheduler(SCHEDULER, Schedule(sigma_max=100.0), 5).sigmas
    assert (low[0], low[4]) == (pytest.approx(100), pytest.approx(0.002))
    ays = make_scheduler(SCHEDULER, Schedule(sigmas="ays"), 10).sigmas.tolist()
    assert ays[:2] == pytest.approx([700, 54.5])
    assert ays[-2:] == pytest.approx([0.034, 0])
    finer = make_scheduler(SCHEDULER, Schedule(sigmas="ays"), 19).sigmas.tolist()
    assert finer[:-1:2] == pytest.approx(ays[:-1], rel=1e-4)
    assert interpolated([100.0, 1.0], 3) == pytest.approx([100, 10, 1])
    assert interpolated([100.0, 1.0], 1) == pytest.approx([100])


def test_distilled_levels_are_every_nth_of_forty() -> None:
    """What the scheduler published with AnimateLCM-SVD takes from 700 .. 0.002."""
    wanted = Schedule(sigmas="distilled", sampler="consistency")
    levels = {n: make_scheduler(SCHEDULER, wanted, n).sigmas.tolist() for n in (1, 2, 4, 8, 40)}
    assert levels[4] == pytest.approx([700, 128.5637, 13.67844, 0.4968784, 0], rel=1e-5)
    assert levels[1] == pytest.approx([700, 0])
    assert levels[2] == pytest.approx([700, 13.67844, 0], rel=1e-5)
    assert levels[8][:-1:2] == pytest.approx(levels[4][:-1], rel=1e-6)
    assert levels[40] == pytest.approx(make_scheduler(SCHEDULER, Schedule(), 40).sigmas.tolist())
    lower = make_scheduler(SCHEDULER, Schedule(sigmas="distilled", sigma_max=80.0), 4).sigmas
    assert float(lower[0]) == pytest.approx(80)


def test_ends_without_room_between_them_are_refused() -> None:
    with pytest.raises(UserError, match=r"sigma_max.*from 0\.001 to 0\.002.*above sigma_min"):
        make_scheduler(SCHEDULER, Schedule(sigma_max=0.001), 3)
    with pytest.raises(UserError, match=r"from 700\.0 to 700\.0"):
        make_scheduler(SCHEDULER, Schedule(sigma_min=700.0, sigmas="distilled"), 3)


def test_schedulers_of_image_models_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        make_scheduler({"prediction_type": "epsilon"}, Schedule(), 2)
    text = str(caught.value)
    assert "prediction_type is 'epsilon' (allowed: 'v_prediction')" in text
    assert "timestep_type is 'discrete' (allowed: 'continuous')" in text


def test_steps_towards_a_known_answer() -> None:
    """Where v tells the clean latents exactly, Euler moves along the line and both samplers end."""
    clean, wild = torch.full((2, 4, 3, 3), 0.3), torch.ones(2, 4, 3, 3)
    for sampler, on_the_way in (("euler", clean + 2 * wild), ("consistency", clean - 2 * wild)):
        scheduler = make_scheduler(SCHEDULER, Schedule(sigmas=(5.0, 2.0)), 2)
        latents = clean + 5 * wild
        for index, sigma in enumerate((5.0, 2.0)):
            root = math.sqrt(sigma**2 + 1)
            v = (latents / root**2 - clean) * root / sigma
            latents = take_step(scheduler, index, v, latents, sampler, lambda index: -wild)
            expected = clean if index else on_the_way
            torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)


# --- What the network is told


@torch.inference_mode()
def test_conditions_of_the_image(backbone: SvdBackbone) -> None:
    asked = request()
    told = conditions(backbone, asked, config(), 4)
    assert told.numbers.tolist() == [[6, 127, pytest.approx(0.02)]]
    drawn = torch.randn(
        (1, 3, HEIGHT, WIDTH),
        generator=torch.Generator().manual_seed(derive_seed(SEED, "augmentation")),
    )
    shown = asked.frames[:1] * 2 - 1 + 0.02 * drawn
    mode = backbone.vae.encode(shown).latent_dist.mode()
    torch.testing.assert_close(told.latents, mode.expand(4, -1, -1, -1))
    scaled = conditions(backbone, asked, config(image={"scaled": True}), 4).latents
    torch.testing.assert_close(scaled, 0.18215 * mode.expand(4, -1, -1, -1))
    both = told.of(range(1, 3), 2)
    assert [tuple(x.shape) for x in both] == [(2, 1, 32), (2, 2, 4, 4, 8), (2, 3)]
    assert not both[0][0].any()
    assert not both[1][0].any()
    assert torch.equal(both[2][0], both[2][1])
    alone = told.of(range(1, 3), 1)
    assert all(torch.equal(one[0], two[1]) for one, two in zip(alone, both, strict=True))


@torch.inference_mode()
def test_conditions_may_be_left_out_or_told_otherwise(backbone: SvdBackbone) -> None:
    plain = conditions(backbone, request(), config(), 4)
    less = conditions(backbone, request(), config(image={"clip": False, "latents": "first"}), 4)
    assert not less.embedding.any()
    assert torch.equal(less.latents[0], plain.latents[0])
    assert not less.latents[1:].any()
    assert not conditions(backbone, request(), config(image={"latents": "none"}), 4).latents.any()
    other = {"fps": 13, "motion_bucket": 20, "noise_aug": {"strength": 0.0, "told": 0.1}}
    found = conditions(backbone, request(), config(**other), 4)
    assert found.numbers.tolist() == [[12, 20, pytest.approx(0.1)]]
    images = request().frames[:3]
    whole = image_latents(backbone, images, torch.zeros_like(images))
    parts = image_latents(replace(backbone, chunk=1), images, torch.zeros_like(images))
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole[:1], found.latents[:1], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_only_the_first_frame_of_the_clip_and_the_seed_matter(backbone: SvdBackbone) -> None:
    one, other = request(), request()
    other.frames[1:] = 0.5
    say = lambda done, total: None  # noqa: E731
    first = sample(backbone, one, config(), say)
    assert torch.equal(sample(backbone, other, config(), say), first)
    assert not torch.equal(sample(backbone, replace(one, seed=1), config(), say), first)
    other.frames[0] = 0.5
    assert not torch.equal(sample(backbone, other, config(), say), first)


# --- Options of the loop


class Told:
    """The notes and the progress of a sample."""

    def __init__(self, backbone: SvdBackbone, clip: int = 4, **given: Any) -> None:
        self.notes: dict[str, Any] = {}
        self.steps: list[tuple[int, int]] = []
        asked = replace(request(clip), note=self.notes.__setitem__)
        show = lambda done, total: self.steps.append((done, total))  # noqa: E731
        self.video = sample(backbone, asked, config(**given), show)
        self.facts = self.notes["svd"]


@torch.inference_mode()
def test_guidance_on_a_part_of_the_steps_halves_the_others(backbone: SvdBackbone) -> None:
    told = Told(backbone, steps=4, guidance=ramp(1, 3, steps=[0.25, 0.75]))
    assert told.facts["unet_calls"] == 4
    assert told.facts["unet_frames"] == 4 * (1 + 2 + 2 + 1)
    assert told.steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    unguided = Told(backbone, steps=4, guidance=ramp(1, 1))
    assert unguided.facts["unet_frames"] == 16
    assert not torch.equal(told.video, unguided.video)


@torch.inference_mode()
def test_more_frames_than_the_clip_has(backbone: SvdBackbone) -> None:
    whole = made(backbone, 5)
    assert torch.equal(made(backbone, 3, frames=5), whole[:3])
    assert not torch.equal(made(backbone, 3), whole[:3])
    with pytest.raises(UserError, match="4 frames are fewer than the clip's 5"):
        made(backbone, 5, frames=4)


@torch.inference_mode()
def test_windows_of_a_long_video(backbone: SvdBackbone) -> None:
    plain = made(backbone, 5)
    one = made(backbone, 5, long={"window": 5, "overlap": 2})
    assert torch.equal(one, plain)
    told = Told(backbone, 5, long={"window": 3, "overlap": 1})
    assert told.facts["windows"] == 2
    assert told.facts["unet_calls"] == 4
    assert told.video.shape == plain.shape
    assert not torch.equal(told.video, plain)
    chunked = Told(backbone, 5, decode={"chunk": 2}, frames=7)
    assert chunked.notes["decode_borders"] == [2, 4]
    assert told.notes["decode_borders"] == []
    again = {"long": {"window": 3, "overlap": 1, "noise": "rescheduled"}}
    assert not torch.equal(made(backbone, 5, **again), told.video)


@torch.inference_mode()
def test_a_window_is_predicted_as_a_video_of_its_own(backbone: SvdBackbone) -> None:
    """Side by side, without guidance and decoded frame by frame, windows know nothing of others."""
    apart = {"guidance": ramp(1, 1), "decode": {"framewise": True}}
    both = made(backbone, 4, long={"window": 2}, **apart)
    torch.testing.assert_close(both[:2], made(backbone, 2, **apart), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changed",
    [
        {"alpha": {"value": 0.0}},
        {"alpha": {"value": 0.0, "networks": ["vae"]}},
        {"attention": {"spatial": {"pattern": "first"}}},
        {"attention": {"temporal": {"pattern": "window[1]"}}},
        {"cache": {"deep": 2}},
        {"decode": {"chunk": 2}},
        {"schedule": {"sampler": "consistency"}},
        {"schedule": {"sigmas": "ays"}},
        {"schedule": {"sigmas": "distilled"}},
        {"motion_bucket": 20},
        {"fps": 25},
        {"noise_aug": {"strength": 0.5}},
        {"image": {"clip": False}},
        {"image": {"scaled": True}},
        {"guidance": {"ramp": {"shape": "triangle"}}},
    ],
    ids=str,
)
@torch.inference_mode()
def test_every_option_reaches_the_frames_and_leaves_the_networks(
    backbone: SvdBackbone, changed: dict[str, Any]
) -> None:
    plain = made(backbone)
    assert not torch.equal(made(backbone, **changed), plain)
    assert torch.equal(made(backbone), plain)


@torch.inference_mode()
def test_what_spares_memory_or_time_changes_nothing(backbone: SvdBackbone) -> None:
    plain = made(backbone)
    spared = backbone.memory.model_copy(update={"forward_chunk": 2, "offload": True})
    sparing = replace(backbone, memory=spared)
    torch.testing.assert_close(made(sparing), plain, rtol=0, atol=1e-4)
    assert Told(sparing).notes["memory"] == {"forward_chunk": 2, "offload": True}
    torch.testing.assert_close(made(backbone, cache={"cross": True}), plain, rtol=0, atol=1e-5)


def test_sizes_that_do_not_fit_the_latents(backbone: SvdBackbone) -> None:
    odd = replace(request(), frames=torch.zeros(2, 3, 15, 16))
    with pytest.raises(UserError, match=r"frames of 16x15 pixels \(allowed: multiples of 2\)"):
        sample(backbone, odd, config(), lambda done, total: None)


# --- The configuration


def test_presets_are_the_released_settings() -> None:
    paper, large = SvdConfig(), SvdConfig(preset="paper_xt")
    repo = SvdConfig(preset="repo")
    scales = [(c.guidance.ramp.min, c.guidance.ramp.max) for c in (paper, large, repo)]
    assert scales == [(1, 2.5), (1.5, 3), (1, 3)]
    assert [c.steps for c in (paper, large, repo)] == [25, 30, 25]
    assert [c.decode.chunk for c in (paper, large, repo)] == [14, 14, None]
    for found in (paper, large, repo):
        assert (found.fps, found.motion_bucket, found.noise_aug.strength) == (7, 127, 0.02)
        assert found.guidance.ramp.shape == "linear"
        assert not found.image.scaled


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": 3, "schedule": {"sigmas": [9, 1]}}, "2 levels above 0, and steps is 3"),
        ({"steps": 2, "schedule": {"sigmas": [1, 9]}}, "sigmas fall"),
        ({"steps": 2, "schedule": {"sigmas": [9, 0, 0]}}, "sigmas fall"),
        ({"schedule": {"sigmas": "ays", "sigma_max": 80}}, "sigma_max and sigma_min are for"),
        ({"schedule": {"sigma_min": 5, "sigma_max": 1}}, "sigma_min is below sigma_max"),
        ({"steps": 41, "schedule": {"sigmas": "distilled"}}, "40 steps at most"),
        (
            {"decode": {"framewise": True}, "alpha": {"gain": 0.5, "networks": ["vae"]}},
            "take vae out of alpha.networks",
        ),
        ({"fps": 0.5}, "greater than or equal to 1"),
        ({"attention": {"spatial": {"pattern": "reference"}}}, "no reference image"),
    ],
)
def test_wrong_options(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SvdConfig.model_validate(given)


def test_the_registry_knows_the_method() -> None:
    assert METHODS.load("svd") is sample
    assert METHODS.entry("svd").extra["family"] == "svd"
    assert method_config("svd") is SvdConfig
