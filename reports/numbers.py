"""How numbers are written in tables and figures."""

from __future__ import annotations

import math

from reports.statistics import Interval

ABSENT = "–"


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
