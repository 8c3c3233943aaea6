"""Claims as text: `full < individual on warp/source_flow`, or a chain `a > b > c on METRIC`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from crossframe.errors import Problem, UserError

CLAIM = re.compile(r"^\s*(?P<order>\S.*?)\s+on\s+(?P<metric>\S+)\s*$")
RELATION = re.compile(r"\s+([<>])\s+")


@dataclass(frozen=True)
class Comparison:
    """`left relation right` for the mean over clips."""

    left: str
    relation: Literal["<", ">"]
    right: str


@dataclass(frozen=True)
class Claim:
    """A chain of comparisons on one metric; a chain holds when every adjacent pair does."""

    text: str
    metric: str
    comparisons: tuple[Comparison, ...]

    @property
    def rows(self) -> tuple[str, ...]:
        """The row labels named, each once, in the claim's order."""
        return tuple(dict.fromkeys(row for c in self.comparisons for row in (c.left, c.right)))


def parse_claim(text: str) -> Claim:
    """Read `A < B on METRIC`, or a chain `A > B > C on METRIC`; A and B are row labels.

    Raises UserError when the text does not read so.
    """
    match = CLAIM.match(text)
    parts = RELATION.split(match["order"].strip()) if match else []
    if match is None or len(parts) < 3 or not all(parts):
        allowed = "ROW < ROW on METRIC, ROW > ROW on METRIC, or a chain of them"
        raise UserError(Problem("claims", f"{text!r} does not read as a claim", allowed))
    triples = zip(parts[0:-2:2], parts[1::2], parts[2::2], strict=True)
    comparisons = tuple(Comparison(a, "<" if sign == "<" else ">", b) for a, sign, b in triples)
    return Claim(text, match["metric"], comparisons)
