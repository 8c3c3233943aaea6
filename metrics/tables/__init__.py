"""The rows of the metrics registry, one module per family. Torch-free.

`row` holds what every metric states; see `metrics` for what the fields mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crossframe.registry import Entry


def row(
    target: str,
    summary: str,
    *,
    direction: str,
    range: tuple[float, float | None],
    unit: str,
    definition: str,
    torchmetric: str,
    needs: Sequence[str] = (),
    networks: Sequence[str] = (),
    paper_names: Sequence[str] = (),
    version: int = 1,
    goal: float | None = None,
    least: int | None = None,
) -> Entry:
    """Return a registry entry.

    goal: the best value of a metric whose direction is "target". least: for a distance between sets
    of clips, the clips that each set must have.
    """
    extra: dict[str, Any] = {
        "direction": direction,
        "range": list(range),
        "unit": unit,
        "definition": definition,
        "needs": list(needs),
        "networks": list(networks),
        "version": version,
        "paper_names": list(paper_names),
        "torchmetric": torchmetric,
    }
    if goal is not None:
        extra["target"] = goal
    if least is not None:
        extra["least_clips"] = least
    return Entry(target, summary, extra)
