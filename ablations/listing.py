"""Registries and plans as terminal tables. Torch-free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from crossframe.errors import Problem, UserError, did_you_mean

if TYPE_CHECKING:
    from ablations.parts import Parts
    from ablations.plan import Plan


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """A plain rich table; cells are text, not markup."""
    from rich.text import Text

    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def print_plan(plan: Plan) -> None:
    """Cells per row and state, then each reason for skipping, once."""
    from ablations.plan import STATES

    per_row: dict[str, Counter[str]] = {}
    for cell, state in zip(plan.cells, plan.states, strict=True):
        per_row.setdefault(cell.row.label, Counter())[state] += 1
    rows = ([label, *(str(n[state] or "") for state in STATES)] for label, n in per_row.items())
    console = Console()
    console.print(table(plan.checked.spec.title or plan.checked.spec.name, ["row", *STATES], rows))
    for reason in dict.fromkeys(cell.problem for cell in plan.cells if cell.problem):
        console.print(f"skipped: {reason}", markup=False, soft_wrap=True)


def _methods(parts: Parts, specs: Mapping[str, Path]) -> Table:
    rows = []
    for name in parts.methods:
        entry = parts.methods.entry(name)
        rows.append(
            [name, entry.summary, str(entry.extra.get("source", "")), _presets(parts, name)]
        )
    return table("methods", ["name", "what it does", "source", "presets"], rows)


def _presets(parts: Parts, method: str) -> str:
    return ", ".join(getattr(parts.method_config(method), "PRESETS", {}))


def _metrics(parts: Parts, specs: Mapping[str, Path]) -> Table:
    rows = []
    for name in parts.metrics:
        entry = parts.metrics.entry(name)
        rows.append([name, str(entry.extra.get("direction", "")), entry.summary])
    return table("metrics", ["name", "better", "what it measures"], rows)


def _clips(parts: Parts, specs: Mapping[str, Path]) -> Table:
    rows = [[name, parts.clip_sources.entry(name).summary] for name in parts.clip_sources]
    return table("clip sources", ["name", "what it gives"], rows)


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
        for name, options in getattr(parts.method_config(method), "PRESETS", {}).items()
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
}


def print_lists(parts: Parts, kind: str, specs: Mapping[str, Path]) -> None:
    """Print one table, or all; raises `UserError` for an unknown kind."""
    if kind and kind not in KINDS:
        what = f"no such list: {kind!r}"
        raise UserError(Problem("list", what, ", ".join(KINDS), did_you_mean(kind, KINDS)))
    console = Console()
    for name in [kind] if kind else KINDS:
        console.print(KINDS[name](parts, specs))
        console.print()


def print_description(parts: Parts, name: str, specs: Mapping[str, Path]) -> None:
    """Print everything known about a name; raises `UserError` when nothing has it."""
    console = Console()
    registries = (parts.methods, parts.metrics, parts.clip_sources)
    found = [registry for registry in registries if name in registry]
    for registry in found:
        entry = registry.entry(name)
        console.print(f"{registry.kind} {name}: {entry.summary}", markup=False)
        for fact, value in entry.extra.items():
            console.print(f"  {fact}: {value}", markup=False)
        if registry is parts.methods:
            console.print(_options(parts.method_config(name)))
    if name in specs:
        console.print(specs[name].read_text(encoding="utf-8"), markup=False)
    elif not found:
        known = [*(n for registry in registries for n in registry), *specs]
        what = f"nothing is called {name!r}"
        raise UserError(Problem("describe", what, ", ".join(known), did_you_mean(name, known)))


def _options(config: Any) -> Table:
    return table("options", ["path", "default", "meaning"], _fields(config, ""))


def _fields(model: Any, prefix: str) -> Iterable[list[str]]:
    from ablations.grid import model_in, show_value

    for name, info in model.model_fields.items():
        inner = model_in(info.annotation)
        if inner is not info.annotation:
            default = info.get_default(call_default_factory=True)
            shown = "required" if info.is_required() else show_value(default)
            yield [prefix + name, shown, info.description or ""]
        if inner is not None:
            yield from _fields(inner, f"{prefix}{name}.")
