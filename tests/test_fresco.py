"""FRESCO's sampler and options: against plain diffusion, by switches, batches and invariants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pkgutil import resolve_name
from typing import Any

import diffusers.schedulers.scheduling_ddpm as ddpm_module
import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from pydantic import ValidationError
from tiny_backbone import SCHEDULER, SIZE, tiny_backbone
from torch import Tensor

from ablations.check import load_spec
from ablations.shipped import shipped_parts
from crossframe.errors import NotAvailable, UserError
from crossframe.verbs.common import find_spec
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
from methods.options import merge

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
    "encode": "mode",
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


def opened_run(backbone: Backbone, request: SampleRequest, config: FrescoConfig):
    return prepared(backbone, request, config, range(len(request.frames)))


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


def test_clean_latents_are_never_clipped(backbone):
    """As in the released step; a scheduler's file that is silent means clipping to diffusers."""
    silent = {name: value for name, value in SCHEDULER.items() if name != "clip_sample"}
    request, config = make_request(2), make_config(PLAIN)
    assert make_ddpm_schedule(silent, 4).clip is not None
    found = run(replace(backbone, scheduler_config=silent), request, config)
    assert torch.equal(found, run(backbone, request, config))


# --- frames as latents ---------------------------------------------------------------------------


def test_the_source_is_drawn_from_its_posterior_once(backbone, monkeypatch):
    request, config = make_request(6), make_config({"batch": 4})
    shape = (4, SIZE // 2, SIZE // 2)
    noise = frame_noise(request.seed, ("encoding",), 6, shape, 0.0)
    with torch.no_grad(), opened_run(backbone, request, config) as state:
        assert torch.equal(state.clean, encode_frames(backbone, request.frames, noise))
    seen: list[int] = []

    def count(backbone, frames, noise=None):
        seen.append(len(frames))
        return encode_frames(backbone, frames, noise)

    monkeypatch.setattr("methods.fresco.parts.encode_frames", count)
    run(backbone, request, config)
    assert seen == [6]


def test_the_mode_and_draws_of_the_posterior_differ_at_the_start_and_after_smoothing(backbone):
    request = make_request(3)
    smooth = {"strength": 1.0, "smoothing": {"saliency": "exact", "pixels": [0, 1]}}
    for base in (PLAIN, {**PLAIN, **smooth}):
        one, other = (run(backbone, request, make_config(base, {"encode": x})) for x in MODES)
        assert not torch.equal(one, other)
    free = {**PLAIN, "strength": 1.0}
    one, other = (run(backbone, request, make_config(free, {"encode": x})) for x in MODES)
    assert torch.equal(one, other)


MODES = ("mode", "sample")


# --- five switches -------------------------------------------------------------------------------

TABLE2 = {
    "baseline": set(),
    "w/ temp": {"temporal_attention.on", "loss.temporal"},
    "w/ spat": {"spatial_attention.on", "loss.spatial"},
    "w/ attn": {"temporal_attention.on", "spatial_attention.on"},
    "w/ opt": {"loss.temporal", "loss.spatial"},
    "full": {"temporal_attention.on", "spatial_attention.on", "loss.temporal", "loss.spatial"},
}
PARTS = {
    "spatial_attention.on": ("methods.fresco.attention", "spatial_queries"),
    "temporal_attention.on": ("methods.fresco.attention", "temporal_outputs"),
    "loss.spatial": ("methods.fresco.optimise", "add_spatial_gradient"),
    "loss.temporal": ("methods.fresco.temporal.Temporal", "build"),
}


@pytest.fixture(scope="module")
def table2() -> dict[str, Mapping[str, Any]]:
    rows = load_spec(find_spec("fresco-table2"), (), shipped_parts()).rows
    return {row.label: row.config for row in rows if row.method == "fresco"}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in config.items():
        inner = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return found


def test_rows_of_table_2_differ_in_their_switches_alone(table2):
    assert table2.keys() == TABLE2.keys()
    baseline = flat(table2["baseline"])
    for row, switches in TABLE2.items():
        config = flat(table2[row])
        assert {name for name in config if config[name] != baseline[name]} == switches


def test_a_switch_runs_its_part_and_no_other(backbone, table2, monkeypatch):
    """The sampler is watched: what each row of Table 2 builds and what it leaves out."""
    seen: set[str] = set()

    def watch(name: str, original):
        def call(*args, **options):
            seen.add(name)
            return original(*args, **options)

        return call

    for name, (place, part) in PARTS.items():
        original = getattr(resolve_name(place), part)
        monkeypatch.setattr(f"{place}.{part}", watch(name, original))
    request, results = make_request(3), []
    small = {"steps": 4, "controls": [], "loss": {"layers": [0, 1], "iterations": 1}}
    for row, switches in TABLE2.items():
        seen.clear()
        config = FrescoConfig.model_validate(merge(table2[row], small))
        results.append(run(backbone, request, config))
        assert seen == switches
        assert not any(torch.equal(results[-1], other) for other in results[:-1])


def test_guidance_has_its_steps_and_timesteps(backbone):
    config, request = make_config({"steps": 20}), make_request(2)
    with torch.no_grad(), opened_run(backbone, request, config) as state:
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
    with torch.no_grad(), opened_run(backbone, make_request(2), config) as state:
        parts = batch_parts(backbone, state, make_request(2), config, [0, 1])
        guide = next(iter(parts.guides(0, 999).values()))  # tiny up blocks attend at level 0 only
    assert guide.query is None
    assert guide.output is not None


@pytest.mark.parametrize(
    ("attention", "share"),
    [
        ({"tokens": "unseen"}, 1 / 3),  # nothing is hidden: the first frame alone
        ({"tokens": "all"}, 1.0),
        ({"pattern": "first"}, 1 / 3),
        ({"pattern": "first+previous"}, (1 + 1 + 2) / 9),
    ],
)
def test_the_share_of_attended_tokens_is_noted(backbone, attention, share):
    notes: dict[str, Any] = {}
    request = replace(make_request(3), note=notes.__setitem__)
    run(backbone, request, make_config(PLAIN, {"attention": {"pattern": "full", **attention}}))
    assert notes["attended_tokens"] == pytest.approx(share)


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
    with torch.no_grad(), opened_run(backbone, request, config) as state:
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
        ({"spatial_attention": {"levels": [1, 2]}}, "levels has 2, but attention.levels only 0, 1"),
        ({"temporal_attention": {"levels": [3]}}, "temporal_attention.levels has 3"),
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


@pytest.mark.parametrize("guidance", [{"on": False, "levels": [2]}, {"levels": [0]}])
def test_levels_of_guidance_that_are_off_or_take_part_are_allowed(guidance):
    make_config({"spatial_attention": guidance})
    make_config({"attention": {"levels": None}, "temporal_attention": {"levels": [3]}})


# --- sizes ---------------------------------------------------------------------------------------


def sized(f: int, height: int, width: int) -> SampleRequest:
    frames = torch.rand(f, 3, height, width, generator=torch.Generator().manual_seed(2))
    flow, hidden = torch.ones(f - 1, 2, height, width), torch.zeros(f - 1, height, width).bool()
    names = ("flow_forward", "flow_backward", "occluded_forward", "occluded_backward")
    truth = dict(zip(names, (flow, -flow, hidden, hidden), strict=True))
    return SampleRequest(frames, "", truth=truth)


@pytest.mark.parametrize(("height", "width"), [(16, 24), (28, 16)])
def test_frames_need_not_be_square(backbone, height, width):
    config = make_config({"keyframes": {"min": 2, "max": 2}, "smoothing": {"pixels": None}})
    found = run(backbone, sized(4, height, width), config)
    assert found.shape == (4, 3, height, width)
    assert found.isfinite().all()


@pytest.mark.parametrize(
    ("options", "multiple"),
    [
        ({"loss": {"layers": [1]}, "attention": {"levels": [0]}}, None),
        ({"loss": {"layers": [0, 1]}, "attention": {"levels": [0]}}, 4),
        ({"loss": {"layers": [1]}, "attention": {"levels": None}}, 4),
        (
            {"loss": {"layers": [0], "spatial": 0, "temporal": 0}, "attention": {"levels": [0]}},
            None,
        ),
    ],
)
def test_sides_divide_into_the_features_that_meet_the_flow(backbone, options, multiple):
    """16x9 in small: 18 pixels are 9 latents, which have no even half."""
    request, config = sized(2, 18, 32), make_config(options)
    if multiple is None:
        assert run(backbone, request, config).shape == (2, 3, 18, 32)
    else:
        with pytest.raises(UserError, match=f"multiples of {multiple}"):
            run(backbone, request, config)


# --- EbSynth -------------------------------------------------------------------------------------


def test_an_absent_program_is_told_before_anything_is_drawn(backbone, monkeypatch):
    """And only where it has something to paint."""
    monkeypatch.setattr(Networks, "predict_part", undrawn)
    absent = {"between": {"by": "ebsynth", "ebsynth": "/nowhere/ebsynth"}}
    config = make_config(absent, {"keyframes": {"min": 2, "max": 2}})
    with pytest.raises(NotAvailable, match="/nowhere/ebsynth"):
        run(backbone, make_request(4), config)
    with pytest.raises(AssertionError, match="drawn"):
        run(backbone, make_request(4), make_config(absent))


def undrawn(*args, **options):
    raise AssertionError("drawn")
