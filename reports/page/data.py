"""What the script of the page knows: rows, axes, clips, metrics and cells, as one JSON block.

Texts, configurations and provenance that many cells share are stored once and named by number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from crossframe.keys import plain
from reports.load import Cell, Row, Run
from reports.style import GREYS, looks
from reports.tables import Table

DIGITS = 6
SOURCE_LABEL = "source"
PLAIN_FPS = 8.0


def embed(data: Any) -> str:
    """Return JSON that is safe inside a script element: no `<` that could end it."""
    text = json.dumps(plain(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@dataclass
class Pool:
    """Values that several cells share, each kept once; `number` is its place in `values`."""

    values: list[Any] = field(default_factory=list)
    _places: dict[str, int] = field(default_factory=dict)

    def number(self, value: Any) -> int:
        """Return the place of `value`, after adding it the first time."""
        text = json.dumps(plain(value), sort_keys=True)
        if text not in self._places:
            self._places[text] = len(self.values)
            self.values.append(value)
        return self._places[text]


def page_data(run: Run, table: Table) -> dict[str, Any]:
    """Return everything that the script draws from; paths are relative to `<run>/report/`."""
    prompts, configs, provenances = Pool(), Pool(), Pool()
    rows = _rows_shown(run)
    clips = [_clip_data(run, clip_id) for clip_id in run.clip_ids]
    row_numbers = {row["label"]: number for number, row in enumerate(rows)}
    clip_numbers = {clip["id"]: number for number, clip in enumerate(clips)}
    cells = [
        {
            **_cell_data(run, cell),
            "row": row_numbers[cell.row],
            "clip": clip_numbers[cell.clip],
            "prompt": prompts.number(cell.prompt),
            "config": configs.number(cell.record.get("config", {})),
            "provenance": provenances.number(cell.record.get("provenance", {})),
        }
        for cell in run.cells
    ]
    return {
        "name": run.spec.get("name") or run.root.name,
        "rows": [{**row, "means": _means(table, row["label"])} for row in rows],
        "axes": _axes(run.rows),
        "clips": clips,
        "seeds": sorted({cell.seed_index for cell in run.cells}),
        "metrics": [
            {
                "id": metric.id,
                "arrow": metric.arrow,
                "unit": metric.unit,
                "decimals": table.decimals[metric.id],
            }
            for metric in run.metrics
        ],
        "prompts": prompts.values,
        "configs": configs.values,
        "provenances": provenances.values,
        "cells": cells,
    }


def _rows_shown(run: Run) -> list[dict[str, Any]]:
    """Rows in the order of the page: the source first, whether it is a row of the run or not."""
    look = looks(run.rows)
    made = [
        {
            "label": row.label,
            "method": row.method,
            "sentinel": row.sentinel,
            "isSource": row.method == "source",
            "colour": look[row.label].colour,
            "axes": {path: _text(value) for path, value in row.axes.items()},
        }
        for row in run.rows
    ]
    if not any(row["isSource"] for row in made):
        made.append(_source_row({row.label for row in run.rows}))
    return sorted(made, key=lambda row: not row["isSource"])


def _source_row(taken: set[str]) -> dict[str, Any]:
    """The source clips as a row of their own, for looking at; it has no scores."""
    label = SOURCE_LABEL if SOURCE_LABEL not in taken else f"{SOURCE_LABEL} (clip)"
    return {
        "label": label,
        "method": "source",
        "sentinel": True,
        "isSource": True,
        "onlyClips": True,
        "colour": GREYS[0],
        "axes": {},
    }


def _axes(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Axes of the spec with the values that rows take, in the order of the rows."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for path, value in row.axes.items():
            found.setdefault(path, {})[_text(value)] = None
    return [{"path": path, "values": list(values)} for path, values in found.items()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)


def _means(table: Table, label: str) -> dict[str, float | None]:
    line = next((line for line in table.lines if line.row.label == label), None)
    return {
        name: _rounded(value.interval.mean)
        for name, value in (line.values.items() if line else ())
        if value.interval.n
    }


def _clip_data(run: Run, clip_id: str) -> dict[str, Any]:
    clip = run.clip(clip_id)
    if clip is None:
        return {"id": clip_id, "caption": "", "fps": PLAIN_FPS, "folder": None, "frames": 0}
    return {
        "id": clip_id,
        "caption": clip.caption,
        "fps": clip.fps,
        "sound": clip.sound,
        **media(clip.folder, "clips"),
    }


def media(folder: Path, kind: str) -> dict[str, Any]:
    """Return where the pictures of a clip or cell lie, and which of them there are."""
    return {
        "folder": f"../{kind}/{quote(folder.name)}",
        "frames": sum(1 for _ in (folder / "frames").glob("*.png")),
        "video": (folder / "video.mp4").is_file(),
    }


def _cell_data(run: Run, cell: Cell) -> dict[str, Any]:
    shown = {metric.id: cell.metrics.get(metric.id, {}) for metric in run.metrics}
    made = {
        "key": cell.key,
        "seed": cell.seed_index,
        "state": cell.state,
        **media(cell.folder, "cells"),
        "reason": cell.reason,
        "log": (cell.folder / "log.txt").is_file(),
        "traceback": cell.traceback,
        "noise": str(cell.record.get("seed", "")),
        "axes": {path: _text(value) for path, value in cell.axes.items()},
        "values": {
            name: _rounded(entry["value"])
            for name, entry in shown.items()
            if entry.get("value") is not None
        },
        "series": {
            name: [_rounded(value) for value in entry["series"]]
            for name, entry in shown.items()
            if entry.get("series")
        },
        "unavailable": {n: e["unavailable"] for n, e in shown.items() if e.get("unavailable")},
        "cost": {n: v for n, v in cell.record.get("cost", {}).items() if v is not None},
    }
    return {name: value for name, value in made.items() if not _is_empty(value)}


def _is_empty(value: Any) -> bool:
    """Whether a field says nothing; a zero does."""
    return value is False or value == "" or value == {}


def _rounded(value: float | None) -> float | None:
    """A number with six significant digits, None where there is none: a page is for looking."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")


def used_by(run: Run, metric: str) -> dict[str, str]:
    """Return what a metric was computed with in this run (encoder, flow, …), as its cells say.

    Only texts are taken; a name with several values shows them all.
    """
    found: dict[str, dict[str, None]] = {}
    for cell in run.cells:
        detail: Mapping[str, Any] = cell.metrics.get(metric, {}).get("detail") or {}
        for name, value in detail.items():
            if isinstance(value, str) and value:
                found.setdefault(name, {})[value] = None
    return {name: ", ".join(values) for name, values in found.items()}
