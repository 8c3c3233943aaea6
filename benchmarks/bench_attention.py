"""Cost of the attention core: `make bench`.

Each pattern at f=8 frames of d=1024 tokens, c=640 channels in 8 heads, fp32, one guidance row: the
second level of Stable Diffusion 1.5 at 512 px. The same result is computed three ways: `ours`, and
    materialised  keys and values repeated for every query frame, softmax over stored scores;
    bare          fused attention alone, on token sets gathered beforehand: nothing to prepare.
Time is the best of rounds in which the three take turns. Memory is the peak above what was held
before the call, by the allocator's own records, scratch space of the kernels included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import MIB, peak_bytes, print_table, seconds
from methods.attention import frame_attention
from methods.patterns import Table, group_queries, parse_pattern

FRAMES, TOKENS, HEADS, CHANNELS = 8, 1024, 8, 640
ROUNDS = 3  # a multiple of the three ways: each is first, second and last equally often
PATTERNS = [
    "individual",
    "first",
    "previous",
    "first+previous",
    "keyframes[0,-1]",
    "window[1]",
    "full",
]


def materialised(q: Tensor, k: Tensor, v: Tensor, table: Table) -> Tensor:
    """Repeated keys and values, stored scores; frames share a batch when their key counts agree."""
    out = torch.empty_like(q)
    for count in sorted({len(keys) for keys in table}):
        rows = [i for i, keys in enumerate(table) if len(keys) == count]
        picked = torch.tensor([table[i] for i in rows])
        keys, values = (x[:, picked].flatten(0, 1).flatten(1, 2).transpose(1, 2) for x in (k, v))
        queries = q[:, rows].flatten(0, 1).transpose(1, 2)
        scores = queries @ keys.transpose(-1, -2) * q.shape[-1] ** -0.5
        out[:, rows] = (scores.softmax(-1) @ values).transpose(1, 2).unflatten(0, (-1, len(rows)))
    return out


def bare(q: Tensor, k: Tensor, v: Tensor, table: Table) -> Callable[[], list[Tensor]]:
    """The smallest set of fused calls, all their inputs laid out beforehand."""

    def tokens(x: Tensor, frames: tuple[int, ...]) -> Tensor:
        """Tokens of some frames in one row, as fused attention takes them."""
        return x[:, list(frames)].flatten(1, 2).transpose(1, 2).contiguous()

    if all(keys == (i,) for i, keys in enumerate(table)):
        frame_q, frame_k, frame_v = (
            x.flatten(0, 1).transpose(1, 2).contiguous() for x in (q, k, v)
        )
        sets = [(frame_q, frame_k, frame_v)]
    else:
        sets = [
            (tokens(q, queries), tokens(k, keys), tokens(v, keys))
            for queries, keys in group_queries(table)
        ]
    return lambda: [F.scaled_dot_product_attention(*qkv) for qkv in sets]


@dataclass(frozen=True)
class Row:
    """What one pattern cost, in seconds and bytes, by implementation."""

    pattern: str
    time: dict[str, float]
    memory: dict[str, int]

    def line(self) -> str:
        """The row as printed below `HEAD`."""
        ours, memory = self.time["ours"], self.memory["ours"]
        return (
            f"{self.pattern:<16}{1e3 * ours:>9.0f}{memory / MIB:>9.1f}"
            f"{ours / self.time['bare']:>9.2f}{memory / self.memory['bare']:>9.2f}"
            f"{self.time['materialised'] / ours:>10.2f}"
            f"{self.memory['materialised'] / memory:>10.1f}"
        )


HEAD = (
    f"{'':<34}{'ours / bare':^18}{'materialised / ours':>20}\n"
    f"{'pattern':<16}{'ms':>9}{'MiB':>9}{'time':>9}{'memory':>9}{'time':>10}{'memory':>10}"
)


@pytest.fixture(scope="module")
def rows() -> Iterator[list[Row]]:
    """Collects the rows and prints them as one table at the end."""
    collected: list[Row] = []
    yield collected
    title = f"frame attention, f={FRAMES} d={TOKENS} c={CHANNELS} h={HEADS}"
    print_table(title, [HEAD, *(row.line() for row in collected)])


@pytest.mark.bench
@pytest.mark.parametrize("text", PATTERNS)
def test_frame_attention(text: str, rows: list[Row], tmp_path: Path, benchmark: Any) -> None:
    """Ours takes little more than the bare calls, and for `full` much less than all matrices."""
    table = parse_pattern(text).table(FRAMES)
    shape = (3, 1, FRAMES, TOKENS, HEADS, CHANNELS // HEADS)
    q, k, v = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: frame_attention(q, k, v, table),
        "bare": bare(q, k, v, table),
        "materialised": lambda: materialised(q, k, v, table),
    }
    with torch.inference_mode():
        memory = {name: peak_bytes(call, tmp_path / name) for name, call in calls.items()}
        row = Row(text, seconds(calls, ROUNDS), memory)
        benchmark.pedantic(calls["ours"], rounds=ROUNDS, iterations=1)
    rows.append(row)
    benchmark.extra_info.update(time=row.time, memory=row.memory)
    assert row.time["ours"] <= 1.15 * row.time["bare"]
    if text == "full":
        assert row.time["materialised"] >= 3 * row.time["ours"]
        assert row.memory["materialised"] >= 50 * row.memory["ours"]
