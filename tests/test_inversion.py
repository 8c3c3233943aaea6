"""DDIM inversion: published latents, diffusers' own scheduler, exactness by fixed point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from diffusers.schedulers.scheduling_ddim_inverse import DDIMInverseScheduler
from torch import Tensor

from crossframe.errors import UserError
from methods.attention import CallSlot, FrameAttentionProcessor, FrameCall
from methods.backbones import Backbone, decode_latents, encode_frames, encode_prompts
from methods.ddim import Schedule, make_schedule
from methods.denoising import Predict
from methods.inflation import inflate
from methods.inversion import inverse, inversion_schedule, invert, reconstruct
from methods.inversion_config import Inversion
from methods.inversion_only.config import InversionOnlyConfig
from methods.inversion_only.sampler import sample
from methods.networks import Networks, attention_plan
from methods.phases import Phases
from methods.tuneavideo.network import inflate_tuned
from tests.golden_case import Golden
from tests.tiny_backbone import SCHEDULER, SIZE, tiny_backbone
from tests.tuned_cases import PLAN, SPARSE_CAUSAL, Shelf, fold, golden_unet, quiet, unfold

PREDICTIONS = ["epsilon", "v_prediction", "sample"]


def recording(predict: Predict) -> tuple[Predict, list[tuple[Tensor, int, float]]]:
    """A `predict` that remembers what it was asked."""
    asked: list[tuple[Tensor, int, float]] = []

    def asking(latents: Tensor, timestep: int, scale: float) -> Tensor:
        asked.append((latents, timestep, scale))
        return predict(latents, timestep, scale)

    return asking, asked


def wavy(latents: Tensor, timestep: int, scale: float) -> Tensor:
    """A smooth network: what it says depends on the latents and on the timestep."""
    return torch.sin(1.5 * latents) * 0.8 + timestep / 2000


# --- published latents


def stand_in(golden: Golden) -> Predict:
    """The network of the published case, as its note defines it."""
    heads, dim = golden.config["heads"], golden.config["dim_head"]
    attn: Any = Attention(4, heads=heads, dim_head=dim)
    prefix = "attn1."
    attn.load_state_dict(
        {n.removeprefix(prefix): t for n, t in golden.weights.items() if n.startswith(prefix)}
    )
    slot = CallSlot()
    slot.current = FrameCall(3, SPARSE_CAUSAL.table(3))
    attn.set_processor(FrameAttentionProcessor(slot, "attn1"))
    text = golden.input["text_cond"].mean(1) @ golden.weights["text_proj"]

    def predict(latents: Tensor, timestep: int, scale: float) -> Tensor:
        tokens = latents.flatten(2).transpose(1, 2)
        mixed = attn(tokens).transpose(1, 2).unflatten(2, latents.shape[2:])
        own = golden.config["x_gain"] * latents + golden.config["attn_gain"] * mixed
        return own + timestep / 1000 * text[:, :, None, None]

    return predict


def check_published(golden: Golden, predict: Predict) -> None:
    expected = golden.output["latents"]
    steps, f = golden.config["num_inv_steps"], expected.shape[3]
    predict, asked = recording(predict)
    schedule = make_schedule(golden.config["scheduler"], steps)
    with torch.no_grad():
        end = invert(predict, schedule, fold(golden.input["latents"]))
    assert [timestep for _, timestep, _ in asked] == golden.output["timesteps"].tolist()
    assert {scale for *_, scale in asked} == {1.0}
    found = torch.stack([unfold(x, f) for x in [*(x for x, *_ in asked), end]])
    assert (found - expected).abs().max() <= golden.tolerance


def test_published_inversion() -> None:
    golden = Golden("tuneavideo/ddim_inversion")
    check_published(golden, stand_in(golden))
    back = inverse(make_schedule(golden.config["scheduler"], golden.config["num_inv_steps"]))
    sides = {"alpha_bar_source": back.alpha_bar, "alpha_bar_target": back.alpha_bar_next}
    for name, values in sides.items():
        torch.testing.assert_close(torch.tensor(values), golden.output[name])


def test_published_inversion_of_the_unet() -> None:
    golden = Golden("tuneavideo/ddim_inversion_unet")
    net, added, _ = golden_unet()
    text = golden.input["text"]
    with inflate_tuned(net, PLAN, added) as unet:
        networks = Networks(unet, (), torch.cat([torch.zeros_like(text), text]))
        check_published(golden, networks.predict)


# --- against diffusers


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [5, 7])
def test_inversion_is_that_of_the_inverse_scheduler(prediction: str, steps: int) -> None:
    settings: Mapping[str, Any] = {**SCHEDULER, "prediction_type": prediction}
    scheduler = DDIMInverseScheduler.from_config(dict(settings))
    scheduler.set_timesteps(steps)
    latents = torch.randn((2, 4, 3, 3), generator=torch.Generator().manual_seed(0)) * 0.5
    expected = latents
    for timestep in scheduler.timesteps.tolist():
        output = wavy(expected, timestep, 1.0)
        expected = scheduler.step(output, timestep, expected).prev_sample
    actual = invert(wavy, make_schedule(settings, steps), latents)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_the_released_reading_takes_any_output_for_noise() -> None:
    settings = {**SCHEDULER, "prediction_type": "v_prediction"}
    released = inversion_schedule(settings, Inversion(read_as_epsilon=True), 5)
    assert released == make_schedule({**settings, "prediction_type": "epsilon"}, 5)
    assert inversion_schedule(settings, Inversion(), 5).prediction == "v_prediction"
    assert len(inversion_schedule(settings, Inversion(steps=8), 5)) == 8


# --- exactness


def error(schedule: Schedule, iterations: int) -> float:
    clean = torch.randn((2, 4, 4, 4), generator=torch.Generator().manual_seed(1))
    inverted = invert(wavy, schedule, clean, iterations=iterations)
    return float((reconstruct(wavy, schedule, inverted) - clean).abs().max())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_fixed_point_steps_lead_back_to_the_source(prediction: str) -> None:
    schedule = make_schedule({**SCHEDULER, "prediction_type": prediction}, 10)
    errors = [error(schedule, iterations) for iterations in (0, 3, 100)]
    assert errors[0] > 0.05
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-4


def test_noise_that_does_not_depend_on_the_latents_is_inverted_by_plain_steps() -> None:
    schedule = make_schedule(SCHEDULER, 6)
    clean, noise = torch.randn((2, 1, 4, 4, 4), generator=torch.Generator().manual_seed(2))
    inverted = invert(lambda x, t, s: noise, schedule, clean)
    first = make_schedule(SCHEDULER, 6).alpha_bar[0]
    last = schedule.alpha_bar_next[-1]
    kept = (clean - (1 - last) ** 0.5 * noise) / last**0.5
    torch.testing.assert_close(inverted, first**0.5 * kept + (1 - first) ** 0.5 * noise)


# --- the baseline


@pytest.fixture
def backbone() -> Backbone:
    return replace(tiny_backbone(), identity={"unet/a": "0", "controlnet.edges/b": "1"})


def test_the_baseline_returns_the_source_when_nothing_is_edited(backbone: Backbone) -> None:
    shelf = Shelf()
    config = InversionOnlyConfig.model_validate(
        {
            "steps": 50,
            "strength": 0.08,
            "guidance": {"scale": 1},
            "inversion": {"prompt": "source", "iterations": 20},
        }
    )
    out = sample(backbone, shelf.request(prompt="a red star"), config, quiet)
    expected = decode_latents(backbone, encode_frames(backbone, shelf.request().frames))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-4)
    assert shelf.notes["inversion"]["rmse"] < 1e-4


def test_inversion_is_shared_by_the_edits_of_a_clip(backbone: Backbone) -> None:
    shelf = Shelf()
    config = InversionOnlyConfig.model_validate({"steps": 3})
    steps: list[tuple[int, int]] = []
    first = sample(backbone, shelf.request(), config, lambda *step: steps.append(step))
    assert steps == [(n, 9) for n in (1, 2, 3, 4, 5, 6, 6, 7, 8, 9)]
    notes, shelf.notes = shelf.notes, {}
    steps.clear()
    second = sample(
        backbone, shelf.request(prompt="blue stripes"), config, lambda *step: steps.append(step)
    )
    assert steps == [(n, 9) for n in (6, 7, 8, 9)]
    assert shelf.made.count("inversion") == 1
    assert shelf.notes == notes
    assert notes["inversion"].keys() == {"rmse", "relative"}
    assert not torch.equal(first, second)
    weaker = config.model_copy(update={"strength": 0.5})
    assert not torch.equal(sample(backbone, shelf.request(), weaker, quiet), first)
    assert shelf.made.count("inversion") == 2


@pytest.mark.parametrize("given", [{"read_as_epsilon": True}, {"steps": 8}, {}])
def test_the_error_is_that_of_sampling_back_as_the_edit_does(
    backbone: Backbone, given: dict[str, Any]
) -> None:
    """Also where the inversion reads v as noise, or takes more steps than sampling."""
    settings = {**SCHEDULER, "prediction_type": "v_prediction"}
    backbone = replace(backbone, scheduler_config=settings)
    shelf, steps = Shelf(), []
    config = InversionOnlyConfig.model_validate({"steps": 3, "inversion": given})
    sample(backbone, shelf.request(), config, lambda *step: steps.append(step))
    plan = attention_plan(config.attention, config.group_norm)
    with torch.no_grad(), inflate(backbone.unet, plan) as unet:
        predict = Networks(unet, (), encode_prompts(backbone, ["", ""])).predict
        clean = encode_frames(backbone, shelf.request().frames)
        back = inversion_schedule(settings, config.inversion, 3)
        again = reconstruct(predict, make_schedule(settings, 3), invert(predict, back, clean))
    error, size = (x.square().mean().sqrt().item() for x in (again - clean, clean))
    assert shelf.notes["inversion"] == pytest.approx({"rmse": error, "relative": error / size})
    count = len(back) + 3 + 3
    assert steps[-1] == (count, count)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)


def test_a_clip_without_a_caption_cannot_be_inverted_by_it(backbone: Backbone) -> None:
    config = InversionOnlyConfig.model_validate({"steps": 2})
    request = Shelf().request(source_prompt="")
    with pytest.raises(UserError, match="nothing says what the clip shows"):
        sample(backbone, request, config, quiet)
    silent = InversionOnlyConfig.model_validate({"steps": 2, "inversion": {"prompt": "empty"}})
    assert sample(backbone, request, silent, quiet).shape == (3, 3, SIZE, SIZE)


def test_phases_count_over_the_whole_sample() -> None:
    steps: list[tuple[int, int]] = []
    phases = Phases(lambda *step: steps.append(step), {"a": 2, "none": 0, "b": 3})
    phases.of("a")(1, 2)
    phases.finish("a")
    phases.finish("none")
    phases.of("b")(3, 3)
    assert steps == [(1, 5), (2, 5), (5, 5)]
