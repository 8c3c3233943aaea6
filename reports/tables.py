"""The tables of a run: summary, cost, differences, one line per cell; as text and as CSV.

Best is bold, second underlined, arrows tell the direction. Sentinels stand in a block of their own
and are not ranked; neither are rows that lack a clip which others have. n stands in every line.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from metrics.stillness import MOTION, STILL_BELOW, STILLNESS_WINS
from reports import sheets
from reports.load import Cell, MetricInfo, Row, Run
from reports.notes import (
    MINIATURE_NOTE,
    STILL_MARK,
    motion_notes,
    run_notes,
    sizes,
)
from reports.numbers import ABSENT, Value, show_bounds, show_number
from reports.sets import set_column, set_notes
from reports.sheets import Entry, Sheet, escape_latex
from reports.statistics import (
    Difference,
    Interval,
    bootstrap_interval,
    clip_means,
    holm,
    paired_difference,
)

__all__ = [
    "ABSENT",
    "MINIATURE_NOTE",
    "MOTION",
    "Line",
    "Table",
    "Value",
    "cell_frame",
    "cost_csv",
    "cost_sheet",
    "difference_csv",
    "difference_sheet",
    "differences",
    "escape_latex",
    "show_bounds",
    "show_n",
    "show_number",
    "sizes",
    "summarise",
    "summary_sheet",
    "to_csv",
    "to_latex",
    "to_markdown",
]  # fmt: skip

MAX_DECIMALS = 6

COST_NOTE = (
    "Seconds and memory of making the frames, without loading networks and scoring. Work that "
    "cells share is counted in the cell that did it first. Compare rows of one machine only."
)
DIFFERENCE_NOTE = (
    "Paired over common clips. wins: share of clips on which the row is better than the baseline, "
    "ties half. effect: mean over standard deviation of the differences. p: sign-flip test, "
    "adjusted by Holm for the rows of each metric."
)


@dataclass(frozen=True)
class Line:
    """One row of the table. clips: with any score; done, failed, planned: cells."""

    row: Row
    values: Mapping[str, Value]
    clips: int
    done: int
    failed: int
    planned: int
    seconds_per_frame: float
    peak_memory_bytes: float = math.nan

    @property
    def cells(self) -> str:
        """`24`, or `22/24, 1 failed` while something is amiss."""
        if self.done == self.planned:
            return str(self.done)
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done}/{self.planned}{failed}"


@dataclass(frozen=True)
class Table:
    """The summary of a run. decimals: digits after the point per metric id."""

    header: str
    metrics: tuple[MetricInfo, ...]
    lines: tuple[Line, ...]
    decimals: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def ranked(self) -> tuple[Line, ...]:
        """Lines of the grid."""
        return tuple(line for line in self.lines if not line.row.sentinel)

    @property
    def sentinels(self) -> tuple[Line, ...]:
        """Lines that stand beside the grid."""
        return tuple(line for line in self.lines if line.row.sentinel)


def summarise(run: Run) -> Table:
    """Return the summary table of a run, whatever part of it is done."""
    columns = {metric.id: _column(run, metric) for metric in run.metrics}
    columns = _still_marked(columns)
    return Table(
        header=run.spec.get("report", {}).get("rows") or "row",
        metrics=run.metrics,
        lines=tuple(_line(run, row, columns) for row in run.rows),
        decimals={name: _decimals(column.values()) for name, column in columns.items()},
        notes=(*motion_notes(columns), *run_notes(run), *set_notes(run)),
    )


def differences(run: Run) -> dict[str, list[tuple[Difference, float]]]:
    """Return, by metric, each row minus the baseline, with its Holm-adjusted p-value."""
    others = [row.label for row in run.rows if not row.sentinel and row.label != run.baseline]
    found = {}
    for metric in run.metrics:
        means = clip_means(run.scores, metric.id)
        better = None if metric.direction == "unknown" else metric.badness
        gaps = [
            paired_difference(means, label, run.baseline, metric.id, better) for label in others
        ]
        found[metric.id] = list(zip(gaps, holm([gap.p_value for gap in gaps]), strict=True))
    return found


def cell_frame(run: Run) -> pd.DataFrame:
    """Return one line per planned cell: what it is, its state, its scores, its cost."""
    return pd.DataFrame(
        {
            "key": cell.key,
            "row": cell.row,
            "clip": cell.clip,
            "prompt": cell.prompt,
            "seed_index": cell.seed_index,
            **{path: str(value) for path, value in cell.axes.items()},
            "state": cell.state,
            "status": cell.status,
            "reason": cell.reason,
            **{m.id: cell.metrics.get(m.id, {}).get("value") for m in run.metrics},
            "seconds_per_frame": cell.cost.get("seconds_per_frame"),
            "peak_memory_bytes": cell.cost.get("peak_memory_bytes"),
        }
        for cell in run.cells
    )


def _column(run: Run, metric: MetricInfo) -> dict[str, Value]:
    intervals = set_column(run, metric) if metric.least_clips else _means(run, metric)
    most = max((intervals[row.label].n for row in run.rows if not row.sentinel), default=0)
    ranked = {
        row.label: metric.badness(intervals[row.label].mean)
        for row in run.rows
        if not row.sentinel and intervals[row.label].n == most > 0
    }
    ranks = _ranks(ranked) if metric.direction != "unknown" and len(ranked) > 1 else {}
    return {label: Value(interval, ranks.get(label, 0)) for label, interval in intervals.items()}


def _means(run: Run, metric: MetricInfo) -> dict[str, Interval]:
    means = clip_means(run.scores, metric.id)
    return {row.label: bootstrap_interval(means.get(row.label, ())) for row in run.rows}


def _ranks(badness: Mapping[str, float]) -> dict[str, int]:
    """Ranks 1 and 2 by value; equal values share a rank."""
    places = sorted(set(badness.values()))[:2]
    return {label: places.index(b) + 1 for label, b in badness.items() if b in places}


def _still_marked(columns: Mapping[str, dict[str, Value]]) -> dict[str, dict[str, Value]]:
    """Mark the values that lead a consistency column although their row hardly moves."""
    still = {label for label, value in columns.get(MOTION, {}).items() if _is_still(value.interval)}
    return {
        name: {
            label: Value(value.interval, value.rank, _leads(name, value) and label in still)
            for label, value in column.items()
        }
        for name, column in columns.items()
    }


def _is_still(motion: Interval) -> bool:
    return (motion.high if motion.has_bounds else motion.mean) < STILL_BELOW


def _leads(metric: str, value: Value) -> bool:
    return value.rank == 1 and metric.startswith(STILLNESS_WINS)


def _line(run: Run, row: Row, columns: Mapping[str, Mapping[str, Value]]) -> Line:
    cells = run.cells_of(row.label)
    return Line(
        row=row,
        values={name: column[row.label] for name, column in columns.items()},
        clips=len({cell.clip for cell in cells if cell.state == "done"}),
        done=sum(cell.state == "done" for cell in cells),
        failed=sum(cell.state == "failed" for cell in cells),
        planned=len(cells),
        seconds_per_frame=_mean_cost(cells, "seconds_per_frame"),
        peak_memory_bytes=_mean_cost(cells, "peak_memory_bytes"),
    )


def _mean_cost(cells: Iterable[Cell], name: str) -> float:
    known = [float(cost) for cell in cells if (cost := cell.cost.get(name)) is not None]
    return sum(known) / len(known) if known else math.nan


def _decimals(values: Iterable[Value]) -> int:
    """Digits that show two figures of the typical half-width, but five of the value at most."""
    intervals = [value.interval for value in values if value.interval.n]
    largest = max((abs(i.mean) for i in intervals), default=0.0)
    widths = sorted(i.high - i.low for i in intervals if i.has_bounds and i.high > i.low)
    if not widths:
        return _places(largest, 4)
    return min(_places(widths[len(widths) // 2] / 2, 2), _places(largest, 5))


def _places(size: float, figures: int) -> int:
    if size == 0:
        return figures
    return min(max(figures - 1 - math.floor(math.log10(size)), 0), MAX_DECIMALS)


def show_n(line: Line, value: Value) -> str:
    """Return `n=3` where a number stands on other clips than its line says, else nothing."""
    n = value.interval.n
    return f"n={n}" if n not in (0, line.clips) else ""


def to_csv(table: Table) -> str:
    """Return the table at full precision, one line per row, bounds and n in columns.

    Only scores and counts: equal results give equal bytes, however long they took.
    """
    names = [m.id for m in table.metrics]
    parts = [f"{name}{suffix}" for name in names for suffix in ("", ":low", ":high", ":n")]
    fixed = ["row", "method", "sentinel", "clips", "done", "failed", "planned"]
    lines = []
    for line in table.lines:
        intervals = [line.values[name].interval for name in names]
        numbers = [x for i in intervals for x in (_raw(i.mean), _raw(i.low), _raw(i.high), i.n)]
        head = [line.row.label, line.row.method, str(line.row.sentinel).lower()]
        lines.append([*head, line.clips, line.done, line.failed, line.planned, *numbers])
    return csv_text([*fixed, *parts], lines)


def cost_csv(table: Table) -> str:
    """Return mean seconds per frame and mean peak memory per row."""
    heads = ["row", "cells", "seconds_per_frame", "peak_memory_bytes"]
    lines = [
        [line.row.label, line.done, _raw(line.seconds_per_frame), _raw(line.peak_memory_bytes)]
        for line in table.lines
    ]
    return csv_text(heads, lines)


def difference_csv(run: Run) -> str:
    """Return every row minus the baseline: interval, n, wins, effect, p-values."""
    heads = ["metric", "row", "baseline", "difference", "low", "high", "n", "wins", "effect"]
    lines = [
        [
            gap.metric, gap.first, gap.second, _raw(gap.interval.mean), _raw(gap.interval.low),
            _raw(gap.interval.high), gap.interval.n, _raw(gap.wins), _raw(gap.effect),
            _raw(gap.p_value), _raw(adjusted),
        ]
        for gaps in differences(run).values()
        for gap, adjusted in gaps
    ]  # fmt: skip
    return csv_text([*heads, "p", "p_holm"], lines)


def csv_text(heads: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """Return a CSV file with Unix line ends."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(lines)
    return buffer.getvalue()


def _raw(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))


def summary_sheet(table: Table) -> Sheet:
    """Return the summary as text, with the definition of every metric."""
    blocks = [block for block in (table.ranked, table.sentinels) if block]
    named = ", ".join(line.row.label for line in table.sentinels)
    beside = [f"In italics, for scale and not ranked: {named}."] if named else []
    return Sheet(
        heads=(table.header, *(m.heading for m in table.metrics), "clips", "cells"),
        blocks=tuple(tuple(_entries(table, line) for line in block) for block in blocks),
        notes=(*table.notes, *beside),
        definitions=tuple((m.id, m.definition) for m in table.metrics),
    )


def _entries(table: Table, line: Line) -> tuple[Entry, ...]:
    shown = [_entry(line, line.values[m.id], table.decimals[m.id]) for m in table.metrics]
    head = Entry(line.row.label, italic=line.row.sentinel)
    return (head, *shown, Entry(str(line.clips)), Entry(line.cells))


def _entry(line: Line, value: Value, decimals: int) -> Entry:
    mean = show_number(value.interval.mean, decimals) + (STILL_MARK if value.still else "")
    small = " ".join(filter(None, [show_bounds(value.interval, decimals), show_n(line, value)]))
    return Entry(mean, small, value.rank)


def cost_sheet(table: Table) -> Sheet:
    """Return what the rows cost; it stands apart because it differs from run to run."""
    lines = tuple(
        (
            Entry(line.row.label, italic=line.row.sentinel),
            Entry(show_number(line.seconds_per_frame, 3)),
            Entry(show_number(line.peak_memory_bytes / 1e9, 2)),
            Entry(str(line.done)),
        )
        for line in table.lines
    )
    heads = (table.header, "seconds per frame", "peak memory, GB", "cells")
    return Sheet(heads, (lines,), (COST_NOTE,))


def difference_sheet(run: Run, table: Table) -> Sheet:
    """Return every row minus the baseline, one block per metric."""
    blocks = tuple(
        tuple(
            _difference_entries(gap, adjusted, table.decimals[name])
            for gap, adjusted in gaps
            if gap.interval.n
        )
        for name, gaps in differences(run).items()
    )
    heads = ("metric", f"row, minus {run.baseline}", "difference", "n", "wins", "effect", "p")
    notes = (f"{sizes(run)}. {DIFFERENCE_NOTE}",)
    return Sheet(heads, tuple(block for block in blocks if block), notes, left=2)


def _difference_entries(gap: Difference, adjusted: float, decimals: int) -> tuple[Entry, ...]:
    places = min(decimals + 1, MAX_DECIMALS)
    interval = gap.interval
    return (
        Entry(gap.metric),
        Entry(gap.first),
        Entry(show_number(interval.mean, places), show_bounds(interval, places)),
        Entry(str(interval.n)),
        Entry(show_number(100 * gap.wins, 0) + (" %" if gap.wins == gap.wins else "")),
        Entry(show_number(gap.effect, 1)),
        Entry("< 0.001" if adjusted < 0.001 else show_number(adjusted, 3)),
    )


def to_markdown(table: Table) -> str:
    """Return the summary with its notes and the definition of every metric."""
    return sheets.to_markdown(summary_sheet(table))


def to_latex(table: Table, caption: str, label: str) -> str:
    """Return the summary as a booktabs float; see `sheets.to_latex`."""
    return sheets.to_latex(summary_sheet(table), caption, label)
