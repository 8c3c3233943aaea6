"""One cell, from clip to `result.json`; the only module here that touches tensors.

Two steps: *draw* runs the method and stores lossless frames, *score* measures the stored frames. A
cell that was drawn before, by an interrupted run or for fewer metrics, is only scored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ablations.cost import Cost
from ablations.parts import Parts
from ablations.plan import Cell, ClipCard, clip_request, needs_backbone
from ablations.spec import Spec
from ablations.stages import StageCache
from ablations.store import SCHEMA, Store
from crossframe.errors import Diverged, Problem, UserError
from crossframe.files import read_json, write_json
from crossframe.keys import array_sha256
from crossframe.provenance import provenance
from crossframe.video import write_frames, write_mp4
from data_manifests.clips import Clip, Truth

if TYPE_CHECKING:
    from methods.base import SampleRequest, Shared
    from metrics.base import MetricInputs, MetricValue

Progress = Callable[[int, int], None]


class ClipBench:
    """Everything that the cells of one clip share: frames, flow, control maps. Made on demand."""

    def __init__(self, clip: Any, card: ClipCard, parts: Parts, stages: StageCache) -> None:
        self.clip = clip
        self.identity = [card.sha256, card.truth_sha256]
        self.parts = parts
        self.stages = stages

    @cached_property
    def source(self) -> torch.Tensor:
        """Source frames, (f, 3, h, w) float32 in [0, 1]."""
        return to_tensor(self.clip.frames)

    @cached_property
    def flow(self) -> Any:
        """Flow of the source: exact where the clip knows it, estimated otherwise."""
        return self.parts.flow(self.clip, shared_by(self.stages))

    def controls(self, kinds: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """Control maps by kind, each (f, 3, h, w) float32 in [0, 1]."""
        shared = shared_by(self.stages)

        def made(kind: str) -> torch.Tensor:
            grey = shared(
                "control",
                [self.identity, kind],
                lambda: {"map": self.parts.control(kind, self.clip)[:, :1]},
            )
            return grey["map"].expand(-1, 3, -1, -1).contiguous()

        return {kind: made(kind) for kind in kinds}


class Bench:
    """What stays resident in a worker: networks for ever, one clip at a time."""

    def __init__(self, spec: Spec, backbone: Any, parts: Parts, store: Store) -> None:
        self.spec = spec
        self.backbone_config = backbone
        self.parts = parts
        self.stages = StageCache(
            store.root / "stages", lambda text: store.journal("stage", text=text)
        )
        self._clip: tuple[str, ClipBench] | None = None

    @cached_property
    def backbone(self) -> Any:
        """The networks, loaded when the first cell needs them."""
        return self.parts.load_backbone(self.backbone_config)

    @cached_property
    def encoder(self) -> Any:
        """The CLIP of the metrics; raises `UserError` when its weights are absent."""
        folder = self.parts.encoder_folder(self.spec.encoder, self.backbone_config)
        return self.parts.load_encoder(folder)

    def clip(self, card: ClipCard) -> ClipBench:
        """The shared work of a clip; asking for another clip lets the last one go."""
        if self._clip is None or self._clip[0] != card.ref:
            clip = decoded(card, self.spec, self.parts, self.stages)
            self._clip = (card.ref, ClipBench(clip, card, self.parts, self.stages))
        return self._clip[1]


def to_tensor(frames: np.ndarray) -> torch.Tensor:
    """(f, h, w, 3) uint8 -> (f, 3, h, w) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255


def to_frames(video: torch.Tensor) -> np.ndarray:
    """(f, 3, h, w) in [0, 1] -> (f, h, w, 3) uint8, rounded to the nearest level."""
    levels = video.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def shared_by(stages: StageCache) -> Shared:
    """The stage cache as methods see it: tensors in, tensors out."""

    def shared(
        stage: str, parts: Any, make: Callable[[], Mapping[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        def arrays() -> dict[str, np.ndarray]:
            return {name: value.detach().cpu().numpy() for name, value in make().items()}

        found = stages.get(stage, parts, arrays)
        return {name: torch.from_numpy(array) for name, array in found.items()}

    return shared


def decoded(card: ClipCard, spec: Spec, parts: Parts, stages: StageCache) -> Clip:
    """The clip that was planned, from the stage cache or from its source.

    Raises UserError when the source has other frames by now.
    """

    def make() -> dict[str, np.ndarray]:
        clip = parts.load_clip(clip_request(card.ref, spec))
        if clip.sha256 != card.sha256:
            what = "has changed since the plan was made"
            raise UserError(Problem(card.ref, what, fix="run again, on the clip as it is now"))
        truth = {} if clip.truth is None else vars(clip.truth)
        exact = {f"truth.{name}": array for name, array in truth.items() if array is not None}
        return {"frames": clip.frames, "fps": np.array(clip.fps), **exact}

    identity = [card.ref, spec.clip.model_dump(), card.sha256, card.truth_sha256]
    arrays = stages.get("decode", identity, make)
    exact = {
        name.removeprefix("truth."): array
        for name, array in arrays.items()
        if name.startswith("truth.")
    }
    truth = Truth(**exact) if exact else None
    fps = float(arrays["fps"])
    return Clip(card.id, arrays["frames"], fps, card.caption, dict(card.edits or {}), truth)


def run_cell(cell: Cell, bench: Bench, store: Store, progress: Progress) -> dict[str, Any]:
    """Draw (unless the frames are stored whole) and score one cell, and write its result.

    Raises whatever the method or a metric raises; nothing but whole files is left behind.
    """
    shared = bench.clip(cell.clip)
    keep_clip(shared.clip, store)
    drawn, frames = store.sample(cell.key), store.whole_frames(cell.key)
    if drawn is None or frames is None:
        store.forget(cell.key)
        drawn, frames = _draw(cell, bench, shared, store, progress)
    began = time.perf_counter()
    with _viewable(store.cell_folder(cell.key) / "video.mp4", frames, shared.clip.fps):
        metrics = _score(cell, bench, shared, store, frames)
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


@contextmanager
def _viewable(path: Path, frames: np.ndarray, fps: float) -> Iterator[None]:
    """Encode a video beside whatever the block does, unless it lies there already."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        encoding = None if path.exists() else pool.submit(write_mp4, path, frames, fps)
        yield
        if encoding is not None:
            encoding.result()


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
) -> tuple[dict[str, Any], np.ndarray]:
    """Run the method and keep its frames; `sample.json` says last that they are whole."""
    method = cell.row.method
    sampler = bench.parts.methods.load(method)
    config = bench.parts.method_config(method).model_validate(dict(cell.row.config))
    backbone = bench.backbone if needs_backbone(method, bench.parts) else None
    request = _request(cell, shared, config)
    with Cost() as cost, torch.inference_mode():
        video = sampler(backbone, request, config, progress)
    _require_video(video, shared.source, method)
    frames = to_frames(video)
    write_frames(store.cell_folder(cell.key) / "frames", frames)
    record = {
        "schema": SCHEMA,
        "key": cell.key,
        "frames_sha256": array_sha256(frames),
        "cost": cost.record(len(frames)),
        "provenance": provenance(),
    }
    store.write_sample(cell.key, record)
    return record, frames


def _request(cell: Cell, shared: ClipBench, config: Any) -> SampleRequest:
    from methods.base import SampleRequest

    kinds = tuple(getattr(config, "controls", ()))
    return SampleRequest(
        frames=shared.source,
        prompt=cell.prompt,
        controls=shared.controls(kinds),
        seed=cell.seed,
        shared=shared_by(shared.stages),
    )


def _require_video(video: torch.Tensor, source: torch.Tensor, method: str) -> None:
    if video.shape != source.shape:
        shapes = f"{tuple(video.shape)} instead of {tuple(source.shape)}"
        raise UserError(Problem(method, f"returned frames of shape {shapes}"))
    if not torch.isfinite(video).all():
        raise Diverged(
            Problem(
                method,
                "diverged: its frames hold NaN or infinity",
                fix="try dtype: float32, fewer extremes in guidance.scale, or other options",
            )
        )


def _score(
    cell: Cell, bench: Bench, shared: ClipBench, store: Store, frames: np.ndarray
) -> dict[str, Any]:
    from metrics.base import MetricInputs

    earlier = store.result(cell.key) or {}
    known, scores = earlier.get("metric_keys", {}), dict(earlier.get("metrics", {}))
    missing = [name for name, key in cell.metric_keys.items() if known.get(name) != key]
    inputs = MetricInputs(to_tensor(frames), shared.source, cell.prompt)
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
    except Diverged:
        raise
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
