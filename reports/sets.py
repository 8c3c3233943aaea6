"""Distances between the samples of a row and the source clips, where both sets are large enough."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from metrics.frechet import Features, frechet_distance
from reports.load import MetricInfo, Run
from reports.statistics import Interval

NO_SOURCE = "it compares with the sentinel source, which is not among the sentinels"


@dataclass(frozen=True)
class SetScore:
    """The distance of one row. n: its samples. refused: why there is no value, or ""."""

    value: float
    n: int
    refused: str = ""

    @property
    def interval(self) -> Interval:
        """The value as tables take it; it has no bounds."""
        return Interval(self.value, math.nan, math.nan, 0 if self.refused else self.n)


def set_scores(run: Run, metric: MetricInfo) -> dict[str, SetScore]:
    """Return the distance of every row but the source itself, by label.

    Values are refused below `metric.least_clips` clips in either set.
    """
    real = [row.label for row in run.rows if row.sentinel and row.method == "source"]
    others = [row.label for row in run.rows if row.label not in real]
    if not real:
        return {label: SetScore(math.nan, 0, NO_SOURCE) for label in others}
    known = features_by_row(run, metric.id)
    source = known.get(real[0], [])
    return {label: _score(known.get(label, []), source, metric.least_clips) for label in others}


def features_by_row(run: Run, metric: str) -> Mapping[str, list[list[float]]]:
    """Return the features of all done cells by row, in the order of the plan."""
    found: dict[str, list[list[float]]] = {}
    for cell in run.cells:
        if "features" in (entry := cell.metrics.get(metric, {})):
            found.setdefault(cell.row, []).append(entry["features"])
    return found


def set_column(run: Run, metric: MetricInfo) -> dict[str, Interval]:
    """Return the values of all rows as tables take them, empty where there is none."""
    scores = set_scores(run, metric)
    nothing = Interval(math.nan, math.nan, math.nan, 0)
    return {
        row.label: scores[row.label].interval if row.label in scores else nothing
        for row in run.rows
    }


def set_notes(run: Run) -> Iterator[str]:
    """Yield, for every metric over sets, what its values stand on and which rows have none."""
    for metric in run.metrics:
        if not metric.least_clips or not any(metric.id in cell.metrics for cell in run.cells):
            continue
        yield f"{metric.id} is one value per row, over all its samples: no interval, no test."
        by_reason: dict[str, list[str]] = {}
        for label, score in set_scores(run, metric).items():
            if score.refused:
                by_reason.setdefault(score.refused, []).append(label)
        for reason, labels in by_reason.items():
            yield f"{metric.id} is refused for {', '.join(labels)}: {reason}."


def _score(made: list[list[float]], real: list[list[float]], least: int) -> SetScore:
    if min(len(made), len(real)) < least:
        refused = f"it needs {least:,} clips in each set, not {len(made):,} and {len(real):,}"
        return SetScore(math.nan, len(made), refused)
    return SetScore(frechet_distance(_array(made), _array(real)), len(made))


def _array(features: list[list[float]]) -> Features:
    return np.asarray(features, np.float64)
