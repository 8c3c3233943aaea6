"""Several ControlNets at once: each with its own weight, one network for two kinds, one sum."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from crossframe.errors import UserError
from methods.base import SampleRequest
from methods.control import branch_residuals, control_branches, residual_arguments
from methods.controlvideo.config import ControlVideoConfig
from methods.controlvideo.sampler import sample
from methods.inflation import FrameAttentionPlan
from methods.patterns import INDIVIDUAL
from tests.tiny_backbone import SIZE, TOKENS, WIDTH, tiny_backbone

FRAMES = 2
PLAN = FrameAttentionPlan(INDIVIDUAL)


def maps(*kinds: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    drawn = torch.rand((len(kinds), FRAMES, 3, SIZE, SIZE), generator=generator)
    return dict(zip(kinds, drawn, strict=True))


@torch.inference_mode()
def residuals(
    given: Mapping[str, torch.Tensor], scale: float | Mapping[str, float]
) -> dict[str, torch.Tensor]:
    """The arguments of a UNet call, its down residuals one after another."""
    generator = torch.Generator().manual_seed(4)
    batch = torch.randn((FRAMES, 4, SIZE // 2, SIZE // 2), generator=generator)
    states = torch.randn((FRAMES, TOKENS, WIDTH), generator=generator)
    with control_branches(tiny_backbone(), given, tuple(given), PLAN, scale) as branches:
        found = [branch_residuals(branch, batch, 500, states) for branch in branches]
    summed = residual_arguments(found)
    downs = summed["down_block_additional_residuals"]
    middle = {"mid": summed["mid_block_additional_residual"]}
    return middle | {str(index): down for index, down in enumerate(downs)}


def test_residuals_are_a_weighted_sum() -> None:
    both = maps("edges", "depth")
    found = residuals(both, {"edges": 0.5, "depth": 2.0})
    edges = residuals({"edges": both["edges"]}, 1.0)
    depth = residuals({"depth": both["depth"]}, 1.0)
    assert found.keys() == edges.keys() == depth.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, 0.5 * edges[name] + 2 * depth[name])


def test_a_number_weighs_all_and_the_unnamed_keep_one() -> None:
    both = maps("edges", "depth")
    number, mapping = residuals(both, 0.5), residuals(both, {"edges": 0.5, "depth": 0.5})
    named, whole = residuals(both, {"edges": 0.5}), residuals(both, {"edges": 0.5, "depth": 1.0})
    for name in number:
        assert torch.equal(number[name], mapping[name])
        assert torch.equal(named[name], whole[name])


def test_two_kinds_may_share_a_network() -> None:
    """The tiny backbone has no network for Canny: that of edges takes both."""
    both = maps("edges", "canny[50,150]")
    found = residuals(both, {"canny[50,150]": 3.0})
    swapped = {"edges": both["canny[50,150]"]}
    one, other = residuals({"edges": both["edges"]}, 1.0), residuals(swapped, 3.0)
    for name, value in found.items():
        torch.testing.assert_close(value, one[name] + other[name])


def test_a_control_of_weight_zero_is_as_if_absent() -> None:
    given = maps("edges", "depth")
    source = torch.rand((FRAMES, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(5))
    request = SampleRequest(source, "a red star", controls=given)

    def video(**options: object) -> torch.Tensor:
        return sample(tiny_backbone(), request, ControlVideoConfig(steps=2, **options), silent)

    without = video(controls=["edges"])
    zero = video(controls=["edges", "depth"], controlnet_scale={"depth": 0})
    torch.testing.assert_close(zero, without, rtol=0, atol=1e-5)
    assert not torch.allclose(video(controls=["edges", "depth"]), without, atol=1e-3)


def silent(done: int, total: int) -> None:
    """Nobody watches."""


def test_a_kind_without_a_network_is_told() -> None:
    with (
        pytest.raises(UserError, match=r"no ControlNet for 'pose'.*controlnet: \{pose:"),
        control_branches(tiny_backbone(), maps("pose"), ("pose",), PLAN, 1.0),
    ):
        pass
