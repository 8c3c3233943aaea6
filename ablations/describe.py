"""Everything known about one name, and the options of a method as a table. Torch-free."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.listing import table
from crossframe.errors import Problem, UserError, did_you_mean

if TYPE_CHECKING:
    from rich.table import Table

    from ablations.parts import Parts
    from methods.options import MethodConfig

SIGNS = 26
"""Letters of a preset's value in the table; `crossframe list presets` prints all of them."""
_BOUNDS = (
    ("minimum", ">= "),
    ("exclusiveMinimum", "> "),
    ("maximum", "<= "),
    ("exclusiveMaximum", "< "),
)


def print_description(parts: Parts, name: str, specs: Mapping[str, Path]) -> None:
    """Print everything known about a name; raises `UserError` when nothing has it."""
    from rich.console import Console

    console = Console()
    registries = (parts.methods, parts.metrics, parts.clip_sources)
    found = [registry for registry in registries if name in registry]
    for registry in found:
        entry = registry.entry(name)
        console.print(f"{registry.kind} {name}: {entry.summary}", markup=False)
        for fact, value in entry.extra.items():
            console.print(f"  {fact}: {value}", markup=False)
        if registry is parts.methods:
            config = parts.method_config(name)
            console.print(f"\n{_paragraphs(config)}\n", markup=False, highlight=False)
            console.print(options_table(config))
    if name in specs:
        console.print(specs[name].read_text(encoding="utf-8"), markup=False)
    elif not found:
        known = [*(n for registry in registries for n in registry), *specs]
        what = f"nothing is called {name!r}"
        raise UserError(Problem("describe", what, ", ".join(known), did_you_mean(name, known)))


def _paragraphs(config: Any) -> str:
    """The docstring of a class with each paragraph on one line, for the terminal to break."""
    return re.sub(r"(?<!\n)\n(?![\n -])", " ", inspect.getdoc(config) or "")


def options_table(config: type[MethodConfig]) -> Table:
    """Return options with their values by default, where presets differ, meanings and limits."""
    names = list(config.PRESETS)
    default = config.model_validate({})
    presets = {name: config.model_validate({"preset": name}) for name in names}
    rows = []
    for path, values, meaning in option_rows(config):
        own = value_at(default, path)
        lines = [_cut(own), *(f"{who}: {_cut(v)}" for v, who in _others(presets, path, own))]
        told = f"{meaning} ({values})" if values else meaning
        rows.append([path, "\n".join(lines), told])
    return table("options", ["path", "default", "meaning (values)"], rows)


def _others(presets: Mapping[str, Any], path: str, own: str) -> Iterator[tuple[str, str]]:
    """Yield (value, presets that have it) for each value of an option besides its default."""
    found: dict[str, list[str]] = {}
    for name, made in presets.items():
        if path != "preset" and (value := value_at(made, path)) != own:
            found.setdefault(value, []).append(name)
    for value, names in found.items():
        yield value, ", ".join(names)


def option_rows(config: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (path, possible values, meaning) of each option, groups before what is in them."""
    from ablations.grid import model_in

    schema = config.model_json_schema()
    for name, info in config.model_fields.items():
        inner = model_in(info.annotation)
        if inner is not info.annotation:
            values = possible(schema["properties"][name], schema.get("$defs", {}))
            yield prefix + name, values, info.description or ""
        if inner is not None:
            yield from option_rows(inner, f"{prefix}{name}.")


def value_at(config: Any, path: str) -> str:
    """Return the value of an option as a spec says it; "" inside of a group that is null."""
    from ablations.grid import show_value

    found = config
    for name in path.split("."):
        if found is None:
            return ""
        found = getattr(found, name)
    return "null" if found is None else show_value(found)


def possible(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    """Return the values that a JSON schema allows, in few words; "" for groups of options."""
    if "$ref" in schema:
        return possible(defs[schema["$ref"].rpartition("/")[2]], defs)
    if "anyOf" in schema:
        return ", ".join(filter(None, (possible(each, defs) for each in schema["anyOf"])))
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    kind = schema.get("type", "")
    if kind == "array":
        inner = [*schema.get("prefixItems", ()), schema.get("items") or {}]
        return "list of " + (next(filter(None, (possible(i, defs) for i in inner)), "") or "values")
    if "minimum" in schema and "maximum" in schema:
        return f"{schema['minimum']} to {schema['maximum']}"
    bounds = [f"{sign}{schema[key]}" for key, sign in _BOUNDS if key in schema]
    words = {"boolean": "true, false", "string": "text", "null": "null", "object": ""}
    return " and ".join(bounds) or words.get(kind, kind)


def _cut(text: str) -> str:
    return text if len(text) <= SIGNS else f"{text[: SIGNS - 1]}…"
