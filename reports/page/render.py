"""Fill the template of the page: what stands there before, and without, any script."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from crossframe.form import show_size
from crossframe.keys import plain
from reports.claims import judge_claims
from reports.load import Cell, MetricInfo, Run
from reports.page.data import embed, media, page_data, used_by
from reports.statistics import Interval
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
SCRIPTS = ("model", "view", "players", "curves", "cell", "grid", "tables", "main")
"""Parts of the script, in the order in which they are joined into one."""

BETTER = {
    "higher": "Higher is better.",
    "lower": "Lower is better.",
    "unknown": "Not ranked.",
}


@dataclass(frozen=True)
class Picture:
    """A figure beside the page: `figures/<name>.png` and perhaps `.pdf`."""

    name: str
    caption: str
    has_pdf: bool


@dataclass(frozen=True)
class Missed:
    """A figure that could not be drawn, and why. asked: whether the spec names it."""

    name: str
    reason: str
    asked: bool

    @property
    def line(self) -> str:
        """Name and reason in one line."""
        return f"{self.name}: {' '.join(self.reason.split())}"


def render_page(
    run: Run, table: Table, pictures: Sequence[Picture], missed: Sequence[Missed] = ()
) -> str:
    """Return the HTML of the page. Every path in it is relative to `<run>/report/`."""
    look = looks(run.rows)
    return (
        _templates()
        .get_template("index.html.j2")
        .render(
            run=run,
            table=table,
            pictures=pictures,
            missed=missed,
            facts=list(_facts(run)),
            counts=_counts(run),
            failures=_failures(run),
            judgements=judge_claims(run),
            differences=differences(run),
            signs=VERDICT_SIGNS,
            colours={label: each.colour for label, each in look.items()},
            spans={metric.id: _span_of(table, metric) for metric in table.metrics},
            definitions=[(metric, list(_metric_facts(run, metric))) for metric in table.metrics],
            provenance=provenance_lines(run),
            more_tables=_more_tables(run),
            gallery=list(_gallery(run)),
            spec_text=json.dumps(plain(_spec_shown(run.spec)), indent=2, ensure_ascii=False),
            miniature_note=MINIATURE_NOTE if run.is_miniature else "",
            style=_static("page.css"),
            early=_static("early.js"),
            script=Markup("\n").join(_static(f"{name}.js") for name in SCRIPTS),
            data=Markup(embed(page_data(run, table))),
        )
    )


@cache
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("reports.page", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": show_number, "p": _show_p, "breakable": _breakable}
    made.globals |= {"show_bounds": show_bounds, "show_n": show_n, "whisker": whisker}
    return made


def _static(name: str) -> Markup:
    """A file of our own to stand in the page as it is."""
    return Markup((files("reports.page") / "static" / name).read_text(encoding="utf-8"))


def _breakable(name: str) -> Markup:
    """The name of a metric, which may break after its slash."""
    return Markup("/<wbr>").join(name.split("/"))


def _show_p(value: float) -> str:
    if value != value:  # NaN: no common clips
        return "–"
    return "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def _counts(run: Run) -> dict[str, int]:
    states = [cell.state for cell in run.cells]
    return {"planned": len(states), **{s: states.count(s) for s in ("done", "failed", "missing")}}


def _facts(run: Run) -> Iterable[tuple[str, str]]:
    spec = run.spec
    axes = {**spec.get("grid", {}), **spec.get("zip", {})}
    seeds = sorted({cell.seed_index for cell in run.cells})
    backbone = spec.get("backbone", "miniature")
    grid = [row.label for row in run.rows if not row.sentinel]
    yield "Method", str(spec.get("method", ""))
    yield "Backbone", backbone if isinstance(backbone, str) else json.dumps(backbone)
    yield "Compared", f"{len(grid)} rows" + (f" over {', '.join(axes)}" if axes else "")
    yield "Beside them", ", ".join(row.label for row in run.rows if row.sentinel) or "no sentinels"
    yield "Clips", _clip_fact(run, spec.get("clip", {}))
    yield "Seeds", f"{len(seeds)} per row and clip"
    yield "Baseline", run.baseline
    yield "Cost", _cost_fact(run)


def _pixels(size: int | list[int]) -> str:
    return str(size) if isinstance(size, int) else show_size(size)


def _clip_fact(run: Run, settings: Mapping[str, Any]) -> str:
    text = f"{len(run.clip_ids)}"
    if settings:
        text += f" × {settings['frames']} frames, {_pixels(settings['size'])} px"
    flows = {clip.exact_flow for clip in run.clips}
    kinds = {True: "exact flow", False: "estimated flow"}
    return text + "".join(f", {kinds[kind]}" for kind in kinds if kind in flows)


def _cost_fact(run: Run) -> str:
    """Seconds of all done cells together, in the largest unit that leaves a number above one."""
    seconds = sum(cell.record.get("cost", {}).get("seconds", 0.0) for cell in run.cells)
    units = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))
    size, unit = next((each for each in units if seconds >= each[0]), units[-1])
    return f"{seconds / size:.1f} {unit} of drawing in all"


def _failures(run: Run) -> list[tuple[str, list[tuple[Cell, str]]]]:
    """Failed cells with the way to their log, grouped by the reason that they share."""
    found: dict[str, list[tuple[Cell, str]]] = {}
    for cell in run.cells:
        if cell.state == "failed":
            has_log = (cell.folder / "log.txt").is_file()
            log = f"../cells/{cell.folder.name}/log.txt" if has_log else ""
            found.setdefault(cell.reason, []).append((cell, log))
    return list(found.items())


def _spec_shown(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if name != "rows"}


def provenance_lines(run: Run) -> list[tuple[str, str]]:
    """Return (dotted name, values) over all cells; a name with two values shows both."""
    found: dict[str, dict[str, None]] = {}
    for cell in run.cells:
        for name, value in _flat("", cell.record.get("provenance", {})):
            found.setdefault(name, {})[value] = None
    return [(name, _extent(list(values))) for name, values in found.items()]


def _extent(values: list[str]) -> str:
    ordered = sorted(values)
    return ", ".join(values) if len(values) <= 3 else f"{ordered[0]} … {ordered[-1]}"


def _flat(prefix: str, value: Any) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), inner)
    elif value is not None:
        yield prefix, str(value)


def _metric_facts(run: Run, metric: MetricInfo) -> Iterable[tuple[str, str]]:
    """What defines a metric besides its sentence: direction, range, unit, encoder, flow."""
    nearest = f"The nearer to {metric.target:g} the better."
    yield "direction", BETTER.get(metric.direction, nearest)
    low, high = metric.span
    if (low, high) != (None, None):
        bounds = (f"{bound:g}" if bound is not None else "∞" for bound in (low, high))
        yield "range", " to ".join(bounds)
    if metric.unit:
        yield "unit", metric.unit
    yield from used_by(run, metric.id).items()
    if metric.paper_names:
        yield "in papers", ", ".join(metric.paper_names)


def _span_of(table: Table, metric: MetricInfo) -> tuple[float, float]:
    """Lowest and highest end of the intervals of a column, for drawing them on one scale."""
    intervals = [line.values[metric.id].interval for line in table.lines]
    ends = [end for interval in intervals for end in _ends(interval)]
    return (min(ends), max(ends)) if ends else (0.0, 0.0)


def _ends(interval: Interval) -> tuple[float, ...]:
    bounds = (interval.low, interval.high) if interval.has_bounds else ()
    return (interval.mean, *bounds) if interval.n else ()


def whisker(interval: Interval, span: tuple[float, float]) -> dict[str, float] | None:
    """Return a mean and its interval in percent of the column's span, or None without one."""
    low, high = span
    if not interval.n or not high > low:
        return None
    left, dot, right = (
        100 * (value - low) / (high - low)
        for value in (
            interval.low if interval.has_bounds else interval.mean,
            interval.mean,
            interval.high if interval.has_bounds else interval.mean,
        )
    )
    return {"left": round(left, 2), "width": round(right - left, 2), "dot": round(dot, 2)}


def _more_tables(run: Run) -> dict[str, list[str]]:
    """Tables that were written beside the summary: name -> file names, one per format."""
    found: dict[str, list[str]] = {}
    for path in sorted((run.root / "report" / "tables").glob("*.*")):
        found.setdefault(path.stem, []).append(path.name)
    return found


def _gallery(run: Run) -> Iterable[tuple[str, list[tuple[str, str, bool]]]]:
    """Per clip the videos that can be shown without a script: (label, path, has a poster)."""
    for clip_id in run.clip_ids:
        clip = run.clip(clip_id)
        found = [("source", media(clip.folder, "clips"))] if clip else []
        found += [
            (f"{cell.row}, seed {cell.seed_index}", media(cell.folder, "cells"))
            for cell in run.cells
            if cell.clip == clip_id and cell.state == "done"
        ]
        yield (
            clip_id,
            [(label, m["folder"], m["frames"] > 0) for label, m in found if m["video"]],
        )
