"""Text keys once per run: equal to plain diffusers, projected once, gone afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from methods.attention import CallSlot, FrameCall
from methods.inflation import FrameAttentionPlan, inflate
from methods.patterns import INDIVIDUAL
from methods.text_attention import TextAttentionProcessor
from tests.golden_case import Golden
from tests.tiny_backbone import TOKENS, WIDTH, tiny_unet

F = 3


@pytest.fixture(scope="module")
def unet() -> Any:
    return tiny_unet()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LATENTS, TEXT = drawn(2 * F, 4, 8, 8), drawn(2, TOKENS, WIDTH, seed=1)


@torch.no_grad()
def test_text_attention_is_that_of_the_released_code() -> None:
    """Text2Video-Zero's, which is ordinary: 2 rows of 4 frames, each with a text of its own."""
    case, f = Golden("controlvideo/attn_first_frame"), 4
    attn = Attention(24, cross_attention_dim=12, heads=3, dim_head=8)
    named = {n: t for n, t in case.weights.items() if n.startswith("attn2.")}
    attn.load_state_dict({n.removeprefix("attn2."): t for n, t in named.items()})
    slot = CallSlot()
    slot.current = FrameCall(f, INDIVIDUAL.table(f))
    made = TextAttentionProcessor(slot, "attn2")(
        attn, case.input["hidden_chunk2"], case.input["text_chunk2"]
    )
    case.close(made, "cross_chunk2")


def once(**options: Any) -> FrameAttentionPlan:
    return FrameAttentionPlan(INDIVIDUAL, text_once=True, **options)


def count_projections(net: Any) -> tuple[list[int], list[Any]]:
    sizes: list[int] = []
    layers = [m for n, m in net.named_modules() if n.endswith(".attn2.to_k")]
    hooks = [m.register_forward_hook(lambda m, a, o: sizes.append(len(o))) for m in layers]
    return sizes, hooks


@torch.no_grad()
def test_text_per_row_equals_text_per_frame(unet: Any) -> None:
    expected = unet(LATENTS, 500, TEXT.repeat_interleave(F, 0)).sample
    with inflate(unet, once()) as inflated, inflated.frames(F):
        assert inflated.text_of(TEXT, F) is TEXT
        per_row = unet(LATENTS, 500, TEXT).sample
        per_frame = unet(LATENTS, 500, TEXT.repeat_interleave(F, 0)).sample
    torch.testing.assert_close(per_row, expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(per_frame, expected, rtol=0, atol=2e-6)


@torch.no_grad()
def test_frames_may_have_texts_of_their_own(unet: Any) -> None:
    texts = drawn(2 * F, TOKENS, WIDTH, seed=2)
    expected = unet(LATENTS, 500, texts).sample
    with inflate(unet, once()) as inflated, inflated.frames(F):
        actual = unet(LATENTS, 500, texts).sample
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-6)


@torch.no_grad()
def test_a_text_is_projected_once_per_row_and_again_when_it_changes(unet: Any) -> None:
    sizes, hooks = count_projections(unet)
    layers = len(hooks)
    try:
        with inflate(unet, once()) as inflated, inflated.frames(F):
            first = unet(LATENTS, 500, TEXT).sample
            assert sizes == [2] * layers
            assert torch.equal(unet(LATENTS, 500, TEXT).sample, first)
            assert len(sizes) == layers
            assert not torch.equal(unet(LATENTS, 500, TEXT + 1).sample, first)
            assert len(sizes) == 2 * layers
        with inflate(unet, once()) as inflated, inflated.frames(F):
            unet(LATENTS, 500, TEXT)
        assert len(sizes) == 3 * layers
    finally:
        for hook in hooks:
            hook.remove()


def test_nothing_is_kept_while_gradients_are_recorded(unet: Any) -> None:
    text = TEXT.clone().requires_grad_()
    with inflate(unet, once()) as inflated, inflated.frames(F):
        for _ in range(2):
            unet(LATENTS, 500, text).sample.sum().backward()
    assert text.grad is not None
    assert float(text.grad.abs().max()) > 0


def test_the_network_has_its_own_processors_again(unet: Any) -> None:
    with inflate(unet, once()):
        pass
    attns = [m for n, m in unet.named_modules() if n.endswith("attn2")]
    assert all(type(attn.processor) is AttnProcessor2_0 for attn in attns)


def test_a_layer_that_does_more_keeps_text_per_frame() -> None:
    unet = tiny_unet()

    class Adapter(AttnProcessor2_0):
        pass

    next(m for n, m in unet.named_modules() if n.endswith("attn2")).set_processor(Adapter())
    with inflate(unet, once()) as inflated:
        assert torch.equal(inflated.text_of(TEXT, F), TEXT.repeat_interleave(F, 0))
        assert sum(type(p) is Adapter for p in unet.attn_processors.values()) == 1


@torch.no_grad()
def test_what_does_not_fit_is_said(unet: Any) -> None:
    with inflate(unet, once()) as inflated, inflated.frames(F):
        with pytest.raises(ValueError, match="4 texts for 6 frames"):
            unet(LATENTS, 500, drawn(4, TOKENS, WIDTH))
        attn = next(m for n, m in unet.named_modules() if n.endswith("attn2"))
        attn.set_processor(AttnProcessor2_0())
        with pytest.raises(RuntimeError, match="text-attention processor was replaced"):
            unet(LATENTS, 500, TEXT)
