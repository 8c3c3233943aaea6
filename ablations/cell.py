"""One cell, from clip to `result.json`.

Three steps: *draw* runs the method and stores lossless frames, *score* measures the stored frames,
*finish* waits for the video and writes the result. A cell that was drawn before, by an interrupted
run or for fewer metrics, is only scored. Videos are encoded beside scoring and the next cell.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, wait
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ablations.bench import Bench, ClipBench, shared_by
from ablations.clips import keep_clip
from ablations.cost import measured
from ablations.plan import Cell
from ablations.scoring import score_cell
from ablations.store import SCHEMA, Store
from crossframe.errors import Diverged, Problem, UserError
from crossframe.keys import array_sha256
from crossframe.provenance import provenance
from crossframe.video import write_frames, write_mp4

if TYPE_CHECKING:
    from methods.base import SampleRequest

Progress = Callable[[int, int], None]


def to_frames(video: torch.Tensor) -> np.ndarray:
    """(f, 3, h, w) in [0, 1] -> (f, h, w, 3) uint8, rounded to the nearest level."""
    levels = video.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def run_cell(
    cell: Cell, bench: Bench, store: Store, progress: Progress, beside: Executor
) -> Callable[[], None]:
    """Draw (unless the frames are stored whole) and score one cell; return how to finish it.

    beside: encodes the video, unless it lies there already. What is returned waits for that and
    writes the result, last of all; it needs no networks and may run beside the next cell.
    Raises whatever the method or a metric raises; nothing but whole files is left behind, and
    nothing is written any more. What is returned raises what encoding or writing raises.
    """
    shared = bench.clip(cell.clip)
    keep_clip(shared.clip, store)
    drawn, frames = store.sample(cell.key), store.whole_frames(cell.key)
    if drawn is None or frames is None:
        store.forget(cell.key)
        drawn, frames = _draw(cell, bench, shared, store, progress)
    video = (store.cell_folder(cell.key) / "video.mp4", frames, shared.clip.fps, shared.clip.voice)
    views = [] if video[0].exists() else [beside.submit(write_mp4, *video)]
    began = time.perf_counter()
    try:
        metrics = score_cell(cell, bench, shared, store, frames)
    except BaseException:
        wait(views)
        raise
    record = {
        **drawn,
        **identity_record(cell),
        "status": "done",
        "metrics": metrics,
        "metric_keys": dict(cell.metric_keys),
        "cost": {**drawn["cost"], "scoring_seconds": time.perf_counter() - began},
    }

    def finish() -> None:
        """Write the result when the video is there."""
        for view in views:
            view.result()
        store.write_result(cell.key, record)

    return finish


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
    backbone = bench.networks(method)
    notes: dict[str, Any] = {}
    request = replace(sample_request(cell, shared, store), note=notes.__setitem__)
    with measured() as cost, torch.inference_mode():
        video = sampler(backbone, request, cell.row.options, progress)
    _require_video(video, shared.source, method)
    frames = to_frames(video)
    write_frames(store.cell_folder(cell.key) / "frames", frames)
    record = {
        "schema": SCHEMA,
        "key": cell.key,
        "frames_sha256": array_sha256(frames),
        "cost": cost.record(len(frames)),
        "notes": notes,
        "provenance": provenance(),
    }
    store.write_sample(cell.key, record)
    return record, frames


def sample_request(cell: Cell, shared: ClipBench, store: Store) -> SampleRequest:
    """Return what the method of a cell is asked for."""
    from methods.base import SampleRequest

    config = cell.row.config
    kinds = tuple(config.get("controls", ()))
    return SampleRequest(
        frames=shared.source,
        prompt=cell.prompt,
        controls=shared.controls(kinds, config.get("annotator_range", "correct")),
        seed=cell.seed,
        source_prompt=cell.clip.caption,
        truth=shared.truth,
        voice=shared.clip.voice,
        shared=shared_by(shared.stages),
        scratch=store.scratch_folder,
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
