"""Results as LOVEU-TGVE-2023 takes them: from run folders to `<subset>/<video>/<kind>/%05d.jpg`.

Several runs may hold parts of one submission: other clips, other kinds of edit, or other stretches
of the same clips, which are joined by the first frame that each run was told to read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ablations.store import Store
from crossframe.errors import Problem, UserError, did_you_mean
from crossframe.files import read_json
from data_manifests.submissions import SET, wanted_entries, write_entry
from reports.load import Cell, Run

Name = tuple[str, str]
"""Video and kind of edit."""


@dataclass(frozen=True)
class Piece:
    """A finished cell with the number that its first frame has in the submission."""

    first: int
    run: Run
    cell: Cell


@dataclass(frozen=True)
class Exported:
    """What was written, by video and kind, as numbers of frames; and what could not be."""

    frames: dict[Name, int]
    problems: tuple[Problem, ...]


def export(runs: Sequence[Run], out: Path, row: str = "", seed: int = 0) -> Exported:
    """Write a submission, each video whole or not at all; what stands there already is replaced.

    row: label of the row that is handed in, needed where a run has several. seed: index of the
    seed. Raises UserError when a run has no such row, seed or clip of TGVE; single cells that
    cannot be used are told in the result.
    """
    problems: list[Problem] = []
    pieces: dict[Name, list[Piece]] = {}
    for run in runs:
        for found in _pieces(run, _row(run, row), seed):
            if isinstance(found, Problem):
                problems.append(found)
            else:
                name, piece = found
                pieces.setdefault(name, []).append(piece)
    if not pieces and not problems:
        what = f"has no cell of seed {seed} on a clip of {SET}"
        raise UserError(Problem(", ".join(str(run.root) for run in runs), what, "clips tgve:NAME"))
    written: dict[Name, int] = {}
    for name, parts in pieces.items():
        try:
            frames = _joined(name, parts)
        except UserError as error:
            problems += error.problems
            continue
        write_entry(out, *name, frames)
        written[name] = len(frames)
    return Exported(written, tuple(problems))


def _row(run: Run, label: str) -> str:
    labels = [row.label for row in run.rows if not row.sentinel]
    if label in labels or (not label and len(labels) == 1):
        return label or labels[0]
    what = f"has no row {label!r}" if label else f"has {len(labels)} rows"
    fix = did_you_mean(label, labels) if label else "name one with --row"
    raise UserError(Problem(str(run.root), what, ", ".join(labels), fix))


def _pieces(run: Run, row: str, seed: int) -> Iterator[tuple[Name, Piece] | Problem]:
    settings = run.spec.get("clip", {})
    first = settings.get("start", 0) // settings.get("stride", 1)
    videos = {video for video, _ in wanted_entries()}
    for cell in run.cells_of(row):
        source, _, video = cell.clip.partition(":")
        if cell.seed_index != seed or source != "tgve" or video not in videos:
            continue
        kinds = _kinds(run, cell)
        if cell.state != "done":
            yield Problem(f"{cell.clip}: {cell.prompt[:60]!r}", f"is not done: {cell.reason}")
        elif not kinds:
            allowed = "prompts of the clip's four kinds (prompt: [style, ...] in the spec)"
            what = f"was given a prompt of its own: {cell.prompt[:60]!r}"
            yield Problem(cell.clip, what, allowed)
        for kind in kinds if cell.state == "done" else ():
            yield (video, kind), Piece(first, run, cell)


def _kinds(run: Run, cell: Cell) -> list[str]:
    """Kinds of edit whose prompt a cell was given; two where the challenge asks the same twice."""
    clip = run.clip(cell.clip)
    card: Any = read_json(clip.folder / "clip.json") if clip else {}
    wanted = {kind for _, kind in wanted_entries()}
    edits = card.get("edits", {})
    return [kind for kind, text in edits.items() if kind in wanted and text == cell.prompt]


def _joined(name: Name, pieces: Sequence[Piece]) -> np.ndarray:
    """All frames of a video, (f, h, w, 3) uint8; raises UserError for gaps and damaged frames."""
    where, parts, end = "/".join(name), [], 0
    for piece in sorted(pieces, key=lambda piece: piece.first):
        if piece.first != end:
            what = f"frame {end} comes from no run" if piece.first > end else "comes from two runs"
            raise UserError(Problem(where, what, fix="give runs whose stretches follow each other"))
        frames = Store(piece.run.root).whole_frames(piece.cell.key)
        if frames is None:
            fix = f"remove {piece.cell.folder} and run again"
            raise UserError(Problem(where, "its stored frames are damaged", fix=fix))
        parts.append(frames)
        end += len(frames)
    if len({part.shape[1:] for part in parts}) > 1:
        raise UserError(Problem(where, "its parts differ in size"))
    return np.concatenate(parts)
