"""ControlVideo's sampler against diffusers' own parts, closed forms and invariants."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from pydantic import ValidationError
from torch import Tensor

from crossframe.errors import UserError
from methods import METHODS, method_config
from methods.axes import Guidance, shared_fraction
from methods.backbones import Backbone, encode_prompts
from methods.base import SampleRequest
from methods.control import branch_residuals, embed_condition
from methods.controlvideo.config import ControlVideoConfig
from methods.controlvideo.sampler import prepared, sample
from methods.ddim import ddim_step, make_schedule
from methods.denoising import denoise, guidance_scales
from methods.guidance import guide, ramp_scales
from methods.noise import frame_noise
from methods.options import SentinelConfig
from tests.tiny_backbone import SCHEDULER, SIZE, tiny_backbone, tiny_controlnet

FRAMES = 3


def quiet(done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone()


@pytest.fixture(scope="module")
def request_() -> SampleRequest:
    return make_request()


def make_request(frames: int = FRAMES, seed: int = 5) -> SampleRequest:
    maps = torch.Generator().manual_seed(0)
    shape = (6, 3, SIZE, SIZE)
    drawn = [torch.rand(shape, generator=maps)[:frames] for _ in range(3)]
    return SampleRequest(
        frames=drawn[0],
        prompt="a red star",
        negative_prompt="blue stripes",
        controls={"edges": drawn[1], "depth": drawn[2]},
        seed=seed,
    )


def config(**options: Any) -> ControlVideoConfig:
    return ControlVideoConfig.model_validate({"steps": 3, "guidance": {"scale": 4.0}, **options})


INDIVIDUAL = {"attention": {"pattern": "individual"}}


# --- DDIM


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("clip", [False, True])
def test_steps_equal_the_scheduler(prediction: str, eta: float, clip: bool) -> None:
    settings = {**SCHEDULER, "prediction_type": prediction, "clip_sample": clip}
    scheduler = DDIMScheduler.from_config(settings)
    scheduler.set_timesteps(7)
    schedule = make_schedule(settings, 7)
    assert list(schedule.timesteps) == scheduler.timesteps.tolist()
    for index, timestep in enumerate(schedule.timesteps):
        generator = torch.Generator().manual_seed(index)
        latents, output, noise = torch.randn((3, 2, 4, 5, 5), generator=generator)
        expected = scheduler.step(output, timestep, latents, eta=eta, variance_noise=noise)
        actual = ddim_step(schedule, index, latents, output, eta=eta, noise=noise)
        torch.testing.assert_close(actual, expected.prev_sample, rtol=1e-5, atol=1e-5)


def test_true_noise_leads_back_to_the_clean_sample() -> None:
    schedule = make_schedule({**SCHEDULER, "set_alpha_to_one": True}, 9)
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn((2, 1, 4, 6, 6), generator=generator)
    start = math.sqrt(schedule.alpha_bar[0]) * clean + math.sqrt(1 - schedule.alpha_bar[0]) * noise
    end = denoise(lambda x, t, s: noise, schedule, [1.0] * 9, start)
    torch.testing.assert_close(end, clean, rtol=0, atol=2e-5)


def test_edit_replaces_the_clean_sample_and_keeps_the_noise() -> None:
    schedule = make_schedule(SCHEDULER, 4)
    latents, output, other = torch.randn(
        (3, 2, 4, 5, 5), generator=torch.Generator().manual_seed(0)
    )
    seen: list[int] = []

    def edit(clean: Tensor, index: int) -> Tensor:
        seen.append(index)
        return other

    actual = ddim_step(schedule, 1, latents, output, edit=edit)
    after = schedule.alpha_bar_next[1]
    torch.testing.assert_close(actual, math.sqrt(after) * other + math.sqrt(1 - after) * output)
    assert seen == [1]


@pytest.mark.parametrize(("strength", "kept"), [(1.0, 10), (0.75, 8), (0.5, 5), (0.01, 1)])
def test_strength_keeps_the_last_steps(strength: float, kept: int) -> None:
    whole, part = make_schedule(SCHEDULER, 10), make_schedule(SCHEDULER, 10, strength)
    assert part.timesteps == whole.timesteps[-kept:]
    assert part.alpha_bar_next == whole.alpha_bar_next[-kept:]


def test_paper_timesteps() -> None:
    timesteps = make_schedule(SCHEDULER, 50).timesteps
    assert (timesteps[0], timesteps[1], timesteps[-1]) == (981, 961, 1)


@pytest.mark.parametrize(
    ("settings", "steps", "said"),
    [
        ({"num_train_timesteps": 20}, 21, "allowed: 1..20"),
        ({"thresholding": True}, 4, "thresholding: false"),
        ({"prediction_type": "flow"}, 4, "epsilon, v_prediction, sample"),
        ({}, 1000, "use fewer steps"),
    ],
)
def test_impossible_schedules_say_why(settings: dict[str, Any], steps: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_schedule({**SCHEDULER, **settings}, steps)


# --- Guidance


def test_ramp_closed_forms() -> None:
    assert ramp_scales(1, 9, "linear", 5) == (1, 3, 5, 7, 9)
    assert ramp_scales(9, 1, "linear", 5) == (9, 7, 5, 3, 1)
    assert ramp_scales(1, 9, "constant", 3) == (5, 5, 5)
    cosine = ramp_scales(1, 9, "cosine", 5)
    root = 4 * math.sqrt(0.5)
    assert cosine == pytest.approx((1, 5 - root, 5, 5 + root, 9))
    assert sum(cosine) / 5 == pytest.approx(5)
    assert ramp_scales(2, 8, "linear", 1) == (2,)


def test_guidance_scale_of_each_step() -> None:
    assert guidance_scales(Guidance(scale=7.5), 3) == (7.5,) * 3
    ramp = Guidance.model_validate({"scale": 7.5, "ramp": {"min": 1, "max": 3, "shape": "linear"}})
    assert guidance_scales(ramp, 3) == (1, 2, 3)


def test_guide_extrapolates_from_the_first_half() -> None:
    uncond, cond = torch.randn((2, 3, 4), generator=torch.Generator().manual_seed(0))
    both = torch.cat([uncond, cond])
    torch.testing.assert_close(guide(both, 2.5, 2), 2.5 * cond - 1.5 * uncond)
    assert guide(cond, 1.0, 1) is cond


# --- Noise


def test_noise_of_a_frame_depends_on_seed_stream_and_index_only() -> None:
    few, many = (frame_noise(3, ("a",), f, (4, 5, 5), 0.3) for f in (2, 7))
    assert torch.equal(few, many[:2])
    assert not torch.equal(few, frame_noise(3, ("b",), 2, (4, 5, 5), 0.3))
    assert not torch.equal(few, frame_noise(4, ("a",), 2, (4, 5, 5), 0.3))


@pytest.mark.parametrize("shared", [0.0, 0.4, 1.0])
def test_noise_is_standard_and_correlates_by_the_shared_fraction(shared: float) -> None:
    noise = frame_noise(0, ("x",), 6, (100_000,), shared)
    covariance = torch.cov(noise)
    expected = torch.full((6, 6), shared).fill_diagonal_(1.0)
    torch.testing.assert_close(covariance, expected, rtol=0, atol=0.015)


def test_shared_and_independent_are_the_ends_of_mixed() -> None:
    for text, fraction in [("shared", 1), ("independent", 0), ("mixed:1", 1), ("mixed:0.25", 0.25)]:
        assert shared_fraction(text) == fraction
    assert config(noise="mixed:1.0").noise == "shared"
    assert config(noise="mixed:0").noise == "independent"
    assert config(noise="mixed:0.50").noise == "mixed:0.5"


# --- The sampler


def plain_loop(backbone: Backbone, request: SampleRequest, options: ControlVideoConfig) -> Tensor:
    """One frame at a time with nothing but diffusers: what a user would write by hand."""
    scheduler = DDIMScheduler.from_config(dict(backbone.scheduler_config))
    scheduler.set_timesteps(options.steps)
    text = encode_prompts(backbone, [request.negative_prompt, request.prompt])
    side, scale = SIZE // 2, options.guidance.scale
    noise = frame_noise(request.seed, ("initial",), len(request.frames), (4, side, side), 0.0)
    videos = []
    for i, latents in enumerate(noise.split(1)):
        for t in scheduler.timesteps:
            batch, residuals = torch.cat([latents] * 2), []
            for kind in options.controls:
                maps = torch.cat([request.controls[kind][i : i + 1]] * 2)
                net = backbone.controlnets[kind]
                weight = options.controlnet_scale
                residuals.append(
                    net(batch, t, text, maps, conditioning_scale=weight, return_dict=False)
                )
            extra: dict[str, Any] = {}
            if residuals:
                down = [sum(same) for same in zip(*(d for d, _ in residuals), strict=True)]
                extra["down_block_additional_residuals"] = down
                extra["mid_block_additional_residual"] = sum(m for _, m in residuals)
            uncond, cond = backbone.unet(batch, t, text, **extra).sample.chunk(2)
            latents = scheduler.step(uncond + scale * (cond - uncond), t, latents).prev_sample
        decoded = backbone.vae.decode(latents / backbone.vae.config.scaling_factor).sample
        videos.append((decoded / 2 + 0.5).clamp(0, 1))
    return torch.cat(videos)


@pytest.mark.parametrize("controls", [[], ["edges"], ["edges", "depth"]])
@torch.inference_mode()
def test_individual_frames_equal_a_plain_diffusers_loop(
    backbone: Backbone, request_: SampleRequest, controls: list[str]
) -> None:
    options = config(**INDIVIDUAL, controls=controls, controlnet_scale=0.7)
    expected = plain_loop(backbone, request_, options)
    actual = sample(backbone, request_, options, quiet)
    assert actual.shape == request_.frames.shape
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attention.pattern", "first"),
        ("attention.alpha", 0.5),
        ("attention.levels", [1]),
        ("attention.blocks", ["up"]),
        ("attention.timesteps", [0, 500]),
        ("controlnet_attention.pattern", "full"),
        ("group_norm", "pooled"),
        ("controlnet_group_norm", "pooled"),
        ("residuals_in_place", True),
        ("noise", "shared"),
        ("steps", 4),
        ("scheduler", "dpmpp"),
        ("strength", 0.6),
        ("eta", 0.5),
        ("guidance.scale", 2.0),
        ("guidance.ramp", {"min": 1, "max": 7}),
        ("controls", ["depth"]),
        ("controlnet_scale", 0.5),
        ("prompt_suffix", " on stripes"),
        ("smoother", {"on": True, "interpolator": "linear"}),
        ("hierarchical", {"on": True, "window": 3}),
    ],
)
def test_every_option_reaches_the_frames(
    backbone: Backbone, request_: SampleRequest, name: str, value: Any
) -> None:
    group, _, leaf = name.partition(".")
    options = {group: {leaf: value} if leaf else value}
    base = sample(backbone, request_, config(), quiet)
    assert not torch.equal(sample(backbone, request_, config(**options), quiet), base)


def test_options_that_need_company(backbone: Backbone, request_: SampleRequest) -> None:
    """Step noise acts with eta and in DDPM; the configured negative prompt for want of another."""
    noisy = [
        sample(backbone, request_, config(eta=0.5, step_noise=noise), quiet)
        for noise in ("shared", "independent")
    ]
    assert not torch.equal(*noisy)
    silent = replace(request_, negative_prompt="")
    other = sample(backbone, request_, config(scheduler="ddpm", step_noise="shared"), quiet)
    plain = sample(backbone, request_, config(scheduler="ddpm"), quiet)
    assert not torch.equal(other, plain)
    configured = sample(backbone, silent, config(negative_prompt="blue stripes"), quiet)
    assert torch.equal(configured, sample(backbone, request_, config(), quiet))


def test_samples_are_reproducible_and_independent_of_their_neighbours(
    backbone: Backbone, request_: SampleRequest
) -> None:
    options = config(eta=0.3, preset="repo")
    first = sample(backbone, request_, options, quiet)
    torch.manual_seed(99)
    sample(backbone, make_request(seed=6), config(), quiet)
    assert torch.equal(sample(backbone, request_, options, quiet), first)
    assert not torch.equal(sample(backbone, make_request(seed=6), options, quiet), first)


def test_a_frame_does_not_depend_on_the_frame_count(backbone: Backbone) -> None:
    options = config(**INDIVIDUAL, eta=0.3)
    short, long = (sample(backbone, make_request(frames=f), options, quiet) for f in (2, 5))
    torch.testing.assert_close(long[:2], short, rtol=0, atol=1e-5)


def test_networks_may_compute_in_half_precision(request_: SampleRequest) -> None:
    made, half = tiny_backbone(), torch.bfloat16
    exact = sample(made, request_, config(preset="repo", prompt_suffix=""), quiet)
    for net in (made.unet, made.vae, made.text_encoder, *made.controlnets.values()):
        net.to(half)
    rounded = sample(
        replace(made, dtype=half), request_, config(preset="repo", prompt_suffix=""), quiet
    )
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.1)
    assert not torch.equal(rounded, exact)


def test_networks_are_as_before(backbone: Backbone, request_: SampleRequest) -> None:
    nets = [backbone.unet, *backbone.controlnets.values()]
    before = [[(name, id(module)) for name, module in net.named_modules()] for net in nets]
    hooks = [sum(len(m._forward_pre_hooks) for m in net.modules()) for net in nets]
    sample(backbone, request_, config(preset="repo", steps=1), quiet)
    assert [[(name, id(m)) for name, m in net.named_modules()] for net in nets] == before
    assert [sum(len(m._forward_pre_hooks) for m in net.modules()) for net in nets] == hooks


def test_scale_one_skips_the_unconditional_half(
    backbone: Backbone, request_: SampleRequest
) -> None:
    batches: list[int] = []
    hook = backbone.unet.conv_in.register_forward_hook(lambda m, a, o: batches.append(len(o)))
    ramp = {"guidance": {"ramp": {"min": 1, "max": 3}}}
    try:
        sample(backbone, request_, config(**ramp), quiet)
    finally:
        hook.remove()
    assert batches == [FRAMES, 2 * FRAMES, 2 * FRAMES]
    one = sample(backbone, request_, config(guidance={"scale": 1.0}), quiet)
    near = sample(backbone, request_, config(guidance={"scale": 1.0 + 1e-6}), quiet)
    torch.testing.assert_close(one, near, rtol=0, atol=1e-4)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@torch.inference_mode()
def test_cached_condition_equals_embedding_in_every_call(
    backbone: Backbone, request_: SampleRequest, order: str
) -> None:
    net = tiny_controlnet(order=order)
    own = replace(backbone, controlnets={"edges": net})
    maps = request_.controls["edges"]
    text = encode_prompts(backbone, ["blue", "red"]).repeat_interleave(FRAMES, 0)
    batch = torch.randn((2 * FRAMES, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    down, mid = net(batch, 400, text, torch.cat([maps] * 2), return_dict=False)
    with prepared(own, request_, config(controls=["edges"])) as networks:
        (branch,) = networks.branches
        cached_down, cached_mid = branch_residuals(branch, batch, 400, text)
    for cached, plain in zip([*cached_down, cached_mid], [*down, mid], strict=True):
        torch.testing.assert_close(cached, plain, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_condition_is_embedded_once_per_run(backbone: Backbone, request_: SampleRequest) -> None:
    sizes: list[int] = []
    embedding = backbone.controlnets["edges"].controlnet_cond_embedding
    hook = embedding.register_forward_hook(lambda m, a, o: sizes.append(len(o)))
    try:
        sample(backbone, request_, config(), quiet)
    finally:
        hook.remove()
    assert sizes == [FRAMES]
    assert embed_condition(backbone.controlnets["edges"], request_.controls["edges"]).shape == (
        FRAMES,
        8,
        8,
        8,
    )


def test_progress_counts_every_step(backbone: Backbone, request_: SampleRequest) -> None:
    seen: list[tuple[int, int]] = []
    sample(backbone, request_, config(), lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_what_does_not_fit_is_said_at_once(backbone: Backbone, request_: SampleRequest) -> None:
    odd = replace(
        request_, frames=torch.zeros(2, 3, 15, 16), controls={"edges": request_.controls["edges"]}
    )
    with pytest.raises(UserError) as caught:
        sample(backbone, odd, config(controls=["edges", "depth"]), quiet)
    assert [p.where for p in caught.value.problems] == [
        "clip.size",
        "controls: edges",
        "controls: depth",
    ]
    with pytest.raises(UserError, match="allowed: edges"):
        few = replace(backbone, controlnets={"edges": backbone.controlnets["edges"]})
        sample(few, request_, config(controls=["depth"]), quiet)
    with pytest.raises(UserError, match="outside a clip of 3 frames"):
        sample(backbone, request_, config(attention={"pattern": "keyframes[0,4]"}), quiet)


# --- Options


def test_presets_resolve_and_explicit_values_win() -> None:
    paper, repo = config(), config(preset="repo")
    assert (paper.group_norm, paper.noise, paper.residuals_in_place) == (
        "per_frame",
        "independent",
        False,
    )
    assert (repo.group_norm, repo.controlnet_group_norm, repo.noise) == (
        "pooled",
        "pooled",
        "shared",
    )
    assert repo.residuals_in_place
    assert len(repo.negative_prompt.split(",")) == 14
    for preset in (paper, repo):
        assert (preset.attention.pattern, preset.controlnet_attention.pattern) == (
            "full",
            "individual",
        )
    mixed = config(preset="repo", noise="independent", attention={"alpha": 0.5})
    assert (mixed.noise, mixed.attention.pattern, mixed.attention.alpha) == (
        "independent",
        "full",
        0.5,
    )
    assert ControlVideoConfig().steps == 50
    assert ControlVideoConfig().guidance.scale == 12.5
    assert config(controlnet_attention={"alpha": 0.5}).controlnet_attention.pattern == "individual"


PRESET_VALUES = {
    "paper": {
        "attention.pattern": "full",
        "controlnet_attention.pattern": "individual",
        "group_norm": "per_frame",
        "controlnet_group_norm": "per_frame",
        "residuals_in_place": False,
        "noise": "independent",
        "steps": 50,
        "scheduler": "ddim",
        "eta": 0.0,
        "guidance.scale": 12.5,
        "controlnet_scale": 1.0,
        "annotator_range": "correct",
        "smoother.on": False,
        "smoother.interpolator": "rife",
        "smoother.at": 0.62,
        "smoother.count": 2,
        "smoother.parity": "paper",
        "smoother.boundary": "keep",
        "smoother.encode": "mode",
        "smoother.blend": 1.0,
        "smoother.step": "follow",
        "hierarchical.on": False,
        "hierarchical.window": "sqrt",
        "hierarchical.inter_keys": "paper",
        "hierarchical.reuse_keys": False,
        "prompt_suffix": "",
        "negative_prompt": "",
    }
}
PRESET_VALUES["repo"] = {
    **PRESET_VALUES["paper"],
    "group_norm": "pooled",
    "controlnet_group_norm": "pooled",
    "residuals_in_place": True,
    "noise": "shared",
    "annotator_range": "repo_wrapped",
    "smoother.at": 0.4,
    "smoother.parity": "repo",
    "smoother.boundary": "pull",
    "smoother.encode": "sample",
    "smoother.step": "ddim",
    "hierarchical.inter_keys": "repo",
}


@pytest.mark.parametrize("preset", ["paper", "repo"])
def test_each_preset_means_what_it_is_said_to(preset: str) -> None:
    made = config(preset=preset, steps=50, guidance={"scale": 12.5}).model_dump()

    def value(path: str) -> Any:
        found: Any = made
        for name in path.split("."):
            found = found[name]
        return found

    wanted = dict(PRESET_VALUES[preset])
    if preset == "repo":
        assert value("prompt_suffix").startswith(" ,best quality")
        assert value("negative_prompt").startswith("longbody, lowres")
        del wanted["prompt_suffix"], wanted["negative_prompt"]
    assert {path: value(path) for path in wanted} == wanted


@pytest.mark.parametrize("preset", list(ControlVideoConfig.PRESETS))
def test_resolved_options_read_back_to_themselves(preset: str) -> None:
    resolved = ControlVideoConfig(preset=preset)  # type: ignore[arg-type]
    assert ControlVideoConfig.model_validate(resolved.model_dump(mode="json")) == resolved
    assert set(ControlVideoConfig.PRESETS[preset]) <= set(ControlVideoConfig.model_fields)


@pytest.mark.parametrize(
    ("options", "where", "said"),
    [
        ({"attention": {"pattern": "ful"}}, "attention.pattern", "did you mean 'full'"),
        ({"attention": {"pattern": "reference"}}, "attention.pattern", "no reference image"),
        ({"attention": {"timesteps": [9, 1]}}, "attention", "[lowest, highest]"),
        ({"noise": "mixed:2"}, "noise", "shared, independent, mixed:x"),
        ({"controls": ["edges", "edges"]}, "", "twice"),
        ({"guidance": {"ramp": {"min": 1}}}, "guidance.ramp.max", "required"),
        ({"setps": 3}, "setps", "not permitted"),
        ({"preset": "papre"}, "preset", "'paper' or 'repo'"),
        ({"eta": float("nan")}, "eta", "finite"),
        ({"eta": 0.5, "scheduler": "dpmpp"}, "", "dpmpp takes none"),
    ],
)
def test_wrong_options_say_where_and_what(options: dict[str, Any], where: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**options)
    (error,) = caught.value.errors()
    assert ".".join(map(str, error["loc"])) == where
    assert said in error["msg"]


def test_every_option_is_covered_by_a_test_of_its_effect() -> None:
    """All options are part of a result's identity, so each must be able to change one."""
    marks = test_every_option_reaches_the_frames.pytestmark
    tested = {name.partition(".")[0] for name, _ in marks[0].args[1]}
    # Control maps are drawn before the sampler is asked, so their tests are elsewhere.
    elsewhere = {"preset", "step_noise", "negative_prompt", "annotator_range"}
    assert tested | elsewhere == set(ControlVideoConfig.model_fields)


def test_registry_and_sentinels(request_: SampleRequest) -> None:
    assert {"controlvideo", "source", "frozen"} <= set(METHODS)
    assert method_config("controlvideo") is ControlVideoConfig
    assert METHODS.load("controlvideo") is sample
    options = SentinelConfig()
    source = METHODS.load("source")(None, request_, options, quiet)
    frozen = METHODS.load("frozen")(None, request_, options, quiet)
    assert torch.equal(source, request_.frames)
    assert torch.equal(frozen, torch.stack([request_.frames[0]] * FRAMES))
    for name in ("source", "frozen"):
        assert METHODS.entry(name).extra["needs_backbone"] is False
        assert method_config(name) is SentinelConfig
