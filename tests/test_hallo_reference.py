"""Hallo's reference attention against the released code's own numbers and a naive one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from hallo_golden import Case
from torch import Tensor

from methods.hallo.calls import HalloCall, Slot
from methods.hallo.reference import ReadProcessor, WriteProcessor, paired_rows, repeat_tokens
from methods.patterns import parse_pattern

LAYER = "down_blocks.0.attentions.0"


def reading(attn: Any, level: int = 0) -> Slot[HalloCall]:
    slot: Slot[HalloCall] = Slot()
    attn.set_processor(ReadProcessor(slot, LAYER, level))
    return slot


def test_what_is_written_is_the_published_bank() -> None:
    case = Case("ref_write")
    block = BasicTransformerBlock(32, 4, 8, cross_attention_dim=24)
    block.load_state_dict(case.weights)
    slot: Slot[dict[str, Tensor]] = Slot()
    block.attn1.set_processor(WriteProcessor(slot, LAYER))
    tokens = repeat_tokens(case.input["encoder_hidden_states"], 3, "parity")
    with torch.no_grad(), slot.holding({}):
        out = block(case.input["hidden_states"], encoder_hidden_states=tokens)
        case.check("bank", slot.read()[LAYER])
    case.check("hidden_states", out)


@pytest.mark.parametrize(("prefix", "unconditional"), [("", 1), ("no_cfg/", 0)])
def test_what_is_read_is_published(prefix: str, unconditional: int) -> None:
    case = Case("ref_read")
    block = BasicTransformerBlock(32, 4, 8, cross_attention_dim=24)
    block.load_state_dict(case.weights)
    bank = case.input["bank"].unflatten(0, (2, 3))
    call = HalloCall(3, {LAYER: bank}, unconditional)
    seen: list[Tensor] = []
    block.attn1.register_forward_hook(lambda module, args, out: seen.append(out))
    x = case.input["hidden_states"]
    with torch.no_grad(), reading(block.attn1).holding(call):
        out = block(x, encoder_hidden_states=case.input["encoder_hidden_states"])
    case.check(f"{prefix}after_attn1", x + seen[0])
    case.check(f"{prefix}hidden_states", out)
    frames = call.motion_frames(LAYER, torch.empty(6, 32, 4, 4))
    torch.testing.assert_close(frames.flatten(3).transpose(2, 3), case.output["motion_frames"])


def test_the_shell_around_it_is_published() -> None:
    case = Case("spatial_shell")
    shell = Transformer2DModel(4, 8, in_channels=32, norm_num_groups=8, cross_attention_dim=24)
    shell.load_state_dict(case.weights)
    call = HalloCall(3, {LAYER: case.input["bank"].unflatten(0, (2, 3))}, 1)
    tokens = case.input["encoder_hidden_states"].repeat_interleave(3, 0)
    x = case.input["sample"].transpose(1, 2).flatten(0, 1)
    with torch.no_grad(), reading(shell.transformer_blocks[0].attn1).holding(call):
        out = shell(x, encoder_hidden_states=tokens).sample
    case.check("sample", out.unflatten(0, (2, 3)).transpose(1, 2))
    frames = call.motion_frames(LAYER, x)
    case.check("motion_frames", frames.flatten(3).transpose(2, 3))


def attention() -> Any:
    torch.manual_seed(0)
    return BasicTransformerBlock(32, 4, 8, cross_attention_dim=24).attn1.requires_grad_(False)


def naive(attn: Any, x: Tensor, keys: Tensor) -> Tensor:
    """Attention of x (d c) to keys (l c) with a loop over heads."""
    out = []
    for q, k, v in zip(
        *(to(t).chunk(4, -1) for to, t in ((attn.to_q, x), (attn.to_k, keys), (attn.to_v, keys))),
        strict=True,
    ):
        out.append((q @ k.T / 8**0.5).softmax(-1) @ v)
    return attn.to_out[0](torch.cat(out, -1))


@pytest.mark.parametrize("order", ["parity", "fixed"])
def test_each_row_sees_itself_and_the_reference_of_its_order(order: Any) -> None:
    attn, b, f = attention(), 3, 2
    x, bank = torch.randn(b * f, 6, 32), torch.randn(b, 2, 6, 32)
    with reading(attn).holding(HalloCall(f, {LAYER: bank}, 1, order=order)):
        out = attn(x)
    read = {"parity": [0, 1, 2, 0, 1, 2], "fixed": [0, 0, 1, 1, 2, 2]}[order]
    for row in range(b * f):
        keys = x[row] if row < f else torch.cat([x[row], bank[read[row], 0]])
        torch.testing.assert_close(out[row], naive(attn, x[row], keys), atol=1e-5, rtol=1e-5)


def test_orders_agree_for_single_frames_and_single_clips() -> None:
    for b, f in ((4, 1), (1, 5)):
        assert paired_rows(b, f, "parity").tolist() == paired_rows(b, f, "fixed").tolist()
    assert paired_rows(4, 14, "parity").eq(paired_rows(4, 14, "fixed")).sum() == 14


def test_a_pattern_may_add_other_frames() -> None:
    attn, b, f = attention(), 2, 3
    x, bank = torch.randn(b * f, 6, 32), torch.randn(b, 1, 6, 32)
    pattern = parse_pattern("first+individual+reference")
    call = HalloCall(f, {LAYER: bank}, 1, order="fixed", pattern=pattern)
    with reading(attn).holding(call):
        out = attn(x)
    for row in range(b * f):
        clip, frame = divmod(row, f)
        frames = [x[clip * f + i] for i in sorted({0, frame})]
        keys = torch.cat(frames + ([bank[clip, 0]] if clip else []))
        torch.testing.assert_close(out[row], naive(attn, x[row], keys), atol=1e-5, rtol=1e-5)
    slot, released = reading(attn), HalloCall(f, {LAYER: bank}, pattern=pattern)
    with slot.holding(released), pytest.raises(ValueError, match="no released order"):
        attn(x)


def test_reference_levels_leave_the_others_alone() -> None:
    attn = attention()
    x, bank = torch.randn(2, 6, 32), {LAYER: torch.randn(1, 1, 6, 32)}
    alone = attn(x)
    slot = reading(attn, level=2)
    with slot.holding(HalloCall(2, bank, reference_levels=(0, 1))):
        torch.testing.assert_close(attn(x), alone, atol=1e-6, rtol=1e-5)
    with slot.holding(HalloCall(2, bank, reference_levels=(2,))):
        assert not torch.allclose(attn(x), alone, atol=1e-3)
    with pytest.raises(RuntimeError, match="outside of them"):
        attn(x)
