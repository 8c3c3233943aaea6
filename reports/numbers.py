"""Numbers of tables and figures, and how they are written."""

from __future__ import annotations

import math
from dataclasses import dataclass

from reports.statistics import Interval

ABSENT = "–"


@dataclass(frozen=True)
class Value:
    """One number of the table.

    rank: 1 best, 2 second, 0 neither or not ranked. still: leads a consistency score while it
    moves less than its source.
    """

    interval: Interval
    rank: int = 0
    still: bool = False


def show_number(value: float, decimals: int) -> str:
    """Return a number with fixed decimals, or a dash for NaN; never a negative zero."""
    if math.isnan(value):
        return ABSENT
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def show_bounds(interval: Interval, decimals: int) -> str:
    """Return `[low, high]`, or nothing when there are no bounds or no spread to show."""
    if not interval.has_bounds:
        return ""
    return f"[{show_number(interval.low, decimals)}, {show_number(interval.high, decimals)}]"
