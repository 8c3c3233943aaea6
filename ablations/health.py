"""Is a run folder whole? Looks at everything that a run keeps, and mends by removing. Torch-free.

What is removed is made again by the next run. Findings that no mending is needed for (a cell that
somebody is at, a claim of the dead) are told as notes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ablations.leases import NAME, Owner, acquire, claimed, holder
from ablations.seals import intact
from ablations.stages import StageCache
from ablations.store import FAILURES, KEY_DIGITS, SCHEMA, STATUSES, Store
from crossframe.errors import Problem, UserError
from crossframe.files import leftovers, own_path, read_json, remove, write_bytes
from crossframe.keys import array_sha256

FOLDERS = ("cells", "clips", "stages", "claims", "scratch")
WRITTEN_INTO = (*FOLDERS, "report", "slurm", "journal.jsonl")
KNOWN = {*WRITTEN_INTO, "spec.json", "plan.json"}


@dataclass(frozen=True)
class Finding:
    """Something to tell about a path: damage when there is a `fix`, a note otherwise."""

    path: Path
    what: str
    fix: Callable[[], None] | None = None


@dataclass(frozen=True)
class Job:
    """One thing to look at; `claim` is the claim to hold while it is mended, or ""."""

    path: Path
    look: Callable[[], Iterator[Finding]]
    claim: str = ""


def open_run(folder: Path) -> Store:
    """Return the store in a folder; raises UserError unless a run has made it, without links."""
    if not any((folder / name).is_file() for name in ("spec.json", "plan.json")):
        what = "is not a run folder: it has no spec.json"
        raise UserError(Problem(str(folder), what, fix="crossframe run SPEC makes one"))
    for name in WRITTEN_INTO:
        own_path(folder, name)
    return Store(folder)


def jobs(store: Store) -> list[Job]:
    """Return everything there is to look at in a run folder."""
    root, cache = store.root, StageCache(store.stage_folder)
    known = planned(store)
    cells = sorted(root.glob("cells/*"))
    return [
        *(Job(root / name, partial(_head, root / name)) for name in ("spec.json", "plan.json")),
        Job(root / "journal.jsonl", partial(_journal, store)),
        Job(root, partial(_links, root)),
        *(Job(path, partial(_cell, store, path, known), _claim_of(path)) for path in cells),
        *(Job(path, partial(_clip, path)) for path in sorted(root.glob("clips/*"))),
        *(Job(path, partial(_stage, cache, path)) for path in cache.entries()),
        *(Job(path, partial(_aside, path)) for path in cache.damaged()),
        Job(root, partial(_rest, store)),
    ]


def examine(store: Store, job: Job) -> list[Finding]:
    """Return what is to be told about one thing; what a living runner is at is not looked into."""
    found = [] if _at_work(store, job) else list(job.look())
    # Asked again: a runner that came while we looked was replacing what we saw.
    owner = _at_work(store, job)
    return [Finding(job.path, f"in work: {owner}")] if owner else found


def mend(store: Store, job: Job) -> list[Finding]:
    """Look again, under the claim, remove what is damaged, and return what is damaged still."""
    lease = acquire(store.claim_folder, job.claim) if job.claim else None
    if lease is None and job.claim:
        return _damage(job)
    with lease or nullcontext():
        for finding in _damage(job):
            if finding.fix:
                finding.fix()
        return _damage(job)


def planned(store: Store) -> set[str] | None:
    """Return the folder names of the cells in plan.json, or None when it cannot be read."""
    try:
        cells = read_json(store.root / "plan.json")
        return {str(cell["key"])[:KEY_DIGITS] for cell in cells}
    except (UserError, TypeError, KeyError):
        return None


def told(path: Path, root: Path) -> str:
    """Return a path as seen from `root`, on one line whatever stands in its name."""
    text = str(path.relative_to(root)) if path != root else "."
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _damage(job: Job) -> list[Finding]:
    return [finding for finding in job.look() if finding.fix]


def _claim_of(folder: Path) -> str:
    """The claim on a cell's folder; what a stranger put there may have a name that has none."""
    return folder.name if NAME.fullmatch(folder.name) else ""


def _at_work(store: Store, job: Job) -> Owner | None:
    return holder(store.claim_folder, job.claim) if job.claim else None


def _head(path: Path) -> Iterator[Finding]:
    if not path.exists():
        yield Finding(path, "is missing; the next run writes it")
    elif what := _unreadable(path):
        yield Finding(path, what, partial(remove, path))


def _unreadable(path: Path) -> str:
    try:
        read_json(path)
    except UserError as error:
        return str(error).removeprefix(f"{path}:").strip()
    return ""


def _journal(store: Store) -> Iterator[Finding]:
    path = store.journal_file
    if not path.exists():
        return
    *lines, last = path.read_bytes().split(b"\n")
    torn = [number for number, line in enumerate(lines, 1) if not _is_event(line)]
    if torn:
        shown = ", ".join(map(str, torn[:5])) + (", ..." if len(torn) > 5 else "")
        what = f"{len(torn)} unreadable line{'s' if len(torn) > 1 else ''}: {shown}"
        yield Finding(path, what, partial(_without_torn_lines, store, path))
    if last and not _is_event(last):
        yield Finding(path, "the last line was cut off by a crash; it is passed over")


def _is_event(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _without_torn_lines(store: Store, path: Path) -> None:
    """Write the journal anew, unless a runner could append to it meanwhile."""
    if not any(claimed(store.claim_folder).values()):
        lines = path.read_bytes().splitlines()
        write_bytes(path, b"".join(line + b"\n" for line in lines if _is_event(line)))


def _links(root: Path) -> Iterator[Finding]:
    """Links in what cells share; those in cells are looked at cell by cell, under their claims."""
    for name in ("clips", "stages", "scratch"):
        for place, folders, files in os.walk(root / name):
            paths = (Path(place, each) for each in sorted((*folders, *files)))
            for path in filter(Path.is_symlink, paths):
                yield Finding(path, "is a symbolic link", partial(remove, path))


def _cell(store: Store, folder: Path, known: set[str] | None) -> Iterator[Finding]:
    """One cell: its records, its frames, its video, and whether a plan lists it."""
    away = partial(remove, folder)
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        yield Finding(folder, "is no folder of this run but a link or a file", away)
        return
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            yield Finding(path, "is a symbolic link", partial(remove, path))
    if known is not None and folder.name not in known:
        yield Finding(folder, "is in no plan; crossframe gc --orphans removes it")
    yield from _failure(folder)
    sample, wrong = _record(folder / "sample.json")
    result, spoilt = _record(folder / "result.json", STATUSES)
    if wrong:
        yield Finding(folder / "sample.json", wrong, away)
    elif sample is not None:
        yield from _frames(store, folder, sample)
    elif result is not None or spoilt:
        yield Finding(folder, "has a result without sample.json", away)
    elif not (folder / "failed.json").exists():
        yield Finding(folder, "was left unfinished; the next run makes it anew")
    if spoilt:
        yield Finding(folder / "result.json", spoilt, partial(remove, folder / "result.json"))
    elif result is not None and not _holds_bytes(folder / "video.mp4"):
        yield Finding(folder / "video.mp4", "is missing or empty", partial(_unscore, folder))


def _failure(folder: Path) -> Iterator[Finding]:
    path = folder / "failed.json"
    _, wrong = _record(path, FAILURES)
    if wrong:
        yield Finding(path, wrong, partial(remove, path))


def _frames(store: Store, folder: Path, sample: dict[str, Any]) -> Iterator[Finding]:
    if "frames_sha256" not in sample:
        yield Finding(folder, "has no sha256 of its frames: an earlier version made it")
    elif store.whole_frames(sample["key"]) is None:
        what = "do not match the sha256 in sample.json"
        yield Finding(folder / "frames", what, partial(remove, folder))


def _unscore(folder: Path) -> None:
    """Make the next run score a cell again; it writes the video on the way."""
    remove(folder / "video.mp4")
    remove(folder / "result.json")


def _record(path: Path, statuses: tuple[str, ...] = ()) -> tuple[dict[str, Any] | None, str]:
    """A record of the cell in whose folder it lies, or None, and what is wrong with it."""
    if not path.exists():
        return None, ""
    if what := _unreadable(path):
        return None, what
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("key"), str):
        return None, "is no record of a cell"
    if record.get("schema") != SCHEMA:
        return None, f"has schema {record.get('schema')!r} instead of {SCHEMA}"
    if record["key"][:KEY_DIGITS] != path.parent.name:
        return None, f"belongs to another cell, {record['key'][:KEY_DIGITS]}"
    if statuses and record.get("status") not in statuses:
        return None, f"has the status {record.get('status')!r}, none of {', '.join(statuses)}"
    if not intact(record):
        return None, "does not match the sha256 in it"
    return record, ""


def _holds_bytes(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _clip(folder: Path) -> Iterator[Finding]:
    card = folder / "clip.json"
    if not os.path.lexists(folder) or folder.is_symlink():
        return
    if not card.exists():
        yield Finding(folder, "was left unfinished; the next run writes it anew")
    elif what := _unreadable(card):
        yield Finding(card, what, partial(remove, folder))
    else:
        yield from _clip_frames(folder, read_json(card))


def _clip_frames(folder: Path, card: Any) -> Iterator[Finding]:
    """Compare a clip's frames; its `sha256` is that of these alone unless it has more to it."""
    from crossframe.video import read_frames

    frames = folder / "frames"
    known = card if isinstance(card, dict) else {}
    try:
        found = array_sha256(read_frames(frames))
    except Exception:  # whatever a damaged picture makes of its reader
        found = ""
    if found and found == known.get("frames_sha256", known.get("sha256")):
        return
    if found and "sha256" in known and "frames_sha256" not in known:
        yield Finding(frames, "cannot be compared: an earlier version made it; the next run can")
    else:
        yield Finding(frames, "do not match the sha256 in clip.json", partial(remove, folder))


def _stage(cache: StageCache, path: Path) -> Iterator[Finding]:
    if path.exists() and (what := cache.check(path)):
        yield Finding(path, what, partial(remove, path))


def _aside(path: Path) -> Iterator[Finding]:
    yield Finding(path, "was found damaged and moved aside; crossframe gc removes it")


def _rest(store: Store) -> Iterator[Finding]:
    """What lies about: of the killed, of the dead, and of strangers."""
    for path in leftovers(store.root):
        yield Finding(path, "was left half-written by a killed process; crossframe gc removes it")
    for name, owner in claimed(store.claim_folder).items():
        if owner is None:
            yield Finding(store.claim_folder / name, "is claimed by a dead process; it is free")
    for path in sorted(store.root.iterdir()):
        if path.name not in KNOWN and ".tmp" not in path.name:
            yield Finding(path, "is no part of a run folder")
