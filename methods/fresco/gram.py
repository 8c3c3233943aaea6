"""The gradient of the spatial loss without the similarity matrices that it compares.

With unit tokens u and reference r the loss is a sum of |D| or D^2 over D = u u^T - r r^T, and its
gradient needs S = sign(D) or 2 D only to multiply it: dL/du = 2 S u. S is symmetric, so blocks of
rows from the diagonal to the right are enough: each is made, used from both sides and overwritten.
Nothing of size d x d is stored where d exceeds the rows of a block, of the features or of the
reference, and a third of the arithmetic of automatic differentiation is saved.

Shapes: B = frames of all guidance halves, d tokens, c channels (the reference may have others).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor

from methods.fresco.options import Losses

# (rows of a block, similarities held at a time): on a CPU what its cache holds and its product of
# matrices still likes, on a GPU what keeps it busy.
BLOCKS = {"cpu": (192, 2**17), "cuda": (256, 2**26)}
SHORTEST = 1e-12  # length below which a token counts as this long

# (first row, end row) -> D of those rows and the columns from the first row on, (B, rows, columns).
Differences = Callable[[int, int], Tensor]


def unit_tokens(features: Tensor) -> Tensor:
    """Tokens of length 1: (B, c, h, w) -> (B, d, c) float32 (float64 stays)."""
    tokens = features.flatten(2).mT.contiguous()
    tokens = tokens if tokens.dtype == torch.float64 else tokens.float()
    return tokens / _lengths(tokens)


def add_spatial_gradient(
    tokens: Tensor,
    reference: Tensor,
    out: Tensor,
    options: Losses,
    *,
    blocks: tuple[int, int] | None = None,
    with_loss: bool = False,
) -> Tensor:
    """Add the gradient of the spatial loss at `tokens` to `out`; return the loss, or 0.

    The plain form is `losses.spatial_loss`. On a GPU reduced precision uses a fused kernel.

    Args:
        tokens: (B, d, c) float32 or float64, of any length.
        reference: (B, d, any c), as `unit_tokens` returns it.
        out: as `tokens`.
        options: weight, norm, reduction and precision are used.
        blocks: as in `BLOCKS`; None: as suits the device.
        with_loss: costs one more pass over the similarities.
    """
    total, d, _ = tokens.shape
    scale = options.spatial / (total * d * d if options.reduction == "mean" else 1)
    rows, held = blocks or BLOCKS.get(tokens.device.type, BLOCKS["cpu"])
    images = max(1, held // (min(rows, d) * d))
    loss = torch.zeros((), device=tokens.device, dtype=tokens.dtype)
    with _matmul_precision(options.precision, tokens.device):
        for part in (slice(first, first + images) for first in range(0, total, images)):
            size = _add_images(
                tokens[part], reference[part], out[part], scale, min(rows, d), options, with_loss
            )
            loss += scale * size
    return loss


def _add_images(
    tokens: Tensor,
    reference: Tensor,
    out: Tensor,
    scale: float,
    rows: int,
    options: Losses,
    with_loss: bool,
) -> Tensor:
    """Add to `out` for a few frames; return the sum of |D| or D^2 if asked for."""
    d, length = tokens.shape[1], _lengths(tokens)
    unit = tokens / length
    differences = _choose(unit, options)(unit, reference, rows)
    pull, size = torch.zeros_like(unit), unit.new_zeros(())
    for start in range(0, d, rows):
        stop = min(start + rows, d)
        block, own, done = differences(start, stop), unit[:, start:stop], pull[:, start:stop]
        if with_loss:
            size += _sum_of_both_sides(block, options.spatial_norm)
        block = block.sign_() if options.spatial_norm == "l1" else block.mul_(2)
        _add_product(done, block, unit[:, start:])
        if stop < d:
            _add_product(pull[:, stop:], block[:, :, stop - start :].mT, own)
        # What would lengthen a token changes no cosine.
        across = done - own * (done * own).sum(-1, keepdim=True)
        out[:, start:stop].addcdiv_(across, length[:, start:stop], value=2 * scale)
    return size


def _lengths(tokens: Tensor) -> Tensor:
    """(B, d, c) -> (B, d, 1)."""
    return tokens.norm(dim=-1, keepdim=True).clamp_min(SHORTEST)


def _sum_of_both_sides(block: Tensor, norm: str) -> Tensor:
    """Sum |D| or D^2 over a block, (B, rows, columns), and its mirror image below the diagonal."""
    sizes = block.abs() if norm == "l1" else block.square()
    return 2 * sizes.sum() - sizes[:, :, : block.shape[1]].sum()


def _add_product(out: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to `out` in place, all (B, ., .); `left` decides the precision."""
    if left.dtype == out.dtype:
        out.baddbmm_(left, right)
    else:
        out.add_(left @ right.to(left.dtype))


def _full_precision(unit: Tensor, reference: Tensor, rows: int) -> Differences:
    """D as the difference of two products, so that equal tokens give exact zeros."""
    count, d, _ = unit.shape
    ours, theirs = (unit.new_empty(count * rows * d) for _ in range(2))

    def differences(start: int, stop: int) -> Tensor:
        shape = (count, stop - start, d - start)
        found, expected = (x[: shape[0] * shape[1] * shape[2]].view(shape) for x in (ours, theirs))
        torch.bmm(unit[:, start:stop], unit[:, start:].mT, out=found)
        torch.bmm(reference[:, start:stop], reference[:, start:].mT, out=expected)
        return found.sub_(expected)

    return differences


def _half_precision(unit: Tensor, reference: Tensor, rows: int) -> Differences:
    """D as one product of [u, r] and [u, -r] in bfloat16, which rounds D and not its two parts."""
    left = torch.cat([unit, reference], dim=-1).bfloat16()
    right = torch.cat([unit, -reference], dim=-1).bfloat16()
    return lambda start, stop: left[:, start:stop] @ right[:, start:].mT


def _choose(unit: Tensor, options: Losses) -> Callable[[Tensor, Tensor, int], Differences]:
    if unit.is_cuda and options.precision != "float32" and find_spec("triton") is not None:
        from methods.fresco.gram_triton import fused

        return fused(options.precision)
    return _half_precision if options.precision == "bfloat16" else _full_precision


@contextmanager
def _matmul_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Multiply float32 matrices in tf32 only where that was asked for; GPUs alone know it."""
    if device.type != "cuda":
        yield
        return
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        settings.fp32_precision = before
