"""What a plan's work will cost and share, judged by the finished cells of the store. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from ablations.cellkeys import needs_backbone, needs_of
from ablations.parts import Parts
from ablations.stage_versions import stage_file, stage_key
from ablations.store import Store
from crossframe.errors import UserError
from crossframe.files import size_of
from crossframe.flow.table import flow_identity
from crossframe.keys import identity
from metrics.identity import FLOW_NEEDS

if TYPE_CHECKING:
    from ablations.cards import ClipCard
    from ablations.check import CheckedSpec
    from ablations.planned import Cell
    from ablations.spec import Spec

MOST_MEASURED = 64
"""Finished cells whose folders are measured for the estimate of disk space."""


def seconds_of(sampled: Sequence[Cell], scored: Sequence[Cell], store: Store) -> float | None:
    """Seconds for cells to sample and score, and for cells only to score.

    By the medians of earlier ones, of the same row or else method; None where there are none.
    """
    known = list(store.seconds()) if sampled or scored else []
    drawing = [(method, label, drawn + (scoring or 0)) for method, label, drawn, scoring in known]
    scoring = [(method, label, took) for method, label, _, took in known if took is not None]
    each = [*map(_typical(drawing), sampled), *map(_typical(scoring), scored)]
    return None if None in each else sum(filter(None, each), 0.0)


def _typical(known: Iterable[tuple[str, str, float]]) -> Callable[[Cell], float | None]:
    """Seconds of a cell by (method, row label, seconds) of others."""
    from statistics import median

    found: dict[tuple[str, ...], list[float]] = {}
    for method, label, seconds in known:
        for kind in ((method, label), (method,)):
            found.setdefault(kind, []).append(seconds)
    medians = {kind: median(seconds) for kind, seconds in found.items()}
    return lambda cell: medians.get(
        (cell.row.method, cell.row.label), medians.get((cell.row.method,))
    )


def bytes_of(count: int, store: Store) -> int | None:
    """Bytes that `count` cells will take by the median of earlier ones, or None without any."""
    if not count:
        return 0
    from statistics import median

    results = islice(store.root.glob("cells/*/result.json"), MOST_MEASURED)
    sizes = [size_of(path.parent) for path in results]
    return round(median(sizes) * count) if sizes else None


@dataclass(frozen=True)
class Shared:
    """Work that cells have in common: distinct pieces, and how many of them are kept already.

    kept: None where only the method knows what its pieces are made from.
    """

    count: int
    kept: int | None = None


def shared_work(
    cells: Sequence[Cell], checked: CheckedSpec, store: Store, parts: Parts
) -> dict[str, Shared]:
    """Return what cells share, by stage: clips, control maps, estimated flows, prompts, ..."""
    needs = {n for name in checked.spec.metrics for n in needs_of(name, parts)}
    clips = {cell.clip.ref: cell.clip for cell in cells}.values()
    kinds = {
        (cell.clip.ref, *control): control_parts(cell.clip, *control, parts)
        for cell in cells
        for control in _controls(cell.row.config)
    }
    flow = [card for card in clips if card.truth_sha256 is None or "estimator" in needs]
    found = {
        "decode": [decode_parts(card, checked.spec) for card in clips],
        "control": list(kinds.values()),
        "flow": _flow_parts(flow, checked.spec.flow) if FLOW_NEEDS & needs else [],
    }
    work = {stage: _looked_up(store, stage, entries) for stage, entries in found.items()}
    prompts = {cell.prompt for cell in cells if needs_backbone(cell.row.method, parts)}
    work["text"] = Shared(len(prompts))
    work |= _by_methods(cells)
    return {stage: shared for stage, shared in work.items() if shared.count}


def _by_methods(cells: Iterable[Cell]) -> dict[str, Shared]:
    """Count the work that options name themselves: inversions, tunings."""
    found: dict[str, set[str]] = {}
    for cell in cells:
        for stage, decisive in cell.row.options.shared_work(cell.seed).items():
            seen = [cell.clip.sha256, cell.clip.caption, decisive]
            found.setdefault(stage, set()).add(identity(seen))
    return {stage: Shared(len(pieces)) for stage, pieces in found.items()}


def clip_identity(card: ClipCard) -> list[str | None]:
    """What control maps of a clip are made from: its frames and its exact truth."""
    return [card.sha256, card.truth_sha256]


def _controls(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The controls of a configuration, each with how annotators see frames."""
    seen = config.get("annotator_range", "correct")
    return [(control, seen) for control in config.get("controls", ())]


def control_parts(card: ClipCard, control: str, annotator_range: str, parts: Parts) -> list[Any]:
    """What the stage `control` is keyed by; `annotator_range` as `methods.conditions` has it."""
    seen = [] if annotator_range == "correct" else [annotator_range]
    weights = parts.annotator_identity(control, card.controls, card.exact)
    return [clip_identity(card), control, *seen, *([] if weights is None else [weights])]


def decode_parts(card: ClipCard, spec: Spec) -> list[Any]:
    """What the stage `decode` is keyed by."""
    objects = [card.masks_sha256] if card.masks_sha256 else []
    return [card.ref, spec.clip.model_dump(), *clip_identity(card), *objects]


def _flow_parts(cards: Iterable[ClipCard], estimator: str) -> list[Any]:
    try:
        used = flow_identity(estimator)
    except UserError:  # an estimator of another package, or one without weights: nothing is kept
        used = None
    return [[used, card.sha256] for card in cards]


def _looked_up(store: Store, stage: str, entries: Sequence[Any]) -> Shared:
    places = (stage_file(stage, stage_key(stage, entry)) for entry in entries)
    kept = sum(os.path.exists(os.path.join(store.root, "stages", *place)) for place in places)
    return Shared(len(entries), kept)
