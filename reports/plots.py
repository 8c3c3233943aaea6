"""Figures of numbers: bars, scatter, per-frame curves, differences. Each returns a `Figure`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports.load import MetricInfo, Row, Run
from reports.statistics import Interval, bootstrap_interval, clip_means
from reports.style import Look, figure, looks
from reports.tables import differences

MOTION = "motion/ratio"
MAX_COLUMNS = 2


def measured(run: Run) -> tuple[MetricInfo, ...]:
    """Return the metrics with at least one value."""
    known = set(run.scores["metric"])
    return tuple(metric for metric in run.metrics if metric.id in known)


def bars(run: Run) -> Figure | None:
    """One panel per metric: mean and 95 % interval per row, a dot per clip; None without values.

    The axis starts at zero only where zero is near: consistency scores differ in the third digit.
    """
    rows, metrics, look = run.rows, measured(run), looks(run.rows)
    if not metrics:
        return None
    with figure(*_size(len(metrics), 4.4, 0.75 + 0.33 * len(rows))) as made:
        for ax, metric in zip(_panels(made, len(metrics)), metrics, strict=True):
            means = clip_means(run.scores, metric.id)
            for place, row in enumerate(rows):
                values = means.get(row.label, np.empty(0))
                _bar(ax, place, np.asarray(values, float), look[row.label])
            _target_line(ax, metric)
            _row_axis(ax, rows)
            ax.set_title(metric.heading)
        made.supxlabel(_counts(run), fontsize=8.5, color="#555555")
        return made


def _bar(ax: Axes, place: int, values: np.ndarray, look: Look) -> None:
    values = values[np.isfinite(values)]
    interval = bootstrap_interval(values)
    if not interval.n:
        ax.text(0.02, place, "no value", transform=ax.get_yaxis_transform(), va="center", size=8)
        return
    spread = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(1)
    ax.scatter(values, place + spread, s=11, color=look.colour, alpha=0.38, linewidths=0)
    _interval(ax, interval, place, look, size=7)


def _interval(ax: Axes, interval: Interval, place: float, look: Look, size: float) -> None:
    if interval.has_bounds:
        ax.hlines(place, interval.low, interval.high, color=look.colour, linewidth=2.4)
        ends = [interval.low, interval.high]
        ax.plot(ends, [place] * 2, "|", color=look.colour, markersize=8, markeredgewidth=2)
    ax.plot(
        interval.mean, place, look.marker, color=look.colour, markersize=size, mec="white", mew=1
    )


def _row_axis(ax: Axes, rows: Iterable[Row]) -> None:
    rows = list(rows)
    ax.set_yticks(range(len(rows)), [row.label for row in rows])
    for tick, row in zip(ax.get_yticklabels(), rows, strict=True):
        tick.set_fontstyle("italic" if row.sentinel else "normal")
        tick.set_color("#666666" if row.sentinel else "#1A1A1A")
    ax.set_ylim(len(rows) - 0.45, -0.55)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.06)
    grid = sum(not row.sentinel for row in rows)
    if 0 < grid < len(rows):
        ax.axhline(grid - 0.5, color="#BBBBBB", linewidth=0.8, linestyle=(0, (4, 3)))


def _target_line(ax: Axes, metric: MetricInfo) -> None:
    if metric.direction == "target":
        ax.axvline(metric.target, color="#777777", linewidth=1, linestyle=":")


def scatter(run: Run) -> Figure | None:
    """Consistency against motion, sentinels included; None when motion was not measured.

    A frozen clip wins every consistency score: only beside its motion does a score mean something.
    """
    motion = next((metric for metric in measured(run) if metric.id == MOTION), None)
    others = [m for m in measured(run) if m.id != MOTION and m.direction in ("higher", "lower")]
    if motion is None or not others:
        return None
    look = looks(run.rows)
    with figure(*_size(len(others), 4.4, 3.4)) as made:
        horizontal = clip_means(run.scores, motion.id)
        for ax, metric in zip(_panels(made, len(others)), others, strict=True):
            vertical = clip_means(run.scores, metric.id)
            for row in run.rows:
                if row.label in horizontal and row.label in vertical:
                    x = bootstrap_interval(horizontal[row.label].to_numpy())
                    y = bootstrap_interval(vertical[row.label].to_numpy())
                    _cross(ax, x, y, look[row.label], row.label)
            _target_line(ax, motion)
            ax.set(title=metric.heading, xlabel=motion.heading)
            ax.margins(0.08)
            if metric.direction == "lower":
                ax.invert_yaxis()
        _legend(made, made.axes[0], run.rows)
        return made


def _cross(ax: Axes, x: Interval, y: Interval, look: Look, label: str) -> None:
    if x.has_bounds:
        ax.hlines(y.mean, x.low, x.high, color=look.colour, linewidth=1.2, alpha=0.6)
    if y.has_bounds:
        ax.vlines(x.mean, y.low, y.high, color=look.colour, linewidth=1.2, alpha=0.6)
    style: dict[str, Any] = {"color": look.colour, "markersize": 8, "mec": "white", "mew": 1}
    ax.plot(x.mean, y.mean, look.marker, linestyle="none", label=label, **style)


def curves(run: Run) -> Figure | None:
    """Per-frame series of each metric, averaged over cells with equal weight per clip."""
    series = {metric: _series(run, metric.id) for metric in measured(run)}
    shown = {metric: found for metric, found in series.items() if found}
    if not shown:
        return None
    look = looks(run.rows)
    with figure(*_size(len(shown), 4.4, 2.7)) as made:
        for ax, (metric, found) in zip(_panels(made, len(shown)), shown.items(), strict=True):
            for row in run.rows:
                if row.label in found:
                    style = {"linestyle": "--"} if row.sentinel else {}
                    _curve(ax, found[row.label], look[row.label], row.label, style)
            ax.set(title=metric.heading, xlabel="step of the series (frame or frame pair)")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(made, made.axes[0], run.rows)
        return made


def _curve(ax: Axes, values: np.ndarray, look: Look, label: str, style: dict[str, Any]) -> None:
    style = {"color": look.colour, "marker": look.marker, "markersize": 4.5, **style}
    ax.plot(np.arange(1, len(values) + 1), values, label=label, linewidth=1.6, **style)


def _series(run: Run, metric: str) -> dict[str, np.ndarray]:
    """Mean series per row over clips; shorter series count for the steps that they have."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for cell in run.cells:
        values = cell.metrics.get(metric, {}).get("series") or ()
        numbers = [math.nan if value is None else float(value) for value in values]
        if numbers:
            found.setdefault(cell.row, {}).setdefault(cell.clip, []).append(numbers)
    return {
        row: _mean([_mean(by_seed) for by_seed in by_clip.values()])
        for row, by_clip in found.items()
    }


def _mean(series: list[Any]) -> np.ndarray:
    """Mean over series of different lengths, NaNs left out; NaN where none has a value."""
    padded = np.full((len(series), max(map(len, series))), np.nan)
    for line, values in zip(padded, series, strict=True):
        line[: len(values)] = values
    counts = np.isfinite(padded).sum(axis=0)
    return np.where(counts > 0, np.nansum(padded, axis=0) / np.maximum(counts, 1), np.nan)


def difference_plot(run: Run) -> Figure | None:
    """Each row minus the baseline over common clips, with 95 % intervals; None without pairs."""
    found = differences(run)
    pairs = {
        metric: found[metric.id]
        for metric in measured(run)
        if any(gap.interval.n for gap, _ in found[metric.id])
    }
    if not pairs:
        return None
    look = looks(run.rows)
    count = len(next(iter(pairs.values())))
    with figure(*_size(len(pairs), 4.4, 0.8 + 0.36 * count)) as made:
        for ax, (metric, gaps) in zip(_panels(made, len(pairs)), pairs.items(), strict=True):
            by_label = {row.label: row for row in run.rows}
            for place, (gap, _) in enumerate(gaps):
                if gap.interval.n:
                    _interval(ax, gap.interval, place, look[gap.first], size=7)
            ax.axvline(0, color="#333333", linewidth=1)
            _row_axis(ax, [by_label[gap.first] for gap, _ in gaps])
            ax.set_title(f"{metric.heading}   minus {run.baseline}")
        return made


def _size(panels: int, width: float, height: float) -> tuple[float, float]:
    columns = min(panels, MAX_COLUMNS)
    return width * columns, height * math.ceil(panels / columns) + 0.4


def _panels(made: Figure, count: int) -> list[Axes]:
    """`count` axes in a grid two wide; a last odd one leaves its neighbour's place empty."""
    columns = min(count, MAX_COLUMNS)
    grid = made.subplots(math.ceil(count / columns), columns, squeeze=False).ravel()
    for unused in grid[count:]:
        unused.remove()
    return list(grid[:count])


def _legend(made: Figure, ax: Axes, rows: tuple[Row, ...]) -> None:
    handles, labels = ax.get_legend_handles_labels()
    columns = min(len(labels), 5) or 1
    made.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9)


def _counts(run: Run) -> str:
    clips = len({cell.clip for cell in run.cells if cell.state == "done"})
    return f"mean and 95 % interval over {clips} clips; small dots: one clip each, seeds averaged"
