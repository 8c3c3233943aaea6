"""Two axes of the grid as a heat map per metric, the mean written into each field."""

from __future__ import annotations

import math

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.canvas import Ask, NotDrawn, columns_of, height_of, panels, wrap
from reports.crosstab import Crosstab, axis_values, crosstab
from reports.style import FAINT, SCALE, figure

FIGURES = 3


def two_axes(ask: Ask) -> tuple[str, str]:
    """The axes across and down: those asked for, else the first two with several values."""
    known = dict.fromkeys(axis for row in ask.grid_rows for axis in row.axes)
    several = [axis for axis in known if len(axis_values(ask.grid_rows, axis)) > 1]
    chosen = list(dict.fromkeys([*ask.axes, *several]))
    if len(chosen) < 2:
        raise NotDrawn("it needs two axes with two values each")
    return chosen[0], chosen[1]


def heatmap(ask: Ask) -> Figure:
    """One panel per metric, lighter where better; empty fields are crossed out."""
    across, down = two_axes(ask)
    found = [crosstab(ask.run, metric, down, across) for metric in ask.metrics]
    if not found[0].values:
        raise NotDrawn(f"no row has both {across} and {down}")
    columns = columns_of(ask.width, len(found))
    panel = 0.75 + 0.3 * max(1, len(found[0].down))
    with figure(ask.width, height_of(ask.width, len(found), panel, 0.1)) as made:
        for ax, each in zip(panels(made, ask.width, len(found)), found, strict=True):
            _panel(ax, each, ask.width / columns)
        averaged = list(dict.fromkeys(name for each in found for name in each.averaged))
        if averaged:
            text = f"averaged over {', '.join(averaged)}"
            made.supxlabel(text, fontsize=7, color=FAINT)
        return made


def _panel(ax: Axes, found: Crosstab, width: float) -> None:
    means = np.array(
        [[_mean(found, (down, across)) for across in found.across] for down in found.down]
    )
    bad = np.full(means.shape, np.nan)
    for place, value in np.ndenumerate(means):
        bad[place] = found.metric.badness(value) if value == value else value
    known = bad[np.isfinite(bad)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    colours = mpl.colormaps[SCALE].with_extremes(bad="#EEEEEE")
    shade = 1 - (bad - low) / ((high - low) or 1.0)
    ax.imshow(np.ma.masked_invalid(shade), cmap=colours, vmin=-0.15, vmax=1, aspect="auto")
    size = min(7.5, max(5.5, 55 * width / 3.4 / (5 * max(1, len(found.across)))))
    largest = np.nanmax(np.abs(means)) if known.size else 0.0
    places = max(0, FIGURES - 1 - math.floor(math.log10(largest))) if largest > 0 else FIGURES
    for (line, column), value in np.ndenumerate(means):
        text = "×" if value != value else f"{value:.{places}f}"
        dark = not (shade[line, column] > 0.55)
        colour = FAINT if value != value else "white" if dark else "black"
        ax.text(column, line, text, ha="center", va="center", size=size, color=colour)
    ax.set_xticks(range(len(found.across)), [wrap(text, 12) for text in found.across])
    ax.set_yticks(range(len(found.down)), [wrap(text, 16) for text in found.down])
    ax.set(title=found.metric.heading, xlabel=found.across_axis, ylabel=found.down_axis)
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _mean(found: Crosstab, place: tuple[str, str]) -> float:
    interval = found.values.get(place)
    return interval.mean if interval else float("nan")
