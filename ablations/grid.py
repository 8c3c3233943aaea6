"""From a spec to rows: product, zip, include, exclude, resolved options, labels. Torch-free.

A row is one configuration of one method; rows times clips times prompts times seeds are the cells.
Options are named by dotted paths (`attention.pattern`); later layers replace earlier ones: base,
then grid, zip or include.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ValidationError

from ablations.spec import Spec
from ablations.specfile import Document, NodePath
from crossframe.errors import Problem, UserError, did_you_mean
from crossframe.keys import identity
from methods.options import MethodConfig

RESERVED = ("label", "method")
"""Keys of an `include` entry which are not method options."""


@dataclass(frozen=True)
class Draft:
    """A row before its options are checked.

    options: dotted path -> value as written, base first. axes: the subset that tells rows apart.
    origins: dotted path -> the node of the spec file that set it.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, NodePath] = field(default_factory=dict)
    label: str = ""
    sentinel: bool = False


@dataclass(frozen=True)
class Row:
    """A row with its options resolved, every default filled in."""

    label: str
    method: str
    axes: Mapping[str, Any]
    options: MethodConfig
    sentinel: bool = False

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The options as plain data."""
        return self.options.model_dump(mode="json")


def drafts(spec: Spec) -> list[Draft]:
    """Return all rows of a spec: sentinels, then grid x zip without the excluded, then includes."""
    base = Draft(spec.method, spec.base, origins={path: ("base", path) for path in spec.base})
    sentinels = [Draft(name, sentinel=True) for name in spec.sentinels]
    if spec.grid or spec.zip or not spec.include:
        grid = [_extend(base, point) for point in itertools.product(*_factors(spec))]
    else:
        grid = []
    kept = [row for row in grid if not any(_matches(row, rule) for rule in spec.exclude)]
    return [*sentinels, *kept, *(_include(spec, base, i) for i in range(len(spec.include)))]


def axis_paths(spec: Spec) -> list[str]:
    """Return the option paths that `grid` and `zip` vary, in file order."""
    return [*spec.grid, *spec.zip]


def count_points(spec: Spec) -> int:
    """Return the number of rows before exclusion, sentinels left out; nothing is expanded."""
    steps = min((len(values) for values in spec.zip.values()), default=1)
    grid = math.prod(len(values) for values in spec.grid.values()) * steps
    return (grid if spec.grid or spec.zip or not spec.include else 0) + len(spec.include)


Setting = tuple[str, Any, NodePath]


def _factors(spec: Spec) -> Iterator[list[tuple[Setting, ...]]]:
    """Yield one list per independent axis: what that axis sets at each of its points."""
    for path, values in spec.grid.items():
        yield [((path, value, ("grid", path, i)),) for i, value in enumerate(values)]
    if spec.zip:
        length = min(len(values) for values in spec.zip.values())
        yield [
            tuple((path, values[i], ("zip", path, i)) for path, values in spec.zip.items())
            for i in range(length)
        ]


def _extend(base: Draft, point: Iterable[tuple[Setting, ...]]) -> Draft:
    settings = list(itertools.chain.from_iterable(point))
    axes = {path: value for path, value, _ in settings}
    origins = {path: origin for path, _, origin in settings}
    return Draft(base.method, {**base.options, **axes}, axes, {**base.origins, **origins})


def _include(spec: Spec, base: Draft, index: int) -> Draft:
    entry = spec.include[index]
    axes = {path: value for path, value in entry.items() if path not in RESERVED}
    origins: dict[str, NodePath] = {path: ("include", index, path) for path in axes}
    method = str(entry.get("method", spec.method))
    start = base if method == spec.method else Draft(method)
    label = str(entry.get("label", ""))
    return Draft(method, {**start.options, **axes}, axes, {**start.origins, **origins}, label=label)


def _matches(row: Draft, rule: Mapping[str, Any]) -> bool:
    return bool(rule) and all(
        path in row.axes and row.axes[path] in (value if isinstance(value, list) else [value])
        for path, value in rule.items()
    )


def nest(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings from dotted paths: `{"a.b": 1, "a": {"c": 2}}` -> `{"a": {...}}`."""
    result: dict[str, Any] = {}
    for path, value in options.items():
        target = result
        *parents, leaf = path.split(".")
        for part in parents:
            if not isinstance(target.get(part), dict):
                target[part] = {}
            target = target[part]
        old, new = target.get(leaf), copy.deepcopy(value)
        target[leaf] = new if old is None else _joined(options, path, old, new)
    return result


def _joined(options: Mapping[str, Any], path: str, old: Any, new: Any) -> Any:
    """Join a mapping given for `path` with longer paths given before it; replace anything else."""
    inside = any(other.startswith(path + ".") for other in options)
    joins = inside and isinstance(old, dict) and isinstance(new, dict)
    return {**new, **old} if joins else new


def resolve(
    found: Sequence[Draft],
    config_of: Callable[[str], type[MethodConfig]],
    document: Document,
) -> tuple[list[Row], list[Problem]]:
    """Validate each row's options with its method's configuration class.

    Returns the distinct rows (same method and configuration: the first one stays) and every
    problem, located at the value in the spec that caused it.
    """
    problems: dict[Problem, None] = {}
    resolved: dict[str, tuple[Draft, MethodConfig, dict[str, Any]]] = {}
    for draft in found:
        options, wrong = _validate(draft, config_of(draft.method), document)
        problems.update(dict.fromkeys(wrong))
        if options is not None:
            config = options.model_dump(mode="json")
            key = identity([draft.method, draft.sentinel, config])
            resolved.setdefault(key, (draft, options, config))
    return _labelled(list(resolved.values())), list(problems)


def _validate(
    draft: Draft, config_class: type[MethodConfig], document: Document
) -> tuple[MethodConfig | None, list[Problem]]:
    try:
        return config_class.model_validate(nest(draft.options)), []
    except ValidationError as error:
        return None, [_option_problem(e, draft, config_class, document) for e in error.errors()]
    except UserError as error:
        where = document.where(_culprit(draft, config_class))
        return None, [Problem(where, p.what, p.allowed, p.fix) for p in error.problems]


def _culprit(draft: Draft, config_class: type[BaseModel]) -> NodePath:
    """Node whose removal mends the row, for errors that do not say which option they concern."""
    for path in reversed(list(draft.options)):
        rest = {other: value for other, value in draft.options.items() if other != path}
        try:
            config_class.model_validate(nest(rest))
        except (ValidationError, UserError):
            continue
        return draft.origins[path]
    return ("base",)


def _option_problem(
    error: Any, draft: Draft, config_class: type[BaseModel], document: Document
) -> Problem:
    location = tuple(error["loc"])
    node = _node_of(location, draft, document)
    what, allowed, fix = explain(error, config_class)
    if not location:
        what = f"{draft.method}: {what}"
    if error["type"] == "extra_forbidden" and node[0] in ("grid", "zip"):
        node = node[:2]
    return Problem(document.where(node, key=error["type"] == "extra_forbidden"), what, allowed, fix)


def _node_of(location: tuple[str | int, ...], draft: Draft, document: Document) -> NodePath:
    """Node that set the option at `location`: the longest dotted prefix that some layer gave."""
    for length in range(len(location), 0, -1):
        dotted = ".".join(str(part) for part in location[:length])
        if dotted in draft.origins:
            return _known(document, (*draft.origins[dotted], *location[length:]))
        inside = [path for path in draft.origins if path.startswith(dotted + ".")]
        if inside:
            return draft.origins[inside[-1]]
    return (
        ("base",)
        if draft.options and not draft.axes
        else next((draft.origins[path] for path in draft.axes), ("method",))
    )


def _known(document: Document, path: NodePath) -> NodePath:
    while len(path) > 1 and path not in document.values and path not in document.keys:
        path = path[:-1]
    return path


def explain(error: Any, model: type[BaseModel]) -> tuple[str, str, str]:
    """Say one pydantic error in plain words: (what is wrong, what is allowed, fix)."""
    context = error.get("ctx") or {}
    if error["type"] == "extra_forbidden":
        name = str(error["loc"][-1])
        names = field_names(model, error["loc"][:-1])
        return f"unknown key {name!r}", ", ".join(names), did_you_mean(name, names)
    if error["type"] == "missing":
        return f"{'.'.join(map(str, error['loc']))!r} is missing", "", ""
    if error["type"] == "too_short":
        return "must not be empty", "", ""
    shown = _shown(error["input"])
    if error["type"] in ("literal_error", "enum"):
        expected = str(context.get("expected", ""))
        names = [name.strip("'") for name in expected.replace(" or ", ", ").split(", ")]
        return f"{shown} is not one of the values", ", ".join(names), did_you_mean(shown, names)
    if isinstance(context.get("error"), UserError):
        first = context["error"].problems[0]
        return first.what, first.allowed, first.fix
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ").rstrip(".")
    return f"{message} (got {shown})" if shown not in message else message, "", ""


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def field_names(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Return the field names at `location` inside a model, or [] when no model lies there."""
    for part in location:
        if isinstance(part, int):
            continue
        info = model.model_fields.get(part)
        inner = model_in(info.annotation) if info else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model in an annotation such as `Model | None`, or None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        inner = model_in(argument)
        if inner is not None:
            return inner
    return None


def _labelled(found: Sequence[tuple[Draft, MethodConfig, dict[str, Any]]]) -> list[Row]:
    axes = list(dict.fromkeys(path for draft, _, _ in found for path in draft.axes))
    short = _short_names(axes)
    counts = [tuple(draft.axes) for draft, _, _ in found if draft.axes]
    primary = counts[0][0] if counts and len(counts[0]) == 1 else ""
    rows = []
    for draft, options, config in found:
        values = {path: axis_value(config, path, value) for path, value in draft.axes.items()}
        label = draft.label or _label(values, short, primary) or draft.method
        rows.append(Row(label, draft.method, values, options, draft.sentinel))
    return rows


def _label(values: Mapping[str, Any], short: Mapping[str, str], primary: str) -> str:
    return ", ".join(
        _brief(value) if path == primary else f"{short[path]}={_brief(value)}"
        for path, value in values.items()
    )


def _brief(value: Any) -> str:
    """A value in one line of at most 60 characters, so that labels fit into tables."""
    text = " ".join(show_value(value).split())
    return text if len(text) <= 60 else f"{text[:40]}…{text[-19:]}"


def _short_names(paths: Sequence[str]) -> dict[str, str]:
    leaves = [path.rpartition(".")[2] for path in paths]
    return {
        path: leaf if leaves.count(leaf) == 1 else path
        for path, leaf in zip(paths, leaves, strict=True)
    }


def axis_value(config: Mapping[str, Any], path: str, written: Any) -> Any:
    """Return an axis value for tables: as written, or the canonical scalar of a mapping or list."""
    if not isinstance(written, dict | list):
        return written
    value: Any = config
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return written if value is None or isinstance(value, dict | list) else value


def show_value(value: Any) -> str:
    """Return a value as it appears in row labels: `full`, `0.5`, `none`, `[edges, depth]`."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(show_value(item) for item in value)}]"
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, default=str)
