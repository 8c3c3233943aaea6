"""Reference attention: one network writes the tokens of images, another reads them as keys.

The tokens are what enters the self-attention of a transformer block, after its first layer norm.
Image 0 of a clip is the reference, which the reader's spatial attention sees beside its own frame;
the others are motion frames, for the motion modules. Paper: section 3.3; the released code is
hallo/models/mutual_self_attention.py. Shapes: see `methods.hallo.calls`.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from methods.attention import KeyValue, frame_attention, split_heads, unfold_frames
from methods.hallo.calls import READ, Bank, HalloCall, Order, Slot
from methods.hallo.sizes import Sizes
from methods.patterns import INDIVIDUAL, Pattern

_ALONE = INDIVIDUAL.table(1)


def paired_rows(b: int, f: int, order: Order) -> Tensor:
    """Return, for each of (b f) rows, the clip whose reference it reads, int64.

    `parity`: r mod b; `fixed`: r // f.
    """
    rows = torch.arange(b * f)
    return rows % b if order == "parity" else rows // f


def repeat_tokens(tokens: Tensor, images: int, order: Order) -> Tensor:
    """Return identity tokens (b n c) for (b s) images, s = `images`.

    `parity`: row r has those of clip r mod b, as released; `fixed`: those of its own clip.
    """
    if order == "parity":
        return tokens.repeat(images, 1, 1)
    return tokens.repeat_interleave(images, dim=0)


class WriteProcessor:
    """Attention processor that leaves its input under the name of its layer, then attends."""

    def __init__(self, slot: Slot[dict[str, Tensor]], layer: str) -> None:
        self.slot, self.layer = slot, layer

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Self-attention of hidden_states (r d c); same shape out."""
        self.slot.read()[self.layer] = hidden_states
        x_rfdc = hidden_states.unsqueeze(1)
        return _leave(attn, _attend(attn, x_rfdc, None)).squeeze(1)


class ReadProcessor:
    """Attention processor of a frame that sees itself and the reference, as the call says."""

    def __init__(self, slot: Slot[HalloCall], layer: str, level: int) -> None:
        self.slot, self.layer, self.level = slot, layer, level

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attention of hidden_states (b f, d, c); same shape out."""
        call = self.slot.read()
        x_bfdc = unfold_frames(hidden_states, call.frames)
        reference_bdc = call.reference(self.layer, self.level)
        free = len(x_bfdc) if reference_bdc is None else call.unconditional
        parts = []
        if free:
            parts.append(_attend_frames(attn, x_bfdc[:free], call))
        if free < len(x_bfdc):
            assert reference_bdc is not None
            parts.append(_attend_reference(attn, x_bfdc[free:], reference_bdc, call))
        return _leave(attn, torch.cat(parts)).flatten(0, 1)


def _attend_frames(attn: Any, x_bfdc: Tensor, call: HalloCall) -> Tensor:
    """Attention (b f d h e) to frames alone."""
    terms = [term for term in call.pattern.terms if term.name != "reference"]
    pattern = Pattern(tuple(terms)) if terms else INDIVIDUAL
    query, (key, value) = _project(attn, x_bfdc)
    return frame_attention(query, key, value, pattern.table(call.frames))


def _attend_reference(attn: Any, x_bfdc: Tensor, reference: Tensor, call: HalloCall) -> Tensor:
    """Attention (b f d h e) of the last clips of a batch to frames and their reference."""
    b, f = len(reference), call.frames
    bank = KeyValue(*(split_heads(attn, to(reference)) for to in (attn.to_k, attn.to_v)))
    if call.pattern == READ:
        # Frames see no other frames: one row each, so that one kernel call does for all.
        rows = paired_rows(b, f, call.order)[(b - len(x_bfdc)) * f :].to(reference.device)
        x_rfdc = x_bfdc.flatten(0, 1).unsqueeze(1)
        out_rfdhe = _attend(attn, x_rfdc, KeyValue(*(t[rows] for t in bank)))
        return out_rfdhe.squeeze(1).unflatten(0, (-1, f))
    if call.order == "parity" and b > 1 and f > 1:
        raise ValueError(f"the pattern {call.pattern} has no released order: use order='fixed'")
    key, value = (t[b - len(x_bfdc) :] for t in bank)
    query, own = _project(attn, x_bfdc)
    return frame_attention(query, *own, call.pattern.table(f), bank_key=key, bank_value=value)


def _attend(attn: Any, x_rfdc: Tensor, bank: KeyValue | None) -> Tensor:
    """Attention (r 1 d h e) of rows that are one frame each, to themselves and a bank (r n h e)."""
    query, (key, value) = _project(attn, x_rfdc)
    if bank is None:
        return frame_attention(query, key, value, _ALONE)
    return frame_attention(query, key, value, _ALONE, bank_key=bank.key, bank_value=bank.value)


def _project(attn: Any, x: Tensor) -> tuple[Tensor, KeyValue]:
    query, key, value = (split_heads(attn, to(x)) for to in (attn.to_q, attn.to_k, attn.to_v))
    return query, KeyValue(key, value)


def _leave(attn: Any, out: Tensor) -> Tensor:
    """Output projection of heads (..., h, e)."""
    return attn.to_out[1](attn.to_out[0](out.flatten(-2)))


class ReferenceNet(nn.Module):
    """The network that writes: Stable Diffusion's UNet without its output layers.

    unet: UNet2DConditionModel; what it returns is not used.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(
            in_channels=sizes.latent_channels,
            out_channels=sizes.latent_channels,
            block_out_channels=sizes.widths,
            layers_per_block=sizes.layers,
            cross_attention_dim=sizes.token_width,
            attention_head_dim=sizes.heads,
            norm_num_groups=sizes.groups,
        )
        self.unet.conv_norm_out, self.unet.conv_out = None, nn.Identity()
        self.slot: Slot[dict[str, Tensor]] = Slot()
        for name, module in self.unet.named_modules():
            if name.rpartition(".")[0].endswith(".attentions"):
                attn = module.transformer_blocks[0].attn1
                attn.set_processor(WriteProcessor(self.slot, name))

    def forward(
        self, images: Tensor, tokens: Tensor, *, order: Order = "parity", half: bool = False
    ) -> Bank:
        """Return the tokens (b s d c) of every layer.

        images: latents (b s c h w), the reference first. tokens: of the identity, (b n c).
        order: which clip's tokens an image has; the two differ when b > 1 and s > 1. half: round
        what is left to float16, as the released code does by default in any arithmetic.
        """
        s = images.shape[1]
        written: dict[str, Tensor] = {}
        with self.slot.holding(written):
            self.unet(images.flatten(0, 1), 0, repeat_tokens(tokens, s, order))
        return {
            layer: (x.half().to(x.dtype) if half else x).unflatten(0, (-1, s))
            for layer, x in written.items()
        }
