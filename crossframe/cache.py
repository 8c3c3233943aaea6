"""Facts that outlive a process, such as the hash of a file: small tables that may be deleted.

They lie in `$CROSSFRAME_CACHE`, else in `~/.cache/crossframe`. A table is a line with a checksum
and a line of JSON; one that is damaged, unreadable or of another layout counts as empty, and a
folder that cannot be written is done without. Nothing in a table is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from crossframe.files import write_text

LAYOUT = 1
MOST_ENTRIES = 4096
SETTLED_SECONDS = 2.0
"""A file younger than this could change again without a change of its times."""


def cache_folder() -> Path:
    """Return the folder of the tables, whether or not it exists."""
    named = os.environ.get("CROSSFRAME_CACHE", "")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "crossframe"


def file_state(path: Path) -> list[str | int] | None:
    """Return what changes whenever a file's bytes do: place, size, times, inode.

    None when there is no such file, or when it has just been written.
    """
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return None
    if time.time() - max(stat.st_mtime, stat.st_ctime) < SETTLED_SECONDS:
        return None
    place = os.path.realpath(path)
    return [place, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


class Table:
    """A mapping from texts to JSON data, shared by all processes of a user.

    Of two processes that write at the same moment one may lose its entries; they are found again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, Any] | None = None

    def recall(self, key: str) -> Any | None:
        """Return what is known under `key`, or None."""
        if self._entries is None:
            self._entries = _read(self.path)
        return self._entries.get(key)

    def remember(self, found: Mapping[str, Any]) -> None:
        """Add entries; the oldest ones go when the table is full."""
        if not found:
            return
        merged = list({**_read(self.path), **found}.items())[-MOST_ENTRIES:]
        self._entries = dict(merged)
        body = json.dumps({"layout": LAYOUT, "entries": self._entries}, separators=(",", ":"))
        try:
            write_text(self.path, f"{_checksum(body)}\n{body}\n")
        except OSError:
            return


def table(name: str) -> Table:
    """Return the table called `name` in the cache folder."""
    return _table(cache_folder() / f"{name}.json")


@lru_cache(maxsize=16)
def _table(path: Path) -> Table:
    return Table(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        checksum, _, body = path.read_text(encoding="utf-8").partition("\n")
        body = body.removesuffix("\n")
        data = json.loads(body) if checksum == _checksum(body) else {}
    except (OSError, ValueError, RecursionError):
        return {}
    entries = data.get("entries") if data.get("layout") == LAYOUT else {}
    return entries if isinstance(entries, dict) else {}


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
