"""Hallo's motion modules against the released code's numbers and diffusers' own module."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from hallo_golden import Case, fill

from methods.hallo.motion import MotionModule

PATH = "down_blocks.0.motion_modules.0."


@pytest.fixture(scope="module")
def case() -> Case:
    return Case("motion_module")


@pytest.fixture
def module(case: Case) -> MotionModule:
    module = MotionModule(64, 4, 32)
    fill(torch.nn.ModuleDict({"motion": module}), case.weights, PATH)
    return module.requires_grad_(False)


def test_it_is_published_with_and_without_motion_frames(case: Case, module: MotionModule) -> None:
    x = case.input["sample"].transpose(1, 2).flatten(0, 1)
    before = case.input["motion_frames"].transpose(1, 2)
    for name, given in (("no_prefix", None), ("with_prefix", before)):
        out = module(x, 5, given)
        case.check(name, out.unflatten(0, (2, 5)).transpose(1, 2))


def test_positions_are_the_published_table(case: Case) -> None:
    found = MotionModule(64, 4, 32).transformer_blocks[0].pos_embed.pe
    for j in (0, 1):
        name = f"temporal_transformer.transformer_blocks.0.attention_blocks.{j}.pos_encoder.pe"
        torch.testing.assert_close(found, case.weights[name], atol=1e-5, rtol=0)


def test_pooled_it_is_diffusers_module(module: MotionModule) -> None:
    theirs = AnimateDiffTransformer3D(
        4, 16, 64, norm_num_groups=32, positional_embeddings="sinusoidal",
        num_positional_embeddings=32,
    )  # fmt: skip
    theirs.load_state_dict(module.state_dict())
    x = torch.randn(6, 64, 4, 4) * torch.arange(1, 7)[:, None, None, None]
    with torch.no_grad():
        torch.testing.assert_close(module(x, 3, pooled=True), theirs(x, num_frames=3))
        assert not torch.allclose(module(x, 3), theirs(x, num_frames=3), atol=1e-2)


def test_a_new_module_changes_nothing_and_an_overlong_clip_is_refused() -> None:
    module = MotionModule(32, 2, 8)
    x = torch.randn(6, 32, 2, 2)
    assert torch.equal(module(x, 6, torch.randn(1, 2, 32, 2, 2)), x)
    with pytest.raises(ValueError, match="exceed the 8 positions"):
        module(x, 6, torch.randn(1, 3, 32, 2, 2))
