"""Figures of scores by row: bars, differences, consistency against motion, radar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.canvas import (
    Ask,
    NotDrawn,
    columns_of,
    height_of,
    legend,
    legend_height,
    panels,
    wrap,
)
from reports.load import MetricInfo, Row
from reports.statistics import Interval, bootstrap_interval, clip_means
from reports.style import COLUMN, FAINT, RULE, Look, figure
from reports.tables import MOTION, differences, sizes

RADAR_METRICS = 3
ROW_SIGNS = 28


def bars(ask: Ask) -> Figure:
    """One panel per metric: mean and 95 % interval per row, a dot per clip.

    The axis starts at zero only where zero is near: consistency scores differ in the third digit.
    """
    rows, metrics = ask.run.rows, ask.metrics
    height = height_of(ask.width, len(metrics), 0.5 + _rows_height(rows), 0.25)
    with figure(ask.width, height) as made:
        for place, ax in enumerate(panels(made, ask.width, len(metrics))):
            metric = metrics[place]
            means = clip_means(ask.run.scores, metric.id)
            for line, row in enumerate(rows):
                values = means.get(row.label, np.empty(0))
                _bar(ax, line, np.asarray(values, float), ask.look[row.label])
            _target_line(ax, metric)
            _row_axis(ax, rows, labels=place % columns_of(ask.width, len(metrics)) == 0)
            ax.set_title(metric.heading)
        _footer(made, ask, "mean and 95 % interval; small dots: one clip each, seeds averaged")
        return made


def _rows_height(rows: Sequence[Row]) -> float:
    lines = max(1 + wrap(row.label, ROW_SIGNS).count("\n") for row in rows)
    return len(rows) * (0.08 + 0.14 * lines)


def _footer(made: Figure, ask: Ask, text: str) -> None:
    shown = wrap(f"{sizes(ask.run)}; {text}", 118 if ask.width > COLUMN else 56)
    made.supxlabel(shown, fontsize=7, color=FAINT)


def _bar(ax: Axes, place: int, values: np.ndarray, look: Look) -> None:
    values = values[np.isfinite(values)]
    interval = bootstrap_interval(values)
    if not interval.n:
        ax.text(0.02, place, "no value", transform=ax.get_yaxis_transform(), va="center", size=7)
        return
    spread = np.linspace(-0.24, 0.24, len(values)) if len(values) > 1 else np.zeros(1)
    ax.scatter(values, place + spread, s=5, color=look.colour, alpha=0.4, linewidths=0)
    _interval(ax, interval, place, look)


def _interval(ax: Axes, interval: Interval, place: float, look: Look) -> None:
    if interval.has_bounds:
        ax.hlines(place, interval.low, interval.high, color=look.colour, linewidth=1.6)
        ends = [interval.low, interval.high]
        ax.plot(ends, [place] * 2, "|", color=look.colour, markersize=6, markeredgewidth=1.4)
    style: dict[str, Any] = {"color": look.colour, "markersize": 5, "mec": "white", "mew": 0.7}
    ax.plot(interval.mean, place, look.marker, **style)


def _row_axis(ax: Axes, rows: Sequence[Row], labels: bool = True) -> None:
    ax.set_yticks(range(len(rows)), [wrap(row.label, ROW_SIGNS) if labels else "" for row in rows])
    for tick, row in zip(ax.get_yticklabels(), rows, strict=True):
        tick.set_fontstyle("italic" if row.sentinel else "normal")
        tick.set_color(FAINT if row.sentinel else "#1A1A1A")
    ax.set_ylim(len(rows) - 0.45, -0.55)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.06)
    ax.locator_params(axis="x", nbins=5)
    grid = sum(not row.sentinel for row in rows)
    if 0 < grid < len(rows):
        ax.axhline(grid - 0.5, color=RULE, linewidth=0.7, linestyle=(0, (4, 3)))


def _target_line(ax: Axes, metric: MetricInfo) -> None:
    if metric.direction == "target":
        ax.axvline(metric.target, color="#777777", linewidth=0.9, linestyle=":")


def difference_plot(ask: Ask) -> Figure:
    """Each row minus the baseline over common clips, with 95 % intervals."""
    found, shown = differences(ask.whole), {row.label: row for row in ask.run.rows}
    pairs = {
        metric: [gap for gap, _ in found[metric.id] if gap.first in shown] for metric in ask.metrics
    }
    pairs = {metric: gaps for metric, gaps in pairs.items() if any(g.interval.n for g in gaps)}
    if not pairs:
        raise NotDrawn(f"no row has a clip in common with the baseline {ask.whole.baseline!r}")
    rows = [shown[gap.first] for gap in next(iter(pairs.values()))]
    height = height_of(ask.width, len(pairs), 0.5 + _rows_height(rows), 0.3)
    with figure(ask.width, height) as made:
        for place, (ax, (metric, gaps)) in enumerate(
            zip(panels(made, ask.width, len(pairs)), pairs.items(), strict=True)
        ):
            for line, gap in enumerate(gaps):
                if gap.interval.n:
                    _interval(ax, gap.interval, line, ask.look[gap.first])
            ax.axvline(0, color="#333333", linewidth=0.9)
            _row_axis(ax, rows, labels=place % columns_of(ask.width, len(pairs)) == 0)
            ax.set_title(metric.heading)
        _footer(made, ask, f"each row minus {ask.whole.baseline}, paired by clip; 95 % interval")
        return made


def scatter(ask: Ask) -> Figure:
    """Consistency against motion, sentinels included; raises NotDrawn without motion.

    A frozen clip wins every consistency score: only beside its motion does a score mean something.
    """
    scores = ask.run.scores
    motion = next((metric for metric in ask.whole.metrics if metric.id == MOTION), None)
    others = [m for m in ask.metrics if m.id != MOTION and m.direction in ("higher", "lower")]
    if motion is None or MOTION not in set(scores["metric"]) or not others:
        raise NotDrawn(f"it needs {MOTION} and another metric with a direction")
    labels = [row.label for row in ask.run.rows]
    height = height_of(ask.width, len(others), 2.3, legend_height(ask.width, labels))
    with figure(ask.width, height) as made:
        horizontal = clip_means(scores, motion.id)
        for ax, metric in zip(panels(made, ask.width, len(others)), others, strict=True):
            vertical = clip_means(scores, metric.id)
            for label in labels:
                if label in horizontal and label in vertical:
                    x = bootstrap_interval(horizontal[label].to_numpy())
                    y = bootstrap_interval(vertical[label].to_numpy())
                    _cross(ax, x, y, ask.look[label], label)
            _target_line(ax, motion)
            ax.set(title=metric.heading, xlabel=motion.heading)
            ax.margins(0.08)
            if metric.direction == "lower":
                ax.invert_yaxis()
        legend(made, made.axes[0], ask.width)
        return made


def _cross(ax: Axes, x: Interval, y: Interval, look: Look, label: str) -> None:
    if x.has_bounds:
        ax.hlines(y.mean, x.low, x.high, color=look.colour, linewidth=1, alpha=0.6)
    if y.has_bounds:
        ax.vlines(x.mean, y.low, y.high, color=look.colour, linewidth=1, alpha=0.6)
    style: dict[str, Any] = {"color": look.colour, "markersize": 6, "mec": "white", "mew": 0.8}
    ax.plot(x.mean, y.mean, look.marker, linestyle="none", label=label, **style)


def radar(ask: Ask) -> Figure:
    """Rows as outlines over metrics; outside is the best row of each metric, the centre the worst.

    Scales are relative to the rows shown: distances on different spokes do not compare.
    """
    metrics = [metric for metric in ask.metrics if metric.direction != "unknown"]
    rows = ask.grid_rows
    if len(metrics) < RADAR_METRICS or len(rows) < 2:
        raise NotDrawn(f"it needs {RADAR_METRICS} metrics with a direction and two rows")
    merits = {metric: _merit(ask, metric, rows) for metric in metrics}
    angles = np.linspace(0, 2 * math.pi, len(metrics), endpoint=False)
    labels = [row.label for row in rows]
    side = min(ask.width, 4.4)
    with figure(ask.width, side * 0.78 + legend_height(ask.width, labels)) as made:
        ax = made.add_subplot(projection="polar", theta_offset=math.pi / 2, theta_direction=-1)
        for place, row in enumerate(rows):
            values = [merits[metric][0][place] for metric in metrics]
            look = ask.look[row.label]
            ring = np.append(values, values[:1])
            style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markersize": 4}
            ax.plot(np.append(angles, angles[0]), ring, label=row.label, linewidth=1.3, **style)
            ax.fill(angles, values, color=look.colour, alpha=0.06)
        ax.set(ylim=(0, 1.08), yticks=[0.25, 0.5, 0.75, 1], yticklabels=[])
        names = [wrap(metric.heading, 16) for metric in metrics]
        ends = [merits[metric][1] for metric in metrics]
        ax.set_xticks(angles, [f"{name}\n{end}" for name, end in zip(names, ends, strict=True)])
        _spread_labels(ax, angles)
        legend(made, ax, ask.width)
        return made


def _merit(ask: Ask, metric: MetricInfo, rows: Sequence[Row]) -> tuple[np.ndarray, str]:
    """Each row between 0.15 (worst) and 1 (best), NaN without a value; and the ends as text."""
    means = clip_means(ask.run.scores, metric.id)
    values = [bootstrap_interval(means.get(row.label, ())).mean for row in rows]
    known = [value for value in values if value == value]
    if not known:
        raise NotDrawn(f"no row has a value of {metric.id}")
    worst, best = max(known, key=metric.badness), min(known, key=metric.badness)
    span = metric.badness(worst) - metric.badness(best) or 1.0
    merit = [(metric.badness(worst) - metric.badness(value)) / span for value in values]
    return 0.15 + 0.85 * np.array(merit), f"{worst:.3g} to {best:.3g}"


def _spread_labels(ax: Any, angles: np.ndarray) -> None:
    """Labels grow away from the circle, so that none lies over it."""
    ax.tick_params(axis="x", pad=2)
    for tick, angle in zip(ax.get_xticklabels(), angles, strict=True):
        side = math.sin(angle)
        tick.set_horizontalalignment(
            "center" if abs(side) < 0.1 else "left" if side > 0 else "right"
        )
        tick.set_fontsize(7)
