"""Claims as text: `full < individual on warp/source_flow`."""

from __future__ import annotations

import re
from dataclasses import dataclass

CLAIM = re.compile(
    r"^\s*(?P<left>.+?)\s+(?P<relation>[<>])\s+(?P<right>.+?)\s+on\s+(?P<metric>\S+)\s*$"
)


@dataclass(frozen=True)
class ParsedClaim:
    """`left relation right` for the mean of `metric`; left and right are row labels."""

    left: str
    relation: str
    right: str
    metric: str


def parse_claim(text: str) -> ParsedClaim:
    """Split a claim into its parts; `ValueError` when it does not read `A < B on METRIC`."""
    match = CLAIM.match(text)
    if match is None:
        raise ValueError("a claim reads `ROW < ROW on METRIC` or `ROW > ROW on METRIC`")
    return ParsedClaim(**match.groupdict())
