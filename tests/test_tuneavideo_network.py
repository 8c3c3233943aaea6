"""Tune-A-Video's network: published outputs, key sets, invariants, installation and restoration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from methods.attention import CallSlot, FrameAttentionProcessor, FrameCall
from methods.inflation import FrameAttentionPlan, inflate
from methods.patterns import parse_pattern
from methods.tuneavideo import network
from methods.tuneavideo.network import (
    TEMPORAL_LEAVES,
    at_full_weight,
    blocks_of,
    inflate_tuned,
    initial_tensors,
    is_temporal,
    standing_in,
    trainable_names,
)
from tests.golden_case import Golden
from tests.tiny_backbone import SIZE, TOKENS, WIDTH, tiny_unet
from tests.tuned_cases import PLAN, SPARSE_CAUSAL, fold, golden_unet, layout, unfold


def clip_inputs(f: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    side = SIZE // 2
    return (
        torch.randn((f, 4, side, side), generator=generator),
        torch.randn((1, TOKENS, WIDTH), generator=generator).expand(f, -1, -1),
    )


# --- published outputs


def test_published_sparse_causal_attention() -> None:
    golden = Golden("tuneavideo/attn_sparse_causal")
    heads, dim = golden.config["heads"], golden.config["dim_head"]
    block = BasicTransformerBlock(24, heads, dim)
    block.attn1.load_state_dict(golden.weights)
    slot = CallSlot()
    slot.current = FrameCall(5, SPARSE_CAUSAL.table(5))
    block.attn1.set_processor(FrameAttentionProcessor(slot, "attn1"))
    with torch.no_grad():
        golden.close(block.attn1(golden.input["hidden_f5"]), "sparse_causal_f5")


class OneBlock(nn.Module):
    """A network of one transformer block, under the name that blocks have in a UNet."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.down_blocks = nn.ModuleList([nn.Module()])
        self.down_blocks[0].transformer_blocks = nn.ModuleList([block])

    def forward(self, sample: Tensor, text: Tensor) -> Any:
        block = self.down_blocks[0].transformer_blocks[0]
        return block(sample, encoder_hidden_states=text)


def test_published_transformer_block() -> None:
    golden = Golden("tuneavideo/transformer_block")
    heads, dim = golden.config["heads"], golden.config["dim_head"]
    block = BasicTransformerBlock(24, heads, dim, cross_attention_dim=10)
    own = {n: t for n, t in golden.weights.items() if not is_temporal(n)}
    block.load_state_dict(own)
    prefix = "down_blocks.0.transformer_blocks.0"
    added = {f"{prefix}.{n}": t for n, t in golden.weights.items() if is_temporal(n)}
    text = golden.input["text_f5"].repeat_interleave(5, dim=0)
    net = OneBlock(block)
    plan = FrameAttentionPlan(SPARSE_CAUSAL)
    with torch.no_grad(), inflate_tuned(net, plan, added) as inflated, inflated.frames(5):
        golden.close(net(golden.input["hidden_f5"], text), "block_f5")


def test_published_feed_forward() -> None:
    golden = Golden("tuneavideo/feed_forward")
    net = FeedForward(24, activation_fn="geglu")
    net.load_state_dict(golden.weights)
    with torch.no_grad():
        golden.close(net(golden.input["x"]), "y")


@pytest.mark.parametrize("x", ["x_f4", "x_tiny_f4", "x_uneven_f4"])
def test_published_residual_block(x: str) -> None:
    golden = Golden("tuneavideo/resnet_block3d")
    resnet = ResnetBlock2D(in_channels=12, out_channels=24, temb_channels=20, groups=4, eps=1e-5)
    resnet.load_state_dict(golden.weights)
    net = tiny_unet()
    net.down_blocks[0].resnets[0] = resnet
    temb = golden.input["temb_f4"].repeat_interleave(4, dim=0)
    with torch.no_grad(), inflate(net, PLAN) as inflated, inflated.frames(4):
        golden.close(unfold(resnet(fold(golden.input[x]), temb), 4), x)


@pytest.mark.parametrize("run", ["f4", "odd"])
def test_published_unet(run: str) -> None:
    net, added, golden = golden_unet()
    setting = golden.config["runs"][run]
    f = setting["f"]
    text = golden.input[f"text_{run}"].repeat_interleave(f, dim=0)
    with torch.no_grad(), inflate_tuned(net, PLAN, added) as inflated, inflated.frames(f):
        out = net(fold(golden.input[f"sample_{run}"]), setting["timestep"], text).sample
    golden.close(unfold(out, f), f"out_{run}")


@pytest.mark.parametrize(
    ("changes", "alpha"),
    [({"group_norm": "per_frame"}, 1.0), ({"pattern": parse_pattern("first")}, 1.0), ({}, 0.0)],
)
def test_each_part_of_the_published_unet_shows(changes: dict[str, Any], alpha: float) -> None:
    net, added, golden = golden_unet()
    plan = FrameAttentionPlan(**{"pattern": SPARSE_CAUSAL, "group_norm": "pooled", **changes})
    text = golden.input["text_f4"].repeat_interleave(4, dim=0)
    with torch.no_grad(), inflate_tuned(net, plan, added, alpha) as inflated, inflated.frames(4):
        out = net(fold(golden.input["sample_f4"]), 501, text).sample
    assert (unfold(out, 4) - golden.output["out_f4"]).abs().max() > 1000 * golden.tolerance


# --- names


def test_keys_are_the_released_ones() -> None:
    listed, net = layout()
    plain = set(net.state_dict())
    added = initial_tensors(net, "released", 0)
    assert (len(plain), len(blocks_of(net))) == (686, 16)
    assert set(added) == set(listed["new_keys"])
    with inflate_tuned(net, PLAN, added):
        assert set(net.state_dict()) == plain | set(added)
        assert len(net.state_dict()) == listed["total_keys"]


def test_trained_sets_are_the_released_ones() -> None:
    listed, net = layout()
    names = [*net.state_dict(), *initial_tensors(net, "released", 0)]
    assert set(trainable_names(names, "all")) == set(listed["trainable"])
    assert set(trainable_names(names, "mid_up")) == set(listed["with_grad"]["reentrant"])
    only = {which: set(trainable_names(names, which)) for which in ("attention", "temporal")}
    assert only["attention"] | only["temporal"] == set(listed["trainable"])
    assert {n.split(".")[-3] for n in only["attention"]} == {"attn1", "attn2"}
    assert len(only["temporal"]) == 16 * 5
    assert len(trainable_names(names, "lora")) == 16 * 6


# --- the network before tuning


@pytest.mark.parametrize("f", [1, 3])
def test_an_identity_start_is_the_image_network(f: int) -> None:
    net = tiny_unet()
    sample, text = clip_inputs(f)
    added = initial_tensors(net, "identity", 3)
    plan = FrameAttentionPlan(parse_pattern("first+previous" if f == 1 else "individual"))
    with torch.no_grad():
        expected = net(sample, 7, text).sample
        with inflate_tuned(net, plan, added) as inflated, inflated.frames(f):
            actual = net(sample, 7, text).sample
    assert torch.equal(actual, expected)


def test_one_frame_with_pooled_norms_is_the_image_network() -> None:
    net = tiny_unet()
    sample, text = clip_inputs(1)
    with torch.no_grad():
        expected = net(sample, 7, text).sample
        tensors = initial_tensors(net, "identity", 0)
        with inflate_tuned(net, PLAN, tensors) as inflated, inflated.frames(1):
            actual = net(sample, 7, text).sample
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_the_released_start_adds_a_constant_to_every_channel() -> None:
    net = tiny_unet()
    added = initial_tensors(net, "released", 3)
    biases = torch.cat([t for n, t in added.items() if n.endswith("to_out.0.bias")])
    assert biases.abs().max() <= 8**-0.5
    assert biases.std() == pytest.approx(8**-0.5 / 3**0.5, rel=0.3)
    assert all((t == 0).all() for n, t in added.items() if n.endswith("to_out.0.weight"))
    again = initial_tensors(net, "released", 3)
    assert all(torch.equal(added[name], again[name]) for name in added)
    identity = initial_tensors(net, "identity", 3)
    assert {n for n in added if not torch.equal(added[n], identity[n])} == {
        n for n in added if n.endswith("to_out.0.bias")
    }


def test_temporal_attention_knows_no_order() -> None:
    """It has no positions and no mask: frames in another order come out in that order."""
    net, added, _ = golden_unet()
    block = next(iter(blocks_of(net)))
    x = torch.randn((4, 6, 12), generator=torch.Generator().manual_seed(0))
    order = [2, 0, 3, 1]
    plan = FrameAttentionPlan(parse_pattern("individual"))
    text = torch.zeros(4, 5, 12)
    with torch.no_grad(), inflate_tuned(net, plan, added) as inflated, inflated.frames(4):
        run = net.get_submodule(block)
        outputs = [run(rows, encoder_hidden_states=text) for rows in (x, x[order])]
    torch.testing.assert_close(outputs[0][order], outputs[1])


# --- installation


def test_leaving_restores_the_network_itself() -> None:
    net = tiny_unet()
    before = dict(net.named_parameters())
    hooks = [len(m._forward_hooks) for m in net.modules()]
    name = next(n for n in before if n.endswith("attn1.to_q.weight"))
    tensors = {**initial_tensors(net, "released", 0), name: torch.zeros_like(before[name])}
    with pytest.raises(RuntimeError, match="stop"), inflate_tuned(net, PLAN, tensors):
        assert net.get_parameter(name).abs().max() == 0
        raise RuntimeError("stop")
    after = dict(net.named_parameters())
    assert list(after) == list(before)
    assert all(after[n] is before[n] for n in before)
    assert [len(m._forward_hooks) for m in net.modules()] == hooks


def test_alpha_scales_the_temporal_residual() -> None:
    net, added, _ = golden_unet()
    block = net.get_submodule(next(iter(blocks_of(net))))
    x, text = (
        torch.randn((3, 4, 12), generator=torch.Generator().manual_seed(1)),
        torch.ones(3, 5, 12),
    )
    outputs = {}
    for alpha in (0.0, 0.5, 1.0):
        with (
            torch.no_grad(),
            inflate_tuned(net, PLAN, added, alpha) as inflated,
            inflated.frames(3),
        ):
            outputs[alpha] = block(x, encoder_hidden_states=text)
    torch.testing.assert_close(outputs[0.5] * 2, outputs[0.0] + outputs[1.0])


@pytest.mark.parametrize(("alpha", "tolerance"), [(0.3, 1e-5), (0.5, 0.0), (0.0, 0.0)])
def test_a_weight_can_be_part_of_the_tensors(alpha: float, tolerance: float) -> None:
    net, added, golden = golden_unet()
    text = golden.input["text_f4"].repeat_interleave(4, dim=0)
    folded = at_full_weight(added, alpha)
    outputs = []
    for tensors, weight in ((added, alpha), (folded, 1.0)):
        with (
            torch.no_grad(),
            inflate_tuned(net, PLAN, tensors, weight) as inflated,
            inflated.frames(4),
        ):
            outputs.append(net(fold(golden.input["sample_f4"]), 501, text).sample)
    assert (outputs[0] - outputs[1]).abs().max() <= tolerance
    assert {n for n in added if folded[n] is not added[n]} == {
        n for n in added if "attn_temp.to_out.0" in n
    }


def test_rows_of_temporal_attention_may_be_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    net, added, golden = golden_unet()
    text = golden.input["text_f4"].repeat_interleave(4, dim=0)
    monkeypatch.setattr(network, "_ROWS", 5)
    with torch.no_grad(), inflate_tuned(net, PLAN, added) as inflated, inflated.frames(4):
        sizes: list[int] = []
        attention = net.get_submodule(f"{next(iter(blocks_of(net)))}.attn_temp")
        attention.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
        out = net(fold(golden.input["sample_f4"]), 501, text).sample
    golden.close(unfold(out, 4), "out_f4")
    assert len(sizes) > 1
    assert set(sizes[:-1]) == {5}
    assert 0 < sizes[-1] <= 5


def test_tensors_that_do_not_fit_are_refused() -> None:
    net = tiny_unet()
    added = initial_tensors(net, "released", 0)
    name = next(iter(added))
    lacking = {n: t for n, t in added.items() if n != name}
    refused: list[tuple[str, Any]] = [
        (f"lacks {TEMPORAL_LEAVES[0]}", inflate_tuned(net, PLAN, lacking)),
        ("fit a block of 8 channels", inflate_tuned(net, PLAN, {**added, name: torch.zeros(4, 4)})),
        ("no parameter nowhere", standing_in(net, {"nowhere": torch.zeros(1)})),
        ("instead of", standing_in(net, {"conv_in.weight": torch.zeros(1)})),
    ]
    for message, context in refused:
        with pytest.raises(ValueError, match=message), context:
            pass
    assert not any(is_temporal(n) for n in net.state_dict())
