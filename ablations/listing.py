"""Registries and plans as terminal tables. Torch-free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossframe.errors import Problem, UserError, did_you_mean

if TYPE_CHECKING:
    from rich.table import Table

    from ablations.parts import Parts
    from ablations.plan import Plan


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """A plain rich table; cells are text, not markup."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def plan_text(plan: Plan) -> str:
    """Cells per row and state, shared work, disk, and each reason once; without rich, for speed."""
    return "\n".join([*_plan_table(plan), *_costs(plan), *_reasons(plan)])


def _plan_table(plan: Plan) -> Iterable[str]:
    from ablations.plan import STATES

    per_row: dict[str, Counter[str]] = {}
    for cell, state in zip(plan.cells, plan.states, strict=True):
        per_row.setdefault(cell.row.label, Counter())[state] += 1
    rows = [[label, *(str(n[state] or "") for state in STATES)] for label, n in per_row.items()]
    width = max(len(label) for label in ("row", *per_row))
    yield plan.checked.spec.title or plan.checked.spec.name
    for label, *counts in [["row", *STATES], *rows]:
        shown = (f"{count:>{len(state)}}" for count, state in zip(counts, STATES, strict=True))
        yield "  ".join([label.ljust(width), *shown]).rstrip()


SHARED_WORK = {
    "decode": "clips",
    "control": "control maps",
    "flow": "flows",
    "text": "prompts",
    "inversion": "inversions",
    "tuning": "tunings",
}


def _costs(plan: Plan) -> Iterable[str]:
    shared = [
        f"{work.count} {SHARED_WORK.get(stage, stage)}"
        + (f" ({work.kept} there)" if work.kept else "")
        for stage, work in plan.shared.items()
    ]
    if shared:
        yield f"shared by the cells to run: {', '.join(shared)}"
    yield f"disk: {'unknown' if plan.bytes is None else show_bytes(plan.bytes)}"


def show_bytes(count: float) -> str:
    """Bytes as people say them: `12 kB`, `3.4 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            break
        count, unit = count / 1000, {"B": "kB", "kB": "MB", "MB": "GB", "GB": "TB"}[unit]
    return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"


def show_seconds(seconds: float) -> str:
    """Seconds as people say them: `42 s`, `3 min 10 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


def _reasons(plan: Plan) -> Iterable[str]:
    """`STATE (N cells): reason`, for what is skipped and for what failed earlier."""
    judged = zip(plan.cells, plan.states, plan.reasons, strict=True)
    found = Counter(
        (state, reason)
        for cell, state, text in judged
        if text
        for reason in (cell.problems if state == "skipped" else (text,))
    )
    names = {"failed": "failed earlier, left alone without --retry", "retry": "to be tried again"}
    for (state, reason), count in found.items():
        yield f"{names.get(state, state)} ({count} cells): {reason}"


def plan_record(plan: Plan) -> dict[str, Any]:
    """The whole plan as data, for `--json`."""
    return {
        "counts": plan.counts(),
        "seconds": plan.seconds,
        "bytes": plan.bytes,
        "shared": {stage: asdict(work) for stage, work in plan.shared.items()},
        "cells": [
            {**cell.summary(), "problems": list(cell.problems), "state": state, "reason": reason}
            for cell, state, reason in zip(plan.cells, plan.states, plan.reasons, strict=True)
        ],
    }


def _methods(parts: Parts, specs: Mapping[str, Path]) -> Table:
    rows = []
    for name in parts.methods:
        entry = parts.methods.entry(name)
        rows.append(
            [name, entry.summary, str(entry.extra.get("source", "")), _presets(parts, name)]
        )
    return table("methods", ["name", "what it does", "source", "presets"], rows)


def _presets(parts: Parts, method: str) -> str:
    return ", ".join(parts.method_config(method).PRESETS)


def _metrics(parts: Parts, specs: Mapping[str, Path]) -> Table:
    rows = []
    for name in parts.metrics:
        entry = parts.metrics.entry(name)
        rows.append([name, str(entry.extra.get("direction", "")), entry.summary])
    return table("metrics", ["name", "better", "what it measures"], rows)


def _clips(parts: Parts, specs: Mapping[str, Path]) -> Table:
    rows = [[name, parts.clip_sources.entry(name).summary] for name in parts.clip_sources]
    return table("clip sources", ["name", "what it gives"], rows)


def _controls(parts: Parts, specs: Mapping[str, Path]) -> Table:
    """Kinds of control; what may stand in brackets, the default first."""
    from methods.condition_kinds import CONDITIONS

    entries = {name: CONDITIONS.entry(name) for name in CONDITIONS}
    rows = [[n, ", ".join(e.extra.get("options", ())), e.summary] for n, e in entries.items()]
    return table("controls", ["name", "options", "what it shows"], rows)


def _specs(parts: Parts, specs: Mapping[str, Path]) -> Table:
    rows = [[name, _title(path), str(path)] for name, path in specs.items()]
    return table("specs", ["name", "title", "file"], rows)


def _title(path: Path) -> str:
    from ablations.specfile import read_document

    return str(read_document(path).data.get("title", ""))


def _preset_table(parts: Parts, specs: Mapping[str, Path]) -> Table:
    rows = [
        [method, name, "\n".join(_settings(options))]
        for method in parts.methods
        for name, options in parts.method_config(method).PRESETS.items()
    ]
    return table("presets", ["method", "preset", "options"], rows)


def _settings(options: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={value}"


KINDS = {
    "methods": _methods,
    "metrics": _metrics,
    "clips": _clips,
    "specs": _specs,
    "presets": _preset_table,
    "controls": _controls,
}


def print_lists(parts: Parts, kind: str, specs: Mapping[str, Path]) -> None:
    """Print one table, or all; raises `UserError` for an unknown kind."""
    from rich.console import Console

    if kind and kind not in KINDS:
        what = f"no such list: {kind!r}"
        raise UserError(Problem("list", what, ", ".join(KINDS), did_you_mean(kind, KINDS)))
    console = Console()
    for name in [kind] if kind else KINDS:
        console.print(KINDS[name](parts, specs))
        console.print()
