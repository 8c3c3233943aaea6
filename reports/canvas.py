"""What every kind of figure starts from: which part of a run, how wide, in what looks."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossframe.errors import Problem, UserError, did_you_mean
from reports.load import MetricInfo, Row, Run
from reports.style import COLUMN, PAGE, Look, looks_among

WIDTHS: Mapping[str, float] = {"column": COLUMN, "page": PAGE}
LABEL_SIGNS = 24
Box = tuple[float, float, float, float]


class NotDrawn(Exception):
    """Why a run cannot feed a figure; the text is for people."""


@dataclass(frozen=True)
class Ask:
    """One figure as it is asked for.

    run: narrowed to the rows and metrics of the figure. whole: all of it. look: by row label.
    width: inches. axes, clips, frames, zoom, seed: as in the spec's `report.figures`.
    """

    run: Run
    whole: Run
    look: Mapping[str, Look]
    width: float = PAGE
    axes: tuple[str, ...] = ()
    clips: tuple[str, ...] = ()
    frames: tuple[int, ...] = ()
    zoom: tuple[Box, ...] = field(default=())
    seed: int = 0

    @cached_property
    def metrics(self) -> tuple[MetricInfo, ...]:
        """The metrics with at least one value; raises NotDrawn when there are none."""
        known = set(self.run.scores["metric"])
        found = tuple(metric for metric in self.run.metrics if metric.id in known)
        if not found:
            raise NotDrawn("no cell has a score yet")
        return found

    @property
    def grid_rows(self) -> tuple[Row, ...]:
        """The rows of the grid, sentinels left out."""
        return tuple(row for row in self.run.rows if not row.sentinel)

    def shown_clips(self, most: int) -> tuple[str, ...]:
        """Clips for pictures: those asked for, or of `report.clips`, else the first `most` done."""
        named = self.clips or tuple(self.whole.spec.get("report", {}).get("clips") or ())
        done = {cell.clip for cell in self.run.cells if cell.state == "done"}
        found = [clip for clip in (named or self.run.clip_ids) if clip in done]
        if not found:
            raise NotDrawn("no cell of these clips is done")
        return tuple(found if named else found[:most])


def ask_for(run: Run, settings: Mapping[str, Any] | None = None) -> Ask:
    """Return a figure's request; `settings` is an entry of `report.figures`, or nothing.

    Raises UserError when it names rows, metrics, clips or axes that the run does not have.
    """
    given = settings or {}
    axes = list(dict.fromkeys(axis for row in run.rows for axis in row.axes))
    known: dict[str, list[str]] = {
        "rows": [row.label for row in run.rows],
        "metrics": [metric.id for metric in run.metrics],
        "clips": list(run.clip_ids),
        "axes": axes,
    }
    wrong = [
        Problem(f"figure {given.get('name', '')}: {kind}", f"no {name!r}", ", ".join(names),
                did_you_mean(name, names))
        for kind, names in known.items()
        for name in given.get(kind, ())
        if name not in names
    ]  # fmt: skip
    if wrong:
        raise UserError(wrong)
    names, metrics = given.get("rows") or known["rows"], given.get("metrics") or known["metrics"]
    rows = tuple(row for row in run.rows if row.label in names)
    by_id = {metric.id: metric for metric in run.metrics}
    return Ask(
        run=replace(
            run,
            rows=rows,
            metrics=tuple(by_id[name] for name in metrics),
            cells=tuple(cell for cell in run.cells if cell.row in names),
        ),
        whole=run,
        look=looks_among(run.rows, rows),
        width=WIDTHS[given.get("width", "page")],
        axes=tuple(given.get("axes", ())),
        clips=tuple(given.get("clips", ())),
        frames=tuple(given.get("frames", ())),
        zoom=tuple(tuple(box) for box in given.get("zoom", ())),
        seed=given.get("seed", 0),
    )


def columns_of(width: float, count: int) -> int:
    """Panels side by side: two on a page, one in a column."""
    return min(count, 1 if width <= COLUMN else 2)


def height_of(width: float, count: int, panel: float, extra: float = 0.0) -> float:
    """Height in inches of `count` panels of height `panel`, with `extra` for legends."""
    return panel * math.ceil(count / columns_of(width, count)) + extra


def panels(made: Figure, width: float, count: int, **options: Any) -> list[Axes]:
    """Return `count` axes in a grid; a last odd one leaves its neighbour's place empty."""
    columns = columns_of(width, count)
    grid = made.subplots(math.ceil(count / columns), columns, squeeze=False, **options).ravel()
    for unused in grid[count:]:
        unused.remove()
    return list(grid[:count])


def legend(made: Figure, ax: Axes, width: float) -> None:
    """Write the rows of `ax` below the figure, in as many columns as fit."""
    handles, labels = ax.get_legend_handles_labels()
    wrapped = [wrap(label) for label in labels]
    longest = max((len(line) for label in wrapped for line in label.split("\n")), default=1)
    columns = max(1, min(len(labels), int(width / (0.35 + 0.068 * longest))))
    made.legend(handles, wrapped, loc="outside lower center", ncols=columns)


def legend_height(width: float, labels: Iterable[str]) -> float:
    """Inches that `legend` takes, about."""
    wrapped = [wrap(label) for label in labels]
    longest = max((len(line) for label in wrapped for line in label.split("\n")), default=1)
    columns = max(1, min(len(wrapped), int(width / (0.35 + 0.068 * longest))))
    tallest = max((label.count("\n") + 1 for label in wrapped), default=1)
    return 0.1 + 0.16 * tallest * math.ceil(len(wrapped) / columns)


def wrap(label: str, signs: int = LABEL_SIGNS) -> str:
    """A label in lines of `signs` characters, broken at spaces and after `+,/_`."""
    lines = [""]
    for part in re.findall(r"[^\s+,/_]*[+,/_]*\s*|\s+", label):
        if lines[-1] and len((lines[-1] + part).rstrip()) > signs:
            lines.append("")
        lines[-1] += part
    broken = [piece for line in lines for piece in textwrap.wrap(line, signs)]
    return "\n".join(broken) or label
