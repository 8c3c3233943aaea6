"""The run folder: one folder per cell, `result.json` written last, an append-only journal.

    <out>/spec.json  plan.json  journal.jsonl
    <out>/cells/<key[:16]>/frames/0000.png ...  video.mp4  sample.json  result.json | failed.json
    <out>/clips/<slug>/frames/0000.png ...  video.mp4  clip.json

`sample.json` says that the frames are whole, `result.json` that they are scored too. All files are
replaced atomically, so a killed run leaves whole files or none. Torch-free.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crossframe.errors import Problem, UserError
from crossframe.files import append_line, read_json, write_json

SCHEMA = 1
KEY_DIGITS = 16


class Store:
    """Reads and writes one run folder. Nothing is created before the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def cell_folder(self, key: str) -> Path:
        """Folder of the cell with this key."""
        return self.root / "cells" / key[:KEY_DIGITS]

    def clip_folder(self, clip_id: str) -> Path:
        """Folder of a clip; the name is made of the id's letters and digits."""
        return self.root / "clips" / clip_slug(clip_id)

    def result(self, key: str) -> dict[str, Any] | None:
        """Finished record of a cell, or None when there is none that can be trusted."""
        return self._record(self.cell_folder(key) / "result.json", key)

    def sample(self, key: str) -> dict[str, Any] | None:
        """Record of a sampled, perhaps not yet scored, cell."""
        return self._record(self.cell_folder(key) / "sample.json", key)

    def failure(self, key: str) -> dict[str, Any] | None:
        """Record of the last failure of a cell, or None."""
        return self._record(self.cell_folder(key) / "failed.json", key)

    def _record(self, path: Path, key: str) -> dict[str, Any] | None:
        try:
            record = read_json(path)
        except UserError:
            return None
        trusted = isinstance(record, dict) and record.get("key") == key
        return record if trusted and record.get("schema") == SCHEMA else None

    def write_result(self, key: str, record: Mapping[str, Any]) -> None:
        """Write the finished record, and forget earlier failures."""
        write_json(self.cell_folder(key) / "result.json", record)
        (self.cell_folder(key) / "failed.json").unlink(missing_ok=True)

    def write_sample(self, key: str, record: Mapping[str, Any]) -> None:
        """Declare the frames of a cell whole."""
        write_json(self.cell_folder(key) / "sample.json", record)

    def write_failure(self, key: str, record: Mapping[str, Any]) -> None:
        """Record why a cell failed; a result of an earlier definition of it is removed."""
        write_json(self.cell_folder(key) / "failed.json", record)
        (self.cell_folder(key) / "result.json").unlink(missing_ok=True)

    def forget(self, key: str) -> None:
        """Remove whatever an interrupted run left of a cell."""
        shutil.rmtree(self.cell_folder(key), ignore_errors=True)

    def write_spec(self, record: Mapping[str, Any]) -> None:
        """Write the resolved spec."""
        write_json(self.root / "spec.json", record)

    def write_plan(self, cells: list[dict[str, Any]]) -> None:
        """Write the list of cells that belong to the spec."""
        write_json(self.root / "plan.json", cells)

    def journal(self, event: str, **details: Any) -> None:
        """Append one event with its time (UTC)."""
        record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
        append_line(self.root / "journal.jsonl", json.dumps({**record, **details}))

    def seconds(self) -> Iterator[tuple[str, str, float]]:
        """Yield (method, row label, seconds with scoring) of every finished cell in the folder."""
        for path in sorted(self.root.glob("cells/*/result.json")):
            try:
                record = read_json(path)
                cost = record["cost"]
                seconds = float(cost["seconds"]) + float(cost.get("scoring_seconds", 0))
                yield record["method"], record["row"], seconds
            except (UserError, KeyError, TypeError, ValueError):
                continue

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one run; a second one raises `UserError`. Released by any exit."""
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / ".lock", "a", encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    Problem(
                        str(self.root),
                        "another run is writing to this folder",
                        fix="wait for it, or give another --out",
                    )
                ) from None
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Remove temporary files and folders of killed runs."""
        for pattern in (".*.tmp*", "*/*/.*.tmp*"):
            for path in self.root.glob(pattern):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def clip_slug(clip_id: str) -> str:
    """Return a folder name for a clip id: `world:heldout/3` -> `world-heldout-3`."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", clip_id).strip("-.") or "clip"
