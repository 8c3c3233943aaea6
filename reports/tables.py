"""The summary table and its renderings: CSV for machines, Markdown for pages, LaTeX for papers.

Best is bold, second underlined, arrows tell the direction. Sentinels stand in a block of their own
and are not ranked; neither are rows that lack a clip which others have. n stands in every line.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from reports.load import MetricInfo, Row, Run
from reports.statistics import (
    Difference,
    Interval,
    bootstrap_interval,
    clip_means,
    holm,
    paired_difference,
)

ABSENT = "–"
MAX_DECIMALS = 6

INTERVAL_NOTE = (
    "Means over clips [95 % interval]: seeds are averaged within each clip, then clips are "
    "resampled (10,000 bootstrap samples, widened for small n). Bold: best; underlined: second."
)
MINIATURE_NOTE = (
    "Made with the miniature networks: they test orderings and mechanisms, never absolute paper "
    "values."
)


@dataclass(frozen=True)
class Value:
    """One number of the table. rank: 1 best, 2 second, 0 neither or not ranked."""

    interval: Interval
    rank: int = 0


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
    return Table(
        header=run.spec.get("report", {}).get("rows") or "row",
        metrics=run.metrics,
        lines=tuple(_line(run, row, columns) for row in run.rows),
        decimals={name: _decimals(column.values()) for name, column in columns.items()},
        notes=tuple(_notes(run)),
    )


def differences(run: Run) -> dict[str, list[tuple[Difference, float]]]:
    """Return, by metric, each row minus the baseline, with its Holm-adjusted p-value."""
    others = [row.label for row in run.rows if not row.sentinel and row.label != run.baseline]
    found = {}
    for metric in run.metrics:
        means = clip_means(run.scores, metric.id)
        gaps = [paired_difference(means, label, run.baseline, metric.id) for label in others]
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
            "reason": cell.reason,
            **{m.id: cell.metrics.get(m.id, {}).get("value") for m in run.metrics},
            "seconds_per_frame": cell.record.get("cost", {}).get("seconds_per_frame"),
        }
        for cell in run.cells
    )


def _column(run: Run, metric: MetricInfo) -> dict[str, Value]:
    means = clip_means(run.scores, metric.id)
    intervals = {row.label: bootstrap_interval(means.get(row.label, ())) for row in run.rows}
    most = max((intervals[row.label].n for row in run.rows if not row.sentinel), default=0)
    ranked = {
        row.label: metric.badness(intervals[row.label].mean)
        for row in run.rows
        if not row.sentinel and intervals[row.label].n == most > 0
    }
    ranks = _ranks(ranked) if metric.direction != "unknown" and len(ranked) > 1 else {}
    return {label: Value(interval, ranks.get(label, 0)) for label, interval in intervals.items()}


def _ranks(badness: Mapping[str, float]) -> dict[str, int]:
    """Ranks 1 and 2 by value; equal values share a rank."""
    places = sorted(set(badness.values()))[:2]
    return {label: places.index(b) + 1 for label, b in badness.items() if b in places}


def _line(run: Run, row: Row, columns: Mapping[str, Mapping[str, Value]]) -> Line:
    cells = run.cells_of(row.label)
    costs = [cell.record.get("cost", {}).get("seconds_per_frame") for cell in cells]
    known = [cost for cost in costs if cost is not None]
    return Line(
        row=row,
        values={name: column[row.label] for name, column in columns.items()},
        clips=len({cell.clip for cell in cells if cell.state == "done"}),
        done=sum(cell.state == "done" for cell in cells),
        failed=sum(cell.state == "failed" for cell in cells),
        planned=len(cells),
        seconds_per_frame=sum(known) / len(known) if known else math.nan,
    )


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


def _notes(run: Run) -> Iterable[str]:
    yield INTERVAL_NOTE
    if run.is_miniature:
        yield MINIATURE_NOTE
    states = [cell.state for cell in run.cells]
    if states.count("done") < len(states):
        words = {"failed": "failed", "missing": "have not run"}
        rest = [f"{states.count(s)} {words[s]}" for s in words if s in states]
        done = f"{states.count('done')} of {len(states)} cells are done"
        yield f"Incomplete: {done}, {', '.join(rest)}. A row that lacks a clip is not ranked."
    for name, reasons in run.unavailable.items():
        for reason, count in reasons.items():
            yield f"{name} is unavailable for {count} cells: {' '.join(reason.split())}"


def show_number(value: float, decimals: int) -> str:
    """Return a number with fixed decimals, or a dash for NaN; never a negative zero."""
    if math.isnan(value):
        return ABSENT
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def show_bounds(interval: Interval, decimals: int) -> str:
    """Return `[low, high]`, or nothing when there are no bounds or no spread to show."""
    if not interval.has_bounds:
        return ""
    return f"[{show_number(interval.low, decimals)}, {show_number(interval.high, decimals)}]"


def show_n(line: Line, value: Value) -> str:
    """Return `n=3` where a number stands on other clips than its line says, else nothing."""
    n = value.interval.n
    return f"n={n}" if n not in (0, line.clips) else ""


def to_csv(table: Table) -> str:
    """Return the table at full precision, one line per row, bounds and n in columns."""
    names = [m.id for m in table.metrics]
    parts = [f"{name}{suffix}" for name in names for suffix in ("", ":low", ":high", ":n")]
    fixed = ["row", "method", "sentinel", "clips", "done", "failed", "planned"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*fixed, *parts, "seconds_per_frame"])
    for line in table.lines:
        intervals = [line.values[name].interval for name in names]
        numbers = [x for i in intervals for x in (_raw(i.mean), _raw(i.low), _raw(i.high), i.n)]
        head = [line.row.label, line.row.method, str(line.row.sentinel).lower()]
        counts = [line.clips, line.done, line.failed, line.planned]
        writer.writerow([*head, *counts, *numbers, _raw(line.seconds_per_frame)])
    return buffer.getvalue()


def _raw(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))


def to_markdown(table: Table) -> str:
    """Return the table with its notes and the definition of every metric."""
    heads = [table.header, *(m.heading for m in table.metrics), "s/frame", "clips", "cells"]
    rule = [":--", *["--:"] * (len(heads) - 1)]
    body = [_markdown_line(table, line) for line in table.ranked]
    body += [_markdown_line(table, line) for line in table.sentinels]
    grid = "\n".join("| " + " | ".join(row) + " |" for row in [_escaped(heads), rule, *body])
    notes = "\n".join(f"- {note}" for note in (*table.notes, *_sentinel_note(table)))
    definitions = "\n".join(f"- `{m.id}`: {m.definition}" for m in table.metrics)
    return f"{grid}\n\n{notes}\n\nDefinitions:\n\n{definitions}\n"


def _sentinel_note(table: Table) -> Sequence[str]:
    named = ", ".join(line.row.label for line in table.sentinels)
    return [f"In italics, for scale and not ranked: {named}."] if named else []


def _escaped(texts: Iterable[str]) -> list[str]:
    return [text.replace("|", "\\|") for text in texts]


def _markdown_line(table: Table, line: Line) -> list[str]:
    label = _escaped([line.row.label])[0]
    shown = [_markdown_value(line, line.values[m.id], table.decimals[m.id]) for m in table.metrics]
    tail = [show_number(line.seconds_per_frame, 2), str(line.clips), line.cells]
    return [f"*{label}*" if line.row.sentinel else label, *shown, *tail]


def _markdown_value(line: Line, value: Value, decimals: int) -> str:
    marks = {0: "{}", 1: "**{}**", 2: "<ins>{}</ins>"}
    mean = marks[value.rank].format(show_number(value.interval.mean, decimals))
    return " ".join(
        filter(None, [mean, show_bounds(value.interval, decimals), show_n(line, value)])
    )


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "–": "--",
    "×": r"$\times$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
"""How the signs that LaTeX reads as commands, and the arrows, are spelled."""


def escape_latex(text: str) -> str:
    """Return `text` so that LaTeX prints it as it stands."""
    return "".join(LATEX.get(sign, sign) for sign in text)


def to_latex(table: Table, caption: str, label: str) -> str:
    """Return a booktabs table float (needs `\\usepackage{booktabs}`), notes in the caption."""
    heads = [table.header, *(m.heading for m in table.metrics), "s/frame", "clips", "cells"]
    blocks = [block for block in (table.ranked, table.sentinels) if block]
    body = "\n\\midrule\n".join(
        "\n".join(" & ".join(_latex_line(table, line)) + r" \\" for line in block)
        for block in blocks
    )
    text = " ".join([caption.rstrip(".") + ".", *table.notes])
    return (
        "\\begin{table}[t]\n\\centering\n\\small\n"
        f"\\caption{{{escape_latex(text)}}}\n\\label{{{label}}}\n"
        f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}\n\\toprule\n"
        + " & ".join(escape_latex(head) for head in heads)
        + f" \\\\\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def _latex_line(table: Table, line: Line) -> list[str]:
    label = escape_latex(line.row.label)
    shown = [_latex_value(line, line.values[m.id], table.decimals[m.id]) for m in table.metrics]
    tail = [show_number(line.seconds_per_frame, 2), str(line.clips), line.cells]
    label = f"\\textit{{{label}}}" if line.row.sentinel else label
    return [label, *shown, *(escape_latex(text) for text in tail)]


def _latex_value(line: Line, value: Value, decimals: int) -> str:
    marks = {0: "{}", 1: "\\textbf{{{}}}", 2: "\\underline{{{}}}"}
    mean = escape_latex(show_number(value.interval.mean, decimals))
    small = " ".join(filter(None, [show_bounds(value.interval, decimals), show_n(line, value)]))
    return marks[value.rank].format(mean) + (f" {{\\scriptsize {small}}}" if small else "")
