"""The interleaved-frame smoother: the authors' loop, closed forms, memory, options."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from crossframe.errors import NotAvailable, UserError
from methods.backbones import Backbone
from methods.base import SampleRequest
from methods.controlvideo.config import ControlVideoConfig
from methods.controlvideo.layout import replaced_frames
from methods.controlvideo.options import Smoother
from methods.controlvideo.sampler import sample
from methods.controlvideo.smoother import FrameSmoother
from methods.ddim import ddim_step, make_schedule
from methods.denoising import denoise
from methods.interpolators.linear import Linear
from methods.options import merge
from tests.controlvideo_golden import Case, frames_first
from tests.tiny_backbone import SCHEDULER, SIZE, tiny_backbone

MEAN = Linear(torch.device("cpu"))


def same(pictures: Tensor, noise: Tensor | None = None) -> Tensor:
    return pictures


def plain(replaced: str = "odd", boundary: str = "pull", **options: Any) -> FrameSmoother:
    """A smoother whose pictures are the latents themselves."""
    return FrameSmoother(same, same, MEAN, {0: replaced}, boundary, **options)  # type: ignore[arg-type, dict-item]


@pytest.mark.parametrize("chunk", [1, 4, 8])
@pytest.mark.parametrize("video", [0, 1])
def test_the_loop_is_that_of_the_released_code(video: int, chunk: int) -> None:
    case = Case("smoother_update")
    steps, f = case.config["num_inference_steps"], case.config["f"]
    noise = case.input["encode_noise"].unflatten(0, (-1, 2, f))[:, video]
    smoothed = case.config["smoothed_loop_indices"]
    clean: dict[int, Tensor] = {}
    pixels: dict[int, list[Tensor]] = {index: [] for index in smoothed}
    now = [0]

    def encode(pictures: Tensor, drawn: Tensor | None) -> Tensor:
        pixels[now[0]].append(pictures)
        return case.encode(pictures, drawn)

    smoother = FrameSmoother(
        case.decode,
        encode,
        MEAN,
        {index: replaced_frames(index, steps, "repo") for index in smoothed},
        noise=lambda index: noise[smoothed.index(index)],
        chunk=chunk,
    )

    def edit(predicted: Tensor, index: int) -> Tensor:
        clean[index], now[0] = predicted, index
        return smoother(predicted, index)

    schedule = make_schedule(case.config["scheduler"], steps)
    latents = frames_first(case.input["latents"][video])
    for index, timestep in enumerate(schedule.timesteps):
        output = case.network(video).predict(latents, timestep, case.config["guidance_scale"])
        latents = ddim_step(schedule, index, latents, output, edit=edit)
        expected = frames_first(case.output[f"latents_{index:02}"][video])
        torch.testing.assert_close(latents, expected, rtol=0, atol=case.tolerance)
    for index in smoothed:
        expected = frames_first(case.output[f"pred_x0_{index:02}"][video])
        torch.testing.assert_close(clean[index], expected, rtol=0, atol=case.tolerance)
        expected = case.output[f"smoothed_pixels_{index:02}"][video]
        torch.testing.assert_close(torch.cat(pixels[index]), expected, rtol=0, atol=case.tolerance)
    expected = frames_first(case.output["video"][video])
    torch.testing.assert_close(case.decode(latents), expected, rtol=0, atol=case.tolerance)


def test_means_of_neighbours_in_closed_form() -> None:
    frames = torch.tensor([0.0, 1, 4, 9, 16, 25]).view(-1, 1, 1, 1)
    seen = {
        (replaced, boundary): plain(replaced, boundary)(frames, 0).flatten().tolist()
        for replaced in ("odd", "even")
        for boundary in ("pull", "keep")
    }
    assert seen["odd", "pull"] == seen["odd", "keep"] == [0, 2, 4, 10, 16, 25]
    assert seen["even", "pull"] == [0.5, 1, 5, 9, 17, 25]
    assert seen["even", "keep"] == [0, 1, 5, 9, 17, 25]
    half = plain("even", "keep", blend=0.5)(frames, 0).flatten().tolist()
    assert half == [0, 1, 4.5, 9, 16.5, 25]


def test_a_linear_motion_is_left_as_it_is() -> None:
    frames = torch.linspace(0, 1, 9).view(-1, 1, 1, 1).expand(-1, 4, 2, 2)
    for replaced in ("odd", "even"):
        torch.testing.assert_close(plain(replaced, "keep")(frames, 0), frames)


def test_the_step_goes_on_with_the_noise_it_had_predicted() -> None:
    schedule = make_schedule(SCHEDULER, 5)
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn((2, 5, 4, 3, 3), generator=generator)
    signal, sigma = math.sqrt(schedule.alpha_bar[0]), math.sqrt(1 - schedule.alpha_bar[0])
    clean = (latents - sigma * noise) / signal
    means = clean.clone()
    means[1::2] = (clean[0:-1:2] + clean[2::2]) / 2
    after = schedule.alpha_bar_next[0]
    expected = math.sqrt(after) * means + math.sqrt(1 - after) * noise
    actual = ddim_step(schedule, 0, latents, noise, edit=plain())
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_steps_that_are_not_named_are_untouched() -> None:
    schedule = make_schedule(SCHEDULER, 3)
    latents = torch.randn((4, 4, 3, 3), generator=torch.Generator().manual_seed(0))
    smoother = FrameSmoother(same, same, MEAN, {5: "odd"})
    edited, free = (
        denoise(lambda x, t, s: x / 2, schedule, [1.0] * 3, latents, edit=edit)
        for edit in (smoother, None)
    )
    assert torch.equal(edited, free)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 11])
@pytest.mark.parametrize("replaced", ["odd", "even"])
def test_frames_pass_in_chunks_and_are_decoded_once(chunk: int, replaced: str) -> None:
    frames = torch.rand((11, 4, 2, 2), generator=torch.Generator().manual_seed(0))
    sizes: list[int] = []

    def decode(latents: Tensor) -> Tensor:
        sizes.append(len(latents))
        return latents

    smoother = FrameSmoother(decode, same, MEAN, {0: replaced}, chunk=chunk)  # type: ignore[dict-item]
    assert torch.equal(smoother(frames, 0), plain(replaced, chunk=99)(frames, 0))
    assert sum(sizes) == len(frames)
    assert max(sizes) <= chunk + 1


def config(**options: Any) -> ControlVideoConfig:
    return ControlVideoConfig.model_validate(options)


def test_presets_name_the_steps_of_paper_and_code() -> None:
    assert config(preset="repo", smoother={"interpolator": "dis"}).smoothed_steps == (30, 31)
    assert config(preset="paper").smoothed_steps == (19, 20)
    repo, paper = config(preset="repo").smoother, config(preset="paper").smoother
    assert (repo.parity, repo.boundary, repo.encode, repo.interpolator) == (
        "repo",
        "pull",
        "sample",
        "rife",
    )
    assert (paper.parity, paper.boundary, paper.encode) == ("paper", "keep", "mode")
    assert not repo.on
    assert not paper.on


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strength": 0.3, "smoother": {"on": True, "at": 0.5}}, "not among the 15 of this run"),
        ({"steps": 3, "smoother": {"on": True, "count": 4}}, "not among the 3 of this run"),
        ({"smoother": {"on": True, "remaining": []}}, "none remaining"),
        ({"smoother": {"interpolator": "dsi"}}, "did you mean 'dis'"),
        ({"smoother": {"weights": "12"}}, "pattern"),
        ({"hierarchical": {"window": 2}}, "greater than or equal to 3"),
    ],
)
def test_impossible_options_say_why(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config(**options)
    if "smoother" in options and "on" in options["smoother"]:
        off = {**options, "smoother": {**options["smoother"], "on": False}}
        assert not config(**off).smoother.on


# --- in the sampler


ON: dict[str, Any] = {"on": True, "interpolator": "linear", "at": 1.0, "count": 1}
FRAMES = 4


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone()


def smoothed(backbone: Backbone, frames: int = FRAMES, **options: Any) -> Tensor:
    shape = (2, 6, 3, SIZE, SIZE)
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(0))[:, :frames]
    request = SampleRequest(frames=drawn[0], prompt="a red star", controls={"edges": drawn[1]})
    base = {"steps": 3, "guidance": {"scale": 4.0}, "smoother": ON}
    made: Tensor = sample(
        backbone, request, config(**merge(base, options)), lambda done, total: None
    )
    return made


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("on", False),
        ("interpolator", "dis"),
        ("at", 0.4),
        ("count", 2),
        ("remaining", [2]),
        ("parity", "repo"),
        ("boundary", "pull"),
        ("encode", "sample"),
        ("blend", 0.5),
    ],
)
def test_every_option_reaches_the_frames(backbone: Backbone, name: str, value: Any) -> None:
    # Of one step with an even number remaining, so that even frames and ends have their turn.
    other = smoothed(backbone, smoother={name: value}, steps=4)
    assert not torch.equal(other, smoothed(backbone, steps=4))


def test_all_options_of_the_smoother_are_tested() -> None:
    marks = test_every_option_reaches_the_frames.pytestmark
    elsewhere = {"weights", "step"}  # `step` needs a scheduler with noise beside it
    assert {name for name, _ in marks[0].args[1]} | elsewhere == set(Smoother.model_fields)


def test_smoothed_samples_are_reproducible_in_any_chunks(backbone: Backbone) -> None:
    options: dict[str, Any] = {"smoother": {"encode": "sample", "count": 2}}
    first = smoothed(backbone, **options)
    assert torch.equal(smoothed(backbone, **options), first)
    whole = smoothed(replace(backbone, chunk=16), **options)
    torch.testing.assert_close(whole, first, rtol=0, atol=1e-5)


@pytest.mark.parametrize("usual", [{"eta": 0.7}, {"scheduler": "dpmpp", "steps": 3}])
def test_smoothed_steps_follow_the_scheduler_or_are_plain(
    backbone: Backbone, usual: dict[str, Any]
) -> None:
    """All steps are smoothed, so that the released way is DDIM without noise throughout."""
    steps = usual.get("steps", 2)
    options: dict[str, Any] = {"steps": steps, "smoother": {"count": steps}}
    follow, ddim = (
        smoothed(backbone, **merge(options, {**usual, "smoother": {"step": step}}))
        for step in ("follow", "ddim")
    )
    plain = smoothed(backbone, **options)
    torch.testing.assert_close(ddim, plain, rtol=0, atol=1e-6)
    assert not torch.equal(follow, ddim)


def test_the_smoother_meets_other_options(backbone: Backbone) -> None:
    """SDEdit, noise at each step, long videos: the same step of the schedule is edited."""
    cases: list[dict[str, Any]] = [
        {"strength": 0.7, "steps": 4, "smoother": {"at": 0.5}},
        {"eta": 0.5},
        {"scheduler": "ddpm"},
        {"scheduler": "dpmpp", "frames": 5, "hierarchical": {"on": True, "window": 3}},
        {"frames": 5, "hierarchical": {"on": True, "window": 3}},
    ]
    for options in cases:
        on, off = (
            smoothed(backbone, **merge(options, {"smoother": {"on": on}})) for on in (True, False)
        )
        assert not torch.equal(on, off)


def test_weights_of_the_interpolator_are_part_of_the_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "flownet.pkl"
    monkeypatch.setenv("CROSSFRAME_RIFE", str(path))
    assert config(smoother={"on": True}).smoother.weights == ""
    path.write_bytes(b"weights")
    chosen = config(smoother={"on": True})
    assert chosen.smoother.weights == hashlib.sha256(b"weights").hexdigest()
    assert config(**chosen.model_dump(mode="json")) == chosen
    assert config(smoother={"on": True, "interpolator": "dis"}).smoother.weights == ""
    assert config().smoother.weights == ""


def test_absent_weights_stop_a_sample(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSFRAME_RIFE", str(tmp_path / "none"))
    with pytest.raises(NotAvailable, match="linear and dis need no weights"):
        smoothed(backbone, smoother={"interpolator": "rife"})


def test_other_weights_than_the_options_name_stop_a_sample(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "flownet.pkl"
    path.write_bytes(b"weights")
    monkeypatch.setenv("CROSSFRAME_RIFE", str(path))
    with pytest.raises(UserError, match=r"smoother\.weights"):
        smoothed(backbone, smoother={"interpolator": "rife", "weights": "0" * 64})
