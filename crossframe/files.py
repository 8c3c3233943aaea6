"""Files that are either whole or absent: written beside their place, synced, then renamed."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crossframe.errors import Problem, UserError
from crossframe.keys import plain


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path for a writer that needs a file name; it replaces `path` on success.

    The temporary file lies in the same folder (created when missing) and keeps the suffix, from
    which many writers take the format. It is synced before the rename and the folder after it.
    If the block raises, `path` is as before and the temporary file is gone.
    """
    target = Path(path).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(target)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(target.parent)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder that takes the place of the folder `path` on success.

    A reader sees the old folder, no folder for an instant, or the new one: never half of one.
    """
    target = Path(path).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = _beside(target), _beside(target)
    temporary.mkdir()
    try:
        yield temporary
        for item in temporary.iterdir():
            _sync(item)
        _sync(temporary)
        if target.exists():
            os.replace(target, old)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    _sync(target.parent)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` atomically and durably (see `replacing`)."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, newlines as they are, atomically and durably."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, obj: Any) -> None:
    """Write `obj` (whatever `keys.plain` accepts) to `path` as indented JSON, atomically.

    Raises TypeError or ValueError, naming the place in `obj`, for what JSON cannot hold.
    """
    write_text(path, json.dumps(plain(obj), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Return the JSON data in `path`; raises UserError when it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(Problem(str(path), "no such file")) from None
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}:{error.colno}"
        raise UserError(Problem(where, f"not valid JSON: {error.msg}")) from None
    except UnicodeDecodeError as error:
        raise UserError(Problem(str(path), f"not UTF-8 text (byte {error.start})")) from None


def append_line(path: str | Path, text: str) -> None:
    """Append one line to `path` in a single synced write, so that several writers may share it.

    A line that a killed writer left unfinished is closed first, so it spoils no other line.
    Raises ValueError when `text` holds a line break.
    """
    if "\n" in text or "\r" in text:
        raise ValueError("append_line takes one line, without a line break")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(target, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(handle).st_size
        unfinished = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        line = ("\n" if unfinished else "").encode() + text.encode() + b"\n"
        if os.write(handle, line) != len(line):
            raise OSError(f"{target}: the disk took only a part of a line")
        os.fsync(handle)
    finally:
        os.close(handle)


def safe_join(base: str | Path, *parts: str) -> Path:
    """Return `base/part/...` resolved; raises UserError when that lies outside `base`.

    Absolute parts, `..` and links that lead out are all caught, for names that come from specs.
    """
    root = Path(base).resolve()
    if any("\0" in part for part in parts):
        raise UserError(Problem(repr("/".join(parts)), "a path cannot hold a null character"))
    joined = root.joinpath(*parts).resolve()
    if not joined.is_relative_to(root):
        raise UserError(Problem("/".join(parts), f"leads out of {root}", "paths inside it"))
    return joined


def _beside(target: Path) -> Path:
    """Return a fresh hidden name in the folder of `target`, with the same suffix."""
    return target.with_name(f".{target.stem}.{uuid.uuid4().hex[:12]}.tmp{target.suffix}")


def _sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
