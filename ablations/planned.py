"""One cell of a plan: what every part of a run hands on. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ablations.cards import ClipCard
from ablations.grid import Row


@dataclass(frozen=True)
class Cell:
    """One sample to make: a row on a clip with a prompt and a seed."""

    key: str
    row: Row
    clip: ClipCard
    prompt: str
    seed_index: int
    seed: int
    metric_keys: Mapping[str, str]
    problems: tuple[str, ...] = ()

    @property
    def problem(self) -> str:
        """Why the cell cannot be run, all reasons in one line, or ""."""
        return "; ".join(self.problems)

    def summary(self) -> dict[str, Any]:
        """The cell as listed in plan.json."""
        return {
            "key": self.key,
            "row": self.row.label,
            "axes": dict(self.row.axes),
            "method": self.row.method,
            "sentinel": self.row.sentinel,
            "clip": self.clip.id,
            "prompt": self.prompt,
            "seed_index": self.seed_index,
            "problem": self.problem,
        }
