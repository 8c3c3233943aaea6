"""Names that claims, paper and figures use, checked against the rest of the spec. Torch-free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from ablations.claims import parse_claim
from ablations.spec import PaperTable, Spec
from ablations.specfile import Document, NodePath
from crossframe.errors import Problem, UserError

METRIC = "metric of this spec"


class OneOf(Protocol):
    """Yields a problem at `path`, with the nearest name, unless `name` is one of `names`."""

    def __call__(
        self, name: str, names: Sequence[str], kind: str, path: NodePath, *, key: bool = False
    ) -> Iterator[Problem]: ...


def claim_problems(
    spec: Spec, labels: Sequence[str], document: Document, one_of: OneOf
) -> Iterator[Problem]:
    """Yield what is wrong with the texts of claims, and the rows and metrics they name."""
    for index, claim in enumerate(spec.claims):
        path: NodePath = ("claims", index, "text")
        try:
            named = parse_claim(claim.text)
        except UserError as error:
            (problem,) = error.problems
            yield document.problem(path, problem.what, problem.allowed)
            continue
        for label in named.rows:
            yield from one_of(label, labels, "row", path)
        yield from one_of(named.metric, spec.metrics, METRIC, path)


def paper_problems(
    paper: PaperTable, labels: Sequence[str], metrics: Sequence[str], one_of: OneOf
) -> Iterator[Problem]:
    """Yield a problem for each row and metric of a paper's table that the spec does not make."""
    for label in paper.rows:
        yield from one_of(label, labels, "row", ("paper", "rows", label), key=True)
    for index, column in enumerate(paper.columns):
        if column.metric:
            path: NodePath = ("paper", "columns", index, "metric")
            yield from one_of(column.metric, metrics, METRIC, path)


def figure_problems(
    spec: Spec, axes: Sequence[str], document: Document, one_of: OneOf
) -> Iterator[Problem]:
    """Yield what is wrong with the names, metrics and axes of figures."""
    shown = spec.report.metrics or spec.metrics
    kind = "metric of this report" if spec.report.metrics else METRIC
    names = Counter(figure.name for figure in spec.report.figures)
    for index, figure in enumerate(spec.report.figures):
        path: NodePath = ("report", "figures", index)
        if names[figure.name] > 1:
            what = f"{names[figure.name]} figures are called {figure.name!r}"
            yield document.problem((*path, "name"), what)
        yield from _each(figure.metrics, shown, kind, (*path, "metrics"), one_of)
        yield from _each(figure.axes, axes, "axis", (*path, "axes"), one_of)


def figure_row_problems(spec: Spec, labels: Sequence[str], one_of: OneOf) -> Iterator[Problem]:
    """Yield a problem for each row that a figure names and the spec does not make."""
    for index, figure in enumerate(spec.report.figures):
        path: NodePath = ("report", "figures", index, "rows")
        yield from _each(figure.rows, labels, "row", path, one_of)


def report_clip_problems(spec: Spec, ids: Sequence[str], one_of: OneOf) -> Iterator[Problem]:
    """Yield a problem for each clip that the report or a figure names and the spec lacks."""
    kind = "clip of this spec"
    yield from _each(spec.report.clips, ids, kind, ("report", "clips"), one_of)
    for index, figure in enumerate(spec.report.figures):
        path: NodePath = ("report", "figures", index, "clips")
        yield from _each(figure.clips, ids, kind, path, one_of)


def beyond_limits(spec: Spec) -> Iterator[tuple[NodePath, str, int]]:
    """Yield (path, what is wrong, how many there are) for frames and seeds that do not exist."""
    for index, figure in enumerate(spec.report.figures):
        asked = {
            "frames": (figure.frames, spec.clip.frames),
            "seed": ((figure.seed,), spec.seeds.count),
        }
        for field, (numbers, limit) in asked.items():
            if beyond := [number for number in numbers if number >= limit]:
                what = f"there is no {field.rstrip('s')} {beyond[0]}"
                yield ("report", "figures", index, field), what, limit


def _each(
    names: Iterable[str], known: Sequence[str], kind: str, path: NodePath, one_of: OneOf
) -> Iterator[Problem]:
    for place, name in enumerate(names):
        yield from one_of(name, known, kind, (*path, place))
