"""Frame attention: scaled dot-product attention whose keys and values come from chosen frames.

Shapes (suffix letters name the axes of a tensor):
    b  guidance rows (1, or 2 with classifier-free guidance); rows never mix
    f  query frames            k  frames available as keys       d  tokens of a frame
    l  tokens of several frames in a row, (frames d)              n  tokens of an external bank
    h  heads                   e  channels of a head              c  channels of all heads, (h e)
Networks see frames folded into the batch, b outer and f inner: x_bfdc is hidden_states (b f, d, c).

Every pattern is a choice of whole frames, so no mask is needed and fused kernels stay available.
Query frames with a common key set become one long query; runs of consecutive frames are views.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.patterns import Table, compact, group_queries


def _is_run(frames: tuple[int, ...]) -> bool:
    return bool(frames) and frames == tuple(range(frames[0], frames[-1] + 1))


def take_frames(x_bf: Tensor, frames: tuple[int, ...]) -> Tensor:
    """Frames of axis 1 of (b, f, ...): a view when they are consecutive, a copy otherwise."""
    if _is_run(frames):
        return x_bf.narrow(1, frames[0], len(frames))
    return x_bf[:, list(frames)]


def _put_frames(out_bf: Tensor, frames: tuple[int, ...], x_bf: Tensor) -> None:
    index = slice(frames[0], frames[-1] + 1) if _is_run(frames) else list(frames)
    out_bf[:, index] = x_bf


def _sdpa(q_blhe: Tensor, k_blhe: Tensor, v_blhe: Tensor) -> Tensor:
    """Softmax(q k^T / sqrt(e)) v of every head; (b, l, h, e) in and out, any strides."""
    out_bhle = F.scaled_dot_product_attention(
        q_blhe.transpose(1, 2), k_blhe.transpose(1, 2), v_blhe.transpose(1, 2)
    )
    return out_bhle.transpose(1, 2)


def _tokens(x_bkdhe: Tensor, frames: tuple[int, ...], bank_bnhe: Tensor | None) -> Tensor:
    """Tokens (b, l, h, e) of `frames`, then those of the bank."""
    if not frames and bank_bnhe is not None:
        return bank_bnhe
    x_blhe = take_frames(x_bkdhe, frames).flatten(1, 2)
    return x_blhe if bank_bnhe is None else torch.cat([x_blhe, bank_bnhe], dim=1)


def frame_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Table,
    *,
    bank_key: Tensor | None = None,
    bank_value: Tensor | None = None,
) -> Tensor:
    """Attention of every frame to the frames that `table` names.

    Args:
        query: (b, f, d, h, e).
        key, value: (b, k, d, h, e); k = f, or fewer when only the used frames were projected.
        table: for each query frame, the indices on the k axis of `key`, sorted and unique.
        bank_key, bank_value: (b, n, h, e), extra tokens that every query frame attends to.

    Returns:
        (b, f, d, h, e). One kernel call per distinct key set: one for `full`, `first` and
        `keyframes`; per-frame attention folds the frames into the batch and is one call too.

    Raises:
        ValueError: when the table does not fit the frames, or a frame has nothing to attend to.
    """
    _check_table(table, query.shape[1], key.shape[1], has_bank=bank_key is not None)
    if bank_key is None and table == tuple((i,) for i in range(key.shape[1])):
        folded = (x_bfdhe.flatten(0, 1) for x_bfdhe in (query, key, value))
        return _sdpa(*folded).unflatten(0, query.shape[:2])
    groups = group_queries(table)
    out_bfdhe = torch.empty_like(query) if len(groups) > 1 else None
    for queries, keys in groups:
        group_blhe = _sdpa(
            take_frames(query, queries).flatten(1, 2),
            _tokens(key, keys, bank_key),
            _tokens(value, keys, bank_value),
        )
        group_bfdhe = group_blhe.unflatten(1, (len(queries), -1))
        if out_bfdhe is None:
            return group_bfdhe
        _put_frames(out_bfdhe, queries, group_bfdhe)
    assert out_bfdhe is not None
    return out_bfdhe


def _check_table(table: Table, f: int, k: int, *, has_bank: bool) -> None:
    if len(table) != f:
        raise ValueError(f"the table has {len(table)} rows for {f} query frames")
    if any(not 0 <= frame < k for keys in table for frame in keys):
        raise ValueError(f"the table {table} names key frames outside 0..{k - 1}")
    if not has_bank and not all(table):
        raise ValueError(f"the table {table} leaves a frame with nothing to attend to")


@dataclass(frozen=True)
class FrameCall:
    """What one network call needs to know: set before the call, read by every processor.

    Attributes:
        frames: f, the number of frames folded into each guidance row.
        table: key frames of each query frame.
        alpha: weight of the cross-frame result, `(1 - alpha) * own + alpha * cross`.
        bank: per layer name, hidden states (b, n, c) that are extra keys and values; may be empty.
    """

    frames: int
    table: Table
    alpha: float = 1.0
    bank: Mapping[str, Tensor] = field(default_factory=dict)


class CallSlot:
    """The place where the processors of one network find the current `FrameCall`."""

    def __init__(self) -> None:
        self.current: FrameCall | None = None

    def read(self) -> FrameCall:
        """The current call; RuntimeError outside of `InflatedNet.frames(...)`."""
        if self.current is None:
            raise RuntimeError(
                "an inflated network was called outside of `with net.frames(f): ...`"
            )
        return self.current


class FrameAttentionProcessor:
    """Diffusers attention processor for the self-attention of frames folded into the batch.

    Replaces `AttnProcessor2_0` on `attn1`; equal to it, bit for bit, for one frame. `alpha` mixes
    the attention results *before* the output projection, which is linear, so this equals mixing
    after it. Keys and values are projected for the frames that are used as keys and for no others.
    """

    def __init__(self, slot: CallSlot, layer: str) -> None:
        self.slot = slot
        self.layer = layer

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Self-attention of hidden_states (b f, d, c), b outer; same shape out."""
        if encoder_hidden_states is not None or attention_mask is not None:
            raise ValueError(f"{self.layer}: frame attention takes neither text nor a mask")
        call = self.slot.read()
        x_bfdc = unfold_frames(hidden_states, call.frames)
        out_bfdhe = self._attend(attn, x_bfdc, call)
        out_bfdc = out_bfdhe.flatten(3)
        return attn.to_out[1](attn.to_out[0](out_bfdc.flatten(0, 1)))

    def _attend(self, attn: Any, x_bfdc: Tensor, call: FrameCall) -> Tensor:
        """Mixed attention result (b, f, d, h, e), before the output projection."""
        own = tuple((i,) for i in range(call.frames))
        bank_bnc = call.bank.get(self.layer)
        query = _heads(attn, attn.to_q(x_bfdc))
        if call.alpha == 0 or (call.table == own and bank_bnc is None):
            key, value = _project(attn, x_bfdc)
            return frame_attention(query, key, value, own)
        used, table = compact(call.table)
        if call.alpha < 1:
            used, table = tuple(range(call.frames)), call.table
        key, value = _project(attn, take_frames(x_bfdc, used))
        bank_key, bank_value = (None, None) if bank_bnc is None else _project(attn, bank_bnc)
        cross = frame_attention(query, key, value, table, bank_key=bank_key, bank_value=bank_value)
        if call.alpha == 1:
            return cross
        return torch.lerp(frame_attention(query, key, value, own), cross, call.alpha)


def unfold_frames(x: Tensor, frames: int) -> Tensor:
    """(b f, ...) -> (b, f, ...), a view; ValueError when the batch holds no whole clips."""
    if x.shape[0] % frames:
        raise ValueError(f"a batch of {x.shape[0]} cannot hold whole clips of {frames} frames")
    return x.unflatten(0, (-1, frames))


def _heads(attn: Any, x_c: Tensor) -> Tensor:
    return x_c.unflatten(-1, (attn.heads, -1))


def _project(attn: Any, x_c: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (..., h, e) of tokens (..., c)."""
    return _heads(attn, attn.to_k(x_c)), _heads(attn, attn.to_v(x_c))
