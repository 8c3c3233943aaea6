"""Claims on cells, so that several runners share one store and none computes what another does.

    <folder>/<name>.<n>      JSON of the `Owner`; the highest n of a name holds it

A claim is written to a temporary file and linked to its name, which fails when the name exists
(as O_EXCL does) and never shows half a claim. The claim of a dead owner is not removed but topped
by n + 1, which only one contender can create. Whoever has created a claim looks again: if another
living claim is there (a contender that looked before a release), both step back and try anew.

After winning a claim, look into the store again before computing: the last owner may have finished
the cell between your look into the store and your claim.

Owners on this host are judged exactly, by process number and start. Those on other hosts touch
their claim every `HEARTBEAT` seconds and are dead when they have not for `STALE` seconds, by the
clock of the file system that holds the claims.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from crossframe.files import beside, make_folder
from crossframe.processes import alive, boot_id, host, started

HEARTBEAT = 15.0
STALE = 120.0
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
# What file systems without hard links answer.
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@dataclass(frozen=True)
class Owner:
    """Who holds a claim: the process, told from every other one, and a token per claim."""

    pid: int
    host: str
    boot_id: str
    started: str
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" if self.pid else "a claim that is being written"


def current_owner() -> Owner:
    """Return this process as an owner, with a fresh token."""
    pid = os.getpid()
    return Owner(pid, host(), boot_id(), started(pid) or "", uuid.uuid4().hex)


class Lease:
    """A claim that is ours until `release`, the end of its `with` block, or our death.

    Threads may release a lease that another thread took; a forked child cannot.
    """

    def __init__(self, path: Path, owner: Owner) -> None:
        self.path = path
        self.owner = owner
        self._over = threading.Event()
        threading.Thread(target=self._beat, name=f"lease {path.name}", daemon=True).start()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def held(self) -> bool:
        """Tell whether the claim still is ours: others may have taken us for dead."""
        name, number = _split(self.path.name)
        highest = max(_claims(self.path.parent, name), default=0)
        return _is_ours(self.path, self.owner) and number == highest

    def release(self) -> None:
        """Give the claim up, with those of the dead below it. Does nothing the second time."""
        if os.getpid() != self.owner.pid:
            return
        self._over.set()
        if not _is_ours(self.path, self.owner):
            return
        name, number = _split(self.path.name)
        for other, path in _claims(self.path.parent, name).items():
            if other < number:
                path.unlink(missing_ok=True)
        # Ours goes last: until then nobody can win the name and see its claim removed by us.
        self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT):
            try:
                os.utime(self.path)
            except FileNotFoundError:
                return
            except OSError:  # a file system that is gone for a moment
                continue


def acquire(folder: Path, name: str) -> Lease | None:
    """Claim `name`, or return None when a living owner holds it (be it a thread of ours).

    Of any number of contenders exactly one wins. Raises ValueError for a name that is no plain
    file name, and OSError when the claim cannot be written.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a claim")
    make_folder(folder)
    while True:
        claims = _claims(folder, name)
        if any(_alive(path) for path in claims.values()):
            return None
        path = folder / f"{name}.{max(claims, default=0) + 1}"
        owner = current_owner()
        if not _create(path, owner):
            continue
        if _alone(path, owner):
            return Lease(path, owner)
        path.unlink(missing_ok=True)
        time.sleep(random.uniform(0, 0.02))


def holder(folder: Path, name: str) -> Owner | None:
    """Return the living owner of a name, or None. An owner that cannot be read has no pid (0)."""
    for _, path in sorted(_claims(folder, name).items(), reverse=True):
        if _alive(path):
            return _read(path) or Owner(0, "", "", "", "")
    return None


def claimed(folder: Path) -> dict[str, Owner | None]:
    """Return all names that are claimed in a folder, with the living owner or None for the dead."""
    found = (_split(name)[0] for name in _names(folder) if _is_claim(name))
    return {name: holder(folder, name) for name in sorted(set(found))}


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _is_claim(file: str) -> bool:
    name, _, number = file.rpartition(".")
    return bool(NAME.fullmatch(name)) and number.isascii() and number.isdigit()


def _split(file: str) -> tuple[str, int]:
    name, _, number = file.rpartition(".")
    return name, int(number)


def _claims(folder: Path, name: str) -> dict[int, Path]:
    """The claims of a name by number, the dead ones too."""
    own = (file for file in _names(folder) if file.startswith(f"{name}.") and _is_claim(file))
    return {_split(file)[1]: folder / file for file in own if _split(file)[0] == name}


def _create(path: Path, owner: Owner) -> bool:
    """Write a claim unless its name is taken; tell whether it is ours."""
    text = json.dumps(asdict(owner)).encode()
    temporary = beside(path)
    try:
        temporary.write_bytes(text)
        os.link(temporary, path)
    except FileExistsError:
        # Over a network the answer to a link that succeeded can be lost, and the repeat refused.
        return _is_ours(path, owner)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return _create_exclusively(path, text)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _create_exclusively(path: Path, text: bytes) -> bool:
    """The way for file systems without links; a kill in the middle leaves an unreadable claim."""
    try:
        with open(path, "xb", buffering=0) as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def _alone(path: Path, owner: Owner) -> bool:
    """Tell whether a claim just written is the highest and the only living one, and still there."""
    name, number = _split(path.name)
    claims = _claims(path.parent, name)
    others = [other for other in claims if other != number]
    rivals = any(other > number or _alive(claims[other]) for other in others)
    # Looked at last: what vanished while the folder was listed was not ours to hold.
    return not rivals and _is_ours(path, owner)


def _is_ours(path: Path, owner: Owner) -> bool:
    return _read(path) == owner


def _read(path: Path) -> Owner | None:
    """The owner that a claim names, or None when it is gone or unreadable."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        pid = fields.pop("pid")
        owner = Owner(int(pid), **{name: str(text) for name, text in fields.items()})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return owner if owner.pid > 0 else None


def _alive(path: Path) -> bool:
    owner = _read(path)
    if owner is None or owner.host != host():
        return not _stale(path)
    return owner.boot_id == boot_id() and alive(owner.pid, owner.started)


def _stale(path: Path) -> bool:
    """Tell whether a claim is gone, or was not touched for `STALE` seconds."""
    try:
        touched = path.stat().st_mtime
    except FileNotFoundError:
        return True
    return _clock(path.parent) - touched > STALE


def _clock(folder: Path) -> float:
    """The time by the file system of a folder; where nothing can be written, 0: no one is stale."""
    probe = beside(folder / "clock")
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return 0.0
    finally:
        with suppress(OSError):
            probe.unlink()
