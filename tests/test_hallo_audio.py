"""Hallo's audio attention, projections and face locator against the released code's numbers."""

from __future__ import annotations

import pytest
import torch
from hallo_golden import Case

from methods.hallo.audio import AudioBlock, AudioModule
from methods.hallo.calls import REGIONS
from methods.hallo.locator import FaceLocator
from methods.hallo.options import Scales
from methods.hallo.projections import AudioProjection, ImageProjection


@pytest.mark.parametrize("scales", [(), (1.0, 1.0, 1.0), (1.0, 1.0, 0.0), (0.5, 1.0, 2.0)])
def test_the_hierarchical_block_is_published(scales: tuple[float, ...]) -> None:
    case = Case("audio_block")
    block = AudioBlock(32, 4, 24, masked=True)
    block.load_state_dict(case.weights)
    masks = torch.stack([case.input[f"{region}_mask.1"] for region in REGIONS], 1)
    with torch.no_grad():
        told = Scales(**dict(zip(("pose", "face", "lip"), scales, strict=bool(scales))))
        given = case.input["hidden_states"], case.input["encoder_hidden_states"]
        out = block(*given, masks, told)
    name = "_".join(f"{scale:g}" for scale in scales) or "none"
    case.check(f"scale_{name}", out)


def test_the_single_block_is_published_and_knows_no_regions() -> None:
    case = Case("audio_block_single")
    block = AudioBlock(32, 4, 24, masked=False)
    block.load_state_dict(case.weights)
    given = case.input["hidden_states"], case.input["encoder_hidden_states"]
    with torch.no_grad():
        case.check("hidden_states", block(*given))
        silent = Scales(pose=0, face=0, lip=0)
        case.check("hidden_states", block(*given, torch.zeros(6, 3, 16), silent))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("audio_shell_narrow", (64, 32, 4, 16)), ("audio_shell_wide", (32, 64, 4, 8))],
)
def test_the_shell_is_published(name: str, sizes: tuple[int, ...]) -> None:
    case = Case(name)
    module = AudioModule(*sizes, 24, masked=True)
    module.load_state_dict(case.weights)
    masks = case.masks((2, 3, 4, 4)).flatten(0, 1).flatten(2)
    x = case.input["sample"].transpose(1, 2).flatten(0, 1)
    audio = case.input["audio_embedding"].flatten(0, 1)
    with torch.no_grad():
        out = module(x, audio, masks, Scales(pose=0.7, face=1.3, lip=2.0))
    case.check("sample", out.unflatten(0, (2, 3)).transpose(1, 2))


def test_no_masks_are_masks_of_ones_and_new_branches_say_nothing() -> None:
    torch.manual_seed(0)
    block = AudioBlock(32, 4, 24, masked=True)
    x, audio = torch.randn(2, 16, 32), torch.randn(2, 5, 24)
    assert torch.equal(block(x, audio), block(x, -audio))
    for region in REGIONS:
        torch.nn.init.normal_(block.get_parameter(f"zero_conv_{region}.weight"))
    assert torch.equal(block(x, audio), block(x, audio, torch.ones(2, 3, 16)))
    assert not torch.allclose(block(x, audio), block(x, -audio))


def test_the_locator_is_published() -> None:
    case = Case("face_locator")
    locator = FaceLocator((4, 8, 8, 16), 32)
    locator.load_state_dict(case.weights)
    with torch.no_grad():
        case.check("features", locator(case.input["mask"]))
        case.check("box_features", locator(case.input["box_mask"]))
    assert FaceLocator((4, 8, 8, 16), 32)(case.input["mask"]).abs().max() == 0


def test_the_image_projection_is_published() -> None:
    case = Case("image_proj")
    projection = ImageProjection(16, 4, 24)
    projection.load_state_dict(case.weights)
    with torch.no_grad():
        case.check("tokens", projection(case.input["image_embeds"]))
        case.check("uncond_tokens", projection(torch.zeros(1, 16)))


def test_the_audio_projection_is_published() -> None:
    case = Case("audio_proj")
    projection = AudioProjection(5 * 3 * 6, 16, 4, 20)
    projection.load_state_dict(case.weights)
    with torch.no_grad():
        case.check("tokens", projection(case.input["audio_embeds"]))


def test_audio_windows_are_published() -> None:
    from methods.hallo.segments import audio_windows

    case = Case("audio_window")
    features = case.input["audio_emb"]
    case.check("windows", features[audio_windows(len(features))])
