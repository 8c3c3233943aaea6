"""What a plan's work will cost and share, judged by the finished cells of the store. Torch-free."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.cellkeys import needs_backbone
from ablations.parts import Parts
from ablations.store import Store

if TYPE_CHECKING:
    from ablations.plan import Cell

MOST_MEASURED = 64
"""Finished cells whose folders are measured for the estimate of disk space."""


def seconds_of(cells: Iterable[Cell], store: Store) -> float | None:
    """Seconds for `cells` by the medians of earlier ones, or None when a row has no precedent."""
    by_row: dict[tuple[str, str], list[float]] = {}
    by_method: dict[str, list[float]] = {}
    for method, label, seconds in store.seconds():
        by_row.setdefault((method, label), []).append(seconds)
        by_method.setdefault(method, []).append(seconds)
    total = 0.0
    for cell in cells:
        method = cell.row.method
        known = by_row.get((method, cell.row.label)) or by_method.get(method)
        if known is None:
            return None
        total += statistics.median(known)
    return total


def bytes_of(count: int, store: Store) -> int | None:
    """Bytes that `count` cells will take by the median of earlier ones, or None without any."""
    if not count:
        return 0
    results = islice(store.root.glob("cells/*/result.json"), MOST_MEASURED)
    sizes = [folder_bytes(path.parent) for path in results]
    return round(statistics.median(sizes) * count) if sizes else None


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder; links are not followed."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except OSError:  # another runner has just removed it
                continue
    return total


def shared_work(cells: Iterable[Cell], parts: Parts) -> dict[str, int]:
    """Return how many distinct things the cells share: clips, control maps, flows, prompts."""
    entries: Mapping[str, set[tuple[str, ...]]] = {
        "decode": set(),
        "control": set(),
        "flow": set(),
        "text": set(),
    }
    for cell in cells:
        clip = cell.clip.id
        entries["decode"].add((clip,))
        entries["control"].update((clip, kind) for kind in cell.row.config.get("controls", ()))
        if any("flow" in parts.metrics.entry(m).extra.get("needs", ()) for m in cell.metric_keys):
            entries["flow"].add((clip,))
        if needs_backbone(cell.row.method, parts):
            entries["text"].add((cell.prompt,))
    return {kind: len(found) for kind, found in entries.items() if found}
