"""Figures of acceptance: what a network reaches, and should."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured figure. least, most: what the network should reach; None if only reported."""

    network: str
    name: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def short(self) -> bool:
        """Whether it misses what it should reach."""
        low = self.least is not None and self.value < self.least
        return low or (self.most is not None and self.value > self.most)

    @property
    def goal(self) -> str:
        """What it should reach, in words for a table."""
        parts = [f">= {self.least:.3g}"] if self.least is not None else []
        return ", ".join(parts + ([f"<= {self.most:.3g}"] if self.most is not None else []))
