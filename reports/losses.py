"""The loss of tuning, step by step, as methods noted it beside their samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from reports.canvas import Ask, NotDrawn, legend, legend_height
from reports.load import Cell, Run
from reports.style import figure

WINDOWS = 20
"""A curve is a running mean over one in so many of its steps: single steps are mostly noise."""


def losses(ask: Ask) -> Figure:
    """One line per tuning, averaged over clips; rows that were tuned alike share a line.

    Raises NotDrawn where no cell notes a tuning.
    """
    found = row_losses(ask.run)
    if not found:
        raise NotDrawn("no cell was tuned")
    lines = _shared(found)
    names = [", ".join(labels) for labels, _ in lines]
    with figure(ask.width, 2.3 + legend_height(ask.width, names)) as made:
        ax = made.add_subplot()
        for name, (labels, values) in zip(names, lines, strict=True):
            steps, smooth = running_mean(values)
            look = ask.look[labels[0]]
            style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markersize": 4}
            ax.plot(steps, smooth, label=name, linewidth=1.3, markevery=[-1], **style)
        ax.set(xlabel="step of tuning", ylabel="loss")
        ax.set_title("loss of tuning ↓")
        legend(made, ax, ask.width)
        return made


def has_losses(run: Run) -> bool:
    """Tell whether a cell of the run notes the loss of its tuning."""
    return any(_losses(cell) for cell in run.cells)


def row_losses(run: Run) -> dict[str, np.ndarray]:
    """Return the loss of every step per row, averaged over prompts and seeds, then over clips."""
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for cell in run.cells:
        if values := _losses(cell):
            series = np.asarray(values, float)
            found.setdefault(cell.row, {}).setdefault(cell.clip, []).append(series)
    return {
        row: np.mean([np.mean(series, axis=0) for series in by_clip.values()], axis=0)
        for row, by_clip in found.items()
    }


def running_mean(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (last step of each window, mean of that window); steps count from 1."""
    width = max(1, len(values) // WINDOWS)
    means = np.convolve(values, np.full(width, 1 / width), mode="valid")
    return np.arange(width, len(values) + 1), means


def _losses(cell: Cell) -> list[float]:
    tuning: Mapping[str, Any] = cell.record.get("notes", {}).get("tuning", {})
    return list(tuning.get("losses", ()))


def _shared(found: Mapping[str, np.ndarray]) -> list[tuple[list[str], np.ndarray]]:
    """Rows by curve, in row order; one that is the beginning of a longer one goes with it."""
    lines: list[tuple[list[str], np.ndarray]] = []
    for row, values in sorted(found.items(), key=lambda item: -len(item[1])):
        for labels, longer in lines:
            if np.array_equal(longer[: len(values)], values):
                labels.append(row)
                break
        else:
            lines.append(([row], values))
    order = list(found)
    return sorted(
        ((sorted(labels, key=order.index), values) for labels, values in lines),
        key=lambda line: order.index(line[0][0]),
    )
