"""The attention core against a naive reference, published numbers and its own promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from methods.attention import CallSlot, FrameAttentionProcessor, FrameCall, frame_attention
from methods.patterns import Table, parse_pattern

GOLDEN = Path(__file__).parent / "golden" / "controlvideo"
PATTERNS = [
    *("individual", "first", "previous", "first+previous", "full"),
    *("keyframes[0,-1]", "keyframes[2,-2]", "window[1]", "window[9]"),
    *("first+previous+individual", "individual+keyframes[0,-1]"),
]
SIZES = [(1, 5, 7, 3, 5), (2, 4, 1, 1, 3), (2, 6, 13, 2, 9)]  # b, f, d, h, e


def naive(q: Tensor, k: Tensor, v: Tensor, table: Table, bank: Any = None) -> Tensor:
    """Frame by frame, explicit softmax over gathered tokens, in fp64."""
    q, k, v = q.double(), k.double(), v.double()
    out = torch.empty_like(q)
    for i, frames in enumerate(table):
        keys = torch.cat([k[:, j] for j in frames] + ([bank[0].double()] if bank else []), dim=1)
        values = torch.cat([v[:, j] for j in frames] + ([bank[1].double()] if bank else []), dim=1)
        scores = torch.einsum("bqhe,bkhe->bhqk", q[:, i], keys) / q.shape[-1] ** 0.5
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        out[:, i] = torch.einsum("bhqk,bkhe->bqhe", weights, values)
    return out


def qkv(b: int, f: int, d: int, h: int, e: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * f + d)
    q, k, v = torch.randn(3, b, f, d, h, e, generator=generator)
    return q, k, v


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("text", PATTERNS)
def test_equals_naive_reference(text: str, size: tuple[int, ...]) -> None:
    q, k, v = qkv(*size)
    table = parse_pattern(text).table(size[1])
    torch.testing.assert_close(
        frame_attention(q, k, v, table).double(), naive(q, k, v, table), atol=2e-6, rtol=0
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("text", ["reference", "individual+reference", "first+reference"])
def test_bank_equals_naive_reference(text: str, size: tuple[int, ...]) -> None:
    b, f, _, h, e = size
    q, k, v = qkv(*size)
    bank = tuple(torch.randn(2, b, 3, h, e, generator=torch.Generator().manual_seed(3)))
    table = parse_pattern(text).table(f)
    out = frame_attention(q, k, v, table, bank_key=bank[0], bank_value=bank[1])
    torch.testing.assert_close(out.double(), naive(q, k, v, table, bank), atol=2e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("text", ["individual", "first+previous", "full"])
def test_half_precision(text: str, dtype: torch.dtype) -> None:
    q, k, v = (x.to(dtype) for x in qkv(2, 4, 5, 2, 8))
    out = frame_attention(q, k, v, table := parse_pattern(text).table(4))
    assert out.dtype == dtype
    worst = (out.double() - naive(q, k, v, table)).abs().max()
    assert worst < {torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]


def test_gradients_reach_every_key_frame_and_no_other() -> None:
    q, k, v = qkv(1, 4, 3, 2, 5)
    k.requires_grad_()
    frame_attention(q, k, v, parse_pattern("keyframes[1,2]").table(4)).square().sum().backward()
    assert k.grad is not None
    assert k.grad.abs().sum(dim=(0, 2, 3, 4)).gt(0).tolist() == [False, True, True, False]


class Calls:
    """Records the shapes and storage of each fused-attention call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shapes: list[tuple[int, int, int]] = []
        self.keys: list[Tensor] = []
        self._original = functional.scaled_dot_product_attention
        monkeypatch.setattr(functional, "scaled_dot_product_attention", self)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.shapes.append((q.shape[0], q.shape[2], k.shape[2]))  # batch, queries, keys
        self.keys.append(k)
        return self._original(q, k, v)


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("individual", [(8, 3, 3)]),
        ("first", [(2, 12, 3)]),
        ("full", [(2, 12, 12)]),
        ("keyframes[1,2]", [(2, 12, 6)]),
        ("previous", [(2, 6, 3), (2, 3, 3), (2, 3, 3)]),
        ("first+previous", [(2, 6, 3), (2, 3, 6), (2, 3, 6)]),
        ("window[1]", [(2, 3, 6), (2, 3, 9), (2, 3, 9), (2, 3, 6)]),
    ],
)
def test_queries_with_common_keys_are_one_call(
    text: str, shapes: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    frame_attention(*qkv(2, 4, 3, 2, 5), parse_pattern(text).table(4))
    assert calls.shapes == shapes


@pytest.mark.parametrize(
    "text", ["individual", "first", "previous", "full", "keyframes[1,2]", "window[1]"]
)
def test_consecutive_key_frames_are_views(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    q, k, v = qkv(2, 4, 3, 2, 5)
    frame_attention(q, k, v, parse_pattern(text).table(4))
    storage = k.untyped_storage().data_ptr()
    assert all(key.untyped_storage().data_ptr() == storage for key in calls.keys)


@pytest.mark.parametrize(
    ("table", "what"),
    [
        (((0,),), "1 rows for 2"),
        (((0,), (2,)), "outside 0..1"),
        (((0,), ()), "nothing to attend to"),
    ],
)
def test_tables_that_do_not_fit(table: Table, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        frame_attention(*qkv(1, 2, 3, 1, 2), table)


# --- the processor -------------------------------------------------------------------------------


def run(
    attn: Attention, x: Tensor, f: int, text: str, alpha: float = 1.0, bank: Any = None
) -> Tensor:
    slot = CallSlot()
    attn.set_processor(FrameAttentionProcessor(slot, "layer"))
    slot.current = FrameCall(f, parse_pattern(text).table(f), alpha, bank or {})
    with torch.no_grad():
        return attn(x)


def small_attention() -> Attention:
    torch.manual_seed(0)
    return Attention(query_dim=12, heads=3, dim_head=4)


def small_input(b: int, f: int) -> Tensor:
    return torch.randn(b * f, 7, 12, generator=torch.Generator().manual_seed(5))


def golden(case: str) -> tuple[dict[str, Tensor], dict[str, Any], float]:
    path = GOLDEN / f"{case}.safetensors"
    with safe_open(path, "pt") as file:
        header = file.metadata()
    return load_file(path), json.loads(header["config"]), float(header["tolerance"])


@pytest.mark.parametrize(
    ("case", "prefix", "hidden", "output", "f", "text"),
    [
        ("attn_fully", "", "hidden_f4", "fully_f4", 4, "full"),
        ("attn_fully", "", "hidden_f4", "inter_f4", 4, "keyframes[0,-1]"),
        ("attn_individual", "", "hidden_f4", "individual_f4", 4, "individual"),
        ("attn_first_frame", "attn1.", "hidden_chunk2", "self_chunk2", 4, "first"),
        ("attn_sparse_causal", "", "hidden_f5", "sparse_causal_f5", 5, "first+previous"),
    ],
)
def test_published_attention(
    case: str, prefix: str, hidden: str, output: str, f: int, text: str
) -> None:
    tensors, config, tolerance = golden(case)
    attn = Attention(config["query_dim"], heads=config["heads"], dim_head=config["dim_head"])
    start = f"weights/{prefix}"
    weights = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
    attn.load_state_dict(weights)
    out = run(attn, tensors[f"input/{hidden}"], f, text)
    assert (out - tensors[f"output/{output}"]).abs().max() <= tolerance


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("text", PATTERNS[:5])
def test_one_frame_equals_plain_diffusers_exactly(text: str, alpha: float) -> None:
    attn, x = small_attention(), small_input(2, 1)
    attn.set_processor(AttnProcessor2_0())
    with torch.no_grad():
        plain = attn(x)
    assert torch.equal(run(attn, x, 1, text, alpha), plain)


def test_individual_equals_plain_diffusers_exactly() -> None:
    attn, x = small_attention(), small_input(2, 4)
    attn.set_processor(AttnProcessor2_0())
    with torch.no_grad():
        plain = attn(x)
    assert torch.equal(run(attn, x, 4, "individual"), plain)
    assert torch.equal(run(attn, x, 4, "full", alpha=0.0), plain)


@pytest.mark.parametrize("text", ["first", "first+previous", "full", "keyframes[-1]"])
def test_alpha_is_linear_between_own_and_cross(text: str) -> None:
    attn, x = small_attention(), small_input(2, 4)
    own, cross = run(attn, x, 4, "individual"), run(attn, x, 4, text)
    mixed = run(attn, x, 4, text, alpha=0.25)
    torch.testing.assert_close(mixed, 0.75 * own + 0.25 * cross, atol=1e-6, rtol=0)


def test_permuting_frames_permutes_full() -> None:
    attn, x = small_attention(), small_input(1, 5)
    order = torch.tensor([3, 0, 4, 1, 2])
    out = run(attn, x, 5, "full")
    torch.testing.assert_close(run(attn, x[order], 5, "full"), out[order], atol=1e-6, rtol=0)


@pytest.mark.parametrize("text", PATTERNS)
def test_leakage_matrix_is_the_table(text: str) -> None:
    """Perturbing frame j changes frame j itself (its queries) and the frames that have j as key."""
    f, attn = 5, small_attention()
    x = small_input(1, f)
    out = run(attn, x, f, text)
    table = parse_pattern(text).table(f)
    for j in range(f):
        perturbed = x.clone()
        perturbed[j] += 1.0
        changed = (run(attn, perturbed, f, text) != out).flatten(1).any(1).tolist()
        assert changed == [j == i or j in table[i] for i in range(f)]


@pytest.mark.parametrize("text", PATTERNS)
def test_guidance_rows_never_mix(text: str) -> None:
    attn, x = small_attention(), small_input(2, 5)
    perturbed = x.clone()
    perturbed[5:] += 1.0
    assert torch.equal(run(attn, x, 5, text)[:5], run(attn, perturbed, 5, text)[:5])


@pytest.mark.parametrize(
    ("text", "alpha", "projected"),
    [
        ("first", 1.0, 1),
        ("keyframes[0,-1]", 1.0, 2),
        ("previous", 1.0, 4),
        ("full", 1.0, 5),
        ("first", 0.5, 5),
    ],
)
def test_only_key_frames_are_projected(text: str, alpha: float, projected: int) -> None:
    attn = small_attention()
    frames: list[int] = []
    attn.to_k.register_forward_pre_hook(lambda m, args: frames.append(args[0].shape[1]))
    run(attn, small_input(2, 5), 5, text, alpha)
    assert frames == [projected]


def test_bank_adds_keys_and_values() -> None:
    """A bank that holds frame 0's own tokens is frame 0 as a key frame."""
    attn, x = small_attention(), small_input(2, 3)
    first_bnc = x.unflatten(0, (2, 3))[:, 0]
    out = run(attn, x, 3, "reference", bank={"layer": first_bnc})
    torch.testing.assert_close(out, run(attn, x, 3, "first"), atol=1e-6, rtol=0)


def test_misuse_is_refused() -> None:
    attn, x = small_attention(), small_input(2, 3)
    with pytest.raises(ValueError, match="whole clips of 4 frames"):
        run(attn, x, 4, "full")
    with pytest.raises(ValueError, match="neither text nor a mask"):
        attn(x, encoder_hidden_states=x)
    attn.set_processor(FrameAttentionProcessor(CallSlot(), "layer"))
    with pytest.raises(RuntimeError, match="outside of"):
        attn(x)
