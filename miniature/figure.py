"""A measured figure of a shipped network, as `crossframe miniature check` prints it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured figure; ``least`` is what the network should reach, None if only reported."""

    network: str
    name: str
    value: float
    least: float | None = None
