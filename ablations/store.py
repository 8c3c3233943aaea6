"""The run folder: one folder per cell, `result.json` written last, an append-only journal.

    <out>/spec.json  plan.json  journal.jsonl
    <out>/cells/<key[:16]>/frames/0000.png ...  video.mp4  sample.json  result.json
                           or failed.json  log.txt
    <out>/clips/<slug>/frames/0000.png ...  video.mp4  clip.json
    <out>/claims/<key[:16]>.<n>   who is at which cell (see `ablations.leases`)
    <out>/stages/<stage>/...      what cells share (see `ablations.stages`)
    <out>/scratch/...             unfinished work of methods, from which they go on
    <out>/slurm/...               what the engine of that name keeps

`sample.json` says that the frames are whole and carries their sha256, `result.json` that they are
scored too; it is sealed (see `ablations.seals`), so that a changed score is noticed. All files are
replaced atomically, so a killed run leaves whole files or none. No link in the folder is followed.
Torch-free.
"""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.leases import Lease, Owner, acquire, holder
from ablations.seals import SEAL, intact, sealed
from crossframe.errors import UserError
from crossframe.files import append_line, own_path, read_json, sweep, write_json, write_text
from crossframe.keys import array_sha256, identity

if TYPE_CHECKING:
    import numpy as np

SCHEMA = 1
KEY_DIGITS = 16
STATUSES = ("done", "skipped", "failed", "oom", "diverged", "interrupted")
"""What can become of a cell. skipped: cannot be run here, by its problem. oom: out of memory.
diverged: NaN or infinite. interrupted: a kill or Ctrl-C took it, it is simply run again."""
FAILURES = STATUSES[1:]


class Store:
    """Reads and writes one run folder. Nothing is created before the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def cell_folder(self, key: str) -> Path:
        """Folder of the cell with this key; raises UserError when a link stands in its place."""
        return self._inside("cells", key[:KEY_DIGITS])

    def clip_folder(self, clip_id: str) -> Path:
        """Folder of a clip; the name is made of the id's letters and digits."""
        return self._inside("clips", clip_slug(clip_id))

    @property
    def stage_folder(self) -> Path:
        """Root of the stage cache of this folder."""
        return self._inside("stages")

    @property
    def scratch_folder(self) -> Path:
        """Folder of the unfinished work of methods, from which they go on."""
        return self._inside("scratch")

    @property
    def claim_folder(self) -> Path:
        """Folder of the claims on cells."""
        return self._inside("claims")

    @property
    def slurm_folder(self) -> Path:
        """Folder of the Slurm engine: submitit's files, and a flag per task."""
        return self._inside("slurm")

    @property
    def journal_file(self) -> Path:
        """The journal, which is appended to and thus would be written through a link."""
        return self._inside("journal.jsonl")

    def _inside(self, *parts: str) -> Path:
        """A path in the run folder that no link leads elsewhere; raises UserError otherwise."""
        return own_path(self.root, *parts)

    def cells(self) -> Iterator[Path]:
        """Yield the folders of all cells that are there, done or not; links are left out."""
        for path in sorted(self.root.glob("cells/*/")):
            if not path.is_symlink():
                yield path

    def result(self, key: str) -> dict[str, Any] | None:
        """Finished record of a cell without its seal, or None when none can be trusted."""
        return self._record(self.cell_folder(key) / "result.json", key)

    def spoilt(self, key: str) -> bool:
        """Tell whether a finished record is there that cannot be trusted."""
        return self.result(key) is None and (self.cell_folder(key) / "result.json").exists()

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
        if not isinstance(record, dict) or not intact(record):
            return None
        record.pop(SEAL, None)
        return record if (record.get("key"), record.get("schema")) == (key, SCHEMA) else None

    def whole_frames(self, key: str) -> np.ndarray | None:
        """Stored frames of a cell, uint8 (f, h, w, 3), if they are those that were written.

        None when a frame is missing, truncated or altered, by the sha256 in `sample.json`.
        """
        from crossframe.video import read_frames

        sha = (self.sample(key) or {}).get("frames_sha256")
        if sha is None:
            return None
        try:
            frames = read_frames(self.cell_folder(key) / "frames")
        except (UserError, OSError, SyntaxError, ValueError, EOFError, zlib.error):
            return None  # what Pillow raises for damaged files, by its kind of damage
        return frames if array_sha256(frames) == sha else None

    def claim(self, key: str) -> Lease | None:
        """Claim a cell for this process, or return None when a living runner is at it.

        Look for the result again after winning: the last owner may have written it meanwhile.
        """
        return acquire(self.claim_folder, key[:KEY_DIGITS])

    def holder(self, key: str) -> Owner | None:
        """Return the living runner that is at a cell, or None."""
        return self.claimant(key[:KEY_DIGITS])

    def claimant(self, claim: str) -> Owner | None:
        """Return the living owner of a claim of any name, on a cell or on shared work, or None."""
        return holder(self.claim_folder, claim)

    def write_result(self, key: str, record: Mapping[str, Any]) -> None:
        """Seal and write the finished record, and forget earlier failures."""
        folder = self.cell_folder(key)
        write_json(folder / "result.json", sealed(record))
        for name in ("failed.json", "log.txt"):
            (folder / name).unlink(missing_ok=True)

    def write_sample(self, key: str, record: Mapping[str, Any]) -> None:
        """Declare the frames of a cell whole; `frames_sha256` is what `whole_frames` compares."""
        write_json(self.cell_folder(key) / "sample.json", record)

    def write_failure(self, key: str, record: Mapping[str, Any], log: str = "") -> None:
        """Record why a cell failed: `status` (one of `FAILURES`), `reason`, and a log beside it.

        The record gets the path of the log, relative to the run folder, as `log`. A result that
        is there stays, and `result` goes on returning it. Raises ValueError for another status.
        """
        if record.get("status") not in FAILURES:
            allowed = ", ".join(FAILURES)
            raise ValueError(f"{record.get('status')!r} is no failure (allowed: {allowed})")
        path = self.cell_folder(key) / "log.txt"
        if log:
            write_text(path, log)
            record = {**record, "log": path.relative_to(self.root).as_posix()}
        write_json(path.with_name("failed.json"), record)

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
        append_line(self.journal_file, json.dumps({**record, **details}))

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the events of the journal; a line that a crash left torn is passed over."""
        try:
            lines = self.journal_file.read_bytes().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event

    def seconds(self) -> Iterator[tuple[str, str, float, float | None]]:
        """Yield (method, row label, seconds of drawing, of scoring) of every finished cell.

        The last is None where it was not taken down.
        """
        for record in self._finished():
            try:
                cost = record["cost"]
                scoring = cost.get("scoring_seconds")
                took = float(cost["seconds"]), None if scoring is None else float(scoring)
                yield record["method"], record["row"], *took
            except (KeyError, TypeError, ValueError):
                continue

    def _finished(self) -> Iterator[dict[str, Any]]:
        for folder in self.cells():
            try:
                record = read_json(folder / "result.json")
            except UserError:
                continue
            if isinstance(record, dict):
                yield record

    def sweep(self) -> list[Path]:
        """Remove what killed writers left half-written, never what a living one is at."""
        return sweep(self.root)


def clip_slug(clip_id: str) -> str:
    """Return a folder name for a clip id: `bear` -> `bear`, `davis:bear` -> `davis-bear-6e4b...`.

    Where letters had to be replaced, 8 digits of the id's hash keep `a:b` and `a-b` apart.
    """
    slug = re.sub(r"[^A-Za-z0-9._]+", "-", clip_id).strip("-.") or "clip"
    return slug if slug == clip_id else f"{slug}-{identity(clip_id)[:8]}"
