"""Captions and prompts that come with a user's own copy of a data set, one reader per format.

None of these prompts is shipped. A reader takes the path of the file and returns notes by clip.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from crossframe.errors import Problem, UserError
from data_manifests.sidecar import Sidecar, read_yaml

TGVE_NAME, TGVE_CAPTION = "Video name", "Our GT caption"
TGVE_EDITS = {
    "style": "Style Change Caption",
    "object": "Object Change Caption",
    "background": "Background Change Caption",
    "multiple": "Multiple Changes Caption",
}
"""Kind of edit -> column. The kinds are also the folder names of submissions to that challenge."""


def read_tgve(path: Path) -> dict[str, Sidecar]:
    """Return captions and the four prompts per clip from the CSV of LOVEU-TGVE-2023.

    Rows that name no video or have no caption are headings of a subset and are passed over.
    Raises UserError for a missing file or column, and for every clip that lacks a prompt.
    """
    columns, rows = _csv_rows(path)
    wanted = (TGVE_NAME, TGVE_CAPTION, *TGVE_EDITS.values())
    absent = [name for name in wanted if name not in columns]
    if absent:
        found = ", ".join(columns) or "no columns"
        raise UserError(
            Problem(str(path), f"has no column {name!r}", f"found: {found}") for name in absent
        )
    clips = [(line, row) for line, row in rows if row[TGVE_NAME] and row[TGVE_CAPTION]]
    problems = [p for line, row in clips for p in _tgve_gaps(f"{path}:{line}", row)]
    if problems:
        raise UserError(problems)
    return {
        row[TGVE_NAME]: Sidecar(
            row[TGVE_CAPTION], {kind: row[column] for kind, column in TGVE_EDITS.items()}
        )
        for _, row in clips
    }


def read_v2vbench(path: Path) -> dict[str, Sidecar]:
    """Return the prompts per clip from V2VBench's config.yaml, as edits `edit0`, `edit1`, ...

    The file holds a list `data` of `{video_id: ID, prompt: TEXT, edit: [{prompt: TEXT}, ...]}`;
    the source prompt may be absent. Raises UserError with every entry that is not of that form.
    """
    data = read_yaml(path)
    entries = data.get("data") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise UserError(Problem(str(path), "has no list `data`", "data: [{video_id: ...}, ...]"))
    read = [_v2vbench_entry(f"{path}: data[{i}]", entry) for i, entry in enumerate(entries)]
    problems = [item for item in read if isinstance(item, Problem)]
    if problems:
        raise UserError(problems)
    return dict(item for item in read if not isinstance(item, Problem))


READERS: Mapping[str, Callable[[Path], dict[str, Sidecar]]] = {
    "tgve": read_tgve,
    "v2vbench": read_v2vbench,
}


def _csv_rows(path: Path) -> tuple[Sequence[str], list[tuple[int, dict[str, str]]]]:
    """Return the column names, and every row with its line number, all texts stripped."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            columns = [(name or "").strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            return columns, [
                (reader.line_num, {name: (row[name] or "").strip() for name in columns})
                for row in reader
            ]
    except FileNotFoundError:
        raise UserError(Problem(str(path), "no such file")) from None
    except UnicodeDecodeError as error:
        fix = "save it as CSV in UTF-8"
        raise UserError(
            Problem(str(path), f"not UTF-8 text (byte {error.start})", "", fix)
        ) from error


def _tgve_gaps(where: str, row: Mapping[str, str]) -> Iterator[Problem]:
    for column in TGVE_EDITS.values():
        if not row[column]:
            yield Problem(where, f"{row[TGVE_NAME]} has nothing under {column!r}")


def _v2vbench_entry(where: str, entry: Any) -> tuple[str, Sidecar] | Problem:
    allowed = "{video_id: ID, edit: [{prompt: TEXT}, ...]}"
    if not isinstance(entry, dict) or "video_id" not in entry:
        return Problem(where, f"holds {entry!r}", allowed)
    edits = entry.get("edit") or []
    if not all(isinstance(edit, dict) and isinstance(edit.get("prompt"), str) for edit in edits):
        return Problem(f"{where}.edit", "an edit has no text `prompt`", allowed)
    prompts = {f"edit{index}": edit["prompt"] for index, edit in enumerate(edits)}
    return str(entry["video_id"]), Sidecar(str(entry.get("prompt") or ""), prompts)
