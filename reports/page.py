"""The page: one static `index.html` that works from file://, with players, tables and figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from crossframe.keys import plain
from reports.claims import judge_claims
from reports.load import Cell, Run
from reports.style import looks
from reports.tables import (
    MINIATURE_NOTE,
    Table,
    differences,
    show_bounds,
    show_n,
    show_number,
)

VERDICT_SIGNS = {"supported": "✓", "contradicted": "✗", "undecided": "?"}


@dataclass(frozen=True)
class Picture:
    """A figure beside the page: `figures/<name>.png` and perhaps `.pdf`."""

    name: str
    caption: str
    has_pdf: bool


def render_page(run: Run, table: Table, pictures: Sequence[Picture]) -> str:
    """Return the HTML of the page. Every path in it is relative to `<run>/report/`."""
    look = looks(run.rows)
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            run=run,
            table=table,
            pictures=pictures,
            facts=list(_facts(run)),
            counts=_counts(run),
            failures=_failures(run),
            judgements=judge_claims(run),
            differences=differences(run),
            signs=VERDICT_SIGNS,
            colours={label: each.colour for label, each in look.items()},
            provenance=provenance_lines(run),
            spec_text=json.dumps(plain(_spec_shown(run.spec)), indent=2, ensure_ascii=False),
            miniature_note=MINIATURE_NOTE if run.is_miniature else "",
            data=embed(_data(run, table)),
        )
    )


@cache
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": show_number, "p": _show_p}
    made.globals |= {"show_bounds": show_bounds, "show_n": show_n}
    return made


def _show_p(value: float) -> str:
    if value != value:  # NaN: no common clips
        return "–"
    return "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def embed(data: Any) -> str:
    """Return JSON that is safe inside a script element: no `<` that could end it."""
    text = json.dumps(plain(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _counts(run: Run) -> dict[str, int]:
    states = [cell.state for cell in run.cells]
    return {"planned": len(states), **{s: states.count(s) for s in ("done", "failed", "missing")}}


def _facts(run: Run) -> Iterable[tuple[str, str]]:
    spec = run.spec
    axes = {**spec.get("grid", {}), **spec.get("zip", {})}
    seeds = sorted({cell.seed_index for cell in run.cells})
    backbone = spec.get("backbone", "miniature")
    grid = [row.label for row in run.rows if not row.sentinel]
    clip = spec.get("clip", {})
    yield "Method", str(spec.get("method", ""))
    yield "Backbone", backbone if isinstance(backbone, str) else json.dumps(backbone)
    yield "Compared", f"{len(grid)} rows" + (f" over {', '.join(axes)}" if axes else "")
    yield "Beside them", ", ".join(row.label for row in run.rows if row.sentinel) or "no sentinels"
    yield "Clips", _clip_fact(run, clip)
    yield "Seeds", f"{len(seeds)} per row and clip"
    yield "Baseline", run.baseline


def _clip_fact(run: Run, settings: Mapping[str, Any]) -> str:
    text = f"{len(run.clip_ids)}"
    if settings:
        text += f" × {settings['frames']} frames, {settings['size']} px"
    flows = {clip.exact_flow for clip in run.clips}
    kinds = {True: "exact flow", False: "estimated flow"}
    return text + "".join(f", {kinds[kind]}" for kind in kinds if kind in flows)


def _failures(run: Run) -> list[tuple[str, list[Cell]]]:
    """Failed cells, grouped by the reason that they share."""
    found: dict[str, list[Cell]] = {}
    for cell in run.cells:
        if cell.state == "failed":
            found.setdefault(cell.reason, []).append(cell)
    return list(found.items())


def _spec_shown(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if name != "rows"}


def provenance_lines(run: Run) -> list[tuple[str, str]]:
    """Return (dotted name, values) over all cells; a name with two values shows both."""
    found: dict[str, dict[str, None]] = {}
    for cell in run.cells:
        for name, value in _flat("", cell.record.get("provenance", {})):
            found.setdefault(name, {})[value] = None
    return [(name, _span(list(values))) for name, values in found.items()]


def _span(values: list[str]) -> str:
    ordered = sorted(values)
    return ", ".join(values) if len(values) <= 3 else f"{ordered[0]} … {ordered[-1]}"


def _flat(prefix: str, value: Any) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), inner)
    elif value is not None:
        yield prefix, str(value)


def _data(run: Run, table: Table) -> dict[str, Any]:
    """What the script needs: rows, clips, metrics and cells; configurations are stored once."""
    configs: dict[str, int] = {}
    look = looks(run.rows)
    cells = [_cell_data(run, cell, configs) for cell in run.cells]
    return {
        "rows": [
            {
                "label": row.label,
                "sentinel": row.sentinel,
                "isSource": row.method == "source",
                "colour": look[row.label].colour,
            }
            for row in run.rows
        ],
        "clips": [_clip_data(run, clip_id) for clip_id in run.clip_ids],
        "seeds": sorted({cell.seed_index for cell in run.cells}),
        "metrics": [
            {"id": m.id, "arrow": m.arrow, "decimals": table.decimals[m.id]} for m in run.metrics
        ],
        "configs": [json.loads(text) for text in configs],
        "cells": cells,
    }


def _clip_data(run: Run, clip_id: str) -> dict[str, Any]:
    clip = run.clip(clip_id)
    if clip is None:
        return {"id": clip_id, "folder": None, "caption": "", "fps": 8.0, "frames": 0}
    return {
        "id": clip_id,
        "folder": f"../clips/{clip.folder.name}",
        "caption": clip.caption,
        "fps": clip.fps,
        "frames": len(list((clip.folder / "frames").glob("*.png"))),
    }


def _cell_data(run: Run, cell: Cell, configs: dict[str, int]) -> dict[str, Any]:
    config = json.dumps(cell.record.get("config", {}), sort_keys=True)
    shown = {m.id: cell.metrics.get(m.id, {}) for m in run.metrics}
    return {
        "key": cell.key,
        "folder": f"../cells/{cell.folder.name}",
        "row": cell.row,
        "clip": cell.clip,
        "prompt": cell.prompt,
        "seed": cell.seed_index,
        "state": cell.state,
        "reason": cell.reason,
        "noise": str(cell.record.get("seed", "")),
        "axes": dict(cell.axes),
        "config": configs.setdefault(config, len(configs)),
        "values": {name: entry.get("value") for name, entry in shown.items()},
        "series": {name: entry["series"] for name, entry in shown.items() if entry.get("series")},
        "unavailable": {n: e["unavailable"] for n, e in shown.items() if e.get("unavailable")},
        "secondsPerFrame": cell.record.get("cost", {}).get("seconds_per_frame"),
    }
