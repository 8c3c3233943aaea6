"""A run folder as data: rows, clips, cells with their state, and one line per measured value.

Reads the store only. Nothing here computes; missing and failed cells stay visible.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ablations.seals import intact
from crossframe.errors import Problem, UserError
from crossframe.files import read_json

KEY_DIGITS = 16
DAMAGED = "its record is damaged, or was changed by hand: crossframe run makes it again"

Direction = Literal["higher", "lower", "target", "unknown"]
State = Literal["done", "failed", "missing"]


@dataclass(frozen=True)
class MetricInfo:
    """What a report needs to know of a metric.

    direction: which values are better; `target` means the nearer to `target` the better, `unknown`
        means that nothing is ranked.
    span: lowest and highest possible value, None where there is no bound.
    least_clips: of a distance between sets of clips, how many each must have; 0 for metrics that
        have a value per clip.
    """

    id: str
    direction: Direction
    definition: str
    span: tuple[float | None, float | None] = (None, None)
    unit: str = ""
    target: float = 1.0
    paper_names: tuple[str, ...] = ()
    least_clips: int = 0

    @property
    def arrow(self) -> str:
        """`↑`, `↓`, `→ 1` or nothing."""
        arrows = {"higher": "↑", "lower": "↓", "target": f"→ {self.target:g}", "unknown": ""}
        return arrows[self.direction]

    @property
    def heading(self) -> str:
        """The id with its arrow, as it stands in tables and figures."""
        return f"{self.id} {self.arrow}".strip()

    def badness(self, value: float) -> float:
        """A number that is smaller for better values; ranks are made of it."""
        by_direction = {"higher": -value, "lower": value, "target": abs(value - self.target)}
        return by_direction.get(self.direction, 0.0)


@dataclass(frozen=True)
class Row:
    """One line of the table: a configuration of a method, or a sentinel beside the grid."""

    label: str
    method: str
    sentinel: bool
    axes: Mapping[str, Any]


@dataclass(frozen=True)
class ClipFolder:
    """A source clip as the store shows it."""

    id: str
    folder: Path
    caption: str
    fps: float
    exact_flow: bool | None
    sha256: str = ""
    sound: bool = False


@dataclass(frozen=True)
class Cell:
    """A planned sample and what became of it; `record` is its result, {} unless done.

    status: `done`, how it failed (`skipped failed oom diverged interrupted`), or `missing`.
    """

    key: str
    folder: Path
    row: str
    clip: str
    prompt: str
    seed_index: int
    axes: Mapping[str, Any]
    state: State
    reason: str
    traceback: str
    record: Mapping[str, Any]
    status: str = "missing"

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Metric id -> {"value", "series", "detail"}, {"features"} or {"unavailable": why}."""
        return self.record.get("metrics", {})

    @property
    def cost(self) -> Mapping[str, float | None]:
        """`seconds`, `seconds_per_frame` and `peak_memory_bytes` of making the frames."""
        return self.record.get("cost", {})


@dataclass(frozen=True)
class Run:
    """Everything a report is made of."""

    root: Path
    spec: Mapping[str, Any]
    rows: tuple[Row, ...]
    clips: tuple[ClipFolder, ...]
    cells: tuple[Cell, ...]
    metrics: tuple[MetricInfo, ...]

    @property
    def title(self) -> str:
        """Title of the spec, or its name."""
        return self.spec.get("title") or self.spec.get("name") or self.root.name

    @property
    def baseline(self) -> str:
        """Row that differences are taken from: the one named in the spec, else the first."""
        named = self.spec.get("report", {}).get("baseline", "")
        grid = [row.label for row in self.rows if not row.sentinel]
        return named if named in {row.label for row in self.rows} else next(iter(grid), "")

    @property
    def is_miniature(self) -> bool:
        """Whether the numbers come from the shipped miniature networks."""
        return self.spec.get("backbone", "miniature") == "miniature"

    @property
    def clip_ids(self) -> tuple[str, ...]:
        """Ids of all planned clips, in plan order, readable or not."""
        return tuple(dict.fromkeys(cell.clip for cell in self.cells))

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One line per cell and available metric; see `SCORE_COLUMNS`."""
        lines = [line for cell in self.cells for line in _score_lines(cell)]
        return pd.DataFrame(lines, columns=list(SCORE_COLUMNS))

    @cached_property
    def unavailable(self) -> dict[str, dict[str, int]]:
        """Metric id -> {reason: number of cells} for the values that could not be had."""
        found: dict[str, dict[str, int]] = {}
        for cell in self.cells:
            for metric, entry in cell.metrics.items():
                if (why := absence(entry)) is not None:
                    reasons = found.setdefault(metric, {})
                    reasons[why] = reasons.get(why, 0) + 1
        return found

    def rows_without(self, metric: str, reason: str) -> Counter[str]:
        """Return how many cells of each row have no value of a metric for that reason."""
        return Counter(
            cell.row
            for cell in self.cells
            if metric in cell.metrics and absence(cell.metrics[metric]) == reason
        )

    def cells_of(self, row: str) -> tuple[Cell, ...]:
        """Return the planned cells of a row."""
        return tuple(cell for cell in self.cells if cell.row == row)

    def clip(self, clip_id: str) -> ClipFolder | None:
        """Return the stored source of a clip, or None when it was never stored."""
        return next((clip for clip in self.clips if clip.id == clip_id), None)

    def cell_at(self, row: Row, clip: str, seed_index: int = 0) -> Cell | None:
        """Return a row's cell on a clip: at that seed, else (sentinels have one) the first."""
        here = [cell for cell in self.cells if cell.row == row.label and cell.clip == clip]
        exact = [cell for cell in here if cell.seed_index == seed_index]
        return next(iter(exact or (here if row.sentinel else [])), None)


def absence(entry: Mapping[str, Any]) -> str | None:
    """Return why a metric's entry is of no use, or None when it is: a value, or part of a set."""
    if "features" in entry:
        return None
    value = entry.get("value")
    if value is None:
        return entry.get("unavailable") or "the store holds no value"
    return None if math.isfinite(value) else f"its value is {float(value)}"


SCORE_COLUMNS = ("row", "clip", "prompt", "variant", "seed_index", "metric", "value", "key")


def load_run(folder: str | Path, infos: Mapping[str, MetricInfo] | None = None) -> Run:
    """Read a run folder, finished or not.

    infos: metric infos by id; by default those of the metrics registry.
    Raises UserError when the folder holds no spec or no plan.
    """
    root = Path(folder)
    spec, plan = read_json(_required(root, "spec.json")), read_json(_required(root, "plan.json"))
    cells = tuple(_cell(root, entry) for entry in plan)
    ids = _metric_ids(spec, cells)
    known = registered_infos(ids) if infos is None else infos
    return Run(
        root=root,
        spec=spec,
        rows=_rows(spec, plan),
        clips=tuple(_clips(root)),
        cells=cells,
        metrics=tuple(known.get(name) or _unknown(name) for name in ids),
    )


def registered_infos(ids: Iterable[str]) -> dict[str, MetricInfo]:
    """Return the infos of the metrics that are registered here; others are left out."""
    from metrics import METRICS

    return {name: _info(name, METRICS.entry(name).extra) for name in ids if name in METRICS}


def _info(name: str, extra: Mapping[str, Any]) -> MetricInfo:
    low, high = extra.get("range", (None, None))
    return MetricInfo(
        id=name,
        direction=extra["direction"],
        definition=extra["definition"],
        span=(low, high),
        unit=extra.get("unit", ""),
        target=float(extra.get("target", 1.0)),
        paper_names=tuple(extra.get("paper_names", ())),
        least_clips=int(extra.get("least_clips", 0)),
    )


def _unknown(name: str) -> MetricInfo:
    text = "Not registered in this installation: its direction is not known, so it is not ranked."
    return MetricInfo(name, "unknown", text)


def _required(root: Path, name: str) -> Path:
    path = root / name
    if not path.is_file():
        fix = "give the folder that `crossframe run` wrote"
        raise UserError(Problem(str(root), f"is no run folder: it has no {name}", fix=fix))
    return path


def _rows(spec: Mapping[str, Any], plan: list[Mapping[str, Any]]) -> tuple[Row, ...]:
    """Rows with a planned cell, in spec order, the sentinels last; a label stands once."""
    planned = {entry["row"] for entry in plan}
    rows: dict[str, Row] = {}
    for row in spec["rows"]:
        made = Row(row["label"], row["method"], bool(row["sentinel"]), row["axes"])
        if made.label in planned:
            rows.setdefault(made.label, made)
    return tuple(sorted(rows.values(), key=lambda row: row.sentinel))


def _metric_ids(spec: Mapping[str, Any], cells: Iterable[Cell]) -> list[str]:
    """Metrics shown: those of `report.metrics` if given, else of the spec, then of the cells."""
    chosen = spec.get("report", {}).get("metrics") or []
    measured = [name for cell in cells for name in cell.metrics]
    return list(dict.fromkeys(chosen or [*spec.get("metrics", []), *measured]))


def _clips(root: Path) -> Iterable[ClipFolder]:
    for path in sorted(root.glob("clips/*/clip.json")):
        card = read_json(path)
        yield ClipFolder(
            id=card["id"],
            folder=path.parent,
            caption=card.get("caption", ""),
            fps=float(card.get("fps") or 8.0),
            exact_flow=card.get("exact_flow"),
            sha256=card.get("sha256", ""),
            sound=bool(card.get("sound", False)),
        )


def _cell(root: Path, entry: Mapping[str, Any]) -> Cell:
    folder = root / "cells" / entry["key"][:KEY_DIGITS]
    state, record = _outcome(folder, entry["key"])
    done = state == "done"
    return Cell(
        key=entry["key"],
        folder=folder,
        row=entry["row"],
        clip=entry["clip"],
        prompt=entry["prompt"],
        seed_index=int(entry["seed_index"]),
        axes=entry["axes"],
        state=state,
        reason="" if done else record.get("reason") or entry.get("problem") or "not run yet",
        traceback="" if done else record.get("traceback", ""),
        record=record if done else {},
        status=_status(state, record, entry),
    )


def _status(state: State, record: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """How a cell ended in one word; a cell that its plan skips need not have left a record."""
    if state == "failed":
        return str(record.get("status") or "failed")
    return "skipped" if state == "missing" and entry.get("problem") else state


def _outcome(folder: Path, key: str) -> tuple[State, Mapping[str, Any]]:
    """State of a cell and the record behind it; one of another cell, or damaged, is missing."""
    names: tuple[tuple[State, str], ...] = (("done", "result.json"), ("failed", "failed.json"))
    for state, name in names:
        if not (folder / name).is_file():
            continue
        record = _whole(folder / name)
        if record is None:
            return "missing", {"reason": DAMAGED}
        if record.get("key", key) == key:
            return state, record
    return "missing", {}


def _whole(path: Path) -> Mapping[str, Any] | None:
    """The record in a file, or None when it is not what was written."""
    try:
        record = read_json(path)
    except UserError:
        return None
    return record if isinstance(record, dict) and intact(record) else None


def _score_lines(cell: Cell) -> Iterable[tuple[Any, ...]]:
    variant = json.dumps(cell.axes, sort_keys=True)
    for metric, entry in cell.metrics.items():
        if "value" in entry and absence(entry) is None:
            yield (
                cell.row, cell.clip, cell.prompt, variant, cell.seed_index, metric,
                float(entry["value"]), cell.key,
            )  # fmt: skip
