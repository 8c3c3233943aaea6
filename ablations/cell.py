"""One cell, from clip to `result.json`; the only module here that touches tensors.

Two steps: *draw* runs the method and stores lossless frames, *score* measures the stored frames. A
cell that was drawn before, by an interrupted run or for fewer metrics, is only scored.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ablations.check import CheckedSpec
from ablations.parts import Parts
from ablations.plan import Cell, ClipCard, clip_request, needs_backbone
from ablations.store import SCHEMA, Store
from crossframe.errors import Problem, UserError
from crossframe.files import read_json, write_json
from crossframe.provenance import provenance
from crossframe.video import read_frames, write_frames, write_mp4

if TYPE_CHECKING:
    from methods.base import SampleRequest
    from metrics.base import MetricInputs, MetricValue

Progress = Callable[[int, int], None]


class ClipBench:
    """Everything that the cells of one clip share: frames, flow, control maps. Made on demand."""

    def __init__(self, clip: Any, parts: Parts) -> None:
        self.clip = clip
        self.parts = parts
        self._controls: dict[str, torch.Tensor] = {}

    @cached_property
    def source(self) -> torch.Tensor:
        """Source frames, (f, 3, h, w) float32 in [0, 1]."""
        return to_tensor(self.clip.frames)

    @cached_property
    def flow(self) -> Any:
        """Flow of the source: exact where the clip knows it, estimated otherwise."""
        return self.parts.flow(self.clip)

    def controls(self, kinds: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """Control maps by kind, each (f, 3, h, w) float32 in [0, 1]."""
        for kind in kinds:
            if kind not in self._controls:
                self._controls[kind] = self.parts.control(kind, self.clip)
        return {kind: self._controls[kind] for kind in kinds}


class Bench:
    """What stays resident during a run: networks for ever, one clip at a time."""

    def __init__(self, checked: CheckedSpec, parts: Parts) -> None:
        self.checked = checked
        self.parts = parts
        self._clip: tuple[str, ClipBench] | None = None

    @cached_property
    def backbone(self) -> Any:
        """The networks, loaded when the first cell needs them."""
        return self.parts.load_backbone(self.checked.backbone)

    @cached_property
    def encoder(self) -> Any:
        """The CLIP of the metrics; raises `UserError` when its weights are absent."""
        folder = self.parts.encoder_folder(self.checked.spec.encoder, self.checked.backbone)
        return self.parts.load_encoder(folder)

    def clip(self, card: ClipCard) -> ClipBench:
        """The shared work of a clip; asking for another clip lets the last one go."""
        if self._clip is None or self._clip[0] != card.ref:
            clip = self.parts.load_clip(clip_request(card.ref, self.checked.spec))
            self._clip = (card.ref, ClipBench(clip, self.parts))
        return self._clip[1]


def to_tensor(frames: np.ndarray) -> torch.Tensor:
    """(f, h, w, 3) uint8 -> (f, 3, h, w) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255


def to_frames(video: torch.Tensor) -> np.ndarray:
    """(f, 3, h, w) in [0, 1] -> (f, h, w, 3) uint8, rounded to the nearest level."""
    levels = video.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def run_cell(cell: Cell, bench: Bench, store: Store, progress: Progress) -> dict[str, Any]:
    """Draw (unless the frames are stored) and score one cell, and write its result.

    Raises whatever the method or a metric raises; nothing but whole files is left behind.
    """
    shared = bench.clip(cell.clip)
    keep_clip(shared.clip, store)
    drawn = store.sample(cell.key)
    if drawn is None:
        store.forget(cell.key)
        drawn = _draw(cell, bench, shared, store, progress)
    began = time.perf_counter()
    metrics = _score(cell, bench, shared, store)
    record = {
        **drawn,
        **identity_record(cell),
        "status": "done",
        "metrics": metrics,
        "metric_keys": dict(cell.metric_keys),
        "cost": {**drawn["cost"], "scoring_seconds": time.perf_counter() - began},
    }
    store.write_result(cell.key, record)
    return record


def identity_record(cell: Cell) -> dict[str, Any]:
    """The part of a result that says which cell it is."""
    return {
        "schema": SCHEMA,
        "key": cell.key,
        "method": cell.row.method,
        "row": cell.row.label,
        "axes": dict(cell.row.axes),
        "sentinel": cell.row.sentinel,
        "clip": cell.clip.id,
        "clip_sha256": cell.clip.sha256,
        "prompt": cell.prompt,
        "seed_index": cell.seed_index,
        "seed": cell.seed,
        "config": dict(cell.row.config),
    }


def _draw(
    cell: Cell, bench: Bench, shared: ClipBench, store: Store, progress: Progress
) -> dict[str, Any]:
    method = cell.row.method
    sampler = bench.parts.methods.load(method)
    config = bench.parts.method_config(method).model_validate(dict(cell.row.config))
    backbone = bench.backbone if needs_backbone(method, bench.parts) else None
    request = _request(cell, shared, config)
    began = time.perf_counter()
    with torch.inference_mode():
        video = sampler(backbone, request, config, progress)
    seconds = time.perf_counter() - began
    _require_video(video, shared.source, method)
    frames = to_frames(video)
    folder = store.cell_folder(cell.key)
    write_frames(folder / "frames", frames)
    write_mp4(folder / "video.mp4", frames, shared.clip.fps)
    record = {
        "schema": SCHEMA,
        "key": cell.key,
        "cost": {"seconds": seconds, "seconds_per_frame": seconds / len(frames)},
        "provenance": provenance(),
    }
    store.write_sample(cell.key, record)
    return record


def _request(cell: Cell, shared: ClipBench, config: Any) -> SampleRequest:
    from methods.base import SampleRequest

    kinds = tuple(getattr(config, "controls", ()))
    return SampleRequest(
        frames=shared.source,
        prompt=cell.prompt,
        controls=shared.controls(kinds),
        seed=cell.seed,
    )


def _require_video(video: torch.Tensor, source: torch.Tensor, method: str) -> None:
    if video.shape != source.shape:
        shapes = f"{tuple(video.shape)} instead of {tuple(source.shape)}"
        raise UserError(Problem(method, f"returned frames of shape {shapes}"))
    if not torch.isfinite(video).all():
        raise UserError(
            Problem(
                method,
                "diverged: its frames hold NaN or infinity",
                fix="try dtype: float32, fewer extremes in guidance.scale, or other options",
            )
        )


def _score(cell: Cell, bench: Bench, shared: ClipBench, store: Store) -> dict[str, Any]:
    from metrics.base import MetricInputs

    earlier = store.result(cell.key) or {}
    known, scores = earlier.get("metric_keys", {}), dict(earlier.get("metrics", {}))
    missing = [name for name, key in cell.metric_keys.items() if known.get(name) != key]
    stored = to_tensor(read_frames(store.cell_folder(cell.key) / "frames"))
    inputs = MetricInputs(stored, shared.source, cell.prompt)
    for name in missing:
        scores[name] = _measure(name, bench, shared, inputs)
    return {name: scores[name] for name in cell.metric_keys}


def _measure(name: str, bench: Bench, shared: ClipBench, inputs: MetricInputs) -> dict[str, Any]:
    """One metric of one output; what it cannot do without is unavailable, with the reason."""
    needs = bench.parts.metrics.entry(name).extra.get("needs", ())
    try:
        if "flow" in needs:
            inputs = replace(inputs, flow=shared.flow)
        if "clip" in needs:
            inputs = replace(inputs, encoder=bench.encoder)
        compute: Callable[[MetricInputs], MetricValue] = bench.parts.metrics.load(name)
        with torch.inference_mode():
            return compute(inputs).record()
    except UserError as error:
        return {"unavailable": str(error)}


def keep_clip(clip: Any, store: Store) -> None:
    """Store a clip for viewing beside the samples, unless this very clip is stored."""
    folder = store.clip_folder(clip.id)
    try:
        if read_json(folder / "clip.json").get("sha256") == clip.sha256:
            return
    except UserError:
        pass
    write_frames(folder / "frames", clip.frames)
    write_mp4(folder / "video.mp4", clip.frames, clip.fps)
    write_json(
        folder / "clip.json",
        {
            "id": clip.id,
            "caption": clip.caption,
            "edits": dict(clip.edits),
            "fps": clip.fps,
            "sha256": clip.sha256,
            "exact_flow": clip.truth is not None,
        },
    )
