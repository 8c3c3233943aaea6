"""Hallo's sampler: the released run of a segment, and what options, clips and voices do to it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from hallo_golden import Case
from hallo_sizes import NANO
from torch import Tensor

from crossframe.errors import UserError
from crossframe.voice import Voice
from data_manifests.clips import ClipRequest, load_clip
from methods import METHODS
from methods.base import SampleRequest
from methods.hallo.backbone import HalloBackbone
from methods.hallo.calls import HalloCall
from methods.hallo.checkpoints import nets_of
from methods.hallo.config import HalloConfig
from methods.hallo.drawing import Conditions, prepare
from methods.hallo.networks import HalloNets
from methods.hallo.options import Guidance
from methods.hallo.portrait import listen
from methods.hallo.sampler import run_latents, sample, schedule_of
from methods.hallo.sizes import Sizes
from methods.hallo.sound import SpectralFeatures
from tests.tiny_backbone import randomize

SIDE, SEED, LENGTH = 8, 5, 3
TINY = replace(
    NANO,
    widths=(32,) * 4,
    groups=8,
    audio_channels=SpectralFeatures().channels,
    positions=8,
)


def filled(nets: HalloNets) -> HalloNets:
    """Networks in which nothing is 0, so that every part can be seen."""
    with torch.no_grad():
        for parameter in nets.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    return nets.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def backbone() -> HalloBackbone:
    torch.manual_seed(0)
    vae = randomize(AutoencoderKL(block_out_channels=(4,), norm_num_groups=2), 1).eval()
    return HalloBackbone(filled(HalloNets(TINY)), vae.requires_grad_(False), SpectralFeatures())


def voice(frames: int, fps: float = 25) -> Voice:
    t = np.arange(round(frames / fps * 16_000)) / 16_000
    tone = 0.3 * np.sin(2 * np.pi * 140 * t) * np.sin(2 * np.pi * 3 * t) ** 2
    return Voice(tone.astype(np.float32))


def truth(frames: int) -> dict[str, Tensor]:
    face, lip = (torch.zeros(frames, SIDE, SIDE, dtype=torch.bool) for _ in range(2))
    face[:, 1:7, 2:6] = True
    lip[:, 4:6, 3:5] = True
    return {"face": face, "lip": lip, "identity": torch.linspace(-1, 1, TINY.face_width)}


def request(frames: int = 5, **more: Any) -> SampleRequest:
    generator = torch.Generator().manual_seed(2)
    pictures = torch.rand(frames, 3, SIDE, SIDE, generator=generator)
    given = {"voice": voice(frames), "truth": truth(frames), "seed": SEED, **more}
    return SampleRequest(frames=pictures, prompt="", **given)


def config(**given: Any) -> HalloConfig:
    base = {"preset": "fixed", "steps": 2, "segment": {"length": LENGTH}}
    return HalloConfig.model_validate(base | given)


def made(backbone: HalloBackbone, asked: SampleRequest | None = None, **given: Any) -> Tensor:
    return sample(backbone, asked or request(), config(**given), lambda done, total: None)


@pytest.fixture(scope="module")
def plain(backbone: HalloBackbone) -> Tensor:
    """One segment without any option."""
    return made(backbone, request(LENGTH))


# --- the released run
FULL = Sizes(
    widths=(32,) * 4,
    layers=1,
    heads=4,
    groups=8,
    token_width=24,
    motion_heads=2,
    audio_width=20,
    face_width=12,
    audio_blocks=2,
    audio_channels=6,
    audio_hidden=16,
    audio_tokens=3,
    locator_widths=(4, 8, 8, 16),
)


def test_a_segment_is_drawn_as_published() -> None:
    case = Case("unet_full")
    nets = nets_of(case.weights, FULL).requires_grad_(False)
    released = HalloBackbone(nets, None, SpectralFeatures())
    given = Conditions(
        identity=case.input["face_emb"],
        images=case.input["reference_latents"][None],
        sound=case.input["audio_windows"],
        masks=case.pyramid((16, 8, 4, 2)),
        face=case.input["face_region_mask"],
    )
    options = {
        "preset": "repo",
        "steps": 2,
        "scales": {"pose": 0.7, "face": 1.3, "lip": 2.0},
        "quirks": {"half_bank": False},
    }
    asked = HalloConfig.model_validate(options)
    schedule = schedule_of(released, asked)
    case.check("latents.1", run_latents(released, asked, given, schedule, case.input["latents"]))
    fixed = HalloConfig.model_validate({**options, "preset": "fixed", "schedule": {}})
    mended = run_latents(released, fixed, given, schedule, case.input["latents"])
    assert (mended - case.output["latents.1"]).abs().max() > 100 * case.tolerance


# --- what a sample depends on
def test_frames_progress_and_notes(backbone: HalloBackbone) -> None:
    told: list[tuple[int, int]] = []
    notes: dict[str, Any] = {}
    asked = request(note=notes.__setitem__)
    video = METHODS.load("hallo")(backbone, asked, config(), lambda *step: told.append(step))
    assert video.shape == asked.frames.shape
    assert video.dtype == torch.float32
    assert (video.min() >= 0) & (video.max() <= 1)
    assert told == [(step, 4) for step in range(1, 5)]
    assert notes["decode_borders"] == [3]
    assert notes["hallo"] == {
        "segments": 2,
        "frames_drawn": 6,
        "network_calls": 4,
        "guided": True,
    }


def test_only_portrait_voice_and_seed_count(backbone: HalloBackbone) -> None:
    first = made(backbone)
    others = request().frames.clone()
    others[1:] = 0.5
    assert torch.equal(made(backbone, replace(request(), frames=others)), first)
    assert not torch.equal(made(backbone, replace(request(), frames=others.flip(0))), first)
    assert not torch.equal(made(backbone, request(seed=SEED + 1)), first)
    silent = Voice(np.zeros(5 * 640, np.float32))
    assert not torch.equal(made(backbone, request(voice=silent)), first)


def test_the_portrait_may_be_any_frame(backbone: HalloBackbone) -> None:
    turned = replace(request(), frames=request().frames.roll(-2, 0))
    assert torch.equal(made(backbone, reference={"frame": 2}), made(backbone, turned))


def test_motion_frames_tie_segments_together(backbone: HalloBackbone) -> None:
    drawn = {
        name: made(backbone, motion={"frames": n, "source": source})
        for name, n, source in (
            ("previous", 2, "previous"),
            ("reference", 2, "reference"),
            ("grey", 2, "grey"),
            ("none", 0, "previous"),
        )
    }
    assert torch.equal(drawn["previous"][:LENGTH], drawn["reference"][:LENGTH])
    assert not torch.equal(drawn["previous"][LENGTH:], drawn["reference"][LENGTH:])
    assert not torch.equal(drawn["grey"][:LENGTH], drawn["reference"][:LENGTH])
    assert not torch.equal(drawn["none"][:LENGTH], drawn["reference"][:LENGTH])


def test_a_whole_last_segment_is_the_same_however_it_would_be_filled(
    backbone: HalloBackbone,
) -> None:
    silence, shorter = (
        made(backbone, request(6), segment={"length": LENGTH, "padding": padding})
        for padding in ("silence", "shorter")
    )
    assert torch.equal(silence, shorter)
    notes: dict[str, Any] = {}
    asked = request(note=notes.__setitem__)
    made(backbone, asked, segment={"length": LENGTH, "padding": "shorter"})
    assert notes["hallo"]["frames_drawn"] == 5


@pytest.mark.parametrize(("frames", "padding", "drawn"), [(65, "silence", 80), (70, "shorter", 70)])
def test_clips_slightly_faster_than_the_sound_are_drawn_whole(
    backbone: HalloBackbone, frames: int, padding: str, drawn: int
) -> None:
    """At 25.4 frames a second the voice fills fewer frames at 25 than the clip has."""
    notes: dict[str, Any] = {}
    wide = replace(backbone, nets=filled(HalloNets(replace(TINY, positions=18))))
    asked = request(frames, voice=voice(frames, 25.4), note=notes.__setitem__)
    cheap = {"steps": 1, "guidance": {"scale": 1.0}, "motion": {"frames": 0}}
    segment = {"length": 16, "padding": padding}
    assert len(made(wide, asked, segment=segment, **cheap)) == frames
    assert notes["hallo"]["frames_drawn"] == drawn


def test_what_is_heard_is_the_voice_cut_to_the_clip(backbone: HalloBackbone) -> None:
    long, keys = voice(10), []

    def shared(stage: str, parts: Any, make: Any) -> Any:
        keys.append(parts[0])
        return make()

    exact = request(7, voice=long.cut(0, 7 / 25), shared=shared)
    slow = request(7, voice=long.cut(0, 7 / 24.6), shared=shared)
    shorter = config(segment={"length": LENGTH, "padding": "shorter"})
    heard = [listen(backbone, r, r.voice, shorter) for r in (exact, slow)]
    assert len(heard[0]) == 7  # 8 by the released count in floating point
    assert torch.equal(*heard)
    assert keys[0] == keys[1]


def test_bright_portraits_are_normalised_twice_as_released(
    backbone: HalloBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The autoencoder is then given 2 (2 p - 1) - 1 for pixels p, not 2 p - 1."""
    given: list[Tensor] = []
    encode = backbone.vae.encode
    monkeypatch.setattr(backbone.vae, "encode", lambda x: (given.append(x), encode(x))[1])
    bright = replace(request(LENGTH), frames=0.6 + 0.3 * request(LENGTH).frames)
    dark = replace(bright, frames=bright.frames.clone())
    dark.frames[0, 0, 0, 0] = 0.4
    quirk = {"quirks": {"bright_twice": True}, "motion": {"frames": 0}}
    for asked, more in ((bright, quirk), (bright, {"motion": {"frames": 0}}), (dark, quirk)):
        made(backbone, asked, steps=1, **more)
    portrait = bright.frames[:1]
    torch.testing.assert_close(given[0], 4 * portrait - 3)
    torch.testing.assert_close(given[1], 2 * portrait - 1)
    torch.testing.assert_close(given[2], 2 * dark.frames[:1] - 1)


def test_without_reference_attention_nothing_of_the_portrait_is_left(
    backbone: HalloBackbone,
) -> None:
    blind = {"on": False, "identity": False, "locator": False}
    light = request(LENGTH)
    dark = replace(light, frames=light.frames * 0.2)
    drawn = [
        made(backbone, asked, reference=blind, motion={"frames": 0}) for asked in (light, dark)
    ]
    assert torch.equal(*drawn)
    seeing = blind | {"on": True, "levels": [1]}
    seen = [
        made(backbone, asked, reference=seeing, motion={"frames": 0}) for asked in (light, dark)
    ]
    assert not torch.equal(*seen)


def test_regions_and_scales(backbone: HalloBackbone, plain: Tensor) -> None:
    asked, quiet = request(LENGTH), {"face": 0.0, "lip": 0.0}
    everywhere = made(backbone, asked, regions={"attention": "everywhere"}, scales=quiet)
    assert torch.equal(made(backbone, asked, regions={"attention": "full"}), everywhere)
    assert not torch.equal(made(backbone, asked, scales=quiet), everywhere)
    assert not torch.equal(made(backbone, asked, scales={"lip": 0.0}), plain)


def test_rows_are_mixed_up_under_guidance_alone(backbone: HalloBackbone, plain: Tensor) -> None:
    asked, parity = request(LENGTH), {"reference_rows": "parity", "token_rows": "parity"}
    alone = {"guidance": {"scale": 1.0}}
    whole = made(backbone, asked, **alone)
    assert torch.equal(whole, made(backbone, asked, quirks=parity, **alone))
    one, other = (made(backbone, asked, quirks={name: "parity"}) for name in parity)
    assert not torch.equal(one, plain)
    assert not torch.equal(other, plain)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "given",
    [
        {"eta": 1.0},
        {"noise": "shared"},
        {"schedule": {"betas": "linear"}},
        {"schedule": {"zero_snr": False}},
        {"guidance": {"ramp": {"min": 1.0, "max": 3.5}}},
        {"guidance": {"audio": "projected"}},
        {"guidance": {"locator": "kept"}},
        {"guidance": {"motion": "dropped"}},
        {"quirks": {"motion_norm": "pooled"}},
        {"quirks": {"dead_modules": True}},
        {"quirks": {"evaluation": True}},
        {"quirks": {"half_bank": True}},
        {"regions": {"soft": False}},
        {"reference": {"pattern": "first+reference"}},
    ],
    ids=str,
)
def test_every_switch_does_something_and_does_it_again(
    backbone: HalloBackbone, plain: Tensor, given: Mapping[str, Any]
) -> None:
    found = made(backbone, request(LENGTH), **given)
    assert not torch.equal(found, plain)
    assert torch.equal(found, made(backbone, request(LENGTH), **given))


def test_the_sound_is_shared_by_voice_and_padding(backbone: HalloBackbone) -> None:
    asked: list[tuple[str, Any]] = []

    def shared(stage: str, parts: Any, make: Any) -> Any:
        asked.append((stage, parts))
        return make()

    for seed, given in ((1, {}), (2, {"steps": 1}), (1, {"segment": {"length": 4}})):
        made(backbone, request(LENGTH, seed=seed, shared=shared), **given)
    assert [stage for stage, _ in asked] == ["sound"] * 3
    assert asked[0] == asked[1] != asked[2]


# --- the null half
def test_the_null_half_is_composed_as_asked() -> None:
    torch.manual_seed(1)
    nets = filled(HalloNets(TINY))
    given = Conditions(
        identity=torch.randn(1, TINY.face_width),
        images=torch.randn(1, 3, 4, SIDE, SIDE),
        sound=torch.randn(1, 2, 5, 1, TINY.audio_channels),
        masks=None,
        face=torch.ones(1, 3, 8 * SIDE, 8 * SIDE),
    )
    call = HalloCall(2, order="fixed")

    def halves(null: Guidance) -> dict[str, tuple[Tensor, Tensor]]:
        tokens, told = prepare(nets, given, call, guided=True, null=null)
        assert told.audio is not None
        assert told.locator is not None
        assert told.bank is not None
        assert told.unconditional == int(null.reference == "dropped")
        motion = told.bank["mid_block.attentions.0"][:, 1:]
        parts = {"identity": tokens, "audio": told.audio, "locator": told.locator, "motion": motion}
        return {name: (part[0], part[1]) for name, part in parts.items()}

    everything = dict.fromkeys(("identity", "audio", "reference", "locator"), "kept")
    kept = halves(Guidance.model_validate({"scale": 1.0, **everything}))
    assert all(torch.equal(*pair) for pair in kept.values())
    bare = halves(Guidance(identity="zeros", audio="zeros", motion="dropped"))
    assert not any(null.any() for null, _ in bare.values())
    assert all(torch.equal(bare[name][1], kept[name][1]) for name in kept)
    released = halves(Guidance())
    zero = nets.image_proj(torch.zeros(1, TINY.face_width))[0]
    assert torch.equal(released["identity"][0], zero)
    assert not released["audio"][0].any()
    assert not released["locator"][0].any()
    assert released["motion"][0].any()
    spoken = halves(Guidance(audio="projected"))["audio"][0]
    assert torch.equal(spoken, nets.audio_proj(torch.zeros_like(given.sound))[0])


# --- what cannot be drawn
@pytest.mark.parametrize(
    ("more", "given", "words"),
    [
        ({"voice": None}, {}, ("no voice", "sidecar")),
        ({"voice": voice(5, 12.5)}, {}, ("12.5 frames per second", "25", "clip.stride", "ffmpeg")),
        ({}, {"segment": {"length": 7}}, ("7 frames after 2 motion frames", "8 in all")),
        ({}, {"reference": {"frame": 5}}, ("no frame 5", "0..4")),
        ({}, {"regions": {"attention": "single"}}, ("single", "three, everywhere, full")),
        (
            {"truth": {}},
            {"reference": {"locator": False}, "regions": {"attention": "everywhere"}},
            ("who the portrait shows", "crossframe[portraits]"),
        ),
        ({"truth": {}}, {"reference": {"identity": False}}, ("regions", "crossframe[portraits]")),
    ],
)
def test_what_does_not_fit_is_told(
    backbone: HalloBackbone, more: dict[str, Any], given: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(UserError) as caught:
        made(backbone, request(**more), **given)
    assert len(caught.value.problems) == 1
    assert all(word in str(caught.value) for word in words)


def test_several_problems_are_told_at_once(backbone: HalloBackbone) -> None:
    asked = replace(request(voice=None), frames=torch.zeros(5, 3, 8, 12))
    with pytest.raises(UserError) as caught:
        made(backbone, replace(asked, truth={}), reference={"frame": 9})
    assert [problem.where for problem in caught.value.problems] == [
        "clip", "clip.size", "reference.frame", "backbone.face_encoder", "regions",
    ]  # fmt: skip


def test_networks_with_one_attention_take_it_and_no_other(backbone: HalloBackbone) -> None:
    torch.manual_seed(0)
    nets = filled(HalloNets(replace(TINY, masked_blocks=())))
    single = replace(backbone, nets=nets)
    with pytest.raises(UserError, match="one audio attention"):
        made(single)
    found = made(single, request(LENGTH), regions={"attention": "single"})
    assert found.shape == (LENGTH, 3, SIDE, SIDE)


def test_an_encoder_reads_who_the_clip_does_not_know(
    backbone: HalloBackbone, plain: Tensor
) -> None:
    known = truth(LENGTH)
    identity = known.pop("identity")
    seeing = replace(backbone, face_encoder=lambda picture: identity)
    assert torch.equal(made(seeing, request(LENGTH, truth=known)), plain)


def test_half_precision_is_kept_throughout(backbone: HalloBackbone, plain: Tensor) -> None:
    """Near the result in float32, and not equal to it."""
    nets, vae = (deepcopy(net).bfloat16() for net in (backbone.nets, backbone.vae))
    rough = replace(backbone, nets=nets, vae=vae, dtype=torch.bfloat16)
    found = made(rough, request(LENGTH), quirks={"half_bank": True})
    assert found.dtype == torch.float32
    assert 0 < (found - plain).abs().mean() < 0.05


# --- a portrait and a recording
SHARED = Path(__file__).parents[2] / "shared" / "audio"


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no portraits and no recording in {SHARED}")
@pytest.mark.parametrize("name", ["portrait-2", "portrait-5"])
def test_a_photographed_portrait_speaks_a_recording(
    backbone: HalloBackbone, tmp_path: Path, name: str
) -> None:
    """From picture and sound file to frames; random networks, so that only the way is tested."""
    shutil.copy(SHARED / f"{name}.jpg", tmp_path)
    sound = SHARED / "driving-1.wav"
    (tmp_path / f"{name}.yaml").write_text(f"voice: {sound}\n", encoding="utf-8")
    clip = load_clip(ClipRequest(str(tmp_path / f"{name}.jpg"), frames=8, size=16))
    assert clip.voice is not None
    assert clip.voice.seconds == pytest.approx(8 / 25)
    notes: dict[str, Any] = {}
    pictures = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 255
    asked = SampleRequest(pictures, "", voice=clip.voice, note=notes.__setitem__)
    boxes = {"face": [0.3, 0.7, 0.2, 0.8], "lip": [0.42, 0.58, 0.6, 0.7]}
    drawn = made(backbone, asked, regions=boxes, reference={"identity": False})
    assert drawn.shape == pictures.shape
    assert drawn.std() > 0.01
    assert notes["hallo"]["segments"] == 3
    silent = replace(asked, voice=Voice(np.zeros_like(clip.voice.samples)))
    quiet = made(backbone, silent, regions=boxes, reference={"identity": False})
    assert not torch.equal(quiet, drawn)
