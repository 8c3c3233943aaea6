"""Frame attention in SVD's UNet: stock, masked softmax as reference, places, restoration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from crossframe.errors import UserError
from methods.attention import CallSlot, FrameAttentionProcessor, FrameCall
from methods.patterns import parse_pattern
from methods.svd.options import FrameAttention, SpatialAttention, TemporalAttention
from methods.svd.temporal import TemporalAttentionProcessor, attending
from tests.tiny_svd import run, tiny_unet, unet_inputs

FRAMES, ROWS = 4, 2


@pytest.fixture(scope="module")
def unet() -> Any:
    return tiny_unet()


@pytest.fixture(scope="module")
def stock(unet: Any) -> Tensor:
    return run(unet, unet_inputs(FRAMES, ROWS))


def spatial(pattern: str, **options: Any) -> FrameAttention:
    return FrameAttention(spatial=SpatialAttention(pattern=pattern, **options))


def temporal(pattern: str, **options: Any) -> FrameAttention:
    return FrameAttention(temporal=TemporalAttention(pattern=pattern, **options))


def processors(unet: Any) -> dict[str, Any]:
    return dict(unet.attn_processors)


@pytest.mark.parametrize("options", [temporal(f"window[{FRAMES - 1}]"), spatial("window[0]")])
def test_other_words_for_the_released_network(
    options: FrameAttention, unet: Any, stock: Tensor
) -> None:
    with attending(unet, options, FRAMES):
        ours = run(unet, unet_inputs(FRAMES, ROWS))
    assert torch.allclose(ours, stock, atol=1e-6)


@pytest.mark.parametrize(
    "options", [temporal("window[1]"), temporal("individual"), spatial("first"), spatial("full")]
)
def test_patterns_matter(options: FrameAttention, unet: Any, stock: Tensor) -> None:
    with attending(unet, options, FRAMES):
        ours = run(unet, unet_inputs(FRAMES, ROWS))
    assert (ours - stock).abs().max() > 1e-3


def masked(attn: Any, x: Tensor, allowed: Tensor) -> Tensor:
    """Self-attention of x (b, l, c) under a mask (l, l), by stored scores."""
    q, k, v = (
        part(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for part in (attn.to_q, attn.to_k, attn.to_v)
    )
    scores = (q @ k.transpose(-1, -2) * attn.scale).masked_fill(~allowed, -torch.inf)
    return attn.to_out[0]((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def pairs(pattern: str) -> Tensor:
    """Which frame sees which, (f, f) bool."""
    seen = torch.zeros(FRAMES, FRAMES, dtype=torch.bool)
    for i, keys in enumerate(parse_pattern(pattern).table(FRAMES)):
        seen[i, list(keys)] = True
    return seen


def slot(pattern: str, alpha: float = 1.0) -> CallSlot:
    made = CallSlot()
    made.current = FrameCall(FRAMES, parse_pattern(pattern).table(FRAMES), alpha)
    return made


PATTERNS = ["full", "window[1]", "first+previous", "previous", "individual", "keyframes[0,-1]"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_temporal_attention_is_a_masked_softmax(pattern: str) -> None:
    torch.manual_seed(0)
    attn = Attention(query_dim=16, heads=2, dim_head=8)
    x = torch.randn(6, FRAMES, 16)
    with torch.no_grad():
        expected = masked(attn, x, pairs(pattern))
        attn.set_processor(TemporalAttentionProcessor(slot(pattern), "attn1"))
        assert torch.allclose(attn(x), expected, atol=1e-6)


def test_temporal_alpha_mixes_in_the_frames_own_value() -> None:
    torch.manual_seed(0)
    attn = Attention(query_dim=16, heads=2, dim_head=8)
    x = torch.randn(6, FRAMES, 16)
    with torch.no_grad():
        full, own = masked(attn, x, pairs("full")), masked(attn, x, pairs("individual"))
        attn.set_processor(TemporalAttentionProcessor(slot("full", 0.3), "attn1"))
        assert torch.allclose(attn(x), 0.7 * own + 0.3 * full, atol=1e-6)


@pytest.mark.parametrize("pattern", ["first", "first+previous", "full"])
def test_spatial_attention_in_the_unet(pattern: str, unet: Any) -> None:
    """The layer inside of the UNet sees all rows and frames, and rows never mix."""
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    attn, seen = unet.get_submodule(name), []
    hook = attn.register_forward_hook(lambda module, given, out: seen.append((given[0], out)))
    with attending(unet, spatial(pattern), FRAMES):
        run(unet, unet_inputs(FRAMES, ROWS))
    hook.remove()
    ((x, out),) = seen
    d = x.shape[1]
    allowed = pairs(pattern).repeat_interleave(d, 0).repeat_interleave(d, 1)
    with torch.no_grad():
        expected = masked(attn, x.unflatten(0, (ROWS, FRAMES)).flatten(1, 2), allowed)
    assert torch.allclose(out.flatten(0, 1), expected.flatten(0, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "starts"),
    [
        ({"levels": (0,)}, ("down_blocks.0.", "up_blocks.1.")),
        ({"blocks": ("mid",)}, ("mid_block.",)),
        ({}, ("down_blocks.0.", "mid_block.", "up_blocks.1.")),
    ],
)
def test_places(options: dict[str, Any], starts: tuple[str, ...], unet: Any) -> None:
    before = processors(unet)
    both = FrameAttention(
        spatial=SpatialAttention(pattern="first", **options),
        temporal=TemporalAttention(pattern="window[1]", **options),
    )
    with attending(unet, both, FRAMES):
        now = processors(unet)
    kinds = {
        ".transformer_blocks.0.attn1.processor": FrameAttentionProcessor,
        ".temporal_transformer_blocks.0.attn1.processor": TemporalAttentionProcessor,
    }
    for name, processor in now.items():
        kind = next((kind for end, kind in kinds.items() if name.endswith(end)), None)
        if kind is not None and name.startswith(starts):
            assert type(processor) is kind
        else:
            assert processor is before[name]


def test_released_patterns_install_nothing(unet: Any) -> None:
    before = processors(unet)
    with attending(unet, FrameAttention(), FRAMES):
        assert processors(unet) == before


def test_restored_after_an_exception(unet: Any, stock: Tensor) -> None:
    before = processors(unet)
    with (
        pytest.raises(RuntimeError, match="stop"),
        attending(unet, FrameAttention(spatial=SpatialAttention(pattern="full")), FRAMES),
    ):
        assert processors(unet) != before
        raise RuntimeError("stop")
    assert processors(unet) == before
    assert torch.equal(run(unet, unet_inputs(FRAMES, ROWS)), stock)


def test_impossible_options(unet: Any) -> None:
    with (
        pytest.raises(UserError, match="key frame 9 is outside"),
        attending(unet, temporal("keyframes[9]"), FRAMES),
    ):
        pass
    with (
        pytest.raises(UserError, match="no such layer"),
        attending(unet, spatial("full", levels=(1,), blocks=("down",)), FRAMES),
    ):
        pass
