"""A fused GPU kernel for the spatial loss: differences of similarities in one pass.

One tile of D = u u^T - r r^T is made in registers, by two accumulators so that equal tokens cancel
exactly, and only D is written, in the type of the product that follows. The plain form is
`gram._full_precision`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE_ROWS, TILE_COLUMNS, TILE_CHANNELS = 128, 128, 32
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}


def fused(precision: str) -> Callable[[Tensor, Tensor, int], Callable[[int, int], Tensor]]:
    """Return what makes blocks of D (see `gram.Differences`) at this precision."""

    def prepare(unit: Tensor, reference: Tensor, rows: int) -> Callable[[int, int], Tensor]:
        ours, theirs = (x.to(DTYPES[precision]).contiguous() for x in (unit, reference))
        return lambda start, stop: differences(ours, theirs, start, stop, precision=precision)

    return prepare


def differences(
    unit: Tensor, reference: Tensor, start: int, stop: int, *, precision: str = "float32"
) -> Tensor:
    """Return D for rows start..stop and columns start..d, (B, stop - start, d - start).

    unit: (B, d, c), reference: (B, d, any c), contiguous, float32 or bfloat16; so is the result.
    precision: of float32 products, `float32` or `tf32`.
    """
    count, d, channels = unit.shape
    shape = (count, stop - start, d - start)
    out = torch.empty(shape, dtype=unit.dtype, device=unit.device)
    grid = (triton.cdiv(shape[1], TILE_ROWS), triton.cdiv(shape[2], TILE_COLUMNS), count)
    _differences[grid](
        unit,
        reference,
        out,
        start,
        d,
        shape[1],
        shape[2],
        channels,
        reference.shape[-1],
        PRECISION="tf32" if precision == "tf32" else "ieee",
        ROWS=TILE_ROWS,
        COLUMNS=TILE_COLUMNS,
        CHANNELS=TILE_CHANNELS,
        num_warps=8,  # two accumulators do not fit the registers of four
    )
    return out


@triton.jit
def _product(  # type: ignore[no-untyped-def]
    tokens,
    row,
    column,
    rows_end,
    columns_end,
    channels,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        inside = channel < channels
        left = tl.load(
            tokens + row[:, None] * channels + channel[None, :],
            mask=(row < rows_end)[:, None] & inside[None, :],
            other=0.0,
        )
        right = tl.load(
            tokens + column[None, :] * channels + channel[:, None],
            mask=(column < columns_end)[None, :] & inside[:, None],
            other=0.0,
        )
        total = tl.dot(left, right, total, input_precision=PRECISION)
    return total


@triton.jit
def _differences(  # type: ignore[no-untyped-def]
    unit,
    reference,
    out,
    start,
    d,
    height,
    width,
    channels,
    reference_channels,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    at_row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at_column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    image = tl.program_id(2).to(tl.int64)
    row, column = start + at_row, start + at_column
    ours = _product(
        unit + image * d * channels,
        row, column, start + height, d, channels,
        PRECISION, ROWS, COLUMNS, CHANNELS,
    )  # fmt: skip
    theirs = _product(
        reference + image * d * reference_channels,
        row, column, start + height, d, reference_channels,
        PRECISION, ROWS, COLUMNS, CHANNELS,
    )  # fmt: skip
    tl.store(
        out + image * height * width + at_row[:, None] * width + at_column[None, :],
        (ours - theirs).to(out.dtype.element_ty),
        mask=(at_row < height)[:, None] & (at_column < width)[None, :],
    )
