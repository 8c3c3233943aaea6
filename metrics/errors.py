"""Why a metric has no value."""

from __future__ import annotations

from typing import Any

from crossframe.errors import Problem, UserError


class MetricUnavailable(UserError):
    """A metric that cannot be computed here, with the reason and the remedy; never replaced."""

    def __init__(self, metric: str, reason: str, fix: str = "") -> None:
        super().__init__(Problem(metric, reason, fix=fix))

    def __reduce__(self) -> tuple[Any, ...]:
        problem = self.problems[0]
        return type(self), (problem.where, problem.what, problem.fix)
