"""A spec file checked as a whole: every problem at once, each at its line. Torch-free."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ablations.check_report import (
    METRIC,
    beyond_limits,
    claim_problems,
    figure_problems,
    figure_row_problems,
    paper_problems,
    report_clip_problems,
)
from ablations.check_size import cell_problems, point_problems
from ablations.choice import PRESET, choose
from ablations.grid import (
    RESERVED,
    Row,
    axis_paths,
    drafts,
    explain,
    resolve,
)
from ablations.parts import Parts
from ablations.spec import MAX_NAME, OPEN_MAPPINGS, Spec
from ablations.specfile import (
    MAX_PROBLEMS,
    Document,
    NodePath,
    apply_overrides,
    read_document,
    wrong_scalar,
)
from crossframe.errors import Problem, UserError, did_you_mean
from crossframe.registry import Registry
from data_manifests.clips import not_square, split_ref
from methods.families import family_of

MAX_CELLS = 10_000
MAX_CLIP_NAME = 150
"""Characters of a clip's name: it becomes the name of a folder."""

ROW_FIELDS = (("method",), ("grid",), ("zip",), ("include",), ("exclude",), ("sentinels",))
SOURCES_OF: Mapping[str, tuple[tuple[str], ...]] = {
    "row": ROW_FIELDS,
    "axis": ROW_FIELDS,
    METRIC: (("metrics",),),
    "clip of this spec": (("clips",),),
    "frames": (("clip",),),
    "seed": (("seeds",),),
}
"""Which fields make the things that other fields refer to."""


@dataclass(frozen=True)
class CheckedSpec:
    """A spec without errors: its model, its rows, its clips one by one, and where it came from."""

    spec: Spec
    rows: tuple[Row, ...]
    clips: tuple[str, ...]
    backbone: Any
    path: Path
    overrides: tuple[str, ...]


def load_spec(
    path: Path, overrides: Sequence[str], parts: Parts, max_cells: int = MAX_CELLS
) -> CheckedSpec:
    """Read a spec file, apply `--set` overrides and check it; raises one `UserError` with all.

    max_cells: a larger grid is refused before it is expanded, as most are mistakes.
    """
    document = read_document(path)
    if not document.problems or document.data:
        apply_overrides(document, overrides, OPEN_MAPPINGS)
        _apply_scale(document, overrides)
    return _Check(document, parts, path, tuple(overrides), max_cells).run()


def _apply_scale(document: Document, overrides: Sequence[str]) -> None:
    """Set what the chosen scale sets; `--set` has the last word."""
    name, scales = document.data.get("scale"), document.data.get("scales", {})
    if not name or not isinstance(name, str) or not isinstance(scales, dict):
        return
    fields = scales.get(name)
    if fields is None:
        fix = did_you_mean(name, scales)
        document.problems.append(
            document.problem(("scale",), f"no scale {name!r}", ", ".join(scales), fix)
        )
    elif isinstance(fields, dict):
        texts = [f"{path}={json.dumps(value)}" for path, value in fields.items()]
        apply_overrides(document, texts, OPEN_MAPPINGS, f"scales.{name}")
        apply_overrides(document, overrides, OPEN_MAPPINGS)


class _Check:
    """One pass over a document; a check runs unless a field it reads is already known to be bad."""

    def __init__(
        self,
        document: Document,
        parts: Parts,
        path: Path,
        overrides: tuple[str, ...],
        max_cells: int,
    ) -> None:
        self.document = document
        self.parts = parts
        self.path = path
        self.overrides = overrides
        self.max_cells = max_cells
        self.problems = list(document.problems)
        self.rows: list[Row] = []
        self.clips: list[str] = []
        self.backbone: Any = None

    def run(self) -> CheckedSpec:
        """Return the spec, or raise one `UserError` with every problem; checks build on others."""
        spec, bad = self._shape()
        if spec is not None:
            spec = self._with_metrics(spec, bad)
            for check, needs in self._checks():
                if not bad & needs:
                    found = list(check(spec))
                    self.problems += found
                    bad |= {check.__name__} if found else set()
        if self.problems or spec is None:
            raise UserError(self._told())
        return CheckedSpec(
            spec, tuple(self.rows), tuple(self.clips), self.backbone, self.path, self.overrides
        )

    def _told(self) -> list[Problem]:
        """All problems by line; the rest is counted where there are very many."""
        found = sorted(set(self.problems), key=_by_line)
        more = len(found) - MAX_PROBLEMS
        rest = [Problem(self.document.name, f"and {more} more problems")] if more > 0 else []
        return found[:MAX_PROBLEMS] + rest

    def _checks(self) -> Iterator[tuple[Any, set[str]]]:
        """Yield checks with what they need: fields, and earlier checks that found nothing."""
        options = {"method", "base", "grid", "zip", "include", "exclude", "sentinels"}
        options |= {"_names", "_points"}
        yield self._names, {"method", "sentinels", "include"}
        yield self._include_texts, {"include"}
        yield self._metrics, {"metrics", "report"}
        yield self._lengths, {"zip"}
        yield self._axes, {"grid", "zip", "include", "exclude", "report"}
        yield self._points, {"grid", "zip", "include", "seeds"}
        yield self._rows, options
        yield self._frames, options | {"clip", "_rows"}
        yield self._labels, options | {"report", "claims", "metrics"}
        yield self._paper, options | {"paper", "metrics"}
        yield self._clips, {"clips"}
        yield self._forms, {"clips", "clip", "_clips"}
        yield self._figures, {"report", "metrics", "grid", "zip", "include", "clip", "seeds"}
        yield self._figure_rows, options | {"report", "_rows"}
        yield self._report_clips, {"report", "clips", "_clips"}
        yield self._prompt_keys, {"prompts", "clips"}
        yield self._cells, options | {"clips", "prompts", "seeds", "_clips"}
        yield self._backbone, {"backbone"}

    def _shape(self) -> tuple[Spec | None, set[str]]:
        """Validate types; on errors, validate again without the bad fields to go on checking."""
        data = self.document.data
        try:
            return Spec.model_validate_json(json.dumps(data)), set()
        except ValidationError as error:
            for item in error.errors():
                self.problems.append(self._shape_problem(item))
            bad = {str(item["loc"][0]) for item in error.errors() if item["loc"]}
        stand_in = {"name": "x", "method": "x", "clips": ["x"], "metrics": ["x"]}
        kept = {name: value for name, value in data.items() if name not in bad}
        return Spec.model_validate_json(json.dumps({**stand_in, **kept})), bad

    def _shape_problem(self, error: Any) -> Problem:
        path: NodePath = tuple(error["loc"])
        what, allowed, fix = explain(error, Spec)
        if path[:1] in (("grid",), ("zip",)) and error["type"] == "tuple_type":
            what, fix = "must be a list of values", "write [a, b], and dotted paths as axis names"
        where = self.document.where(path, key=error["type"] == "extra_forbidden")
        return Problem(where, what, allowed, fix)

    def _unknown(self, registry: Registry, name: str, path: NodePath) -> Iterator[Problem]:
        if name not in registry:
            names = registry.names()
            yield self.document.problem(
                path,
                f"unknown {registry.kind} {name!r}",
                ", ".join(names),
                did_you_mean(name, names),
            )

    def _names(self, spec: Spec) -> Iterator[Problem]:
        methods = self.parts.methods
        yield from self._unknown(methods, spec.method, ("method",))
        for index, name in enumerate(spec.sentinels):
            yield from self._unknown(methods, name, ("sentinels", index))
        for index, entry in enumerate(spec.include):
            if "method" in entry:
                name = str(entry["method"])
                yield from self._unknown(methods, name, ("include", index, "method"))

    def _include_texts(self, spec: Spec) -> Iterator[Problem]:
        for index, entry in enumerate(spec.include):
            for name in (name for name in RESERVED if name in entry):
                text = entry[name]
                if not isinstance(text, str) or not text.strip() or "\n" in text:
                    yield self.document.problem(
                        ("include", index, name), "must be a text of one line"
                    )
                elif len(text) > MAX_NAME:
                    what = f"has {len(text)} characters, more than {MAX_NAME}"
                    yield self.document.problem(("include", index, name), what)

    def _points(self, spec: Spec) -> Iterator[Problem]:
        yield from point_problems(spec, self.max_cells, self.document)

    def _cells(self, spec: Spec) -> Iterator[Problem]:
        ids = [self.parts.clip_id(ref) for ref in self.clips]
        yield from cell_problems(spec, self.rows, ids, self.max_cells, self.document)

    def _with_metrics(self, spec: Spec, bad: set[str]) -> Spec:
        """The spec with presets resolved to metrics, encoder, geometry and flow."""
        if bad & {"metrics", "encoder", "geometry", "flow"}:
            return spec
        for name, count in Counter(spec.metrics).items():
            if count > 1:
                self.problems.append(
                    self.document.problem(("metrics",), f"{name!r} is listed {count} times")
                )
        try:
            found = choose(spec.metrics, self.parts.metrics, spec.encoder, spec.geometry, spec.flow)
        except UserError as error:
            for problem in error.problems:
                field, _, index = problem.where.rstrip("]").partition("[")
                path: NodePath = (field, int(index)) if index else (field,)
                self.problems.append(replace(problem, where=self.document.where(path)))
            # What an unknown preset would have brought cannot be referred to by name.
            bad |= {"metrics"} if any(name.startswith(PRESET) for name in spec.metrics) else set()
            return spec
        return spec.model_copy(update=asdict(found))

    def _metrics(self, spec: Spec) -> Iterator[Problem]:
        for index, name in enumerate(spec.report.metrics):
            yield from self._one_of(name, spec.metrics, METRIC, ("report", "metrics", index))

    def _one_of(
        self, name: str, names: Sequence[str], kind: str, path: NodePath, *, key: bool = False
    ) -> Iterator[Problem]:
        if name not in names and not self._narrowed(path, kind):
            where = self.document.where(path, key=key)
            what = f"{name!r} is not {'an' if kind == 'axis' else 'a'} {kind}"
            yield Problem(where, what, ", ".join(names), did_you_mean(name, names))

    def _narrowed(self, path: NodePath, kind: str) -> bool:
        """Whether `--set` took away what the file itself refers to: no fault of the file."""
        fields = SOURCES_OF.get(kind, ())
        marks = self.document.values
        flagged = any(
            where.startswith("--set") for node, where in marks.items() if node[:1] in fields
        )
        return flagged and not self.document.where(path).startswith("--set")

    def _lengths(self, spec: Spec) -> Iterator[Problem]:
        lengths = {path: len(values) for path, values in spec.zip.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{path} has {count}" for path, count in lengths.items())
            yield self.document.problem(("zip",), f"lists of different length: {shown}")

    def _axes(self, spec: Spec) -> Iterator[Problem]:
        axes = axis_paths(spec)
        for path in set(spec.grid) & set(spec.zip):
            yield self.document.problem(("zip", path), "is an axis of grid too", fix="keep one")
        for index, rule in enumerate(spec.exclude):
            for path in rule:
                yield from self._one_of(
                    path, axes, "grid or zip axis", ("exclude", index, path), key=True
                )
        for name in ("rows", "columns"):
            if axis := getattr(spec.report, name):
                yield from self._one_of(axis, self._known_axes(spec), "axis", ("report", name))

    def _known_axes(self, spec: Spec) -> list[str]:
        """Axes of the grid, and options that included rows set."""
        included = [path for entry in spec.include for path in entry if path not in RESERVED]
        return list(dict.fromkeys([*axis_paths(spec), *included]))

    def _rows(self, spec: Spec) -> Iterator[Problem]:
        self.rows, problems = resolve(drafts(spec), self.parts.method_config, self.document)
        yield from problems
        if not problems and all(row.sentinel for row in self.rows):
            yield self.document.problem(("exclude",), "leaves no row")
        labels = Counter(row.label for row in self.rows)
        for label in (label for label, count in labels.items() if count > 1):
            yield self.document.problem(
                ("include",), f"{labels[label]} rows are called {label!r}", fix="give them a label"
            )

    def _frames(self, spec: Spec) -> Iterator[Problem]:
        """Options that ask for more frames than a clip has."""
        for row in self.rows:
            for found in row.options.frame_problems(spec.clip.frames):
                what = f"row {row.label!r}: {found.where}: {found.what}"
                yield self.document.problem(("clip", "frames"), what, found.allowed, found.fix)

    def _labels(self, spec: Spec) -> Iterator[Problem]:
        if not self.rows or self.problems:
            return
        labels = [row.label for row in self.rows]
        if spec.report.baseline:
            yield from self._one_of(spec.report.baseline, labels, "row", ("report", "baseline"))
        yield from claim_problems(spec, labels, self.document, self._one_of)

    def _paper(self, spec: Spec) -> Iterator[Problem]:
        if spec.paper is None or not self.rows or self.problems:
            return
        labels = [*(row.label for row in self.rows), *spec.paper.absent]
        yield from paper_problems(spec.paper, labels, spec.metrics, self._one_of)

    def _figures(self, spec: Spec) -> Iterator[Problem]:
        yield from figure_problems(spec, self._known_axes(spec), self.document, self._one_of)
        for path, what, limit in beyond_limits(spec):
            if not self._narrowed(path, str(path[-1])):
                yield self.document.problem(path, what, f"0 to {limit - 1}")

    def _figure_rows(self, spec: Spec) -> Iterator[Problem]:
        yield from figure_row_problems(spec, [row.label for row in self.rows], self._one_of)

    def _report_clips(self, spec: Spec) -> Iterator[Problem]:
        ids = [self.parts.clip_id(ref) for ref in self.clips]
        yield from report_clip_problems(spec, ids, self._one_of)

    def _prompt_keys(self, spec: Spec) -> Iterator[Problem]:
        if isinstance(spec.prompts, dict):
            ids = [self.parts.clip_id(ref) for ref in self.clips]
            for name in spec.prompts:
                yield from self._one_of(name, ids, "clip of this spec", ("prompts", name), key=True)

    def _clips(self, spec: Spec) -> Iterator[Problem]:
        overridden = self.document.values.get(("clips",), "").startswith("--set")
        base = Path.cwd() if overridden else self.path.resolve().parent
        where = self.document.where(("clips",))
        try:
            self.clips = self.parts.expand_refs(spec.clips, base)
        except UserError as error:
            for problem in error.problems:
                yield Problem(
                    where, f"{problem.where}: {problem.what}", problem.allowed, problem.fix
                )
        for name in map(self.parts.clip_id, self.clips):
            wrong = wrong_scalar(name, MAX_CLIP_NAME) or ("spans lines" if "\n" in name else "")
            if wrong:
                yield Problem(where, f"the name {name[:60]!r} {wrong}", fix="rename the file")

    def _forms(self, spec: Spec) -> Iterator[Problem]:
        """Sources whose clips are squares take no other form."""
        if isinstance(spec.clip.size, int):
            return
        sources = {split_ref(ref)[0] for ref in self.clips} & set(self.parts.clip_sources)
        for name in sorted(sources):
            if self.parts.clip_sources.entry(name).extra.get("square"):
                found = not_square(spec.clip.size, name)
                path = ("clip", "size")
                yield self.document.problem(path, found.what, found.allowed, found.fix)

    def _backbone(self, spec: Spec) -> Iterator[Problem]:
        found: Sequence[Problem]
        try:
            self.backbone = self.parts.parse_backbone(spec.backbone)
            found = self.parts.backbone_problems(self.backbone, families_of(self.rows, self.parts))
        except UserError as error:
            found = error.problems
        for problem in found:
            inside = problem.where.split(".") if problem.where.startswith("backbone") else ()
            path: NodePath = tuple(inside) or ("backbone",)
            yield self.document.problem(path, problem.what, problem.allowed, problem.fix)


def families_of(rows: Sequence[Row], parts: Parts) -> tuple[str, ...]:
    """Return the families of networks that rows run, each once, in the order of the rows."""
    found = (family_of(parts.methods.entry(row.method).extra) for row in rows)
    return tuple(dict.fromkeys(name for name in found if name is not None))


def _by_line(problem: Problem) -> tuple[str, list[int], str]:
    file, *numbers = problem.where.split(": ", 1)[0].rsplit(":", 2)
    return file, [int(number) for number in numbers if number.isdigit()], str(problem)
