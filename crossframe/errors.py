"""Errors meant for the person at the keyboard: where, what, what is allowed, how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, told in one line.

    where: the place, as precise as it is known (`spec.yaml:4:36: grid.attention`, a path, a name).
    what: what is wrong there, with the offending value.
    allowed: the values that would be right, or "".
    fix: the next thing to do, or "".
    """

    where: str
    what: str
    allowed: str = ""
    fix: str = ""

    def __str__(self) -> str:
        allowed = f" (allowed: {self.allowed})" if self.allowed else ""
        fix = f". {self.fix}" if self.fix else ""
        return _one_line(f"{self.where}: {self.what}{allowed}{fix}")


def _one_line(text: str) -> str:
    """Return `text` with line breaks, control and direction marks spelled out, for a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class UserError(Exception):
    """Bad input, with every problem that was found; the CLI prints it and exits with `exit_code`.

    Accepts one `Problem` or several; `str()` gives one line per problem.
    """

    exit_code = 2

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        found = (problems,) if isinstance(problems, Problem) else tuple(problems)
        if not found:
            raise ValueError("a UserError needs at least one problem")
        self.problems: tuple[Problem, ...] = found
        # The argument is what pickle hands back to __init__, so errors survive process borders.
        super().__init__(found)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class NotAvailable(UserError):
    """What cannot be had here, with the reason and the remedy; never replaced by something else."""

    def __init__(self, what: str, reason: str, fix: str = "", allowed: str = "") -> None:
        super().__init__(Problem(what, reason, allowed, fix))

    def __reduce__(self) -> tuple[Any, ...]:
        problem = self.problems[0]
        return type(self), (problem.where, problem.what, problem.fix, problem.allowed)


class Diverged(UserError):
    """A result that is NaN or infinite."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return `did you mean 'x'?` for the closest of `names` (case is ignored), or ""."""
    by_lower = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"did you mean {by_lower[close[0]]!r}?" if close else ""
