"""Scoring of one cell: its stored frames, what they are compared with, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ablations.bench import Bench, ClipBench, shared_by, to_tensor
from ablations.plan import Cell
from ablations.store import Store
from metrics.base import Memo, MetricInputs
from metrics.score import measure

Keep = Callable[[Callable[[], Any]], Any]
"""Returns what a function would make: from where it is kept, or made and kept."""


class StagedMemo(Memo):
    """A memo whose costly entries outlive the process, in the stage cache.

    kept: first word of an entry's name -> how that entry is kept.
    """

    def __init__(self, kept: Mapping[str, Keep]) -> None:
        super().__init__()
        self._kept = kept

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what is kept under `name`, after making it the first time."""
        keep = self._kept.get(name.partition(" ")[0])
        return super().get(name, make if keep is None else lambda: keep(make))


def score_cell(
    cell: Cell, bench: Bench, clip: ClipBench, store: Store, frames: np.ndarray
) -> dict[str, Any]:
    """Return the entries of `result.json` by metric; those that are there by key are taken over.

    frames: the stored ones, uint8 (f, h, w, 3). Raises what a metric raises; one that lacks what it
    needs is entered as unavailable.
    """
    earlier = store.result(cell.key) or {}
    known, scores = earlier.get("metric_keys", {}), dict(earlier.get("metrics", {}))
    inputs = inputs_of(cell, bench, clip, store, frames)
    for name, key in cell.metric_keys.items():
        if known.get(name) != key:
            value = measure(
                name,
                inputs,
                flow=lambda: clip.flow,
                encoder=lambda: bench.encoder,
                registry=bench.parts.metrics,
            )
            scores[name] = value.record()
    return {name: scores[name] for name in cell.metric_keys}


def inputs_of(
    cell: Cell, bench: Bench, clip: ClipBench, store: Store, frames: np.ndarray
) -> MetricInputs:
    """Return everything that metrics may ask for about the stored frames of a cell."""
    drawn = store.sample(cell.key) or {}
    notes = drawn.get("notes", {})
    told = {
        **drawn.get("cost", {}),
        "attended_tokens": notes.get("attended_tokens"),
        "inversion_error": notes.get("inversion", {}).get("relative"),
    }
    borders = notes.get("decode_borders")
    return MetricInputs(
        to_tensor(frames),
        clip.source,
        cell.prompt,
        source_prompt=clip.clip.caption,
        fps=clip.clip.fps,
        masks=clip.masks,
        face=clip.face,
        borders=None if borders is None else tuple(borders),
        recorded={name: value for name, value in told.items() if value is not None},
        estimator=bench.estimator,
        memo=_memo(bench, clip, drawn.get("frames_sha256", "")),
        resident=bench.resident,
    )


def _memo(bench: Bench, clip: ClipBench, sha256: str) -> StagedMemo:
    """Embeddings are kept by frames and encoder, the source's estimated flow with the clip."""

    def embedded(make: Callable[[], Tensor]) -> Tensor:
        parts = ["image", sha256, bench.encoder_identity]
        return shared_by(bench.stages)("features", parts, lambda: {"image": make()})["image"]

    return StagedMemo({"image_features": embedded, "source_flow": lambda make: clip.estimate})
