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

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.patterns import Table, compact, group_queries


class KeyValue(NamedTuple):
    """Projected keys and values of one layer, each (b, f, d, h, e), or (b, n, h, e) in a bank."""

    key: Tensor
    value: Tensor


# For each frame, which of its d tokens may be keys: ascending int64 indices on the keys' device.
Tokens = tuple[Tensor, ...]
# (attention module, query (b, f, d, h, e)) -> the query that attends, same shape.
QueryTransform = Callable[[Any, Tensor], Tensor]
# (query, key, attended), each (b, f, d, h, e), query and key as projected -> attended, same shape.
OutputTransform = Callable[[Tensor, Tensor, Tensor], Tensor]


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


def fused_attention(q_blhe: Tensor, k_blhe: Tensor, v_blhe: Tensor) -> Tensor:
    """Softmax(q k^T / sqrt(e)) v of every head; (b, l, h, e) in and out, any strides."""
    out_bhle = F.scaled_dot_product_attention(
        q_blhe.transpose(1, 2), k_blhe.transpose(1, 2), v_blhe.transpose(1, 2)
    )
    return out_bhle.transpose(1, 2)


def _tokens(
    x_bkdhe: Tensor,
    frames: tuple[int, ...],
    bank_bnhe: Tensor | None,
    chosen: Tokens | None = None,
) -> Tensor:
    """Tokens (b, l, h, e) of `frames`, or the chosen ones among them, then those of the bank."""
    if not frames and bank_bnhe is not None:
        return bank_bnhe
    x_blhe = take_frames(x_bkdhe, frames).flatten(1, 2)
    if chosen is not None:
        d = x_bkdhe.shape[2]
        x_blhe = x_blhe[:, torch.cat([chosen[k] + n * d for n, k in enumerate(frames)])]
    return x_blhe if bank_bnhe is None else torch.cat([x_blhe, bank_bnhe], dim=1)


def frame_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Table,
    *,
    bank_key: Tensor | None = None,
    bank_value: Tensor | None = None,
    tokens: Tokens | None = None,
) -> Tensor:
    """Attention of every frame to the frames that `table` names.

    Args:
        query: (b, f, d, h, e).
        key, value: (b, k, d, h, e); k = f, or fewer when only the used frames were projected.
        table: for each query frame, the indices on the k axis of `key`, sorted and unique.
        bank_key, bank_value: (b, n, h, e), extra tokens that every query frame attends to.
        tokens: for each frame on the k axis, its tokens that are keys; None means all.

    Returns:
        (b, f, d, h, e). One kernel call per distinct key set: one for `full`, `first` and
        `keyframes`; per-frame attention folds the frames into the batch and is one call too.

    Raises:
        ValueError: when the table does not fit the frames, or a frame has nothing to attend to.
    """
    _check_table(table, query.shape[1], key.shape[1], has_bank=bank_key is not None)
    if tokens is not None:
        _check_tokens(tokens, table, key.shape[1], has_bank=bank_key is not None)
    whole = bank_key is None and tokens is None
    if whole and table == tuple((i,) for i in range(key.shape[1])):
        folded = (x_bfdhe.flatten(0, 1) for x_bfdhe in (query, key, value))
        return fused_attention(*folded).unflatten(0, query.shape[:2])
    groups = group_queries(table)
    out_bfdhe = torch.empty_like(query) if len(groups) > 1 else None
    for queries, keys in groups:
        group_blhe = fused_attention(
            take_frames(query, queries).flatten(1, 2),
            _tokens(key, keys, bank_key, tokens),
            _tokens(value, keys, bank_value, tokens),
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


def _check_tokens(tokens: Tokens, table: Table, k: int, *, has_bank: bool) -> None:
    if len(tokens) != k:
        raise ValueError(f"tokens are chosen in {len(tokens)} frames, keys have {k}")
    if not has_bank and not all(any(len(tokens[n]) for n in keys) for keys in table):
        raise ValueError("the chosen tokens leave a frame with nothing to attend to")


@dataclass(frozen=True)
class TokenGuide:
    """What one layer does beyond attending to whole frames; the default is nothing.

    Attributes:
        tokens: for each frame of the clip, its tokens that are keys; None means all.
        query: replaces the query before it attends.
        output: replaces the attention result, before it is mixed by `alpha` and projected.
    """

    tokens: Tokens | None = None
    query: QueryTransform | None = None
    output: OutputTransform | None = None


@dataclass(frozen=True)
class FrameCall:
    """What one network call needs to know: set before the call, read by every processor.

    Attributes:
        frames: f, the number of frames folded into each guidance row.
        table: key frames of each query frame.
        alpha: weight of the cross-frame result, `(1 - alpha) * own + alpha * cross`.
        bank: per layer name, hidden states (b, n, c) that are extra keys and values, or these
            already projected; may be empty.
        guides: per layer name, what the layer does beyond attending to whole frames; may be empty.
        record: receives the projected keys and values of all frames, per layer name.
    """

    frames: int
    table: Table
    alpha: float = 1.0
    bank: Mapping[str, Tensor | KeyValue] = field(default_factory=dict)
    guides: Mapping[str, TokenGuide] = field(default_factory=dict)
    record: dict[str, KeyValue] | None = None


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
        bank = call.bank.get(self.layer)
        query = split_heads(attn, attn.to_q(x_bfdc))
        guide = call.guides.get(self.layer)
        if guide is not None and call.alpha > 0:
            return _guided(attn, x_bfdc, query, call, guide, bank)
        if call.alpha == 0 or (call.table == own and bank is None):
            key, value = self._recorded(_project(attn, x_bfdc), call)
            return frame_attention(query, key, value, own)
        used, table = compact(call.table)
        if call.alpha < 1 or call.record is not None:
            used, table = tuple(range(call.frames)), call.table
        key, value = self._recorded(_project(attn, take_frames(x_bfdc, used)), call)
        bank_key, bank_value = _project_bank(attn, bank)
        cross = frame_attention(query, key, value, table, bank_key=bank_key, bank_value=bank_value)
        if call.alpha == 1:
            return cross
        return torch.lerp(frame_attention(query, key, value, own), cross, call.alpha)

    def _recorded(self, projected: KeyValue, call: FrameCall) -> KeyValue:
        if call.record is not None:
            call.record[self.layer] = projected
        return projected


def _guided(
    attn: Any,
    x_bfdc: Tensor,
    query: Tensor,
    call: FrameCall,
    guide: TokenGuide,
    bank: Tensor | KeyValue | None,
) -> Tensor:
    """`_attend` of a layer with a guide: keys and values are projected for all frames."""
    key, value = _project(attn, x_bfdc)
    bank_key, bank_value = _project_bank(attn, bank)
    asking = query if guide.query is None else guide.query(attn, query)
    cross = frame_attention(
        asking,
        key,
        value,
        call.table,
        bank_key=bank_key,
        bank_value=bank_value,
        tokens=guide.tokens,
    )
    if guide.output is not None:
        cross = guide.output(query, key, cross)
    if call.alpha == 1:
        return cross
    own = tuple((i,) for i in range(call.frames))
    return torch.lerp(frame_attention(query, key, value, own), cross, call.alpha)


def unfold_frames(x: Tensor, frames: int) -> Tensor:
    """(b f, ...) -> (b, f, ...), a view; ValueError when the batch holds no whole clips."""
    if x.shape[0] % frames:
        raise ValueError(f"a batch of {x.shape[0]} cannot hold whole clips of {frames} frames")
    return x.unflatten(0, (-1, frames))


def split_heads(attn: Any, x_c: Tensor) -> Tensor:
    """(..., c) -> (..., h, e), for the heads of a diffusers attention module."""
    return x_c.unflatten(-1, (attn.heads, -1))


def _project(attn: Any, x_c: Tensor) -> KeyValue:
    """Keys and values (..., h, e) of tokens (..., c)."""
    return KeyValue(split_heads(attn, attn.to_k(x_c)), split_heads(attn, attn.to_v(x_c)))


def _project_bank(
    attn: Any, bank: Tensor | KeyValue | None
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Keys and values (b, n, h, e) of a bank."""
    if bank is None:
        return None, None
    return bank if isinstance(bank, KeyValue) else _project(attn, bank)
