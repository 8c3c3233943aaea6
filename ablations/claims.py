"""Claims as text: `full < individual on warp/source_flow`, or a chain `a > b > c on METRIC`."""

from __future__ import annotations

import re
from dataclasses import dataclass

CLAIM = re.compile(r"^\s*(?P<order>\S.*?)\s+on\s+(?P<metric>\S+)\s*$")
RELATION = re.compile(r"\s+[<>]\s+")


@dataclass(frozen=True)
class ClaimNames:
    """What a claim speaks of: row labels, in its order, and a metric."""

    rows: tuple[str, ...]
    metric: str


def claim_names(text: str) -> ClaimNames:
    """Return the names in a claim; `ValueError` when it does not read as one."""
    match = CLAIM.match(text)
    rows = tuple(RELATION.split(match["order"])) if match else ()
    if match is None or len(rows) < 2 or not all(rows):
        raise ValueError("a claim reads `ROW < ROW on METRIC` or `ROW > ROW > ROW on METRIC`")
    return ClaimNames(rows, match["metric"])
