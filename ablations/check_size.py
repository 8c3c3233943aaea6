"""Grids that are too large, refused before they are expanded: most are mistakes. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from ablations.grid import Row, count_points
from ablations.spec import Spec
from ablations.specfile import Document
from crossframe.errors import Problem


def point_problems(spec: Spec, most: int, document: Document) -> Iterator[Problem]:
    """Yield a problem when the points of the grid and the seeds alone make more than `most`."""
    factors = {"grid": count_points(spec), "seeds.count": spec.seeds.count}
    yield from _too_many(math.prod(factors.values()), factors, most, document)


def cell_problems(
    spec: Spec, rows: Sequence[Row], clip_ids: Sequence[str], most: int, document: Document
) -> Iterator[Problem]:
    """Yield a problem when there are more than `most` cells; sentinels have one for each clip."""
    beside = sum(row.sentinel for row in rows)
    prompts = [_prompts_of(name, spec) for name in clip_ids]
    factors = {"grid": len(rows) - beside, "seeds.count": spec.seeds.count}
    count = math.prod(factors.values()) * sum(prompts) + beside * len(prompts)
    wide = {"clips": len(prompts), "prompts": max(prompts, default=1)}
    yield from _too_many(count, {**factors, **wide}, most, document)


def _too_many(
    count: int, factors: Mapping[str, int], most: int, document: Document
) -> Iterator[Problem]:
    """A problem at the largest factor when there are more cells than the limit."""
    if count > most:
        largest = max(factors, key=lambda name: factors[name])
        shown = " x ".join(f"{name} {number:,}" for name, number in factors.items())
        yield document.problem(
            tuple(largest.split(".")),
            f"{count:,} cells ({shown}) are more than {most:,}",
            fix="drop some, or allow them with --max-cells",
        )


def _prompts_of(clip_id: str, spec: Spec) -> int:
    """Number of prompts of a clip; one for each kind where the spec leaves it to the clip."""
    given = spec.prompts.get(clip_id) if isinstance(spec.prompts, dict) else spec.prompts
    given = given or spec.prompt
    return 1 if isinstance(given, str) else len(given)
