"""Tune-A-Video: published gradients, tuning against a plain loop, resumption, sampling, cells."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from fake_parts import fake_parts
from lab import Lab, spec_text
from pydantic import ValidationError
from torch import nn

import methods.tuneavideo.tuning as tuning_module
from crossframe.errors import Diverged, UserError
from crossframe.keys import derive_seed, identity
from methods import METHODS, method_config
from methods.backbones import Backbone, decode_latents, encode_prompts
from methods.controlvideo.config import ControlVideoConfig
from methods.controlvideo.sampler import sample as sample_controlvideo
from methods.ddim import add_noise
from methods.inflation import InflatedNet
from methods.noise import frame_noise
from methods.patterns import parse_pattern
from methods.tuneavideo.config import TuneAVideoConfig, Tuning
from methods.tuneavideo.network import (
    inflate_tuned,
    initial_tensors,
    standing_in,
    trainable_names,
)
from methods.tuneavideo.sampler import sample
from methods.tuneavideo.tuning import (
    TARGETS,
    Lesson,
    encode_posterior,
    make_lesson,
    tune,
    tuning_loss,
)
from tests.golden_case import Golden
from tests.tiny_backbone import SCHEDULER, SIZE, TOKENS, WIDTH, tiny_backbone, tiny_unet
from tests.tuned_cases import PLAN, Shelf, fold, golden_unet, layout, quiet, unfold

needs_peft = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="needs peft (the extra lora)"
)
SETS = ["all", "mid_up", "attention", "temporal", pytest.param("lora", marks=needs_peft)]


def options(**changed: Any) -> Tuning:
    given = {"steps": 3, "learning_rate": 0.01, **changed}
    return Tuning.model_validate(given)


def lesson(prediction: str = "epsilon", spread: float = 0.0) -> Lesson:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn((3, 4, SIZE // 2, SIZE // 2), generator=generator)
    table = torch.linspace(0.85**0.5, 0.005**0.5, 50).square().tolist()
    return Lesson(
        mean=mean,
        spread=torch.full_like(mean, spread),
        text=torch.randn((1, TOKENS, WIDTH), generator=generator),
        alpha_bar=tuple(table),
        prediction=prediction,
        seed=6,
    )


@contextmanager
def tiny_net(init: str = "released") -> Iterator[InflatedNet]:
    net = tiny_unet()
    with inflate_tuned(net, PLAN, initial_tensors(net, init, 1)) as inflated:
        yield inflated


# --- published gradients


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("case", "which"),
    [
        ("epsilon", "all"),
        ("v_prediction", "all"),
        ("epsilon/reentrant", "mid_up"),
    ],
)
def test_published_training_step(case: str, which: str, checkpointing: bool) -> None:
    golden = Golden("tuneavideo/train_step")
    net, added, _ = golden_unet()
    prediction = case.split("/")[0]
    names = golden.config["grad_names"]
    table = make_table()
    given = Lesson(
        mean=fold(golden.input["latents"]),
        spread=torch.zeros(4, 4, 8, 8),
        text=golden.input["text"],
        alpha_bar=table,
        prediction=prediction,
        seed=0,
    )
    noise, timestep = fold(golden.input["noise"]), int(golden.input["timesteps"])
    noisy = unfold(add_noise(given.mean, noise, table[timestep]), 4)
    golden.close(noisy, f"{prediction}/noisy_latents")
    target = TARGETS[prediction](given.mean, noise, table[timestep])
    golden.close(unfold(target, 4), f"{prediction}/target")
    with inflate_tuned(net, PLAN, added) as inflated, inflated.frames(4):
        if checkpointing:
            net.enable_gradient_checkpointing()
        own = dict(net.named_parameters())
        chosen = {n: nn.Parameter(own[n].clone()) for n in trainable_names(own, which)}
        with standing_in(net, chosen):
            loss = tuning_loss(inflated, given, given.mean, noise, timestep)
            loss.backward()
    assert set(chosen) <= set(names)
    golden.close(loss.detach(), f"{prediction}/loss")
    grads = {n: p.grad for n, p in chosen.items()}
    norms = torch.tensor([float(g.norm()) if (g := grads.get(n)) is not None else 0 for n in names])
    golden.close(norms, f"{case}/grad_norms")
    golden.close(norms.norm(), f"{case}/total_grad_norm")
    for name in [n for n in golden.output if which == "all" and n.startswith(f"{case}/grad/")]:
        grad = grads[name.removeprefix(f"{case}/grad/")]
        assert grad is not None
        golden.close(grad, name)


def make_table() -> tuple[float, ...]:
    """Alpha-bars of Stable Diffusion, from their definition."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32).square()
    return tuple((1 - betas).cumprod(0).double().tolist())


@pytest.mark.parametrize("checkpointing", ["off", "non_reentrant"])
def test_tensors_with_and_without_gradients_at_first_are_the_published_ones(
    checkpointing: str,
) -> None:
    listed, net = layout()
    generator = torch.Generator().manual_seed(0)
    given = replace(
        lesson(),
        mean=torch.randn((2, 4, 8, 8), generator=generator),
        text=torch.randn((1, 4, 8), generator=generator),
    )
    tensors = initial_tensors(net, "released", 0)
    with inflate_tuned(net, PLAN, tensors) as inflated, inflated.frames(2):
        own = dict(net.named_parameters())
        chosen = {n: nn.Parameter(own[n].clone()) for n in trainable_names(own, "all")}
        if checkpointing == "non_reentrant":
            net.enable_gradient_checkpointing()
        with standing_in(net, chosen):
            tuning_loss(inflated, given, given.mean, given.noise(0, 0.0), 3).backward()
    with_grad = {n for n, p in chosen.items() if p.grad is not None}
    assert with_grad == set(listed["with_grad"][checkpointing])
    zero = {n for n, p in chosen.items() if p.grad is not None and not p.grad.any()}
    assert zero == set(listed["zero_at_init"])


# --- tuning


@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_tuning_is_a_plain_loop_of_adamw(clip_norm: float | None) -> None:
    given = lesson(spread=0.3)
    with tiny_net() as net:
        own = dict(net.net.named_parameters())
        found = tune(net, given, options(clip_norm=clip_norm))
        names = trainable_names(own, "all")
        chosen = {n: nn.Parameter(own[n].clone()) for n in names}
        optimizer = torch.optim.AdamW(chosen.values(), 0.01, (0.9, 0.999), 1e-8, 1e-2)
        losses = []
        for step in range(3):
            a = given.alpha_bar[given.timestep(step)]
            clean, noise = given.latents(step), given.noise(step, 0.0)
            with standing_in(net.net, chosen), net.frames(3):
                x = a**0.5 * clean + (1 - a) ** 0.5 * noise
                out = net.net(x, given.timestep(step), given.text.expand(3, -1, -1)).sample
            loss = (out - noise).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if clip_norm is not None:
                grads = [p.grad for p in chosen.values() if p.grad is not None]
                total = torch.stack([grad.norm() for grad in grads]).norm()
                for grad in grads:
                    grad *= (clip_norm / total).clamp(max=1)
            optimizer.step()
            losses.append(loss.item())
    assert set(found) == {*names, "losses"}
    assert found["losses"].tolist() == pytest.approx(losses, rel=1e-5)
    for name in names:
        torch.testing.assert_close(found[name], chosen[name].detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which", SETS)
def test_a_set_changes_its_own_tensors_and_the_network_is_itself_again(which: str) -> None:
    with tiny_net() as net:
        modules, before = dict(net.net.named_modules()), dict(net.net.named_parameters())
        values = {name: parameter.clone() for name, parameter in before.items()}
        found = tune(net, lesson(), options(train=which, lora_rank=1))
        after = dict(net.net.named_parameters())
        assert dict(net.net.named_modules()) == modules
        assert list(after) == list(before)
        assert all(after[n] is before[n] and torch.equal(after[n], values[n]) for n in before)
        assert not any(p.requires_grad for p in after.values())
        assert not hasattr(net.net, "peft_config")
    del found["losses"]
    assert set(found) == set(trainable_names(before, which))
    changes = {n: t - values[n] for n, t in found.items()}
    assert all(change.any() for change in changes.values())
    if which == "lora":
        assert {int(torch.linalg.matrix_rank(c, atol=1e-6)) for c in changes.values()} == {1}


@needs_peft
def test_adapters_are_drawn_from_the_seed_alone() -> None:
    runs = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        with tiny_net() as net:
            runs.append(tune(net, lesson(), options(train="lora", lora_rank=2)))
        assert torch.initial_seed() == noise
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_tuning_learns_a_fixed_draw() -> None:
    with tiny_net() as net:
        losses = tune(net, lesson(), options(steps=40, learning_rate=0.02, repeat=1))["losses"]
    assert losses[-1] < 0.8 * losses[0]


def test_draws_repeat_after_the_period() -> None:
    with tiny_net() as net:
        losses = tune(net, lesson(spread=1.0), options(steps=5, repeat=2, learning_rate=1e-9))
    a, b, *rest = losses["losses"].tolist()
    assert rest == pytest.approx([a, b, a], rel=1e-4)
    assert a != b


def test_checkpointing_and_precision() -> None:
    with tiny_net() as net:
        plain = tune(net, lesson(), options())
        saved = tune(net, lesson(), options(), recompute=True)
        assert not net.net.is_gradient_checkpointing
        half = tune(net, lesson(), options(precision="bfloat16"))
        scaled = tune(net, lesson(), options(precision="float16"))
    for other, tolerance in ((saved, 1e-5), (half, 0.05), (scaled, 0.01)):
        torch.testing.assert_close(other["losses"], plain["losses"], rtol=tolerance, atol=0)
        assert all(tensor.dtype == torch.float32 for tensor in other.values())
    assert not torch.equal(half["losses"], plain["losses"])


def test_a_loss_that_is_not_finite_stops() -> None:
    given = lesson()
    with tiny_net() as net, pytest.raises(Diverged, match="step 1 is nan"):
        tune(net, replace(given, mean=given.mean * float("nan")), options())


# --- going on after an interrupt


class Interrupt(Exception):
    pass


def interrupted(net: InflatedNet, checkpoint: Path, chosen: Tuning, at: int) -> None:
    def stop(done: int, total: int) -> None:
        if done == at:
            raise Interrupt

    with pytest.raises(Interrupt):
        tune(net, lesson(), chosen, checkpoint=checkpoint, progress=stop)


@pytest.mark.parametrize("which", ["all", pytest.param("lora", marks=needs_peft)])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_tuning_goes_on_where_it_was(
    which: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning_module, "CHECKPOINT_SECONDS", -1.0)
    file, chosen = tmp_path / "state", options(steps=5, train=which, precision=precision)
    steps: list[int] = []
    with tiny_net() as net:
        whole = tune(net, lesson(), chosen)
        interrupted(net, file, options(steps=9, train=which, precision=precision), at=4)
        resumed = tune(
            net, lesson(), chosen, checkpoint=file, progress=lambda done, _: steps.append(done)
        )
    assert steps == [4, 5]
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_longer_tuning_goes_on_from_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, steps = tmp_path / "state", []
    with tiny_net() as net:
        whole = tune(net, lesson(), options(steps=4))
        tune(net, lesson(), options(steps=2), checkpoint=file)
        longer = tune(
            net,
            lesson(),
            options(steps=4),
            checkpoint=file,
            progress=lambda done, _: steps.append(done),
        )
        assert steps == [3, 4]
        assert all(torch.equal(longer[name], whole[name]) for name in whole)
        monkeypatch.setattr(tuning_module, "KEPT_BYTES", 0)
        tune(net, lesson(), options(steps=4), checkpoint=file)
    assert not file.exists()


def test_a_state_that_went_too_far_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning_module, "CHECKPOINT_SECONDS", -1.0)
    with tiny_net() as net:
        short = tune(net, lesson(), options(steps=2))
        interrupted(net, tmp_path / "state", options(steps=9), at=5)
        again = tune(net, lesson(), options(steps=2), checkpoint=tmp_path / "state")
    assert all(torch.equal(again[name], short[name]) for name in short)


def test_a_state_that_another_runner_takes_away_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be there when looked for, and gone when read."""
    with tiny_net() as net:
        whole = tune(net, lesson(), options())
        monkeypatch.setattr(Path, "exists", lambda path: True)
        found = tune(net, lesson(), options(), checkpoint=tmp_path / "gone")
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_a_foreign_or_damaged_state_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning_module, "CHECKPOINT_SECONDS", -1.0)
    file = tmp_path / "state"
    with tiny_net() as net:
        interrupted(net, file, options(), at=2)
        with pytest.raises(UserError, match="holds another tuning"):
            tune(net, lesson(), options(learning_rate=0.5), checkpoint=file)
        file.write_bytes(file.read_bytes()[:-9])
        with pytest.raises(UserError, match="is no whole checkpoint"):
            tune(net, lesson(), options(), checkpoint=file)


# --- the lesson


def test_latents_of_a_lesson() -> None:
    backbone = tiny_backbone()
    frames = Shelf().request().frames
    mean, spread = encode_posterior(backbone, frames)
    posterior = backbone.vae.encode(frames * 2 - 1).latent_dist
    scale = backbone.vae.config.scaling_factor
    torch.testing.assert_close(mean, posterior.mode() * scale)
    torch.testing.assert_close(spread, posterior.std * scale)
    text = torch.zeros(1, TOKENS, WIDTH)
    mode, drawn = (make_lesson(backbone, frames, text, kind, 3) for kind in ("mode", "sample"))
    assert torch.equal(mode.latents(0), mode.latents(1))
    assert not torch.equal(drawn.latents(0), drawn.latents(1))
    many = torch.stack([(drawn.latents(n) - mean) / spread for n in range(50)])
    assert float(many.std()) == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(torch.tensor(mode.alpha_bar), torch.tensor(make_table()))


def test_timesteps_are_uniform_and_noise_is_each_frames_own() -> None:
    given = lesson()
    drawn = torch.tensor([given.timestep(n) for n in range(2000)])
    counts = torch.bincount(drawn, minlength=50)
    assert len(counts) == 50
    assert counts.min() > 15
    noise = torch.cat([given.noise(n, 0.0).flatten(1) for n in range(20)], dim=1)
    assert torch.corrcoef(noise)[0, 1].abs() < 0.05
    assert torch.equal(given.noise(0, 1.0)[0], given.noise(0, 1.0)[1])


# --- the sampler


@pytest.fixture
def backbone() -> Backbone:
    return replace(tiny_backbone(), identity={"unet/a": "0", "controlnet.edges/b": "1"})


def config(**changed: Any) -> TuneAVideoConfig:
    given: dict[str, Any] = {"steps": 3, "guidance": {"scale": 4.0}, **changed}
    tuned = {"steps": 2, "learning_rate": 0.01, "precision": "float32"}
    return TuneAVideoConfig.model_validate({**given, "tuning": tuned | given.get("tuning", {})})


UNTUNED = {
    "tuning": {"steps": 0},
    "start": "noise",
    "group_norm": "per_frame",
    "temporal": {"init": "identity"},
}


@pytest.mark.parametrize("pattern", ["individual", "first+previous"])
def test_without_tuning_and_inversion_it_is_controlvideo_without_controls(
    backbone: Backbone, pattern: str
) -> None:
    request = Shelf().request()
    mine = sample(backbone, request, config(**UNTUNED, attention={"pattern": pattern}), quiet)
    theirs = ControlVideoConfig.model_validate(
        {
            "steps": 3,
            "guidance": {"scale": 4.0},
            "controls": [],
            "attention": {"pattern": pattern},
            "noise": "independent",
        }
    )
    assert torch.equal(mine, sample_controlvideo(backbone, request, theirs, quiet))


def test_edits_of_a_clip_share_tuning_and_inversion(backbone: Backbone) -> None:
    shelf, steps = Shelf(), []
    before = {name: p.clone() for name, p in backbone.unet.named_parameters()}
    with torch.inference_mode():
        first = sample(backbone, shelf.request(), config(), lambda *step: steps.append(step))
    assert steps == [(n, 11) for n in (1, 2, 2, 3, 4, 5, 6, 7, 8, 8, 9, 10, 11)]
    assert shelf.made.count("tuning") == shelf.made.count("inversion") == 1
    assert len(shelf.notes["tuning"]["losses"]) == 2
    assert shelf.notes["inversion"]["rmse"] > 0
    steps.clear()
    other = sample(
        backbone, shelf.request(prompt="blue"), config(), lambda *step: steps.append(step)
    )
    assert steps == [(n, 11) for n in (2, 8, 9, 10, 11)]
    assert not torch.equal(first, other)
    assert torch.equal(first, sample(backbone, shelf.request(), config(), quiet))
    assert torch.equal(first, sample(backbone, Shelf().request(), config(), quiet))
    assert shelf.made.count("tuning") == 1
    after = dict(backbone.unet.named_parameters())
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("changes", "tunings", "inversions"),
    [
        ({"guidance": {"scale": 2.0}}, 1, 1),
        ({"tuning": {"lora_rank": 3}}, 1, 1),
        ({"inversion": {"iterations": 1}}, 1, 2),
        ({"start": "noise"}, 1, 1),
        ({"tuning": {"steps": 3}}, 2, 2),
        ({"tuning": {"train": "mid_up"}}, 2, 2),
        ({"attention": {"pattern": "full"}}, 2, 2),
        ({"temporal": {"alpha": 0.5}}, 2, 2),
        ({"tuning": {"latents": "sample"}}, 2, 2),
    ],
)
def test_options_renew_what_they_change(
    backbone: Backbone, changes: dict[str, Any], tunings: int, inversions: int
) -> None:
    shelf = Shelf()
    for given in ({}, changes):
        sample(backbone, shelf.request(), config(**given), quiet)
    made = (shelf.made.count("tuning"), shelf.made.count("inversion"))
    assert made == (tunings, inversions)
    assert planned({}, changes) == (tunings, inversions)


def planned(*variants: dict[str, Any]) -> tuple[int, int]:
    """Tunings and inversions that a plan counts for these options."""
    works = [config(**given).shared_work(4) for given in variants]
    tunings, inversions = (
        {identity(work[stage]) for work in works if stage in work}
        for stage in ("tuning", "inversion")
    )
    return len(tunings), len(inversions)


def test_options_of_a_tuning_that_is_not_done_renew_no_inversion(backbone: Backbone) -> None:
    shelf = Shelf()
    variants: list[dict[str, Any]] = [
        {"tuning": {"steps": 0}},
        {"tuning": {"steps": 0, "learning_rate": 0.5, "train": "mid_up"}},
        {"tuning": {"steps": 0, "latents": "sample"}},
    ]
    for given in variants:
        sample(backbone, shelf.request(), config(**given), quiet)
    assert shelf.made.count("inversion") == 2
    assert planned(*variants) == (0, 2)


def test_every_switch_shows_in_the_frames(backbone: Backbone) -> None:
    variants: list[dict[str, Any]] = [
        {},
        {"tuning": {"steps": 0}},
        {"start": "noise"},
        {"start": "noise", "noise": "shared"},
        {"sampler": "pndm"},
        {"attention": {"pattern": "individual"}},
        {"group_norm": "pooled"},
        {"temporal": {"alpha": 0.0}},
        {"temporal": {"init": "released"}},
        {"tuning": {"latents": "sample"}},
        {"tuning": {"noise": "shared"}},
        {"inversion": {"prompt": "source"}},
        {"inversion": {"iterations": 3}},
        {"inversion": {"steps": 5}},
        {"inversion": {"read_as_epsilon": True}},
        {"negative_prompt": "stripes"},
    ]
    shelf = Shelf()
    speaking_v = {**SCHEDULER, "prediction_type": "v_prediction"}
    backbone = replace(backbone, scheduler_config=speaking_v)
    frames = [
        sample(backbone, shelf.request(), config(**{"steps": 2, **v}), quiet) for v in variants
    ]
    for index, video in enumerate(frames):
        assert not any(torch.equal(video, other) for other in frames[:index]), variants[index]


def test_pndm_is_that_of_diffusers(backbone: Backbone) -> None:
    """Against the scheduler and the plain network, one frame, no guidance."""
    request = replace(Shelf().request(), frames=Shelf().request().frames[:1])
    chosen = config(**UNTUNED, sampler="pndm", guidance={"scale": 1})
    steps: list[tuple[int, int]] = []
    actual = sample(backbone, request, chosen, lambda *step: steps.append(step))
    scheduler = PNDMScheduler.from_config({**SCHEDULER, "skip_prk_steps": True})
    scheduler.set_timesteps(3)
    latents = frame_noise(request.seed, ("initial",), 1, (4, SIZE // 2, SIZE // 2), 0.0)
    text = encode_prompts(backbone, [request.prompt])
    for timestep in scheduler.timesteps:
        output = backbone.unet(latents, timestep, text).sample
        latents = scheduler.step(output, timestep, latents).prev_sample
    torch.testing.assert_close(actual, decode_latents(backbone, latents), rtol=0, atol=1e-5)
    assert steps == [(n, 3) for n in (1, 2, 3, 3)]


def test_what_cannot_be_tuned_is_told_at_once(backbone: Backbone) -> None:
    request = Shelf().request(source_prompt="")
    with pytest.raises(UserError) as caught:
        sample(
            replace(backbone, dtype=torch.float16),
            request,
            config(inversion={"prompt": "source"}),
            quiet,
        )
    text = str(caught.value)
    assert len(text.splitlines()) == 3
    assert "needs to know what the clip shows" in text
    assert "float32 tuning of a backbone in float16" in text
    predicting = {**SCHEDULER, "prediction_type": "sample"}
    with pytest.raises(UserError, match="pndm cannot run"):
        sample(
            replace(backbone, scheduler_config=predicting),
            Shelf().request(),
            config(sampler="pndm"),
            quiet,
        )


def test_an_interrupted_sample_keeps_its_tuning(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning_module, "CHECKPOINT_SECONDS", -1.0)
    request = replace(Shelf().request(), scratch=tmp_path)
    chosen, steps = config(tuning={"steps": 4}), []

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise Interrupt

    with pytest.raises(Interrupt):
        sample(backbone, request, chosen, stop)
    assert len(list(tmp_path.iterdir())) == 1
    resumed = sample(backbone, request, chosen, lambda *step: steps.append(step))
    assert steps[0] == (3, 13)
    assert torch.equal(resumed, sample(backbone, Shelf().request(), chosen, quiet))


def test_a_backbone_that_was_tuned_before_is_used_as_it_is(backbone: Backbone) -> None:
    shelf = Shelf()
    tuned = config(tuning={"train": "temporal"}, start="noise")
    seed = derive_seed(shelf.request().seed, "temporal")
    start = initial_tensors(backbone.unet, "identity", seed)
    expected = sample(backbone, shelf.request(), tuned, quiet)
    made = next(t for t in shelf.kept.values() if "losses" in t)
    before = replace(backbone, temporal={**start, **{n: made[n] for n in made if n != "losses"}})
    untuned = tuned.model_copy(update={"tuning": options(steps=0)})
    assert torch.equal(sample(before, shelf.request(), untuned, quiet), expected)


# --- options


def test_presets_are_the_published_settings() -> None:
    paper, repo = (TuneAVideoConfig.model_validate({"preset": p}) for p in ("paper", "repo"))
    for preset in (paper, repo):
        assert preset.attention.pattern == str(parse_pattern("first+previous"))
        assert (preset.tuning.steps, preset.tuning.learning_rate) == (500, 3e-5)
        assert (preset.tuning.weight_decay, preset.tuning.clip_norm) == (1e-2, 1.0)
        assert (preset.guidance.scale, preset.steps, preset.start) == (12.5, 50, "inversion")
    differing: dict[str, tuple[Any, Any]] = {
        "preset": ("paper", "repo"),
        "group_norm": ("per_frame", "pooled"),
        "temporal": ({"init": "identity"}, {"init": "released"}),
        "inversion": ({"read_as_epsilon": False}, {"read_as_epsilon": True}),
        "tuning": (
            {"train": "all", "latents": "mode", "precision": "float32"},
            {"train": "mid_up", "latents": "sample", "precision": "float16"},
        ),
    }
    a, b = paper.model_dump(), repo.model_dump()
    assert {name for name in a if a[name] != b[name]} == set(differing)
    for name, (in_paper, in_repo) in differing.items():
        if isinstance(in_paper, dict):
            assert in_paper.items() <= a[name].items()
            assert {**a[name], **in_repo} == b[name]


def test_what_a_checkpoint_does_not_carry() -> None:
    assert TuneAVideoConfig(preset="repo").not_in_a_checkpoint() == {}
    assert config(temporal={"alpha": 0.5}, start="noise").not_in_a_checkpoint() == {
        "group_norm": "per_frame"
    }
    changed = config(preset="repo", attention={"pattern": "full", "alpha": 0.5})
    assert changed.not_in_a_checkpoint() == {"attention.pattern": "full", "attention.alpha": 0.5}


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(ValidationError, match="nothing to train"):
        config(temporal={"alpha": 0.0}, tuning={"train": "temporal"})
    assert METHODS.load("tuneavideo") is sample
    assert method_config("tuneavideo") is TuneAVideoConfig


# --- through a run


def test_cells_of_a_run_share_one_tuning(backbone: Backbone, tmp_path: Path) -> None:
    text = spec_text(
        method="tuneavideo",
        sentinels=[],
        backbone="miniature",
        base={
            "steps": 2,
            "tuning": {"steps": 2},
        },
        grid={"guidance.scale": [1.0, 4.0]},
        clips=["world:tiny/0"],
        clip={"frames": 2, "size": SIZE},
        seeds={"count": 1},
    )
    lab = Lab(tmp_path / "lab", text)
    lab.parts = replace(
        fake_parts(),
        methods=METHODS,
        method_config=method_config,
        load_backbone=lambda config, family: backbone,
    )
    outcome = lab.run()
    assert (outcome.done, outcome.failed) == (2, [])
    results = lab.results()
    losses = [record["notes"]["tuning"]["losses"] for record in results]
    assert len(losses[0]) == 2
    assert losses[0] == losses[1]
    stages = {p.name: len(list(p.glob("*/*"))) for p in (lab.store.root / "stages").iterdir()}
    assert (stages["tuning"], stages["inversion"]) == (1, 1)
    assert json.loads((lab.store.root / "plan.json").read_text())
