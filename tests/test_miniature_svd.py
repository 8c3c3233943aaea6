"""The miniature Stable Video Diffusion before training: closed forms of what it is trained on."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.models.resnet import AlphaBlender
from diffusers.schedulers import EulerDiscreteScheduler
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ablations.specfile import read_document
from crossframe.verbs.common import find_spec
from methods.svd.config import SvdConfig
from miniature import svd, svd_clips, svd_vae, vae
from miniature.export import load_judge
from miniature.svd_check import (
    BUCKETS,
    LEAST_COVERAGE,
    ORDINARY,
    SHAPES_HELD,
    STUDIED,
    least_coverage,
    motion,
    psnr,
    rank_correlation,
    restlessness,
    shapes_read,
    warping_error,
)
from miniature.svd_clips import FRAMES, Batch, Encoders, Take, bucket_of, draw_take
from miniature.world import DESIGN_FRAMES, Motion, draw_scene


@pytest.fixture(scope="module")
def autoencoder():
    """The untrained autoencoder, its residual branches made to act; no bias before the decoder."""
    net = vae.build().eval().requires_grad_(False)
    torch.manual_seed(1)
    for name, value in net.named_parameters():
        if "post_quant_conv.bias" not in name:
            value.add_(0.05 * torch.randn(value.shape))
    return net


@pytest.fixture(scope="module")
def encoders(autoencoder):
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        projection_dim=6,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=64,
        patch_size=32,
    )
    return Encoders(autoencoder, CLIPVisionModelWithProjection(config).eval())


# --- what motion means ---
def translation(velocity: tuple[float, float], pace: float, fps: int) -> Take:
    scene = replace(draw_scene(0), sprites=(), camera=Motion(velocity=velocity))
    return Take(scene, pace * np.arange(FRAMES), fps)


def test_speed_is_pixels_a_second() -> None:
    # 3 and 4 pixels a frame of the world are 5; half a frame each time, six times a second.
    assert translation((3.0, 4.0), 0.5, 6).speed == pytest.approx(5 * 0.5 * 6, rel=1e-4)


def test_buckets_are_the_stated_function_of_speed() -> None:
    assert bucket_of(16.0) == 128
    assert bucket_of(0.0) == 0
    assert bucket_of(1e6) == 255
    assert bucket_of((127 / 32) ** 2) == pytest.approx(127)
    slow, fast = (bucket_of(translation((1.0, 0.0), 1.0, fps).speed) for fps in (6, 12))
    assert fast == pytest.approx(math.sqrt(2) * slow, rel=1e-4)


def test_takes_are_reproducible_varied_and_in_view() -> None:
    takes = [draw_take("train", number) for number in range(60)]
    assert np.array_equal(takes[7].times, draw_take("train", 7).times)
    assert draw_take("heldout", 7).scene != takes[7].scene
    longest = svd_clips.PACES[1] * (FRAMES - 1)
    for take in takes:
        paces = np.diff(take.times)
        assert np.allclose(paces, paces[0])
        assert svd_clips.PACES[0] <= paces[0] <= svd_clips.PACES[1]
        assert take.times[0] >= (DESIGN_FRAMES - longest) / 2 - 1e-9
        assert take.times[-1] <= (DESIGN_FRAMES + longest) / 2 + 1e-9
        assert svd_clips.RATES[0] <= take.fps <= svd_clips.RATES[1]
    buckets = np.array([bucket_of(take.speed) for take in takes])
    assert buckets.min() < 60 < 140 < buckets.max()
    assert len({take.fps for take in takes}) > 4


# --- clips ---
def test_a_clip_is_kept_forwards_and_backwards(encoders) -> None:
    take = draw_take("train", 3)
    row = svd_clips.encode_take(encoders, take, torch.Generator().manual_seed(0))
    assert row["latents"].shape == (FRAMES, 4, 16, 16)
    assert row["given"].shape == (2, 4, 16, 16)
    assert row["context"].shape == (2, 1, 6)
    fps, bucket, strength = row["ids"].tolist()
    assert (fps, bucket) == (take.fps - 1, pytest.approx(bucket_of(take.speed)))
    scale = encoders.vae.config.scaling_factor
    for end, frame in ((0, 0), (1, -1)):
        clean = row["latents"][frame].float() / scale
        off = (row["given"][end].float() - clean).abs().mean()
        assert 0 < off < 4 * strength * clean.abs().mean()
    still = replace(take, times=take.times[[0] * FRAMES])
    assert not torch.equal(row["context"][0], row["context"][1])
    assert np.array_equal(still.frames()[0], take.frames()[0])


def test_batches_play_clips_both_ways(encoders, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CROSSFRAME_MINIATURE", str(tmp_path))
    monkeypatch.setattr(svd_clips, "SHARD", 2)
    torch.manual_seed(0)
    batch = svd_clips.draw_batch(encoders, 2, 24)
    assert batch.latents.shape == (24, FRAMES, 4, 16, 16)
    assert batch.context.shape == (24, 1, 6)
    stored = svd_clips.load_shard(encoders, 0)
    played = set()
    for latents, given, context, ids in zip(
        batch.latents, batch.given, batch.context, batch.ids, strict=True
    ):
        number = int((stored["ids"] == ids).all(1).nonzero()[0])
        back = int(torch.equal(given, stored["given"][number, 1]))
        forwards = stored["latents"][number]
        assert torch.equal(latents, forwards.flip(0) if back else forwards)
        assert torch.equal(context, stored["context"][number, back])
        played.add((number, back))
    assert len(played) == 4
    torch.manual_seed(0)
    assert torch.equal(svd_clips.draw_batch(encoders, 2, 24).latents, batch.latents)


# --- noise ---
def some_batch(count: int) -> Batch:
    torch.manual_seed(0)
    return Batch(
        torch.randn(count, 3, 4, 4, 4),
        torch.randn(count, 4, 4, 4),
        torch.randn(count, 1, 6),
        torch.rand(count, 3),
    )


def denoised(x: torch.Tensor, answer: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """c_skip x + c_out F of the network's preconditioning."""
    s = sigma[:, None, None, None, None]
    return x / (s**2 + 1) - s / (s**2 + 1).sqrt() * answer


def test_the_right_answer_gives_the_clean_clip_back() -> None:
    clean, noise, sigma = torch.randn(5, 3, 4, 4, 4), torch.randn(5, 3, 4, 4, 4), torch.rand(5) * 9
    noised = clean + sigma[:, None, None, None, None] * noise
    found = denoised(noised, svd.velocity(clean, noise, sigma), sigma)
    torch.testing.assert_close(found, clean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("deviation", [0.5, 2.0])
def test_the_best_answer_for_gaussian_clips_is_their_posterior_mean(sigma, deviation) -> None:
    """E[n|x] = sigma x / (s^2 + sigma^2) and E[x0|x] = s^2 x / (s^2 + sigma^2)."""
    x, level = torch.randn(1, 3, 4, 4, 4), torch.tensor([sigma])
    power = deviation**2 + sigma**2
    best = svd.velocity(deviation**2 / power * x, sigma / power * x, level)
    torch.testing.assert_close(denoised(x, best, level), deviation**2 / power * x)


def test_the_scheduler_reads_answers_the_same_way() -> None:
    schedule = EulerDiscreteScheduler(**svd.SCHEDULE)
    schedule.is_scale_input_called = True
    schedule.set_timesteps(10)
    x, answer = torch.randn(1, 3, 4, 4, 4), torch.randn(1, 3, 4, 4, 4)
    at = 4
    schedule._init_step_index(schedule.timesteps[at])
    step = schedule.step(answer, schedule.timesteps[at], x)
    sigma = schedule.sigmas[at]
    torch.testing.assert_close(step.pred_original_sample, denoised(x, answer, sigma[None]))
    assert float(schedule.timesteps[at]) == pytest.approx(math.log(float(sigma)) / 4, rel=1e-5)
    assert float(schedule.sigmas[0]) == pytest.approx(700.0)


def test_sigmas_follow_the_stated_density() -> None:
    torch.manual_seed(0)
    logs = svd.draw_sigmas(40_000).log()
    low, high = math.log(0.002), math.log(700)
    assert low - 1e-4 <= float(logs.min()) < float(logs.max()) <= high + 1e-4
    mean = 0.9 * svd.SIGMA_MEAN + 0.1 * (low + high) / 2
    assert float(logs.mean()) == pytest.approx(mean, abs=0.05)
    # Beyond three deviations there is next to nothing but the even part.
    rare = 0.1 * (high - svd.SIGMA_MEAN - 3 * svd.SIGMA_DEVIATION) / (high - low) + 0.9 * 0.00135
    share = (logs > svd.SIGMA_MEAN + 3 * svd.SIGMA_DEVIATION).float().mean()
    assert float(share) == pytest.approx(rare, rel=0.2)


def test_a_tenth_of_the_clips_lose_picture_and_context_together() -> None:
    batch = some_batch(3000)
    drawn = svd.draw(batch)
    no_picture = (drawn.batch.given == 0).flatten(1).all(1)
    no_context = (drawn.batch.context == 0).flatten(1).all(1)
    assert torch.equal(no_picture, no_context)
    assert float(no_picture.float().mean()) == pytest.approx(0.1, abs=0.02)
    assert torch.equal(drawn.batch.ids, batch.ids)
    assert torch.equal(drawn.batch.given[~no_picture], batch.given[~no_picture])
    found = denoised(drawn.noised, drawn.target, drawn.sigma)
    error = (found - batch.latents).flatten(1).abs().amax(1)
    assert (error < 1e-5 * (1 + drawn.sigma)).all()


# --- networks ---
@torch.no_grad()
def test_the_denoiser_starts_at_zero_with_equal_parts_of_space_and_time() -> None:
    net = svd.build().eval()
    batch = some_batch(2)
    batch = replace(
        batch, latents=torch.randn(2, FRAMES, 4, 16, 16), given=torch.randn(2, 4, 16, 16),
        context=torch.randn(2, 1, 64),
    )  # fmt: skip
    assert svd.answer(net, batch.latents, torch.tensor([0.1, 9.0]), batch).abs().max() == 0
    blenders = [module for module in net.modules() if isinstance(module, AlphaBlender)]
    assert len(blenders) == 14 + 10, "one for each resnet and each transformer"
    assert {float(blender.mix_factor.sigmoid()) for blender in blenders} == {0.5}


def test_both_networks_fit_into_twelve_megabytes(autoencoder) -> None:
    nets = (svd.build(), svd_vae.build(autoencoder))
    assert 2 * sum(p.numel() for net in nets for p in net.parameters()) <= 12e6


@torch.no_grad()
def test_the_temporal_decoder_starts_as_the_autoencoder_without_what_it_lacks(autoencoder) -> None:
    net = svd_vae.build(autoencoder).eval()
    images = draw_take("train", 0).frames()[:2] * 2 - 1
    z = autoencoder.encode(images).latent_dist.mean
    assert torch.equal(net.encode(images).latent_dist.mean, z)
    lacking = copy.deepcopy(autoencoder)
    for layer in (lacking.decoder.mid_block.resnets[1].conv2,
                  lacking.decoder.mid_block.attentions[0].to_out[0]):  # fmt: skip
        layer.weight.zero_()
        layer.bias.zero_()
    found = net.decode(z, num_frames=2).sample
    torch.testing.assert_close(found, lacking.decode(z).sample, rtol=1e-3, atol=1e-3)


def test_the_decoder_learns_all_that_it_runs_and_the_encoder_rests(autoencoder) -> None:
    net = svd_vae.build(autoencoder)
    net.decode(torch.randn(3, 4, 4, 4), num_frames=3).sample.square().mean().backward()
    ran = {name for name, value in net.named_parameters() if value.grad is not None}
    assert ran == {name for name, value in net.named_parameters() if value.requires_grad}
    assert {name.split(".")[0] for name in ran} == {"decoder"}


def test_the_pool_of_clips_grows_with_the_steps() -> None:
    assert svd.clips_at(0) == 500
    assert svd.clips_at(100) == 600
    assert svd.clips_at(10**6) == svd.MOST_CLIPS


# --- acceptance ---
def test_rank_correlation_has_its_closed_forms() -> None:
    assert rank_correlation([1, 2, 3, 4], [0.1, 5, 7, 90]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # 1 - 6 sum d^2 / (n (n^2 - 1)) with one pair of neighbours exchanged.
    assert rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(1 - 6 * 2 / 60)


def test_motion_and_warping_error_of_a_rendered_translation() -> None:
    take = translation((2.0, 0.0), 1.0, 8)
    frames = take.frames()
    assert motion(frames) == pytest.approx(2.0, rel=0.25)
    torch.manual_seed(0)
    flicker = (frames + 0.1 * torch.randn(FRAMES, 3, 1, 1)).clamp(0, 1)
    assert warping_error(frames) < 0.2 * warping_error(flicker)
    assert restlessness(frames, frames) == 0
    assert psnr(frames, (frames - 0.1).abs()) == pytest.approx(20, abs=1.5)


def test_frames_that_cannot_be_followed_are_noticed() -> None:
    """Noise that is drawn anew has next to nothing to follow, however small its warping error."""
    frames = translation((2.0, 0.0), 1.0, 8).frames()
    assert least_coverage(frames) > 0.8
    torch.manual_seed(0)
    assert least_coverage(torch.cat([frames, torch.rand(1, 3, 128, 128)])) < LEAST_COVERAGE


@torch.no_grad()
def test_shapes_are_read_in_the_last_frame_and_dissolve_with_it() -> None:
    judge = load_judge().eval()
    takes = [draw_take("heldout", number, sprites=1) for number in range(16)]
    assert {len(take.scene.sprites) for take in takes} == {1}
    held = [take.frames()[[0, -1]] for take in takes]
    assert shapes_read(judge, held, takes) >= SHAPES_HELD
    gone = [F.interpolate(F.avg_pool2d(v, 32), scale_factor=32.0) for v in held]
    assert shapes_read(judge, gone, takes) < SHAPES_HELD


def test_acceptance_is_at_the_setting_of_the_studies() -> None:
    config = SvdConfig.model_validate(STUDIED)
    assert (config.steps, config.motion_bucket) == (12, BUCKETS[ORDINARY])
    spec = read_document(find_spec("svd-alpha")).data
    told = spec["scales"][spec["scale"]]["base.motion_bucket"]
    assert {**spec["base"], "motion_bucket": told} == STUDIED
    assert tuple(read_document(find_spec("svd-bucket")).data["grid"]["motion_bucket"]) == BUCKETS
