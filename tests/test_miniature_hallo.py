"""Training of the miniature Hallo, and what is measured on its frames."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models import AutoencoderKL
from torch import Tensor, nn

from crossframe.sound import read_sound
from crossframe.voice import envelope
from methods.backbone_config import parse_backbone
from methods.hallo import training
from methods.hallo.backbone import HalloBackbone, load_hallo
from methods.hallo.calls import HalloCall
from methods.hallo.drawing import draw_latents, prepare
from methods.hallo.networks import HalloNets, stage_parameters
from methods.hallo.schedule import sampling_schedule
from methods.hallo.training import Dropped, DropRates
from metrics.base import MetricInputs, MetricValue
from metrics.sync import correlation_terms, head_corr, mouth_corr, mouth_openness, outside_corr
from miniature import hallo, hallo_check, hallo_clips, hallo_vae
from miniature.figure import Figure
from miniature.hallo_clips import LATENT, SOUND, Talk
from tests.tiny_backbone import randomize

FRAMES = hallo_clips.FRAMES


@pytest.fixture(scope="module")
def nets() -> HalloNets:
    return hallo.build()


def test_both_networks_start_alike() -> None:
    nets = hallo.build()
    copied = nets.denoising_unet.unet.state_dict()
    for name, value in nets.reference_unet.unet.state_dict().items():
        assert torch.equal(copied[name], value), name


class Clips:
    """Stands for `Talks` without an autoencoder: latents whose values tell clip and frame."""

    clips = 3
    grey = torch.full((4, LATENT, LATENT), 9.0)

    def __getitem__(self, number: int) -> Talk:
        values = 100.0 * number + torch.arange(FRAMES, dtype=torch.float32)
        boxes = torch.tensor([[40, 88, 30, 100]]).repeat(FRAMES, 1)
        boxes[:, :2] += torch.arange(FRAMES)[:, None] % 5
        return Talk(
            latents=values[:, None, None, None].expand(-1, 4, LATENT, LATENT).clone(),
            sound=values[:, None, None].expand(-1, SOUND.blocks, SOUND.channels).clone(),
            identity=torch.full((16,), float(number)),
            face=boxes,
            lip=torch.tensor([[54, 74, 80, 90]]).repeat(FRAMES, 1),
        )


def level(tensor: Tensor) -> list[float]:
    return tensor.flatten(1)[:, 0].tolist()


def test_networks_fit_the_limit(nets: HalloNets) -> None:
    assert (
        sum(p.numel() for p in nets.parameters()) <= 4_400_000
    )  # with the autoencoder 12 MB in half precision


def test_stills_have_a_reference_of_the_same_face_some_frames_away() -> None:
    torch.manual_seed(0)
    example = hallo.draw_stills(Clips(), 12)
    target, reference = example.clean[:, 0, :, 0, 0], example.given.images[:, :1, 0, 0, 0]
    assert (target // 100).equal((reference // 100).expand_as(target))
    assert ((target - reference).abs() >= hallo.APART).all()
    assert (target[:, 0] != target[:, 1]).all()
    assert example.given.images.shape == (12, 1, 4, LATENT, LATENT)
    assert level(example.given.identity) == (target[:, 0] // 100).tolist()


def test_a_segment_has_the_two_frames_before_it_and_hears_its_own_sound() -> None:
    torch.manual_seed(0)
    kinds = set()
    for _ in range(12):
        example = hallo.draw_segments(Clips(), 2, 6)
        for clean, images, sound in zip(
            example.clean, example.given.images, example.given.sound, strict=True
        ):
            frames, first = clean[0, :, 0, 0].tolist(), float(clean[0, 0, 0, 0])
            assert frames == [first + i for i in range(6)]
            assert sound[:, 2, 0, 0].tolist() == frames
            before, copies = [first - 2, first - 1], level(images[:1]) * 2
            assert level(images[1:]) in (before, copies)
            kinds.add(level(images[1:]) == copies)
    assert kinds == {True, False}


def test_focus_is_one_on_average_and_largest_on_the_lips() -> None:
    face, lip = torch.tensor([32, 96, 24, 104]), torch.tensor([56, 72, 80, 88])
    weight = hallo_clips.focus(face, lip)
    assert weight.mean() == pytest.approx(1)
    outside, inside, lips = weight[0, 0], weight[5, 6], weight[10, 7]
    assert float(inside / outside) == pytest.approx(1 + hallo_clips.FACE_FOCUS)
    whole = 1 + hallo_clips.FACE_FOCUS + hallo_clips.LIP_FOCUS
    assert float(lips / outside) == pytest.approx(whole)


def test_boxes_are_found_again() -> None:
    region = torch.zeros(2, 20, 30, dtype=torch.bool)
    region[0, 3:7, 10:22] = True
    region[1, :, 29:] = True
    assert hallo_clips.corners(region.numpy()).tolist() == [[10, 22, 3, 7], [29, 30, 0, 20]]


def test_masks_at_training_are_of_the_union_or_of_the_reference_expanded() -> None:
    talk = Clips()[0]
    assert hallo_clips.boxes_for(talk.face, talk.lip, None)[0] == (40, 92, 30, 100)
    face, lip = hallo_clips.boxes_for(talk.face, talk.lip, 1)
    assert face[1] - face[0] == pytest.approx(48 * 1.2, abs=2)
    assert lip[1] - lip[0] == pytest.approx(20 * 2, abs=2)


@pytest.fixture(scope="module")
def example() -> hallo.Example:
    torch.manual_seed(1)
    drawn = hallo.draw_segments(Clips(), 2, 2)
    fresh = torch.randn(drawn.given.images.shape)
    given = replace(drawn.given, images=fresh, sound=torch.randn(drawn.given.sound.shape))
    return replace(drawn, clean=torch.randn(drawn.clean.shape), given=given)


@pytest.mark.parametrize("stage", [1, 2])
def test_each_stage_moves_its_own_parameters_only(
    nets: HalloNets, example: hallo.Example, stage: int
) -> None:
    own = stage_parameters(nets, stage)
    for name, parameter in nets.named_parameters():
        parameter.requires_grad_(name in own).grad = None
    given = replace(example.given, images=example.given.images[:, : 1 if stage == 1 else None])
    part = replace(example, given=given)
    if stage == 1:
        part = replace(part, clean=part.clean[:, :, :1], focus=part.focus[:, :, :1])
    with torch.random.fork_rng():
        torch.manual_seed(5)  # nothing is dropped
        hallo.Trainer(nets, stage, Clips.grey).loss(part).backward()
    moved = {name for name, p in nets.named_parameters() if p.grad is not None}
    assert moved <= own.keys()
    wanted = {1: "denoising_unet.unet.conv_out.weight", 2: "motion_modules.0.audio.proj_out.weight"}
    assert any(wanted[stage] in name for name in moved)


@pytest.fixture(scope="module")
def begun() -> HalloNets:
    """Networks whose last layer is not zero, through which gradients reach the others."""
    nets = hallo.build()
    nn.init.normal_(nets.denoising_unet.unet.conv_out.weight, std=0.1)
    return nets


def test_without_focus_all_latents_count_alike(begun: HalloNets, example: hallo.Example) -> None:
    def loss(focused: bool, focus: Tensor) -> float:
        trainer = hallo.Trainer(begun, 2, Clips.grey, focused=focused)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(5)
            return float(trainer.loss(replace(example, focus=focus)))

    even = torch.ones_like(example.focus)
    assert loss(False, example.focus) == pytest.approx(loss(True, even))
    assert loss(False, 3 * even) == pytest.approx(loss(True, 3 * even) / 3)


@pytest.mark.parametrize("kind", ["identity", "reference", "audio", "motion", "everything"])
def test_a_step_learns_whatever_it_drops(
    begun: HalloNets, example: hallo.Example, kind: str
) -> None:
    for stage in (1, 2):
        own = stage_parameters(begun, stage)
        for name, parameter in begun.named_parameters():
            parameter.requires_grad_(name in own).grad = None
        objective = hallo.Objective(DropRates(**{kind: 1.0}))
        trainer = hallo.Trainer(begun, stage, Clips.grey, objective)
        loss = trainer.loss(example)
        loss.backward()
        assert torch.isfinite(loss)
        assert any(p.grad is not None and p.grad.any() for p in own.values())


def test_what_is_dropped(nets: HalloNets, example: hallo.Example) -> None:
    trainer = hallo.Trainer(nets, 2, Clips.grey)
    with torch.no_grad():
        tokens, call = trainer.told(example, Dropped())
        null, without = trainer.told(example, Dropped(True, True, True, False, True))
        _, alone = trainer.told(example, Dropped(reference=True))
        _, grey = trainer.told(example, Dropped(motion=True))
    assert call.bank is not None
    assert call.unconditional == 0
    assert alone.bank is None
    assert without.bank is not None
    assert without.unconditional == 2
    assert without.locator is None
    assert without.audio is not None
    assert not without.audio.any()
    with torch.no_grad():
        both, told = prepare(nets, example.given, HalloCall(2, order="fixed"), guided=True)
    assert torch.allclose(both, torch.cat([null, tokens]))
    layer = "mid_block.attentions.0"
    assert told.bank is not None
    assert grey.bank is not None
    assert torch.allclose(told.bank[layer][:2], without.bank[layer], atol=1e-5)
    assert torch.allclose(told.bank[layer][2:], call.bank[layer], atol=1e-5)
    assert torch.allclose(grey.bank[layer][:, 0], call.bank[layer][:, 0], atol=1e-5)
    assert not torch.allclose(grey.bank[layer][:, 1:], call.bank[layer][:, 1:], atol=1e-2)


def test_fresh_sound_and_time_change_nothing(begun: HalloNets, example: hallo.Example) -> None:
    trainer = hallo.Trainer(begun, 2, Clips.grey)
    with torch.no_grad():
        tokens, call = trainer.told(example, Dropped())
        plain = replace(call, audio=None, motion=False)
        t = torch.tensor([500, 3])
        answers = [begun.denoising_unet(example.clean, t, tokens, c) for c in (call, plain)]
    assert torch.allclose(answers[0], answers[1], atol=1e-6)
    assert answers[0].std() > 0.01


def test_guidance_of_one_needs_no_second_half(nets: HalloNets, example: hallo.Example) -> None:
    schedule, noise = sampling_schedule(2), torch.randn(example.clean.shape)
    call = HalloCall(2, order="fixed")
    drawn = [
        draw_latents(nets, example.given, schedule, noise, scale, call) for scale in (1.0, 1 + 1e-7)
    ]
    assert torch.allclose(drawn[0], drawn[1], atol=1e-4)


@pytest.fixture(scope="module")
def takes() -> list[hallo_check.Take]:
    return [hallo_check.held_out(number, frames=24) for number in range(2)]


def test_metrics_find_the_truth_in_true_frames(takes: list[hallo_check.Take]) -> None:
    for take in takes:
        true = take.judged(take.request.frames)
        assert mouth_corr(true).value > 0.97
        assert head_corr(true).value > 0.98
        assert outside_corr(true).value > 0.98
        still = take.judged(take.request.frames[:1].expand_as(take.request.frames))
        assert mouth_corr(still).value == head_corr(still).value == outside_corr(still).value == 0


def test_metrics_survive_noise(takes: list[hallo_check.Take]) -> None:
    frames = takes[0].request.frames
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
    noisy = takes[0].judged((frames + 0.05 * noise).clamp(0, 1))
    assert mouth_corr(noisy).value > 0.9
    assert head_corr(noisy).value > 0.95
    assert outside_corr(noisy).value > 0.95


def test_figures_say_when_they_fall_short() -> None:
    assert Figure("hallo", "x", 0.6, least=0.7).short
    assert Figure("hallo", "x", 0.3, most=0.2).short
    assert not Figure("hallo", "x", 0.2, most=0.2).short
    assert Figure("hallo", "x", 1.0, 0.5, 2.0).goal == ">= 0.5, <= 2"


def judged(
    takes: list[hallo_check.Take], change: Callable[[Tensor], Tensor] = lambda x: x
) -> list[MetricInputs]:
    return [take.judged(change(take.request.frames)) for take in takes]


def still(frames: Tensor) -> Tensor:
    return frames[:1].expand_as(frames)


def short(figures: Iterable[Figure]) -> list[str]:
    return [figure.name for figure in figures if figure.short]


def test_branches_that_are_off_must_cost_what_they_drive(takes: list[hallo_check.Take]) -> None:
    true, quiet = judged(takes), judged(takes, still)
    rows = {hallo_check.WHOLE: true, hallo_check.NO_LIP: quiet}
    off = {hallo_check.NO_FACE: quiet, hallo_check.NO_POSE: quiet}
    assert short(hallo_check.following({**rows, **off}, "")) == []
    idle = {hallo_check.NO_FACE: true, hallo_check.NO_POSE: true}
    told = short(hallo_check.following({**rows, **idle}, ""))
    assert [name.rpartition(", ")[2] for name in told] == [hallo_check.NO_FACE, hallo_check.NO_POSE]


def test_a_mouth_that_does_the_opposite_follows_too(
    takes: list[hallo_check.Take], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([0.9, 0.9, 0.8, -0.8])
    monkeypatch.setattr(hallo_check, "mouth_corr", lambda row: MetricValue(next(found), (0.0,)))
    rows = dict.fromkeys(hallo_check.WAYS, judged(takes))
    figures = list(hallo_check.following(rows, ""))
    assert figures[1].value == pytest.approx(0.8)
    assert figures[1].short


def test_change_has_bounds_on_both_sides_and_borders_may_not_jump(
    takes: list[hallo_check.Take],
) -> None:
    def jumping(frames: Tensor) -> Tensor:
        """Twice as far from the middle in the second segment."""
        late = torch.arange(len(frames)) >= hallo_check.LENGTH
        return torch.where(late[:, None, None, None], 1 - frames, frames)

    true, jumps = judged(takes), judged(takes, jumping)
    assert short(hallo_check.continuity(true, jumps)) == []
    assert short(hallo_check.continuity(jumps, true))[-2:] == [
        "change at segment borders over that within",
        "the same without motion frames",
    ]
    slow = judged(takes, lambda frames: frames.mean(0) + 0.25 * (frames - frames.mean(0)))
    figure = next(hallo_check.continuity(slow, jumps))
    assert figure.value == pytest.approx(0.25, abs=0.01)
    assert figure.short


def test_a_face_must_be_nearer_to_the_truth_than_its_portrait_repeated(
    tiny: HalloBackbone, takes: list[hallo_check.Take], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hallo_check, "encode_frames", lambda backbone, frames: frames)
    monkeypatch.setattr(hallo_check, "decode_latents", lambda backbone, latents: latents)
    assert short(hallo_check.likeness(tiny, judged(takes))) == []
    grey = judged(takes, lambda frames: 0.7 * still(frames) + 0.15)
    assert short(hallo_check.likeness(tiny, grey)) == ["face, PSNR against the truth, dB"]


@pytest.fixture(scope="module")
def tiny() -> HalloBackbone:
    """Random networks that take what the miniature's take."""
    torch.manual_seed(0)
    nets = HalloNets(replace(hallo.SIZES, widths=(32,) * 4, groups=8)).eval()
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4,) * 4,
        norm_num_groups=2,
    )
    return HalloBackbone(nets, randomize(vae, 1).eval(), SOUND)


def test_the_check_runs_through_the_sampler(
    tiny: HalloBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hallo_check, "LENGTH", 4)
    cheap = {"steps": 1, "guidance": {"scale": 1.0}, "segment": {"length": 4}}
    monkeypatch.setattr(hallo_check, "BASE", {**hallo_check.BASE, **cheap})
    figures = list(hallo_check.check_hallo(tiny, clips=1, frames=6))
    names = [figure.name for figure in figures]
    assert len(set(names)) == len(names) == 15
    assert all(math.isfinite(figure.value) for figure in figures)
    gates = [figure.name for figure in figures if figure.goal]
    assert len(gates) == 8
    assert "n = 1 clips of 6 frames" in names[0]


@pytest.mark.parametrize("stage", [1, 2])
def test_objectives_reach_the_loss(begun: HalloNets, example: hallo.Example, stage: int) -> None:
    """The released second stage weighs all samples alike; steps leave out what they are told."""
    meant, released = (hallo.OBJECTIVES[name][stage] for name in ("meant", "released"))
    assert hallo.Trainer(begun, stage, Clips.grey).objective == meant
    assert (meant.weighting, released.weighting) == (
        "per_sample", "per_sample" if stage == 1 else "batch_mean",
    )  # fmt: skip
    assert released.rates == (training.STAGE_1 if stage == 1 else training.STAGE_2)

    def loss(rates: DropRates, weighting: Any) -> float:
        trainer = hallo.Trainer(begun, stage, Clips.grey, hallo.Objective(rates, weighting))
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(3)
            return float(trainer.loss(example))

    none = DropRates()
    plain = loss(none, "per_sample")
    assert loss(none, "per_sample") == plain
    assert loss(none, "batch_mean") != plain
    assert loss(DropRates(everything=1.0), "per_sample") != plain


def test_pictures_for_the_autoencoder_weigh_faces_more() -> None:
    images, weights = hallo_vae.pictures(3, 2)
    again, _ = hallo_vae.pictures(4, 1)
    assert images.shape == (2, 3, 128, 128)
    assert torch.equal(images[1], again[0])
    assert weights.unique().tolist() == [1, hallo_vae.FACE_WEIGHT]
    assert weights[:, 0, 60, 64].tolist() == [hallo_vae.FACE_WEIGHT] * 2
    assert weights[:, 0, :8].unique().tolist() == [1]


RECORDING = Path(__file__).parents[2] / "shared" / "audio" / "driving-1.wav"


@pytest.mark.slow
@pytest.mark.skipif(not RECORDING.is_file(), reason=f"no recording of speech at {RECORDING}")
def test_a_recorded_voice_opens_a_drawn_mouth() -> None:
    """Real speech, of which the networks heard none, on held-out faces at the check's setting.

    `pytest -s` prints the correlation of mouth and loudness, by face and start of the cut.
    """
    frames, backbone, found = 48, load_hallo(parse_backbone("miniature")), {}
    recording = read_sound(RECORDING)
    for number, start in itertools.product(range(2), (0.5, 3.0)):
        take = hallo_check.held_out(number, frames)
        voice = recording.cut(start, frames / 25)
        asked = replace(take, request=replace(take.request, voice=voice))
        with torch.inference_mode():
            made = hallo_check.drawn(backbone, asked, {})
        mouth = take.face.mouth[:1].expand_as(take.face.mouth)
        loudness = torch.from_numpy(envelope(voice, frames, 25))
        terms = correlation_terms(mouth_openness(made, mouth), loudness)
        found[number, start] = float(terms.mean())
    print({place: f"{value:.2f}" for place, value in found.items()})
    assert min(found.values()) > 0.6
