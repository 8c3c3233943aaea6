"""FRESCO's attention: published outputs, closed forms, and the core with and without guides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from fresco_golden import Golden, golden
from torch import Tensor

from methods.attention import (
    CallSlot,
    FrameAttentionProcessor,
    FrameCall,
    TokenGuide,
    frame_attention,
)
from methods.fresco.attention import (
    Paths,
    layer_guide,
    scaled_attention,
    spatial_queries,
    temporal_outputs,
    token_lists,
    unseen_tokens,
)
from methods.patterns import parse_pattern
from methods.text_attention import TextAttentionProcessor

# --- published outputs ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> tuple[Any, Golden]:
    case = golden("guided_attention")
    attn = Attention(
        query_dim=case.input["hidden_states"].shape[-1],
        heads=case.config["heads"],
        dim_head=case.config["dim_head"],
    )
    attn.load_state_dict(case.weights)
    return attn.requires_grad_(False), case


# name: (pattern, tokens of unseen parts only, spatial guidance, temporal guidance)
CASES = {
    "plain": ("individual", False, False, False),
    "cross": ("full", True, False, False),
    "cross_fallback": ("first", False, False, False),
    "spatial": ("individual", False, True, False),
    "cross_spatial": ("full", True, True, False),
    "temporal": ("individual", False, False, True),
    "cross_temporal": ("full", True, False, True),
    "all": ("full", True, True, True),
}


@pytest.mark.parametrize("name", CASES)
def test_attention_is_that_of_the_released_code(published, name):
    attn, case = published
    pattern, unseen, spatial, temporal = CASES[name]
    paths = Paths(
        case.input["fwd_mapping"][:, 0],
        case.input["bwd_mapping"][:, 0],
        case.input["interattn_mask"][:, 0],
    )
    guide = layer_guide(
        token_lists(case.input["crossframe_mask"]) if unseen else None,
        case.input["ref_hidden_states"] if spatial else None,
        paths if temporal else None,
        spatial=case.config["intraattn_scale_factor"],
        temporal=case.config["interattn_scale_factor"],
    )
    slot = CallSlot()
    table = parse_pattern(pattern).table(case.config["f"])
    slot.current = FrameCall(case.config["f"], table, guides={"layer": guide})
    case.check(name, FrameAttentionProcessor(slot, "layer")(attn, case.input["hidden_states"]))


def test_text_attention_is_that_of_the_released_code(published):
    """Nothing guides it, whatever is on."""
    attn, case = published
    slot = CallSlot()
    slot.current = FrameCall(case.config["f"], parse_pattern("full").table(case.config["f"]))
    hidden, text = case.input["hidden_states"], case.input["encoder_hidden_states"]
    case.check("attn2", TextAttentionProcessor(slot, "layer")(attn, hidden, text))


@pytest.mark.parametrize("scale", [8, 16, 32])
def test_tokens_are_chosen_as_in_the_released_code(scale):
    case = golden("crossframe_tokens")
    occluded = case.input["bwd_occ"]
    height, width = (side // scale for side in occluded.shape[-2:])
    chosen = unseen_tokens(occluded[:-1], height, width)
    assert torch.equal(chosen, case.output[f"mask_{scale}"])


# --- closed forms --------------------------------------------------------------------------------


def random_qkv(b: int = 2, f: int = 3, d: int = 5, h: int = 2, e: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(b, f, d, h, e, generator=generator, dtype=torch.float64) for _ in range(3)]


def test_chosen_tokens_equal_a_mask():
    query, key, value = random_qkv()
    chosen = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)) > 0.5
    chosen[0] = True
    table = ((0, 1), (0, 2), (0, 1, 2))
    got = frame_attention(query, key, value, table, tokens=token_lists(chosen))
    for i, keys in enumerate(table):
        allowed = torch.zeros(3, 5, dtype=torch.bool)
        allowed[list(keys)] = chosen[list(keys)]
        expected = F.scaled_dot_product_attention(
            query[:, i].transpose(1, 2),
            key.flatten(1, 2).transpose(1, 2),
            value.flatten(1, 2).transpose(1, 2),
            attn_mask=allowed.flatten()[None],
        )
        torch.testing.assert_close(got[:, i], expected.transpose(1, 2))


def test_all_tokens_chosen_is_whole_frames():
    query, key, value = random_qkv()
    for pattern in ("full", "first+previous", "individual"):
        table = parse_pattern(pattern).table(3)
        everything = token_lists(torch.ones(3, 5, dtype=torch.bool))
        got = frame_attention(query, key, value, table, tokens=everything)
        torch.testing.assert_close(got, frame_attention(query, key, value, table))


def test_a_frame_without_keys_is_refused():
    query, key, value = random_qkv()
    chosen = torch.zeros(3, 5, dtype=torch.bool)
    chosen[0] = True
    with pytest.raises(ValueError, match="nothing to attend to"):
        frame_attention(query, key, value, ((0,), (1,), (2,)), tokens=token_lists(chosen))
    with pytest.raises(ValueError, match="2 frames, keys have 3"):
        frame_attention(query, key, value, ((0,),) * 3, tokens=token_lists(chosen[:2]))


def test_nothing_occluded_leaves_the_first_frame():
    chosen = unseen_tokens(torch.zeros(3, 16, 24), 2, 3)
    assert chosen[0].all()
    assert not chosen[1:].any()


def test_factor_zero_averages():
    """With factor 0 all weights are equal: spatial guidance leaves each frame its mean query."""
    query, _, _ = random_qkv()
    attn = Attention(query_dim=8, heads=2, dim_head=4).double().requires_grad_(False)
    reference = torch.randn(6, 5, 8, dtype=torch.float64)
    mixed = spatial_queries(reference, 0.0)(attn, query)
    torch.testing.assert_close(mixed, query.mean(2, keepdim=True).expand_as(query))


def test_unbroken_still_paths_average_over_time_and_broken_ones_do_nothing():
    query, key, value = random_qkv()
    still = torch.arange(5).expand(3, 5)
    joined = Paths(still, still, torch.ones(5, 3, 3, dtype=torch.bool))
    out = temporal_outputs(joined, 0.0)(query, key, value)
    torch.testing.assert_close(out, value.mean(1, keepdim=True).expand_as(value))
    alone = Paths(still, still, torch.eye(3, dtype=torch.bool).expand(5, 3, 3))
    torch.testing.assert_close(temporal_outputs(alone, 0.2)(query, key, value), value)


def test_results_go_along_the_paths():
    """Frame 1 shows frame 0 rolled by two tokens: what is equal along paths stays as it is."""
    query, key, value = random_qkv(f=2)
    forward = torch.stack([torch.arange(5), (torch.arange(5) + 2) % 5])
    backward = forward.argsort(1)
    value[:, 1] = value[:, 0].roll(2, dims=1)
    paths = Paths(forward, backward, torch.ones(5, 2, 2, dtype=torch.bool))
    torch.testing.assert_close(temporal_outputs(paths, 0.2)(query, key, value), value)
    assert not torch.allclose(value[:, 1], value[:, 0])


def test_scaled_attention_is_softmax():
    query, key, value = (x[:, 0] for x in random_qkv())
    weights = torch.einsum("nlhe,nmhe->nhlm", query, key).mul(0.3 / 2).softmax(-1)
    expected = torch.einsum("nhlm,nmhe->nlhe", weights, value)
    torch.testing.assert_close(scaled_attention(query, key, value, 0.3), expected)


# --- guides in the processor ---------------------------------------------------------------------


def call(attn: Any, x: Tensor, **options: Any) -> Tensor:
    slot = CallSlot()
    slot.current = FrameCall(3, parse_pattern("full").table(3), **options)
    return FrameAttentionProcessor(slot, "layer")(attn, x)


def test_an_empty_guide_changes_nothing_and_alpha_mixes_with_the_own_attention():
    attn = Attention(query_dim=8, heads=2, dim_head=4).requires_grad_(False)
    x = torch.randn(6, 5, 8)
    plain = call(attn, x)
    assert torch.equal(plain, call(attn, x, guides={"layer": TokenGuide()}))
    assert torch.equal(
        plain, call(attn, x, guides={"another": TokenGuide(output=lambda q, k, o: -o)})
    )
    negative = {"layer": TokenGuide(output=lambda q, k, out: -out)}
    own, mixed = (
        call(attn, x, alpha=0.0, guides=negative),
        call(attn, x, alpha=0.25, guides=negative),
    )
    bias = attn.to_out[0].bias
    torch.testing.assert_close(mixed, 0.75 * own + 0.25 * (2 * bias - plain))
