"""What identifies a cell's frames and each of its scores. Torch-free.

A cell's key is the sha256 of method and version, resolved options, the weights' sha256, the clip's
sha256 (of its decoded frames, and of its exact truth), prompt, seed and the versions of the stages
that make frames. A score's key adds metric, version, encoder and the stages that make scores, so
that a new metric scores stored frames and samples nothing again. What only changes speed is in
neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ablations.cards import ClipCard
from ablations.check import CheckedSpec
from ablations.grid import Row
from ablations.parts import Parts
from ablations.stage_versions import SCORING, STAGES
from ablations.store import SCHEMA
from crossframe.errors import UserError
from crossframe.keys import identity


def needs_backbone(method: str, parts: Parts) -> bool:
    """Tell whether a method runs networks."""
    return bool(parts.methods.entry(method).extra.get("needs_backbone", True))


class Keys:
    """Keys of cells and scores; weights are hashed once, and only when a row needs them."""

    def __init__(self, checked: CheckedSpec, parts: Parts) -> None:
        self.parts = parts
        self.obstacle: UserError | None = None
        needed = any(needs_backbone(row.method, parts) for row in checked.rows)
        self._backbone = self._hash_backbone(checked) if needed else ""
        self._stages = {name: version for name, version in STAGES.items() if name not in SCORING}
        encoder = parts.encoder_folder(checked.spec.encoder, checked.backbone)
        self._scores = list(_scores(checked.spec.metrics, parts, encoder))

    def _hash_backbone(self, checked: CheckedSpec) -> str:
        try:
            return identity(dict(self.parts.backbone_identity(checked.backbone)))
        except UserError as error:
            self.obstacle = error
            return ""

    def problems(self, row: Row) -> tuple[str, ...]:
        """Why no cell of a row can be run."""
        needed = needs_backbone(row.method, self.parts)
        return tuple(map(str, self.obstacle.problems)) if needed and self.obstacle else ()

    def cell(self, row: Row, clip: ClipCard, prompt: str, seed: int) -> str:
        """Key of a cell's frames."""
        extra = self.parts.methods.entry(row.method).extra
        return identity(
            {
                "schema": SCHEMA,
                "method": row.method,
                "version": extra.get("version", 1),
                "config": row.config,
                "backbone": self._backbone if extra.get("needs_backbone", True) else None,
                "clip": clip.ref if clip.problems else [clip.sha256, clip.truth_sha256],
                "prompt": prompt,
                "seed": seed,
                "stages": self._stages,
            }
        )

    def scores(self, key: str) -> dict[str, str]:
        """Keys of a cell's scores, by metric."""
        return {name: identity([key, name, *facts]) for name, *facts in self._scores}


def _scores(names: Iterable[str], parts: Parts, encoder: str) -> Iterable[tuple[Any, ...]]:
    """Yield (metric, version, identity of its encoder, versions of scoring stages)."""
    weights = identity(parts.encoder_identity(encoder))
    stages = identity({name: STAGES[name] for name in sorted(SCORING)})
    for name in names:
        extra = parts.metrics.entry(name).extra
        needed = weights if "clip" in extra.get("needs", ()) else ""
        yield name, extra.get("version", 1), needed, stages
