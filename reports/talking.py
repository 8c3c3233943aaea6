"""Figures of talking faces: mouth against voice, and change around the borders of segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from reports.canvas import Ask, NotDrawn, height_of, legend, legend_height, panels, wrap
from reports.load import Cell, Row
from reports.style import FAINT, figure

MOUTH, CHANGE, SEAM = "sync/mouth_corr", "flicker/mae", "seam/ratio"
MOST_CLIPS = 4
REACH = 5
"""Frame pairs on either side of a border that are shown."""
Series = NDArray[np.float64]


def voice(ask: Ask) -> Figure:
    """How open the mouth is in each frame, and how loud the voice: a panel for each clip.

    Each curve has mean 0 and deviation 1. One seed. Raises NotDrawn without `sync/mouth_corr`.
    """
    shown = {clip: _curves(ask, clip) for clip in ask.shown_clips(MOST_CLIPS)}
    shown = {clip: curves for clip, curves in shown.items() if curves}
    if not shown:
        raise NotDrawn(f"no cell has the curves of {MOUTH}: score it, on clips of talking faces")
    names = [*(row.label for row in ask.run.rows), "voice"]
    height = height_of(ask.width, len(shown), 1.75, legend_height(ask.width, names))
    with figure(ask.width, height) as made:
        places = panels(made, ask.width, len(shown), sharey=True)
        for ax, (clip, curves) in zip(places, shown.items(), strict=True):
            loud = _standard(next(iter(curves.values()))["envelope"])
            t = np.arange(len(loud))
            ax.fill_between(t, loud.min(), loud, color=FAINT, alpha=0.25, linewidth=0,
                            label="voice")  # fmt: skip
            for label, found in curves.items():
                look = ask.look[label]
                style: dict[str, Any] = {"color": look.colour, "marker": look.marker}
                ax.plot(t, _standard(found["opening"]), label=label, lw=1.1, ms=2.5, **style)
            ax.set(title=wrap(clip), xlabel="frame")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        places[0].set_ylabel("deviations from the mean")
        legend(made, places[0], ask.width)
        return made


def _curves(ask: Ask, clip: str) -> dict[str, Mapping[str, Sequence[float]]]:
    """Row label -> both curves of its cell on a clip."""
    found = {}
    for row in ask.run.rows:
        cell = ask.run.cell_at(row, clip, ask.seed)
        detail = cell.metrics.get(MOUTH, {}).get("detail", {}) if cell else {}
        if "opening" in detail:
            found[row.label] = detail
    return found


def _standard(values: Sequence[float]) -> Series:
    centred = np.asarray(values, float) - np.mean(values)
    spread = centred.std()
    scaled: Series = centred / spread if spread > 0 else centred
    return scaled


def borders(ask: Ask) -> Figure:
    """Change from frame to frame around the borders of segments, over that elsewhere.

    0 is the pair across a border; averaged over borders, then seeds, then clips. A row that was
    made at once, such as the source, is shown around the borders of the others. Raises NotDrawn
    without `flicker/mae` and `seam/ratio`.
    """
    known = _borders_by_clip(ask.run.cells)
    if not known:
        raise NotDrawn(f"no cell has borders and values of {SEAM}")
    found = {row.label: _around(ask, row, known) for row in ask.run.rows}
    shown = {label: change for label, change in found.items() if change is not None}
    if not shown:
        raise NotDrawn(f"no cell has a series of {CHANGE}")
    with figure(ask.width, 2.4 + legend_height(ask.width, shown)) as made:
        ax = made.add_subplot()
        ax.axvline(0, color=FAINT, linewidth=0.8, linestyle=":")
        ax.axhline(1, color=FAINT, linewidth=0.8, linestyle=":")
        for label, change in shown.items():
            look = ask.look[label]
            style: dict[str, Any] = {"color": look.colour, "marker": look.marker}
            ax.plot(np.arange(-REACH, REACH + 1), change, label=label, lw=1.2, ms=3, **style)
        ax.set(xlabel="frame pairs from the border", ylabel="change over that elsewhere")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(made, ax, ask.width)
        return made


def _borders_by_clip(cells: Sequence[Cell]) -> dict[str, Sequence[int]]:
    """Clip -> borders, of the first cell that tells them."""
    found: dict[str, Sequence[int]] = {}
    for cell in cells:
        told = cell.metrics.get(SEAM, {}).get("detail", {}).get("borders")
        if told:
            found.setdefault(cell.clip, told)
    return found


def _around(ask: Ask, row: Row, known: Mapping[str, Sequence[int]]) -> Series | None:
    """The mean change of a row around its borders, (2 REACH + 1,); None without a series."""
    by_clip: dict[str, list[Series]] = {}
    for cell in ask.run.cells_of(row.label):
        series = cell.metrics.get(CHANGE, {}).get("series")
        told = cell.metrics.get(SEAM, {}).get("detail", {}).get("borders") or known.get(cell.clip)
        if series and told:
            by_clip.setdefault(cell.clip, []).append(around(np.asarray(series, float), told))
    if not by_clip:
        return None
    return _mean([_mean(seeds) for seeds in by_clip.values()])


def around(change: Series, at: Sequence[int]) -> Series:
    """Return the change (f - 1,) near borders over its mean elsewhere, (2 REACH + 1,).

    at: frames 0 < t < f that begin a part. Pairs that are nearer to another border, or outside of
    the video, are left out; NaN where no pair is left.
    """
    pairs = np.arange(len(change))
    distance = pairs[:, None] - (np.asarray(at) - 1)
    nearest = distance[pairs, np.abs(distance).argmin(1)]
    elsewhere = change[nearest != 0]
    usual = elsewhere.mean() if len(elsewhere) else np.nan
    members = [change[nearest == offset] for offset in range(-REACH, REACH + 1)]
    means = [values.mean() if len(values) else np.nan for values in members]
    return np.asarray(means) / usual if usual > 0 else np.full(2 * REACH + 1, np.nan)


def _mean(series: Sequence[Series]) -> Series:
    """The mean of series, NaNs left out; NaN where none has a value."""
    stacked = np.stack(series)
    counts = np.isfinite(stacked).sum(0)
    return np.where(counts > 0, np.nansum(stacked, 0) / np.maximum(counts, 1), np.nan)
