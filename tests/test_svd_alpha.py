"""Other blending weights: against networks with other weights, invariants, restoration."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from crossframe.errors import UserError
from methods.svd.alpha import blended, temporal_weight
from methods.svd.options import Blend
from tests.tiny_svd import blenders, latents, run, tiny_unet, tiny_vae, unet_inputs

FRAMES = 5
BOTH = ("unet", "vae")


@pytest.fixture(scope="module")
def unet() -> Any:
    return tiny_unet()


@pytest.fixture(scope="module")
def vae() -> Any:
    return tiny_vae()


@torch.no_grad()
def decoded(vae: Any) -> Tensor:
    out: Tensor = vae.decode(latents(FRAMES), num_frames=FRAMES).sample
    return out


def changed(net: Any) -> list[str]:
    return [name for name, blender in blenders(net).items() if "get_alpha" in blender.__dict__]


def fixed(net: Any, spatial: float) -> Any:
    """A copy whose blenders have one raw weight of the spatial branch, by diffusers' own means."""
    copy = deepcopy(net)
    for blender in blenders(copy).values():
        switched = blender.switch_spatial_to_temporal_mix
        blender.merge_strategy = "fixed"
        blender.mix_factor.data.fill_(1 - spatial if switched else spatial)
    return copy


def shifted(net: Any, by: float) -> Any:
    copy = deepcopy(net)
    for blender in blenders(copy).values():
        blender.mix_factor.data += by
    return copy


def test_learned_weights_are_left_alone(unet: Any) -> None:
    stock = run(unet, unet_inputs(FRAMES))
    with blended(unet, Blend()):
        assert not changed(unet)
        assert torch.equal(run(unet, unet_inputs(FRAMES)), stock)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_value_is_a_fixed_weight(value: float, unet: Any, vae: Any) -> None:
    options = Blend(value=value, networks=BOTH)
    with blended(unet, options), blended(vae, options):
        ours, decodes = run(unet, unet_inputs(FRAMES)), decoded(vae)
    assert torch.allclose(ours, run(fixed(unet, 1 - value), unet_inputs(FRAMES)), atol=1e-6)
    assert torch.allclose(decodes, decoded(fixed(vae, 1 - value)), atol=1e-6)


@pytest.mark.parametrize("shift", [-1.5, 0.7])
def test_shift_moves_the_logit_of_the_temporal_weight(shift: float, unet: Any, vae: Any) -> None:
    """The UNet's logits are those of the spatial weight, the decoder's of the temporal one."""
    options = Blend(shift=shift, networks=BOTH)
    with blended(unet, options), blended(vae, options):
        ours, decodes = run(unet, unet_inputs(FRAMES)), decoded(vae)
    expected = run(shifted(unet, -shift), unet_inputs(FRAMES))
    assert torch.allclose(ours, expected, atol=1e-5)
    assert torch.allclose(decodes, decoded(shifted(vae, shift)), atol=1e-5)


def test_shift_in_half_precision_starts_from_the_logit_itself() -> None:
    """Near 1 a sigmoid in float16 has steps of .0005, many of them to a unit of its logit."""
    net = tiny_unet()
    name, first = next(iter(blenders(net).items()))
    first.mix_factor.data.fill_(8.0)
    net.half()
    with blended(net, Blend(shift=6.0)):
        a = net.get_submodule(name).get_alpha(torch.zeros(1, 2), 3)
    assert a.flatten().tolist() == pytest.approx([1 / (1 + math.exp(6.0 - 8.0))] * 2, abs=1e-4)


def test_gain_scales_the_learned_weight() -> None:
    learned = torch.tensor([0.0, 0.25, 0.5])
    assert temporal_weight(learned, Blend(gain=1.5)).tolist() == [0.0, 0.375, 0.75]
    assert temporal_weight(learned, Blend(gain=0)).tolist() == [0.0, 0.0, 0.0]


def test_gain_in_a_blender(unet: Any, vae: Any) -> None:
    spatial, temporal = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    for net, options in ((unet, Blend(gain=2)), (vae, Blend(gain=2, networks=BOTH))):
        for blender in blenders(net).values():
            before = blender(spatial, temporal, torch.zeros(1, 1))
            with blended(net, options):
                after = blender(spatial, temporal, torch.zeros(1, 1))
            assert torch.allclose(after, 2 * before, atol=1e-6)


def test_without_temporal_layers_frames_are_exchangeable(unet: Any) -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    inputs = unet_inputs(FRAMES)
    mixed = {**inputs, "sample": inputs["sample"][:, order]}
    with blended(unet, Blend(gain=0)):
        assert torch.equal(run(unet, mixed), run(unet, inputs)[:, order])
    assert not torch.allclose(run(unet, mixed), run(unet, inputs)[:, order], atol=1e-2)


def test_every_blender_of_a_kind_takes_part(unet: Any) -> None:
    with blended(unet, Blend(gain=0)):
        assert len(changed(unet)) == 18
    with blended(unet, Blend(gain=0, layers=("resnet",))):
        assert len(changed(unet)) == 12
        assert all(".resnets." in name for name in changed(unet))


@pytest.mark.parametrize(
    ("options", "starts"),
    [
        ({"blocks": ("down",)}, ("down_blocks.",)),
        ({"blocks": ("mid",)}, ("mid_block.",)),
        ({"levels": (0,)}, ("down_blocks.0.", "up_blocks.1.")),
        ({"levels": (1,)}, ("down_blocks.1.", "mid_block.", "up_blocks.0.")),
        ({"levels": (0,), "blocks": ("up",), "layers": ("attention",)}, ("up_blocks.1.att",)),
    ],
)
def test_selected_blenders(options: dict[str, Any], starts: tuple[str, ...], unet: Any) -> None:
    with blended(unet, Blend(gain=0, **options)):
        names = changed(unet)
    wanted = [n for n in blenders(unet) if n.startswith(starts)]
    assert names == wanted
    assert names


def test_levels_of_the_decoder_count_from_the_pixels(vae: Any) -> None:
    with blended(vae, Blend(gain=0, levels=(0,), networks=("vae",))):
        assert all(name.startswith("decoder.up_blocks.1.") for name in changed(vae))
        assert changed(vae)


def test_a_network_that_takes_no_part(unet: Any, vae: Any) -> None:
    with blended(vae, Blend(gain=0)), blended(unet, Blend(gain=0, networks=("vae",))):
        assert not changed(vae)
        assert not changed(unet)


def test_nested_and_restored_after_an_exception(unet: Any) -> None:
    inputs = unet_inputs(FRAMES)
    stock = run(unet, inputs)
    with blended(unet, Blend(gain=0.5)):
        half = run(unet, inputs)
        with pytest.raises(RuntimeError, match="stop"), blended(unet, Blend(gain=0.5)):
            assert not torch.equal(run(unet, inputs), half)
            raise RuntimeError("stop")
        assert torch.equal(run(unet, inputs), half)
    assert not changed(unet)
    assert torch.equal(run(unet, inputs), stock)


def test_nothing_there_is_an_error(unet: Any, vae: Any) -> None:
    with pytest.raises(UserError, match="no level 7"), blended(unet, Blend(gain=0, levels=(7,))):
        pass
    options = Blend(gain=0, networks=("vae",), layers=("attention",))
    with pytest.raises(UserError, match="no such layer"), blended(vae, options):
        pass
    assert not changed(unet)


def test_one_change_at_a_time() -> None:
    with pytest.raises(ValidationError, match="one of value, shift and gain"):
        Blend(value=0.5, gain=2)
