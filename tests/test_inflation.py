"""Inflated diffusers networks: published outputs, invariants, installation and restoration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, Transformer2DModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor

from crossframe.errors import UserError
from methods.attention import CallSlot, FrameAttentionProcessor, FrameCall
from methods.inflation import FrameAttentionPlan, InflatedNet, inflate
from methods.patterns import INDIVIDUAL, parse_pattern
from tests.golden_case import Golden, plain_config


def fold(x_bcfhw: Tensor) -> Tensor:
    return x_bcfhw.transpose(1, 2).flatten(0, 1)


def unfold(x: Tensor, f: int) -> Tensor:
    return x.unflatten(0, (-1, f)).transpose(1, 2)


# --- published outputs ---------------------------------------------------------------------------


@pytest.mark.parametrize("x", ["x", "x_uneven", "x_tiny"])
@pytest.mark.parametrize(("run", "text"), [("fully", "full"), ("inter", "keyframes[0,-1]")])
def test_published_transformer(run: str, text: str, x: str) -> None:
    golden = Golden("controlvideo/transformer3d")
    net = Transformer2DModel(
        num_attention_heads=golden.config["heads"],
        attention_head_dim=golden.config["dim_head"],
        in_channels=24,
        norm_num_groups=golden.config["norm_num_groups"],
        cross_attention_dim=golden.config["cross_attention_dim"],
    )
    net.load_state_dict(golden.weights)
    slot = CallSlot()
    net.transformer_blocks[0].attn1.set_processor(FrameAttentionProcessor(slot, "attn1"))
    slot.current = FrameCall(4, parse_pattern(text).table(4))
    text_states = golden.input["text"].repeat_interleave(4, dim=0)
    with torch.no_grad():
        out = net(fold(golden.input[x]), encoder_hidden_states=text_states).sample
    worst = (unfold(out, 4) - golden.output[f"{run}_{x}"]).abs().max()
    assert worst <= golden.tolerance


def golden_unet(golden: Golden, text: str, residuals: bool, **options: Any) -> Tensor:
    net = UNet2DConditionModel(**plain_config(golden.config["unet"])).eval()
    net.load_state_dict(golden.weights)
    extra: dict[str, Any] = {}
    if residuals:
        names = sorted(name for name in golden.input if name.startswith("down_residual"))
        extra["down_block_additional_residuals"] = tuple(fold(golden.input[n]) for n in names)
        extra["mid_block_additional_residual"] = fold(golden.input["mid_residual_f3"])
    plan = FrameAttentionPlan(parse_pattern(text), **options)
    text_states = golden.input["text_f3"].repeat_interleave(3, dim=0)
    with torch.no_grad(), inflate(net, plan) as inflated, inflated.frames(3):
        out = net(fold(golden.input["sample_f3"]), 381, text_states, **extra).sample
    return unfold(out, 3)


@pytest.mark.parametrize("residuals", [False, True])
@pytest.mark.parametrize(("run", "text"), [("fully", "full"), ("inter", "keyframes[0,-1]")])
def test_published_unet(run: str, text: str, residuals: bool) -> None:
    golden = Golden("controlvideo/unet3d")
    out = golden_unet(golden, text, residuals, group_norm="pooled", residuals_in_place=True)
    expected = golden.output[f"{run}_res_f3" if residuals else f"{run}_f3"]
    assert (out - expected).abs().max() <= golden.tolerance


@pytest.mark.parametrize(
    "options",
    [
        {"group_norm": "per_frame", "residuals_in_place": True},
        {"group_norm": "pooled", "residuals_in_place": False},
        {"group_norm": "pooled", "residuals_in_place": True, "blocks": ("down", "up")},
        {"group_norm": "pooled", "residuals_in_place": True, "alpha": 0.99},
    ],
)
def test_each_switch_of_the_published_unet_matters(options: dict[str, Any]) -> None:
    golden = Golden("controlvideo/unet3d")
    out = golden_unet(golden, "full", True, **options)
    assert (out - golden.output["fully_res_f3"]).abs().max() > 100 * golden.tolerance


def test_published_controlnet() -> None:
    golden = Golden("controlvideo/controlnet3d")
    net = ControlNetModel(**plain_config(golden.config["controlnet"])).eval()
    net.load_state_dict({k: v for k, v in golden.weights.items() if ".norm_temp." not in k})
    plan = FrameAttentionPlan(INDIVIDUAL, group_norm="pooled")
    with torch.no_grad(), inflate(net, plan) as inflated, inflated.frames(3):
        down, mid = net(
            fold(golden.input["sample_f3"]),
            381,
            golden.input["text_f3"].repeat_interleave(3, dim=0),
            fold(golden.input["cond_f3"]),
            conditioning_scale=0.7,
            return_dict=False,
        )
    expected = [golden.output[f"down_f3.{n:02}"] for n in range(6)] + [golden.output["mid_f3"]]
    for out, published in zip([*down, mid], expected, strict=True):
        assert (unfold(out, 3) - published).abs().max() <= golden.tolerance


# --- small networks of our own -------------------------------------------------------------------

BLOCKS: dict[str, Any] = {
    "block_out_channels": (8, 8, 8),
    "layers_per_block": 1,
    "cross_attention_dim": 6,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
}
UP = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")


@pytest.fixture
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**BLOCKS, up_block_types=UP).eval()


@pytest.fixture
def controlnet() -> ControlNetModel:
    torch.manual_seed(1)
    return ControlNetModel(**BLOCKS, conditioning_embedding_out_channels=(4, 4, 4, 4)).eval()


def latents(b: int, f: int, h: int = 8, w: int = 8) -> Tensor:
    return torch.randn(b * f, 4, h, w, generator=torch.Generator().manual_seed(f))


def call(net: Any, x: Tensor) -> Tensor:
    text = torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(9)).expand(len(x), 5, 6)
    with torch.no_grad():
        return net(x, 381, text).sample


def inflated_call(net: Any, plan: FrameAttentionPlan, x: Tensor, f: int, **frames: Any) -> Tensor:
    with inflate(net, plan) as inflated, inflated.frames(f, **frames):
        return call(net, x)


def plan(text: str = "full", **options: Any) -> FrameAttentionPlan:
    return FrameAttentionPlan(parse_pattern(text), **options)


@pytest.mark.parametrize("group_norm", ["pooled", "per_frame"])
@pytest.mark.parametrize("text", ["full", "first+previous"])
def test_one_frame_is_plain_diffusers_exactly(
    unet: UNet2DConditionModel, text: str, group_norm: str
) -> None:
    x = latents(2, 1)
    out = inflated_call(unet, plan(text, group_norm=group_norm), x, 1)
    assert torch.equal(out, call(unet, x))


@pytest.mark.parametrize(
    "options",
    [{"text": "individual"}, {"alpha": 0.0}, {"timesteps": (400, 999)}, {"timesteps": (0, 380)}],
)
def test_nothing_crosses_frames_when_switched_off(
    unet: UNet2DConditionModel, options: dict[str, Any]
) -> None:
    x = latents(2, 3)
    out = inflated_call(unet, plan(**options), x, 3, timestep=381)
    assert torch.equal(out, call(unet, x))


def test_timestep_range_is_inclusive(unet: UNet2DConditionModel) -> None:
    x = latents(1, 3)
    out = inflated_call(unet, plan(timesteps=(381, 381)), x, 3, timestep=torch.tensor(381))
    assert torch.equal(out, inflated_call(unet, plan(), x, 3))


@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_permuting_frames_permutes_full(unet: UNet2DConditionModel, size: tuple[int, int]) -> None:
    x = latents(1, 4, *size)
    order = torch.tensor([2, 0, 3, 1])
    for group_norm in ("per_frame", "pooled"):
        out = inflated_call(unet, plan(group_norm=group_norm), x, 4)
        permuted = inflated_call(unet, plan(group_norm=group_norm), x[order], 4)
        torch.testing.assert_close(permuted, out[order], atol=1e-5, rtol=0)


def leaks(net: Any, chosen: FrameAttentionPlan, f: int) -> list[list[int]]:
    """For each frame j: the frames that change when j is perturbed."""
    x = latents(1, f)
    out = inflated_call(net, chosen, x, f)
    matrix = []
    for j in range(f):
        perturbed = x.clone()
        perturbed[j] += 1.0
        changed = (inflated_call(net, chosen, perturbed, f) != out).flatten(1).any(1)
        matrix.append(changed.nonzero().flatten().tolist())
    return matrix


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("individual", [[0], [1], [2], [3]]),
        ("first", [[0, 1, 2, 3], [1], [2], [3]]),
        ("keyframes[1]", [[0], [0, 1, 2, 3], [2], [3]]),
        ("full", [[0, 1, 2, 3]] * 4),
        # Through several layers a frame reaches all later ones.
        ("first+previous", [[0, 1, 2, 3], [1, 2, 3], [2, 3], [3]]),
    ],
)
def test_leakage_matrix(unet: UNet2DConditionModel, text: str, expected: list[list[int]]) -> None:
    assert leaks(unet, plan(text), 4) == expected


def test_leakage_of_one_layer_is_the_table(unet: UNet2DConditionModel) -> None:
    only_mid = plan("first+previous", blocks=("mid",))
    assert leaks(unet, only_mid, 4) == [[0, 1, 2, 3], [1, 2], [2, 3], [3]]


def test_pooled_norm_leaks_through_every_frame(unet: UNet2DConditionModel) -> None:
    assert leaks(unet, plan("individual", group_norm="pooled"), 3) == [[0, 1, 2]] * 3


@pytest.mark.parametrize(
    ("kind", "attentions", "norms"), [(UNet2DConditionModel, 16, 45), (ControlNetModel, 7, 20)]
)
def test_layers_of_stable_diffusion_1_5(kind: Any, attentions: int, norms: int) -> None:
    with torch.device("meta"):
        net = kind(cross_attention_dim=768)
    inflated = InflatedNet(net, plan(group_norm="pooled"))
    assert (len(inflated.layers), len(inflated._norms)) == (attentions, norms)


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({}, ["down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.1", "up_blocks.2"]),
        ({"levels": (0,)}, ["down_blocks.0", "up_blocks.2"]),
        ({"levels": (1,)}, ["down_blocks.1", "up_blocks.1"]),
        ({"levels": (2,)}, ["mid_block"]),
        ({"levels": (0, 2), "blocks": ("up", "mid")}, ["mid_block", "up_blocks.2"]),
    ],
)
def test_where(unet: UNet2DConditionModel, options: dict[str, Any], layers: list[str]) -> None:
    with inflate(unet, plan(**options)) as inflated:
        found = {name.split(".attentions")[0] for name in inflated.layers}
    assert sorted(found) == layers


@pytest.mark.parametrize(
    "options", [{"levels": (3,)}, {"levels": (-1,)}, {"blocks": ("mid",), "levels": (0,)}]
)
def test_places_that_do_not_exist(unet: UNet2DConditionModel, options: dict[str, Any]) -> None:
    with pytest.raises(UserError), inflate(unet, plan(**options)):
        pass


@pytest.mark.parametrize(
    "options",
    [{"alpha": 1.5}, {"blocks": ("top",)}, {"timesteps": (9, 1)}, {"group_norm": "batch"}],
)
def test_impossible_plans(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        plan(**options)


def test_key_frames_outside_the_clip(unet: UNet2DConditionModel) -> None:
    with pytest.raises(UserError, match="outside a clip of 3 frames"):
        inflated_call(unet, plan("keyframes[3]"), latents(1, 3), 3)


def test_pattern_of_a_call_replaces_the_plan(unet: UNet2DConditionModel) -> None:
    x = latents(1, 3)
    expected = inflated_call(unet, plan("first"), x, 3)
    out = inflated_call(unet, plan("full"), x, 3, pattern=parse_pattern("first"))
    assert torch.equal(out, expected)


def test_reference_bank(unet: UNet2DConditionModel) -> None:
    x = latents(2, 2)
    with inflate(unet, plan("individual+reference")) as inflated:
        bank = {name: torch.randn(2, 3, 8) for name in inflated.layers}
        with inflated.frames(2, bank=bank):
            with_bank = call(unet, x)
        with pytest.raises(ValueError, match="needs a bank"), inflated.frames(2):
            pass
        without = inflated.frames(2, bank=bank, pattern=parse_pattern("full"))
        with pytest.raises(ValueError, match="takes no bank"), without:
            pass
    assert not torch.equal(with_bank, call(unet, x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(unet: UNet2DConditionModel, dtype: torch.dtype) -> None:
    x = latents(2, 3)
    options = plan("first+previous", group_norm="pooled", alpha=0.7)
    expected = inflated_call(unet, options, x, 3)
    text = torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(9)).expand(6, 5, 6)
    with torch.no_grad(), inflate(unet.to(dtype), options) as inflated, inflated.frames(3):
        out = unet(x.to(dtype), 381, text.to(dtype)).sample
    assert out.dtype == dtype
    assert (out.float() - expected).norm() < 0.05 * expected.norm()


# --- installation, assertion, restoration --------------------------------------------------------


def fingerprint(net: Any) -> tuple[Any, ...]:
    """Everything that inflation could leave behind: processors, hooks, overridden attributes."""
    hooks = [
        (name, sorted(module.__dict__), len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in net.named_modules()
    ]
    return {k: id(v) for k, v in net.attn_processors.items()}, hooks, list(net.state_dict())


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back(unet: UNet2DConditionModel, fails: bool) -> None:
    x = latents(1, 2)
    before, plain = fingerprint(unet), call(unet, x)
    try:
        with inflate(unet, plan(group_norm="pooled", residuals_in_place=True)) as inflated:
            assert fingerprint(unet) != before
            assert list(unet.state_dict()) == before[2]
            with inflated.frames(2):
                call(unet, x)
            if fails:
                raise KeyError("inside")
    except KeyError:
        assert fails
    assert fingerprint(unet) == before
    assert torch.equal(call(unet, x), plain)


@pytest.mark.parametrize(
    ("replace", "found"),
    [
        (lambda net: net.set_attention_slice("auto"), "SlicedAttnProcessor"),
        (lambda net: net.set_attn_processor(AttnProcessor2_0()), "AttnProcessor2_0"),
    ],
)
def test_replaced_processors_are_noticed(
    unet: UNet2DConditionModel, replace: Callable[[Any], None], found: str
) -> None:
    before = fingerprint(unet)
    with inflate(unet, plan()) as inflated, inflated.frames(2):
        replace(unet)
        with pytest.raises(RuntimeError, match=f"attn1: .* replaced by {found}"):
            call(unet, latents(1, 2))
    for name, attn in ((n, m) for n, m in unet.named_modules() if n.endswith("attn1")):
        assert id(attn.processor) == before[0][f"{name}.processor"]


def test_replaced_norms_are_noticed(unet: UNet2DConditionModel) -> None:
    with inflate(unet, plan(group_norm="pooled")) as inflated, inflated.frames(2):
        unet.mid_block.resnets[0].norm1 = torch.nn.GroupNorm(4, 8)
        with pytest.raises(RuntimeError, match=r"mid_block\.resnets\.0\.norm1"):
            call(unet, latents(1, 2))


def test_removed_norm_hooks_are_noticed(unet: UNet2DConditionModel) -> None:
    with inflate(unet, plan(group_norm="pooled")) as inflated, inflated.frames(2):
        unet.conv_norm_out._forward_hooks.clear()
        with pytest.raises(RuntimeError, match="conv_norm_out"):
            call(unet, latents(1, 2))


def test_pooled_norms_are_those_of_residual_blocks_and_output(unet: UNet2DConditionModel) -> None:
    inflated = InflatedNet(unet, plan(group_norm="pooled"))
    resnets = {n for n, m in unet.named_modules() if type(m).__name__ == "ResnetBlock2D"}
    expected = {f"{name}.norm{n}" for name in resnets for n in (1, 2)} | {"conv_norm_out"}
    assert set(inflated._norms) == expected


def test_calls_must_announce_their_frames(unet: UNet2DConditionModel) -> None:
    with inflate(unet, plan()) as inflated:
        with pytest.raises(RuntimeError, match="outside of"):
            call(unet, latents(1, 2))
        with pytest.raises(ValueError, match="whole clips of 3 frames"), inflated.frames(3):
            call(unet, latents(1, 2))
    limited = plan(timesteps=(0, 9))
    with pytest.raises(ValueError, match="timestep"), inflate(unet, limited) as inflated:
        inflated.frames(2).__enter__()


def test_one_network_is_inflated_once(unet: UNet2DConditionModel) -> None:
    again = inflate(unet, plan("first"))
    with inflate(unet, plan()), pytest.raises(RuntimeError, match="already inflated"), again:
        pass


def test_inner_frames_block_gives_way_to_the_outer(unet: UNet2DConditionModel) -> None:
    x = latents(1, 4)
    with inflate(unet, plan()) as inflated, inflated.frames(4):
        expected = call(unet, x)
        with inflated.frames(2):
            halves = call(unet, x)
        assert torch.equal(call(unet, x), expected)
    assert not torch.equal(halves, expected)


def test_two_networks_with_two_plans(
    unet: UNet2DConditionModel, controlnet: ControlNetModel
) -> None:
    x = latents(1, 3)
    unet_alone = inflated_call(unet, plan("full", group_norm="pooled"), x, 3)
    text, cond = torch.zeros(3, 5, 6), torch.rand(3, 3, 64, 64)
    unet_plan, control_plan = plan("full", group_norm="pooled"), plan("individual")
    with (
        inflate(unet, unet_plan) as inflated_unet,
        inflate(controlnet, control_plan) as inflated_controlnet,
        inflated_unet.frames(3),
        inflated_controlnet.frames(1),
        torch.no_grad(),
    ):
        controlnet(x, 381, text, cond)
        assert torch.equal(call(unet, x), unet_alone)


def test_controlnet_receives_no_residuals(controlnet: ControlNetModel) -> None:
    before = fingerprint(controlnet)
    inflated = inflate(controlnet, plan(residuals_in_place=True))
    with pytest.raises(ValueError, match="only a UNet"), inflated:
        pass
    assert fingerprint(controlnet) == before


def test_text_attention_is_untouched(unet: UNet2DConditionModel) -> None:
    with inflate(unet, plan()):
        frame = {n for n, p in unet.attn_processors.items() if type(p) is FrameAttentionProcessor}
    assert frame
    assert all(name.endswith("attn1.processor") for name in frame)


def test_plans_compare_by_meaning() -> None:
    assert plan("previous+first") == plan("first+previous")
    assert hash(plan("previous+first")) == hash(plan("first+previous"))
