"""Backward warps as fixed sparse operators, and the rules that bring flow to a feature level.

A bilinear backward warp reads four neighbours with fixed weights: a sparse matrix W over pixels,
whose transpose is what a gradient needs. Both are kept as lists of rows (no dense matrix, no
scatter, hence the same sums in the same order on every device and run). Where no gradient is
wanted, `crossframe.flow.fields.warp_backward` does the same.

Shapes: n pairs, c channels, H W the size of the flow, h w that of a feature level, d = h w tokens,
row-major. Flow is (dx, dy) in pixels of the level. Outside of the picture there are zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """A sparse matrix by rows: row r sums weights[k] times source row columns[k] over its k.

    columns: (entries,) int64. weights: (entries,) float. starts: (rows,) int64, first entry of
    each row; a row without entries gives zeros.
    """

    columns: Tensor
    weights: Tensor
    starts: Tensor

    @staticmethod
    def build(row: Tensor, column: Tensor, weight: Tensor, rows: int) -> Rows:
        """Sort entries (row, column, weight), each (entries,), into rows; zero weights go."""
        kept = weight != 0
        row, column, weight = row[kept], column[kept], weight[kept]
        order = row.argsort(stable=True)
        counts = torch.bincount(row, minlength=rows)
        return Rows(column[order], weight[order], counts.cumsum(0) - counts)

    def transposed(self, columns: int) -> Rows:
        """Return the transpose of a matrix with `columns` columns."""
        ends = torch.cat([self.starts[1:], self.starts.new_tensor([len(self.columns)])])
        row = torch.arange(len(self.starts), device=self.starts.device)
        return Rows.build(
            self.columns, row.repeat_interleave(ends - self.starts), self.weights, columns
        )

    def __call__(self, source: Tensor) -> Tensor:
        """(columns, c) -> (rows, c)."""
        weights = self.weights.to(source.dtype)
        return F.embedding_bag(
            self.columns, source, self.starts, mode="sum", per_sample_weights=weights
        )


def neighbours(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Return which pixels the warps of flow (n, 2, h, w) read, and how much: (n d, 4) each.

    Pixels are counted over all pairs: pair i, pixel p is i d + p. What would lie outside of the
    picture has weight 0.
    """
    n, _, height, width = flow.shape
    columns = torch.arange(width, dtype=flow.dtype, device=flow.device)
    rows = torch.arange(height, dtype=flow.dtype, device=flow.device)
    x, y = columns + flow[:, 0], rows[:, None] + flow[:, 1]
    base = torch.arange(n, device=flow.device).view(n, 1, 1) * (height * width)
    found, weights = [], []
    for down in (0, 1):
        for right in (0, 1):
            at_x, at_y = x.floor() + right, y.floor() + down
            inside = (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height)
            weights.append((1 - (x - at_x).abs()) * (1 - (y - at_y).abs()) * inside)
            at = at_y.clamp(0, height - 1).long() * width + at_x.clamp(0, width - 1).long()
            found.append(base + at)
    return torch.stack(found, -1).view(-1, 4), torch.stack(weights, -1).view(-1, 4)


def fit_flow(flow: Tensor, height: int, width: int) -> Tensor:
    """Bring flow (n, 2, H, W) to a level: values times h/H, bilinear, (n, 2, h, w).

    Positions are (i + 0.5) H/h - 0.5, without antialiasing.

    Raises ValueError for a level whose sides are no even share of the flow's.
    """
    share = _even_share(flow, height, width)
    if share == 1:
        return flow
    return F.interpolate(flow / share, size=(height, width), mode="bilinear", align_corners=False)


def fit_occlusion(occluded: Tensor, height: int, width: int) -> Tensor:
    """Bring occlusion (n, H, W), bool or 0/1, to a level: any occluded pixel counts.

    Returns (n, h, w) float32. Raises as `fit_flow`.
    """
    share = _even_share(occluded, height, width)
    return F.max_pool2d(occluded[:, None].float(), share)[:, 0]


def _even_share(field: Tensor, height: int, width: int) -> int:
    """Pixels of a field (..., H, W) per token of a level, the same both ways."""
    full_height, full_width = field.shape[-2:]
    share = full_height // height
    if (share * height, share * width) != (full_height, full_width):
        full = f"{full_width}x{full_height}"
        raise ValueError(f"features of {width}x{height} are no even share of frames of {full}")
    return share
