"""Small multiples: series over time, a panel for each metric and each value of an axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ablations.grid import show_value
from reports.canvas import Ask, NotDrawn, legend, legend_height
from reports.crosstab import axis_values
from reports.load import Row
from reports.series import mean_series, row_series
from reports.style import MARKERS, PALETTE, figure

MOST_PANELS = 6
"""Panels side by side that can still be read on a page."""
Series = Mapping[str, np.ndarray]


def multiples(ask: Ask) -> Figure:
    """Per-frame series: metrics downwards, values of the second axis to the right.

    One line per value of the first axis, the same colour in every panel; rows that differ in other
    axes are averaged, sentinels are dashed in every panel, and the panels of a metric share their
    scale. Raises NotDrawn without an axis, without series, or for more than six panels in a line.
    """
    across, over, rows = _axes(ask)
    panels = axis_values(rows, over) if over else ("",)
    if len(panels) > MOST_PANELS:
        raise NotDrawn(f"{over} has {len(panels)} values, and {MOST_PANELS} panels fit")
    found = {metric: row_series(ask.run, metric.id) for metric in ask.metrics}
    shown = {metric: series for metric, series in found.items() if series}
    if not shown:
        raise NotDrawn("no metric stored a value per frame")
    lines = axis_values(rows, across)
    sentinels = [row.label for row in ask.run.rows if row.sentinel]
    below = legend_height(ask.width, [*_names(across, lines), *sentinels])
    with figure(ask.width, 0.3 + 1.6 * len(shown) + below) as made:
        grid = made.subplots(len(shown), len(panels), squeeze=False, sharex=True, sharey="row")
        for (metric, series), line in zip(shown.items(), grid, strict=True):
            for ax, value in zip(line, panels, strict=True):
                members = [row for row in rows if not over or show_value(row.axes[over]) == value]
                _panel(ax, ask, series, _lines(members, across, lines, series))
            line[0].set_ylabel(metric.heading)
        for ax, value in zip(grid[0], panels, strict=True):
            ax.set_title(f"{over.rpartition('.')[2]} {value}" if over else "")
        grid[-1][len(panels) // 2].set_xlabel("step of the series (frame or frame pair)")
        legend(made, grid[0][0], ask.width)
        return made


def _axes(ask: Ask) -> tuple[str, str, list[Row]]:
    """The axis of the lines, that of the panels or "", and the rows that have them."""
    known = dict.fromkeys(axis for row in ask.grid_rows for axis in row.axes)
    several = [axis for axis in known if len(axis_values(ask.grid_rows, axis)) > 1]
    chosen = list(ask.axes) or several[:2]
    if not chosen:
        raise NotDrawn("no axis of the grid has two values")
    across, over = chosen[0], chosen[1] if len(chosen) > 1 else ""
    wanted = {across, over} - {""}
    return across, over, [row for row in ask.grid_rows if wanted <= set(row.axes)]


def _names(across: str, lines: Sequence[str]) -> list[str]:
    return [f"{across.rpartition('.')[2]}={value}" for value in lines]


def _lines(
    rows: Sequence[Row], across: str, lines: Sequence[str], series: Series
) -> dict[str, np.ndarray]:
    """The mean series of each line of a panel by its name; empty where no row has one."""
    found = {
        value: [
            series[row.label]
            for row in rows
            if show_value(row.axes[across]) == value and row.label in series
        ]
        for value in lines
    }
    means = [mean_series(members) if members else np.empty(0) for members in found.values()]
    return dict(zip(_names(across, lines), means, strict=True))


def _panel(ax: Axes, ask: Ask, series: Series, lines: Mapping[str, np.ndarray]) -> None:
    for place, (name, values) in enumerate(lines.items()):
        colour, marker = PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)]
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 2.5}
        ax.plot(np.arange(1, len(values) + 1), values, label=name, linewidth=1.1, **style)
    for row in ask.run.rows:
        if row.sentinel and row.label in series:
            values = series[row.label]
            style = {"color": ask.look[row.label].colour, "linestyle": "--"}
            ax.plot(np.arange(1, len(values) + 1), values, label=row.label, linewidth=1.1, **style)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
