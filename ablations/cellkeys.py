"""What identifies a cell's frames and each of its scores. Torch-free.

A cell's key is the sha256 of method and version, resolved options, the weights' sha256, the clip's
sha256 (of its decoded frames, of its exact truth and of annotated objects) and caption, the sha256
of the annotators that draw its control maps, the weights of its own estimator of flow, prompt, seed
and the versions of the stages that make frames. A score's key adds the metric, its version, and
what that metric needs besides the frames: weights and preprocessing of its encoder, the estimator
of flow, the frame rate, other networks. So a new metric scores stored frames and samples nothing
again. What only changes speed is in neither.
"""

from __future__ import annotations

from typing import Any

from ablations.cards import ClipCard
from ablations.check import CheckedSpec, families_of
from ablations.grid import Row
from ablations.parts import Parts
from ablations.stage_versions import SCORING, STAGES, frame_stages
from ablations.store import SCHEMA
from crossframe.errors import UserError
from crossframe.keys import identity
from crossframe.weights import networks_identity
from methods.families import family_of
from metrics.identity import score_identity


def needs_backbone(method: str, parts: Parts) -> bool:
    """Tell whether a method runs networks."""
    return family_of(parts.methods.entry(method).extra) is not None


def needs_of(metric: str, parts: Parts) -> tuple[str, ...]:
    """Return what a metric needs besides the frames: `clip`, `flow`, `estimator`, ..."""
    return tuple(parts.metrics.entry(metric).extra.get("needs", ()))


class ScoreKeys:
    """Keys of scores; whatever metrics depend on is hashed once per distinct value."""

    def __init__(self, checked: CheckedSpec, parts: Parts) -> None:
        spec = checked.spec
        self.parts, self.metrics, self.flow = parts, parts.metrics, spec.flow
        self.names = spec.metrics
        folder = parts.encoder_folder(spec.encoder, checked.backbone)
        self.encoder = parts.encoder_identity(folder, spec.geometry) if self._any("clip") else None
        self.stages = {name: STAGES[name] for name in sorted(SCORING)}
        self._known: dict[tuple[Any, ...], str] = {}

    def _any(self, need: str) -> bool:
        return any(need in needs_of(name, self.parts) for name in self.names)

    def of(self, key: str, clip: ClipCard) -> dict[str, str]:
        """Keys of the scores of the cell `key` on a clip, by metric."""
        return {name: identity([key, name, self._facts(name, clip)]) for name in self.names}

    def _facts(self, name: str, clip: ClipCard) -> str:
        facts = {"clip": self.encoder, "source_prompt": clip.caption, "fps": clip.fps}
        needs = needs_of(name, self.parts)
        mark = (name, *(facts[need] for need in ("source_prompt", "fps") if need in needs))
        if mark not in self._known:
            extra = self.metrics.entry(name).extra
            self._known[mark] = identity([score_identity(extra, facts, self.flow), self.stages])
        return self._known[mark]


class Keys:
    """Keys of cells and scores; weights are hashed once, and only when a row needs them."""

    def __init__(self, checked: CheckedSpec, parts: Parts) -> None:
        self.parts = parts
        self._backbone = checked.backbone
        self._obstacles: dict[str, UserError] = {}
        options = {row.label: row.options for row in checked.rows}
        self._absent = {name: tuple(map(str, of.absent())) for name, of in options.items()}
        self._networks = {name: networks_identity(of.networks()) for name, of in options.items()}
        families = families_of(checked.rows, parts)
        self._backbones = {name: self._hash_backbone(checked, name) for name in families}
        self._scores = ScoreKeys(checked, parts)

    def _hash_backbone(self, checked: CheckedSpec, family: str) -> str:
        try:
            return identity(dict(self.parts.backbone_identity(checked.backbone, family)))
        except UserError as error:
            self._obstacles[family] = error
            return ""

    @property
    def obstacle(self) -> UserError | None:
        """Why networks of some rows cannot be had here, all reasons in one."""
        problems = [problem for error in self._obstacles.values() for problem in error.problems]
        return UserError(problems) if problems else None

    def problems(self, row: Row, clip: ClipCard) -> tuple[str, ...]:
        """Why no cell of a row on a clip can be run here."""
        family = family_of(self.parts.methods.entry(row.method).extra)
        obstacle = self._obstacles.get(family) if family else None
        networks = tuple(map(str, obstacle.problems)) if obstacle else ()
        return (*networks, *self._absent[row.label], *self._without_maps(row, clip))

    def _without_maps(self, row: Row, clip: ClipCard) -> tuple[str, ...]:
        """What is missing to draw a clip's control maps, and to use them."""
        if clip.problems:
            return ()
        asked, known = self.parts.control_problems, (clip.controls, clip.exact)
        controls = row.config.get("controls", ())
        return tuple(str(p) for name in controls for p in asked(self._backbone, name, *known))

    def cell(self, row: Row, clip: ClipCard, prompt: str, seed: int) -> str:
        """Key of a cell's frames."""
        extra = self.parts.methods.entry(row.method).extra
        family = family_of(extra)
        annotators = self._annotators(row, clip)
        networks = self._networks[row.label]
        return identity(
            {
                "schema": SCHEMA,
                "method": row.method,
                "version": extra.get("version", 1),
                "config": row.config,
                "backbone": self._backbones[family] if family else None,
                "clip": clip.ref if clip.problems else _seen(clip),
                "prompt": prompt,
                "seed": seed,
                "stages": frame_stages(STAGES, family),
                **({"annotators": annotators} if annotators else {}),
                **({"networks": networks} if networks else {}),
            }
        )

    def _annotators(self, row: Row, clip: ClipCard) -> dict[str, Any]:
        """The weights of the networks that draw a cell's control maps, by control."""
        asked = self.parts.annotator_identity
        controls = row.config.get("controls", ())
        found = {name: asked(name, clip.controls, clip.exact) for name in controls}
        return {name: weights for name, weights in found.items() if weights is not None}

    def scores(self, key: str, clip: ClipCard) -> dict[str, str]:
        """Keys of the scores of a cell on a clip, by metric."""
        return self._scores.of(key, clip)


def _seen(clip: ClipCard) -> list[str | None]:
    """What a method is told about a clip."""
    objects = [clip.masks_sha256] if clip.masks_sha256 else []
    return [clip.sha256, clip.truth_sha256, clip.caption, *objects]
