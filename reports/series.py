"""Figures of lines: per-frame series, and scores along an axis of the grid with bands."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ablations.grid import show_value
from reports.canvas import Ask, NotDrawn, height_of, legend, legend_height, panels, wrap
from reports.crosstab import axis_values, is_number
from reports.load import MetricInfo, Row, Run
from reports.statistics import bootstrap_interval, clip_means
from reports.style import FAINT, MARKERS, PALETTE, Look, figure

MOST_TICKS = 7


def curves(ask: Ask) -> Figure:
    """Per-frame series of each metric, averaged over cells with equal weight per clip."""
    series = {metric: row_series(ask.run, metric.id) for metric in ask.metrics}
    shown = {metric: found for metric, found in series.items() if found}
    if not shown:
        raise NotDrawn("no metric stored a value per frame")
    labels = [row.label for row in ask.run.rows]
    height = height_of(ask.width, len(shown), 1.75, legend_height(ask.width, labels))
    with figure(ask.width, height) as made:
        for ax, (metric, found) in zip(
            panels(made, ask.width, len(shown)), shown.items(), strict=True
        ):
            for row in ask.run.rows:
                if row.label in found:
                    style = {"linestyle": "--"} if row.sentinel else {}
                    _curve(ax, found[row.label], ask.look[row.label], row.label, style)
            ax.set(title=metric.heading, xlabel="step of the series (frame or frame pair)")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(made, made.axes[0], ask.width)
        return made


def _curve(ax: Axes, values: np.ndarray, look: Look, label: str, style: dict[str, Any]) -> None:
    style = {"color": look.colour, "marker": look.marker, "markersize": 3, **style}
    ax.plot(np.arange(1, len(values) + 1), values, label=label, linewidth=1.2, **style)


def row_series(run: Run, metric: str) -> dict[str, np.ndarray]:
    """Mean series per row over clips; shorter series count for the steps that they have."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for cell in run.cells:
        values = cell.metrics.get(metric, {}).get("series") or ()
        numbers = [math.nan if value is None else float(value) for value in values]
        if numbers:
            found.setdefault(cell.row, {}).setdefault(cell.clip, []).append(numbers)
    return {
        row: mean_series([mean_series(by_seed) for by_seed in by_clip.values()])
        for row, by_clip in found.items()
    }


def mean_series(series: list[Any]) -> np.ndarray:
    """Return the mean of series (n,) of any lengths, NaNs left out; NaN where none has a value."""
    padded = np.full((len(series), max(map(len, series))), np.nan)
    for line, values in zip(padded, series, strict=True):
        line[: len(values)] = values
    counts = np.isfinite(padded).sum(axis=0)
    return np.where(counts > 0, np.nansum(padded, axis=0) / np.maximum(counts, 1), np.nan)


def axis_curves(ask: Ask) -> Figure:
    """Each metric along an axis of the grid, one line per setting of the other axes.

    Bands are 95 % intervals over clips; the sentinels stand as dashed levels. An axis of words is
    spaced evenly, without lines between its values.
    """
    axis = _the_axis(ask)
    rows = [row for row in ask.grid_rows if axis in row.axes]
    groups = _groups(rows, axis)
    metrics = ask.metrics
    names = [*groups, *(row.label for row in ask.run.rows if row.sentinel)]
    height = height_of(ask.width, len(metrics), 1.95, legend_height(ask.width, names))
    with figure(ask.width, height) as made:
        for ax, metric in zip(panels(made, ask.width, len(metrics)), metrics, strict=True):
            for place, (name, members) in enumerate(groups.items()):
                colour, marker = PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)]
                _band(ax, ask, metric, _points(members, axis, rows), Look(colour, marker), name)
            _levels(ax, ask, metric)
            ax.set(title=metric.heading, xlabel=axis)
            _axis_ticks(ax, rows, axis)
        if len(names) > 1:
            legend(made, made.axes[0], ask.width)
        return made


def tradeoff(ask: Ask) -> Figure:
    """The second metric over the first along an axis of numbers; crosses are 95 % intervals.

    One line per setting of the other axes, each point with its value of the axis; sentinels stand
    beside them. Raises NotDrawn for other than two metrics, and without an axis of numbers.
    """
    axis, metrics = _the_axis(ask), ask.metrics
    rows = [row for row in ask.grid_rows if axis in row.axes]
    if len(metrics) != 2 or not _numeric(rows, axis):
        raise NotDrawn("it needs two metrics with values, and an axis of numbers")
    beside = [row.label for row in ask.run.rows if row.sentinel]
    names = [*_groups(rows, axis), *beside]
    with figure(ask.width, 2.9 + legend_height(ask.width, names)) as made:
        ax = made.add_subplot()
        means = [clip_means(ask.run.scores, metric.id) for metric in metrics]
        for place, (name, members) in enumerate(_groups(rows, axis).items()):
            look = Look(PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)])
            _trade(ax, _points(members, axis, rows), means, look, name)
        for label in beside:
            _trade(ax, [(math.nan, label)], means, ask.look[label], label)
        ax.set(xlabel=metrics[0].heading, ylabel=metrics[1].heading, title=f"along {axis}")
        ax.margins(0.12)
        if len(names) > 1:
            legend(made, ax, ask.width)
        return made


def _trade(
    ax: Axes, points: list[tuple[float, str]], means: list[Any], look: Look, name: str
) -> None:
    """Draw the rows of one line; a value that is NaN is not written beside its point."""
    across, up = (
        [bootstrap_interval(each.get(label, ())) for _, label in points] for each in means
    )
    values = [value for value, _ in points]
    known = [found for found in zip(values, across, up, strict=True) if found[1].n and found[2].n]
    style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markersize": 5}
    ax.plot([x.mean for _, x, _ in known], [y.mean for _, _, y in known], label=name, **style)
    for value, x, y in known:
        thin: dict[str, Any] = {"color": look.colour, "linewidth": 1, "alpha": 0.5}
        ax.plot([x.low, x.high], [y.mean, y.mean], **thin)
        ax.plot([x.mean, x.mean], [y.low, y.high], **thin)
        if value == value:
            place: dict[str, Any] = {"xytext": (4, 4), "textcoords": "offset points", "fontsize": 7}
            ax.annotate(f"{value:g}", (x.mean, y.mean), **place)


def _axis_ticks(ax: Axes, rows: list[Row], axis: str) -> None:
    """Ticks at the values of the grid, unless they are many numbers."""
    texts = axis_values(rows, axis)
    if not _numeric(rows, axis):
        ax.set_xticks(range(len(texts)), [wrap(text, 12) for text in texts])
    elif len(texts) <= MOST_TICKS:
        ax.set_xticks([float(text) for text in texts], texts)


def _the_axis(ask: Ask) -> str:
    """The axis asked for, else the first that has numbers."""
    known = dict.fromkeys(axis for row in ask.grid_rows for axis in row.axes)
    numeric = [
        axis for axis in known
        if _numeric(ask.grid_rows, axis) and len(axis_values(ask.grid_rows, axis)) > 1
    ]  # fmt: skip
    chosen = [*ask.axes, *numeric]
    if not chosen:
        raise NotDrawn("no axis of the grid has numbers; name one under axes")
    return chosen[0]


def _numeric(rows: Any, axis: str) -> bool:
    return all(is_number(row.axes[axis]) for row in rows if axis in row.axes)


def _groups(rows: list[Row], axis: str) -> dict[str, list[Row]]:
    """Rows by what they have besides the axis, as text; empty where there is nothing else."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        others = [f"{name.rpartition('.')[2]}={show_value(value)}"
                  for name, value in row.axes.items() if name != axis]  # fmt: skip
        found.setdefault(", ".join(others) or "grid", []).append(row)
    return found


def _points(members: list[Row], axis: str, rows: list[Row]) -> list[tuple[float, str]]:
    """(place on the axis, row label), in order."""
    if _numeric(rows, axis):
        return sorted((float(row.axes[axis]), row.label) for row in members)
    order = axis_values(rows, axis)
    return sorted((float(order.index(show_value(row.axes[axis]))), row.label) for row in members)


def _band(
    ax: Axes, ask: Ask, metric: MetricInfo, points: list[tuple[float, str]], look: Look, name: str
) -> None:
    means = clip_means(ask.run.scores, metric.id)
    found = [(x, bootstrap_interval(means.get(label, ()))) for x, label in points]
    known = [(x, interval) for x, interval in found if interval.n]
    if not known:
        return
    xs = [x for x, _ in known]
    style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markersize": 4}
    ax.plot(xs, [i.mean for _, i in known], label=name, linewidth=1.3, **style)
    low, high = [i.low for _, i in known], [i.high for _, i in known]
    ax.fill_between(xs, low, high, color=look.colour, alpha=0.16, linewidth=0)


def _levels(ax: Axes, ask: Ask, metric: MetricInfo) -> None:
    means = clip_means(ask.run.scores, metric.id)
    for row in ask.run.rows:
        value = bootstrap_interval(means.get(row.label, ())).mean if row.sentinel else math.nan
        if value == value:
            style: dict[str, Any] = {"color": ask.look[row.label].colour, "linestyle": (0, (4, 2))}
            ax.axhline(value, label=row.label, linewidth=1, **style)
    if metric.direction == "target":
        ax.axhline(metric.target, color=FAINT, linewidth=0.8, linestyle=":")
