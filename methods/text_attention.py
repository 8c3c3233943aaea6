"""Text attention of frames folded into the batch: a prompt's keys and values, projected once.

Shapes as in `methods.attention`; n is the tokens of a prompt. Frames of one guidance row read the
same prompt, so the text may be given per row, (b, n, c), instead of per frame, (b f, n, c): one
long query per row then meets keys and values that are neither repeated nor, while the same tensor
is given again, projected again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.attention import CallSlot, fused_attention, split_heads

_PLAIN = ("AttnProcessor", "AttnProcessor2_0")


class TextAttentionProcessor:
    """Diffusers attention processor for `attn2`; equal to `AttnProcessor2_0` up to rounding.

    The projection of a text per row is kept until another tensor is given. While gradients are
    recorded nothing is kept, since the weights may change and a graph serves one backward pass.
    """

    def __init__(self, slot: CallSlot, layer: str) -> None:
        self.slot = slot
        self.layer = layer
        self._text: Tensor | None = None
        self._projected: tuple[Tensor, Tensor] | None = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attention of hidden_states (b f, d, c) to text (b, n, c) or (b f, n, c); (b f, d, c)."""
        text = encoder_hidden_states
        if text is None or attention_mask is not None:
            raise ValueError(f"{self.layer}: text attention takes text and no mask")
        f = len(hidden_states) // len(text)
        if f not in (1, self.slot.read().frames) or f * len(text) != len(hidden_states):
            raise ValueError(f"{self.layer}: {len(text)} texts for {len(hidden_states)} frames")
        query = split_heads(attn, attn.to_q(hidden_states)).unflatten(0, (-1, f)).flatten(1, 2)
        key, value = self._keys_and_values(attn, text)
        out_blhe = fused_attention(query, key, value)
        out = out_blhe.unflatten(1, (f, -1)).flatten(0, 1).flatten(2)
        return attn.to_out[1](attn.to_out[0](out))

    def forget(self) -> None:
        """Drop what is kept."""
        self._text = self._projected = None

    def _keys_and_values(self, attn: Any, text: Tensor) -> tuple[Tensor, Tensor]:
        if self._projected is not None and self._text is text and not torch.is_grad_enabled():
            return self._projected
        projected = (split_heads(attn, attn.to_k(text)), split_heads(attn, attn.to_v(text)))
        self._text, self._projected = (None, None) if torch.is_grad_enabled() else (text, projected)
        return projected


def select_text_attentions(net: nn.Module) -> dict[str, Any]:
    """Return the text-attention layers of a network by name, or none of them.

    One layer that does more than plain cross-attention (an IP-Adapter's, say) leaves all as they
    are: the network then takes one text per frame.
    """
    layers = {name: m for name, m in net.named_modules() if name.endswith(".attn2")}
    return layers if all(map(_is_plain, layers.values())) else {}


def _is_plain(attn: Any) -> bool:
    extras = (attn.spatial_norm, attn.group_norm, attn.norm_q, attn.norm_k, attn.norm_cross)
    plain = attn.is_cross_attention and attn.added_kv_proj_dim is None
    unscaled = not attn.residual_connection and attn.rescale_output_factor == 1
    known = type(attn.processor).__name__ in _PLAIN
    return plain and unscaled and known and all(extra is None for extra in extras)
