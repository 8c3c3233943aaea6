"""Hallo's schedule, segments and training losses against published cases and closed forms."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from golden_case import Golden
from torch import Tensor

from methods.ddim import ddim_step, split
from methods.denoising import denoise
from methods.guidance import guide
from methods.hallo import training
from methods.hallo.schedule import SAMPLING, TRAINING, alpha_bars, sampling_schedule
from methods.hallo.segments import (
    Segment,
    audio_windows,
    draw_segments,
    motion_pictures,
    padded_samples,
    plan_segments,
    sound_frames,
)

GOLDEN = Path(__file__).parent / "golden" / "hallo"


@pytest.fixture(scope="module")
def published() -> Golden:
    return Golden("hallo/ddim_schedule")


@pytest.mark.parametrize("steps", [40, 25, 5, 1])
def test_timesteps_are_the_published_ones(published: Golden, steps: int) -> None:
    expected = published.output[f"timesteps.{steps}"].long().tolist()
    assert list(sampling_schedule(steps).timesteps) == expected


def test_signal_is_the_published_one_and_training_s_is_not(published: Golden) -> None:
    published.close(alpha_bars(SAMPLING), "alphas_cumprod")
    levels = alpha_bars(SAMPLING)
    assert levels[-1] == 0
    published.close(1 - levels / torch.cat([torch.ones(1), levels[:-1]]), "betas")
    schedule = sampling_schedule(40)
    published.close(torch.tensor(schedule.alpha_bar_next[-1]), "final_alpha_cumprod")
    # The sampler begins with standard normal noise, as it is.
    assert published.output["init_noise_sigma"].tolist() == [1.0]
    at = {betas: float(alpha_bars(betas)[749]) for betas in (SAMPLING, TRAINING)}
    assert at[SAMPLING] == pytest.approx(0.0134, abs=1e-4)
    assert at[TRAINING] == pytest.approx(0.0332, abs=1e-4)


@pytest.mark.parametrize(
    ("steps", "t"),
    [
        (1, 999),
        (25, 39),
        (25, 519),
        (25, 999),
        (40, 24),
        (40, 499),
        (40, 999),
        (5, 199),
        (5, 599),
        (5, 999),
    ],
)
def test_single_steps_are_the_published_ones(published: Golden, steps: int, t: int) -> None:
    schedule = sampling_schedule(steps)
    index = schedule.timesteps.index(t)
    sample, output = published.input["sample"], published.input["model_output"]
    clean, _ = split(schedule, index, sample, output)
    published.close(clean, f"step.{steps}.{t}.pred_original_sample")
    stepped = ddim_step(schedule, index, sample, output)
    published.close(stepped, f"step.{steps}.{t}.prev_sample")


def test_the_step_s_end_is_not_the_next_timestep_of_the_list_at_seven_steps() -> None:
    schedule = sampling_schedule(7)
    table = alpha_bars(SAMPLING).double()
    ends = [t - 1000 // 7 for t in schedule.timesteps]
    assert ends[:-1] != list(schedule.timesteps[1:])
    expected = [float(table[t]) if t >= 0 else 1.0 for t in ends]
    assert schedule.alpha_bar_next == pytest.approx(expected)


def test_the_loop_with_guidance_is_the_published_one() -> None:
    case = Golden("hallo/ddim_sampling")
    schedule = sampling_schedule(case.config["steps"])
    start = case.input["latents"][0].transpose(0, 1)  # (f, c, h, w)
    seen: dict[int, Tensor] = {}

    def predict(latents: Tensor, timestep: int, scale: float) -> Tensor:
        seen[timestep] = latents
        mixed = torch.einsum("ioc,fchw->ifohw", case.input["W"], latents)
        both = mixed + timestep / 1000 * case.input["b"][:, None, :, None, None]
        return guide(both.flatten(0, 1), scale, 2)

    scales = [case.config["cfg"]] * len(schedule)
    final = denoise(predict, schedule, scales, start)
    case.close(final.transpose(0, 1)[None], "final")
    assert list(seen) == case.output["timesteps"].long().tolist()
    after = torch.stack([*list(seen.values())[1:], final])
    case.close(after.transpose(1, 2), "trajectory")


def test_a_perfect_velocity_leads_to_the_picture_in_eight_steps() -> None:
    clean, noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    schedule = sampling_schedule(8)

    def predict(latents: Tensor, timestep: int, scale: float) -> Tensor:
        signal = schedule.alpha_bar[schedule.timesteps.index(timestep)]
        held = (latents - math.sqrt(signal) * clean) / math.sqrt(1 - signal)
        return training.velocity(clean[None], held[None], torch.tensor([signal]))[0]

    assert (denoise(predict, schedule, [1.0] * 8, noise) - clean).abs().max() < 1e-5


CASES = json.loads((GOLDEN / "segments.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=[str(case["samples"]) for case in CASES])
def test_segments_are_the_published_ones(case: dict) -> None:
    length, count = case["clip_length"], case["n_motion_frames"]
    assert sound_frames(case["samples"]) == case["audio_length"]
    assert padded_samples(case["samples"], length) == case["padded_samples"]
    assert sound_frames(case["padded_samples"]) == case["padded_length"]
    windows = audio_windows(case["padded_length"]).tolist()
    seen = []

    def draw(segment: Segment, motion: Tensor) -> Tensor:
        numbers = [int(value) for value in motion[:, 0, 0, 0]]
        seen.append(
            {
                "audio_frames": [segment.start, segment.stop],
                "audio_window": windows[segment.frames],
                "motion_frames": ["reference" if n < 0 else n for n in numbers],
                "output_frames": [segment.start, segment.stop],
            }
        )
        numbers = torch.arange(segment.start, segment.stop, dtype=torch.float32)
        return numbers[:, None, None, None].expand(-1, 3, 1, 1)

    kept = draw_segments(draw, torch.full((3, 1, 1), -1.0), case["audio_length"], length, count)
    assert seen == case["segments"]
    assert kept[:, 0, 0, 0].tolist() == list(range(case["frames_kept"]))


def test_sources_of_motion_frames() -> None:
    reference = torch.full((3, 2, 2), 0.2)
    drawn = torch.arange(4.0)[:, None, None, None].expand(4, 3, 2, 2)
    none = drawn[:0]
    assert motion_pictures("previous", reference, drawn, 2)[:, 0, 0, 0].tolist() == [2, 3]
    assert motion_pictures("previous", reference, none, 2).unique().tolist() == [reference[0, 0, 0]]
    assert (motion_pictures("reference", reference, drawn, 2) == reference).all()
    assert (motion_pictures("grey", reference, drawn, 2) == 0.5).all()
    assert motion_pictures("previous", reference, drawn, 0).shape == (0, 3, 2, 2)


def test_the_last_segment_may_exceed_the_clip() -> None:
    assert [(s.start, s.stop) for s in plan_segments(17, 8)] == [(0, 8), (8, 16), (16, 24)]


def test_noise_and_velocity_are_a_rotation_of_picture_and_noise() -> None:
    generator = torch.Generator().manual_seed(1)
    clean, noise = torch.randn(2, 3, 4, 2, 5, 5, generator=generator).unbind()
    level = torch.tensor([0.0, 0.3, 1.0])
    mixed = training.noised(clean, noise, level)
    speed = training.velocity(clean, noise, level)
    size = clean.square() + noise.square()
    assert torch.allclose(mixed.square() + speed.square(), size, atol=1e-5)
    assert torch.equal(mixed[0], noise[0])
    assert torch.equal(speed[0], -clean[0])
    assert torch.equal(mixed[2], clean[2])
    x, out = mixed[1], speed[1]
    assert torch.allclose(math.sqrt(0.3) * x - math.sqrt(0.7) * out, clean[1], atol=1e-5)


def test_weights_are_those_measured_on_the_released_code() -> None:
    weights = training.snr_weights(alpha_bars(TRAINING))
    assert float(weights.mean()) == pytest.approx(0.913, abs=1e-3)
    assert float(weights[0]) == pytest.approx(0.0043, abs=1e-4)
    assert float(weights[100]) == pytest.approx(0.57, abs=5e-3)
    assert float((weights < 1).float().mean()) == pytest.approx(0.16, abs=5e-3)
    assert float(weights[-1]) == 1


def test_per_sample_and_batch_mean_weights_differ_as_their_covariance() -> None:
    target = torch.zeros(2, 4)
    predicted = torch.tensor([[1.0] * 4, [3.0] * 4])
    weights = torch.tensor([1.0, 0.5])
    per_sample = training.weighted_error(predicted, target, weights)
    released = training.weighted_error(predicted, target, weights, "batch_mean")
    assert float(per_sample) == pytest.approx((1 + 4.5) / 2)
    assert float(released) == pytest.approx(5 * 0.75)
    focus = torch.tensor([2.0, 0.0, 0.0, 0.0])
    focused = training.weighted_error(predicted, target, weights, focus=focus)
    assert float(focused) == pytest.approx((1 * 2 / 4 + 9 * 2 / 4 * 0.5) / 2)


def test_offset_is_one_for_all_frames_and_pixels() -> None:
    noise, offset = torch.zeros(2, 4, 3, 5, 5), torch.arange(8.0).reshape(2, 4)
    shifted = training.offset_noise(noise, offset)
    assert torch.allclose(shifted, 0.05 * offset[:, :, None, None, None].expand_as(noise))


def shares(rates: training.DropRates, draws: int = 5_000) -> Counter:
    uniform = torch.rand(draws, 5, generator=torch.Generator().manual_seed(0))
    return Counter(training.draw_drops(rates, row) for row in uniform)


def test_stage_one_drops_identity_and_reference_together() -> None:
    found = shares(training.STAGE_1)
    both = training.Dropped(identity=True, reference=True)
    assert set(found) == {training.Dropped(), both}
    assert found[both] / found.total() == pytest.approx(0.1, abs=0.015)


def test_stage_two_as_released_hardly_ever_drops_all_that_guidance_leaves_out() -> None:
    found = shares(training.STAGE_2)
    assert not any(drop.identity or drop.region for drop in found)
    for name in ("reference", "audio", "motion"):
        share = sum(n for drop, n in found.items() if getattr(drop, name)) / found.total()
        assert share == pytest.approx(0.05, abs=0.01)
    both = sum(n for drop, n in found.items() if drop.reference and drop.audio) / found.total()
    assert both == pytest.approx(0.0025, abs=0.002)


def test_stage_two_as_meant_trains_the_branch_without_conditions() -> None:
    found = shares(training.STAGE_2_JOINT)
    null = [d for d in found if d.identity and d.reference and d.audio and d.region]
    assert sum(found[d] for d in null) / found.total() == pytest.approx(0.05, abs=0.01)
    assert all(d in null for d in found if d.identity or d.region)


def test_stages_train_the_published_parameters() -> None:
    with gzip.open(GOLDEN / "net_keys.json.gz") as file:
        shapes = json.load(file)["keys"]
    sizes = {n: math.prod(s) for n, s in shapes.items() if not n.endswith("pos_encoder.pe")}
    second = {name for name in sizes if training.trains(name, 2)}
    assert sum(sizes[name] for name in second) == 453_209_280 + 212_798_080 + 36_465_152
    assert {name for name in sizes if training.trains(name, 1)} == sizes.keys() - second
