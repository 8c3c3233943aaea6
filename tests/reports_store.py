"""A run folder made of coloured noise with known scores, for the tests of the reports.

Run as a script it writes one, for looking at the page: `python tests/reports_store.py FOLDER`.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossframe.files import write_json
from crossframe.video import write_frames, write_mp4
from reports.load import MetricInfo

CONSISTENCY, WARP, MOTION, TEXT = (
    "clip_frame/consecutive",
    "warp/source_flow",
    "motion/ratio",
    "clip_text/cosine",
)
INFOS = {
    info.id: info
    for info in (
        MetricInfo(
            CONSISTENCY,
            "higher",
            "Mean cosine of the CLIP image embeddings of neighbouring frames.",
            (-1.0, 1.0),
            paper_names=("frame consistency",),
        ),
        MetricInfo(WARP, "lower", "Mean squared error after warping by the source's flow.", (0, 1)),
        MetricInfo(MOTION, "target", "Mean flow length over that of the source.", (0, None)),
    )
}

BASE: Mapping[str, Mapping[str, float]] = {
    "individual": {CONSISTENCY: 0.80, WARP: 0.090, MOTION: 1.6},
    "first+previous": {CONSISTENCY: 0.90, WARP: 0.060, MOTION: 1.2},
    "full": {CONSISTENCY: 0.95, WARP: 0.050, MOTION: 1.05},
    "source": {CONSISTENCY: 0.97, WARP: 0.001, MOTION: 1.0},
    "frozen": {CONSISTENCY: 1.0, WARP: 0.120, MOTION: 0.0},
}
SENTINELS = ("source", "frozen")
CLAIMS: tuple[dict[str, Any], ...] = (
    {
        "text": f"individual > first+previous > full on {WARP}",
        "source": "ControlVideo, Table 3",
        "paper": {"individual": 20.13, "first+previous": 7.05, "full": 5.93},
    },
    {"text": f"full < individual on {CONSISTENCY}", "source": "made up: it is the other way round"},
)
CLIP_STEP, SEED_STEP = 0.004, 0.001

Score = Callable[[str, str, int, int], float]


def plain_score(metric: str, row: str, clip: int, seed: int) -> float:
    """Base value, plus the clip's difficulty, plus a seed's share; frozen motion stays at zero."""
    if row == "frozen" and metric != WARP:
        return BASE[row][metric]
    return BASE[row][metric] + CLIP_STEP * clip + SEED_STEP * seed


@dataclass(frozen=True)
class Shape:
    """Size of a synthetic run. skip: cells never run; fail: reasons; both by (row, clip, seed)."""

    clips: int = 4
    seeds: int = 2
    frames: int = 6
    side: int = 16
    metrics: Sequence[str] = (CONSISTENCY, WARP, MOTION)
    claims: Sequence[Mapping[str, Any]] = CLAIMS
    skip: Sequence[tuple[str, int, int]] = ()
    fail: Mapping[tuple[str, int, int], str] | None = None
    unavailable: Mapping[str, str] | None = None
    score: Score = plain_score
    videos: bool = False
    rows: Sequence[str] = tuple(BASE)


def write_store(root: Path, shape: Shape = Shape()) -> Path:
    """Write a run folder and return it."""
    for clip in range(shape.clips):
        _write_clip(root, clip, shape)
    plan = [
        _write_cell(root, row, clip, seed, shape)
        for clip in range(shape.clips)
        for row in shape.rows
        for seed in range(1 if row in SENTINELS else shape.seeds)
    ]
    write_json(root / "spec.json", _spec(shape))
    write_json(root / "plan.json", plan)
    return root


def _spec(shape: Shape) -> dict[str, Any]:
    grid = [row for row in shape.rows if row not in SENTINELS]
    return {
        "name": "synthetic",
        "title": "Frame attention & <friends>",
        "description": "Coloured noise with known scores.",
        "backbone": "miniature",
        "method": "controlvideo",
        "sentinels": [row for row in shape.rows if row in SENTINELS],
        "base": {"steps": 12},
        "grid": {"attention.pattern": grid},
        "clips": ["world:heldout/0..3"],
        "clip": {"frames": shape.frames, "size": shape.side, "start": 0, "stride": 1},
        "metrics": list(shape.metrics),
        "report": {"rows": "attention.pattern", "baseline": "individual"},
        "claims": list(shape.claims),
        "rows": [_row(label) for label in sorted(shape.rows, key=lambda r: r not in SENTINELS)],
    }


def _row(label: str) -> dict[str, Any]:
    beside = label in SENTINELS
    axes = {} if beside else {"attention.pattern": label}
    method = label if beside else "controlvideo"
    return {"label": label, "axes": axes, "method": method, "sentinel": beside}


def clip_id(index: int) -> str:
    return f"world:heldout/{index}"


def _write_clip(root: Path, index: int, shape: Shape) -> None:
    folder = root / "clips" / f"world-heldout-{index}"
    frames = _noise(f"clip {index}", shape, moving=True)
    write_frames(folder / "frames", frames)
    if shape.videos:
        write_mp4(folder / "video.mp4", frames, 8.0)
    card = {
        "id": clip_id(index),
        "caption": "a red star on a striped background",
        "edits": {"object": "a blue star on a striped background"},
        "fps": 8.0,
        "sha256": "0" * 64,
        "exact_flow": True,
    }
    write_json(folder / "clip.json", card)


def _write_cell(root: Path, row: str, clip: int, seed: int, shape: Shape) -> dict[str, Any]:
    key = hashlib.sha256(f"{row}/{clip}/{seed}".encode()).hexdigest()
    folder, head = root / "cells" / key[:16], _row(row)
    entry = {
        "key": key,
        "row": row,
        "axes": head["axes"],
        "method": head["method"],
        "clip": clip_id(clip),
        "prompt": "a blue star on a striped background",
        "seed_index": seed,
        "problem": "",
    }
    where = (row, clip, seed)
    if where in (shape.fail or {}):
        reason = (shape.fail or {})[where]
        failure = {"schema": 1, **entry, "status": "failed", "reason": reason}
        write_json(folder / "failed.json", {**failure, "traceback": "Traceback\n  ..."})
    elif where not in shape.skip:
        frames = _noise(key, shape, moving=row != "frozen")
        write_frames(folder / "frames", frames)
        if shape.videos:
            write_mp4(folder / "video.mp4", frames, 8.0)
        write_json(folder / "result.json", _result(entry, where, shape))
    return entry


def _result(entry: Mapping[str, Any], where: tuple[str, int, int], shape: Shape) -> dict[str, Any]:
    row, clip, seed = where
    metrics: dict[str, Any] = {}
    for name in shape.metrics:
        if name in (shape.unavailable or {}):
            metrics[name] = {"unavailable": (shape.unavailable or {})[name]}
        else:
            value = shape.score(name, row, clip, seed)
            wave = np.cos(np.arange(shape.frames - 1) * 2.0 + clip) * 0.002
            series = [float(v) for v in value + wave - wave.mean()]
            metrics[name] = {"value": value, "series": series, "detail": {}}
    return {
        "schema": 1,
        **entry,
        "status": "done",
        "seed": 1234 + seed,
        "config": {"attention": {"pattern": row}, "steps": 12},
        "metrics": metrics,
        "cost": {"seconds": 0.5 * shape.frames, "seconds_per_frame": 0.5},
        "provenance": {"crossframe": "0.1.0", "git": {"commit": "abc", "dirty": False}},
    }


def _noise(name: str, shape: Shape, moving: bool) -> np.ndarray:
    """(f, side, side, 3) uint8: a smooth coloured pattern that drifts and carries some noise."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : shape.side, 0 : shape.side] / shape.side
    waves, colour = rng.uniform(4, 18, (3, 2)), rng.uniform(80, 200, 3)
    frames = []
    for t in range(shape.frames):
        phase = t * 0.6 * moving
        plane = np.stack([np.sin(a * x + b * y + phase) for a, b in waves], -1) * 45
        grain = rng.normal(0, 14, (shape.side, shape.side, 3)) if moving or t == 0 else 0.0
        frames.append(np.clip(colour + plane + grain, 0, 255))
    stack = np.stack(frames if moving else [frames[0]] * shape.frames)
    return stack.round().astype(np.uint8)


if __name__ == "__main__":
    from reports import write_report

    big = Shape(
        clips=8,
        side=128,
        frames=8,
        seeds=3,
        videos=True,
        metrics=(CONSISTENCY, WARP, MOTION, TEXT),
        unavailable={TEXT: "the CLIP weights are absent: run `make weights`"},
        fail={("full", 7, 1): "OutOfMemoryError: 2.1 GiB asked for, 1.0 GiB free"},
        score=lambda metric, row, clip, seed: (
            plain_score(metric, row, clip, seed)
            + (
                0
                if row in SENTINELS
                else 0.15
                * BASE[row][WARP]
                * np.sin(7.0 * clip + 3.0 * seed + len(row) + len(metric))
            )
        ),
    )
    print(write_report(write_store(Path(sys.argv[1]), big), INFOS))
