"""Two axes of a grid against each other: one metric, the values of an axis by those of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ablations.grid import show_value
from reports.load import MetricInfo, Row, Run
from reports.sheets import Entry, Sheet
from reports.statistics import Interval, bootstrap_interval, clip_means
from reports.tables import ABSENT, csv_text, show_bounds, show_number


@dataclass(frozen=True)
class Crosstab:
    """A metric by two axes.

    values: (down, across) -> interval over clips. averaged: other axes, over which is averaged.
    """

    metric: MetricInfo
    down_axis: str
    across_axis: str
    down: tuple[str, ...]
    across: tuple[str, ...]
    values: Mapping[tuple[str, str], Interval]
    averaged: tuple[str, ...]

    @property
    def best(self) -> tuple[str, str] | None:
        """The place of the best mean; None where no direction is known or nothing is measured."""
        known = {place: found for place, found in self.values.items() if found.n}
        if self.metric.direction == "unknown" or not known:
            return None
        return min(known, key=lambda place: self.metric.badness(known[place].mean))


def axis_values(rows: Sequence[Row], axis: str) -> tuple[str, ...]:
    """Return the values of an axis as text, in the order of the rows; numbers by size."""
    found = {show_value(row.axes[axis]): row.axes[axis] for row in rows if axis in row.axes}
    numeric = all(is_number(value) for value in found.values())
    return tuple(sorted(found, key=lambda text: found[text])) if numeric else tuple(found)


def is_number(value: Any) -> bool:
    """Whether an axis value can stand on a numeric axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def crosstab(run: Run, metric: MetricInfo, down_axis: str, across_axis: str) -> Crosstab:
    """Return a metric by two axes; rows that differ in other axes are averaged within each clip."""
    rows = [row for row in run.rows if down_axis in row.axes and across_axis in row.axes]
    down, across = axis_values(rows, down_axis), axis_values(rows, across_axis)
    means = clip_means(run.scores, metric.id)
    places: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        place = (show_value(row.axes[down_axis]), show_value(row.axes[across_axis]))
        places.setdefault(place, []).append(row.label)
    values = {}
    for place, labels in places.items():
        known = means[[label for label in labels if label in means]].to_numpy()
        whole = known[np.isfinite(known).all(axis=1)] if known.shape[1] == len(labels) else []
        values[place] = bootstrap_interval(np.mean(whole, axis=1) if len(whole) else [])
    others = dict.fromkeys(axis for row in rows for axis in row.axes)
    averaged = tuple(
        axis
        for axis in others
        if axis not in (down_axis, across_axis) and len(axis_values(rows, axis)) > 1
    )
    return Crosstab(metric, down_axis, across_axis, down, across, values, averaged)


def crosstab_sheet(found: Crosstab, decimals: int) -> Sheet:
    """Return a crosstab as text, its best value bold."""
    lines = tuple(
        (Entry(down), *(_entry(found, (down, across), decimals) for across in found.across))
        for down in found.down
    )
    heads = (f"{found.down_axis} by {found.across_axis}", *found.across)
    notes = [f"{found.metric.heading}: {found.metric.definition}"]
    if found.averaged:
        notes.append(f"Averaged over {', '.join(found.averaged)}.")
    return Sheet(heads, (lines,), tuple(notes))


def _entry(found: Crosstab, place: tuple[str, str], decimals: int) -> Entry:
    interval = found.values.get(place)
    if interval is None or not interval.n:
        return Entry(ABSENT)
    rank = int(place == found.best)
    return Entry(show_number(interval.mean, decimals), show_bounds(interval, decimals), rank)


def crosstab_csv(found: Sequence[Crosstab]) -> str:
    """Return all crosstabs in one long table."""
    lines = [
        [each.metric.id, *place, interval.mean, interval.low, interval.high, interval.n]
        for each in found
        for place, interval in each.values.items()
        if interval.n
    ]
    axes = [found[0].down_axis, found[0].across_axis] if found else ["down", "across"]
    return csv_text(["metric", *axes, "mean", "low", "high", "n"], lines)
