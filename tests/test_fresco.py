"""FRESCO's sampler and options: against plain diffusion, by switches, batches and invariants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import diffusers.schedulers.scheduling_ddpm as ddpm_module
import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from pydantic import ValidationError
from tiny_backbone import SCHEDULER, SIZE, tiny_backbone
from torch import Tensor

from crossframe.errors import UserError
from methods import METHODS, method_config
from methods.backbones import Backbone, decode_latents, encode_frames, encode_prompts
from methods.base import SampleRequest
from methods.ddpm import make_ddpm_schedule
from methods.fresco.config import FrescoConfig
from methods.fresco.parts import batch_parts, smoothed_steps
from methods.fresco.reference import kept_inputs, source_features
from methods.fresco.sampler import prepared, sample
from methods.networks import Networks
from methods.noise import frame_noise

QUICK = {
    "steps": 4,
    "loss": {"layers": [0, 1], "iterations": 1},
    "correspondence": {"flow": "exact", "occlusion": "exact", "photometric": None},
    "controls": [],
    "guidance": {"scale": 2.0},
}
PLAIN = {
    "attention": {"pattern": "individual"},
    "spatial_attention": {"on": False},
    "temporal_attention": {"on": False},
    "loss": {"spatial": 0.0, "temporal": 0.0},
}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone()


def make_config(*overrides: Mapping[str, Any]) -> FrescoConfig:
    merged: dict[str, Any] = {}
    for override in (QUICK, *overrides):
        for name, value in override.items():
            old = merged.get(name)
            both = isinstance(old, dict) and isinstance(value, Mapping)
            merged[name] = {**old, **value} if both else value
    return FrescoConfig.model_validate(merged)


def still_truth(f: int) -> dict[str, Tensor]:
    flow, hidden = torch.zeros(f - 1, 2, SIZE, SIZE), torch.zeros(f - 1, SIZE, SIZE).bool()
    return {
        "flow_forward": flow,
        "flow_backward": flow,
        "occluded_forward": hidden,
        "occluded_backward": hidden,
        "masks": torch.zeros(f, 1, SIZE, SIZE).bool(),
    }


def make_request(f: int, *, still: bool = False, seed: int = 5) -> SampleRequest:
    frames = torch.rand(f, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    if still:
        frames = frames[:1].repeat(f, 1, 1, 1)
    controls = {"edges": frames.flip(-1)}
    return SampleRequest(frames, "a red star", controls=controls, seed=seed, truth=still_truth(f))


def run(backbone: Backbone, request: SampleRequest, config: FrescoConfig) -> Tensor:
    return sample(backbone, request, config, lambda done, total: None)


# --- against plain diffusion ---------------------------------------------------------------------


def plain_sdedit(backbone: Backbone, request: SampleRequest, config: FrescoConfig, patch) -> Tensor:
    """Every frame by itself: diffusers' UNet and DDPM scheduler, classifier-free guidance."""
    scheduler = DDPMScheduler.from_config(SCHEDULER)
    scheduler.set_timesteps(config.steps)
    timesteps = scheduler.timesteps[config.steps - round(config.steps * config.strength) :]
    text = encode_prompts(backbone, ["", request.prompt])
    f = len(request.frames)
    clean = encode_frames(backbone, request.frames)
    shape = tuple(clean.shape[1:])
    noise = frame_noise(request.seed, ("initial",), f, shape, 1.0)
    latents = scheduler.add_noise(clean, noise, timesteps[:1])
    for index, timestep in enumerate(timesteps):
        drawn = frame_noise(request.seed, ("step", index), f, shape, 0.0)
        patch.setattr(ddpm_module, "randn_tensor", lambda *a, drawn=drawn, **k: drawn)
        uncond, cond = (
            backbone.unet(latents, timestep, states.expand(f, -1, -1)).sample for states in text
        )
        output = uncond + config.guidance.scale * (cond - uncond)
        latents = scheduler.step(output, timestep, latents).prev_sample
    return decode_latents(backbone, latents)


def test_with_all_switches_off_it_is_ancestral_sdedit_of_each_frame(backbone, monkeypatch):
    config, request = make_config(PLAIN), make_request(3)
    ours = run(backbone, request, config)
    with torch.no_grad():
        theirs = plain_sdedit(backbone, request, config, monkeypatch)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)


def test_the_networks_are_left_as_they_came(backbone):
    before = dict(backbone.unet.attn_processors)
    run(backbone, make_request(3), make_config())
    after = backbone.unet.attn_processors
    assert all(after[name] is before[name] for name in before)
    assert not any(module._forward_pre_hooks for module in backbone.unet.modules())


# --- five switches -------------------------------------------------------------------------------

OFF = {"loss": {"spatial": 0.0, "temporal": 0.0}}
SWITCHES = {
    "spatial_attention": {"spatial_attention": {"on": True}},
    "temporal_attention": {"temporal_attention": {"on": True}},
    "loss.spatial": {"loss": {"spatial": 100.0}},
    "loss.temporal": {"loss": {"temporal": 2.0}},
}
TABLE2 = {
    "baseline": (),
    "temporal": ("temporal_attention", "loss.temporal"),
    "spatial": ("spatial_attention", "loss.spatial"),
    "attention": ("temporal_attention", "spatial_attention"),
    "optimisation": ("loss.temporal", "loss.spatial"),
    "full": tuple(SWITCHES),
}


def table2(row: str) -> FrescoConfig:
    chosen = [SWITCHES[name] for name in TABLE2[row]]
    return make_config({**PLAIN, "attention": {"pattern": "full"}}, *chosen)


@pytest.mark.parametrize("row", TABLE2)
def test_a_switch_turns_on_its_part_and_no_other(backbone, row):
    config, request = table2(row), make_request(3)
    with torch.no_grad(), prepared(backbone, request, config) as state:
        parts = batch_parts(backbone, state, request, config, [0, 1, 2])
        guide = next(iter(parts.guides(0, 999).values()))
    on = {
        "spatial_attention": guide.query is not None,
        "temporal_attention": guide.output is not None,
        "loss.spatial": config.loss.spatial > 0,
        "loss.temporal": config.loss.temporal > 0,
    }
    assert {name for name, value in on.items() if value} == set(TABLE2[row])
    assert guide.tokens is not None
    assert config.loss.active == any(name.startswith("loss") for name in TABLE2[row])


def test_every_switch_changes_the_result(backbone):
    request = make_request(3)
    found = [run(backbone, request, table2(row)) for row in TABLE2]
    for i, one in enumerate(found):
        assert not any(torch.equal(one, other) for other in found[:i])


def test_guidance_has_its_steps_and_timesteps(backbone):
    config, request = make_config({"steps": 20}), make_request(2)
    with torch.no_grad(), prepared(backbone, request, config) as state:
        parts = batch_parts(backbone, state, request, config, [0, 1])
        guides = [
            next(iter(parts.guides(index, timestep).values()))
            for index, timestep in enumerate(state.schedule.timesteps)
        ]
    assert len(guides) == 15
    assert [guide.query is not None for guide in guides] == [True] + 14 * [False]
    assert [guide.output is not None for guide in guides] == 8 * [True] + 7 * [False]


def test_levels_of_guidance_are_those_asked_for(backbone):
    config = make_config({"spatial_attention": {"levels": [1]}})
    with torch.no_grad(), prepared(backbone, make_request(2), config) as state:
        parts = batch_parts(backbone, state, make_request(2), config, [0, 1])
        guide = next(iter(parts.guides(0, 999).values()))  # tiny up blocks attend at level 0 only
    assert guide.query is None
    assert guide.output is not None


# --- background ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "strength", "expected"),
    [(20, 0.75, [11, 12]), (20, 1.0, [16, 17]), (50, 1.0, [40, 41, 42, 43, 44]), (12, 1.0, [10])],
)
def test_pixels_are_smoothed_in_a_share_of_the_steps(steps, strength, expected):
    config = make_config({"steps": steps, "strength": strength})
    assert list(smoothed_steps(make_ddpm_schedule(SCHEDULER, steps, strength), config)) == expected


def test_smoothing_needs_a_saliency_and_is_of_two_sites(backbone):
    request = make_request(3)
    moved = {"saliency": "exact", "pixels": [0.5, 0.75]}
    variants = [
        {},
        {"smoothing": {**moved, "features": False, "pixels": None}},
        {"smoothing": {**moved, "features": False}},
        {"smoothing": {**moved, "pixels": None}},
        {"smoothing": moved},
    ]
    none, idle, *others = (run(backbone, request, make_config(x)) for x in variants)
    assert torch.equal(none, idle)
    for i, one in enumerate(others):
        assert not any(torch.equal(one, other) for other in (none, *others[:i]))


# --- batches -------------------------------------------------------------------------------------


def test_batches_do_not_matter_where_frames_are_on_their_own(backbone):
    request = make_request(7)
    one, several = (run(backbone, request, make_config(PLAIN, {"batch": size})) for size in (8, 3))
    torch.testing.assert_close(several, one, rtol=0, atol=1e-4)


def test_later_batches_see_the_anchors_of_the_earlier_ones(backbone, monkeypatch):
    """Before every step the first two latents are the clip's first and the last batch's last."""
    seen: list[tuple[list[int], int, Tensor]] = []
    predict = Networks.predict_part

    def spy(self, latents, timestep, scale, frames, **rest):
        seen.append((list(frames), timestep, latents.clone()))
        return predict(self, latents, timestep, scale, frames, **rest)

    monkeypatch.setattr(Networks, "predict_part", spy)
    run(
        backbone,
        make_request(6),
        make_config({"batch": 4}, PLAIN, {"attention": {"pattern": "full"}}),
    )
    by_batch: dict[tuple[int, ...], list[Tensor]] = {}
    for frames, _, latents in seen:
        by_batch.setdefault(tuple(frames), []).append(latents)
    (first, before), (second, after) = by_batch.items()
    assert (first, second) == ((0, 1, 2, 3), (0, 3, 4, 5))
    assert len(before) == len(after) == 3
    for earlier, later in zip(before, after, strict=True):
        assert torch.equal(later[:2], earlier[[0, -1]])


@pytest.mark.parametrize("f", [1, 2, 8])
def test_any_number_of_key_frames_makes_a_video(backbone, f):
    out = run(backbone, make_request(f), make_config({"batch": 4, "steps": 2}))
    assert out.shape == (f, 3, SIZE, SIZE)
    assert out.isfinite().all()


def test_a_still_source_with_common_noise_stays_still(backbone):
    """Where the features of the source, which have noise of their own, take no part.

    Nor may the losses: their gradients have the sign of rounding errors where nothing differs.
    """
    chosen = {"temporal_attention": {"on": True}}
    common = {"step_noise": "shared", "batch": 3, "attention": {"pattern": "full"}}
    config = make_config(PLAIN, chosen, common)
    out = run(backbone, make_request(5, still=True), config)
    torch.testing.assert_close(out, out[:1].expand_as(out), rtol=0, atol=5e-3)


def test_progress_and_repetition(backbone):
    request, config, calls = make_request(6), make_config({"batch": 4}), []
    one = sample(backbone, request, config, lambda done, total: calls.append((done, total)))
    assert calls == [(done, 6) for done in range(1, 7)]
    assert torch.equal(one, run(backbone, request, config))
    assert not torch.equal(one, run(backbone, replace(request, seed=6), config))


def test_controls_and_key_frames_take_part(backbone):
    request = make_request(5)
    plain = run(backbone, request, make_config())
    controlled = run(backbone, request, make_config({"controls": ["edges"]}))
    assert not torch.equal(plain, controlled)
    sparse = run(backbone, request, make_config({"keyframes": {"min": 2, "max": 2}}))
    assert sparse.shape == plain.shape
    assert not torch.equal(sparse, plain)


# --- features of the source ----------------------------------------------------------------------


def test_source_features_come_from_one_plain_call(backbone):
    config, request = make_config({"controls": ["edges"]}), make_request(2)
    clean = encode_frames(backbone, request.frames)
    noise = torch.randn_like(clean)
    with torch.no_grad(), prepared(backbone, request, config) as state:
        layers = state.networks.unet.layers
        found = source_features(state.networks, clean, noise, 1, 0.9, layers=layers, blocks=[0, 1])
        text = state.networks.text.repeat_interleave(2, 0)
    noisy = (0.9**0.5 * clean + 0.1**0.5 * noise).repeat(2, 1, 1, 1)
    with torch.no_grad(), kept_inputs(backbone.unet, layers, [0, 1]) as expected:
        backbone.unet(noisy, 1, text)
    assert layers
    for layer in layers:
        torch.testing.assert_close(found.tokens[layer], expected.tokens[layer])
    for block in (0, 1):
        torch.testing.assert_close(found.blocks[block], expected.blocks[block])


# --- options -------------------------------------------------------------------------------------


def test_presets_are_those_documented():
    repo, paper = FrescoConfig(), FrescoConfig(preset="paper")
    assert repo == FrescoConfig(preset="repo")
    assert (repo.steps, repo.strength, repo.guidance.scale, repo.batch) == (20, 0.75, 7.5, 8)
    assert (repo.loss.spatial, repo.loss.lr, repo.loss.iterations) == (100.0, 0.2, 20)
    assert (paper.loss.spatial, paper.loss.lr, paper.loss.spatial_norm) == (50.0, 0.4, "l2")
    assert (repo.attention.levels, paper.attention.levels) == ((0, 1), None)
    assert (repo.spatial_attention.steps, paper.spatial_attention.steps) == (1, None)
    assert (repo.temporal_attention.timesteps, paper.temporal_attention.timesteps) == (
        (350, 1000),
        None,
    )
    assert method_config("fresco") is FrescoConfig
    assert METHODS.entry("fresco").extra["needs_backbone"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"temporal_attention": {"timesteps": [900, 100]}}, "lowest, highest"),
        ({"controls": ["edges", "edges"]}, "twice"),
        ({"batch": 2}, "greater than or equal to 3"),
    ],
)
def test_impossible_options_are_refused(override, message):
    with pytest.raises(ValidationError, match=message):
        make_config(override)


def test_impossible_requests_are_told_all_at_once(backbone):
    request = replace(make_request(2), frames=torch.rand(2, 3, 18, 16))
    config = make_config({"loss": {"layers": [0, 3]}, "controls": ["depth"]})
    with pytest.raises(UserError) as caught:
        run(backbone, request, config)
    text = str(caught.value)
    assert "no up block 3" in text
    assert "do not divide" in text
    assert "controls: depth" in text
    with pytest.raises(UserError, match="no exact flow"):
        run(backbone, replace(make_request(2), truth={}), make_config())
