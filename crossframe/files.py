"""Files that are either whole or absent: written beside their place, synced, then renamed.

The name of a temporary file says who writes it (host, process, its start), so that what a killed
writer left behind can be told from what a living one is at: see `leftovers` and `sweep`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from crossframe.errors import Problem, UserError
from crossframe.keys import plain
from crossframe.processes import alive, host, started

# Writers on other hosts cannot be asked; what they left for a day is taken as left for good.
LEFT_SECONDS = 86_400.0
# Characters of a name that its temporary sibling keeps; file systems allow 255 bytes in all.
KEPT_CHARACTERS = 24
# What an archive may unpack to unless the caller says otherwise: 4 GiB.
UNPACKED_BYTES = 1 << 32
# What a file system answers that takes no more, from anybody or from this user.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
TEMPORARY = re.compile(
    r"\.(?P<host>[A-Za-z0-9_-]+)\.(?P<pid>\d+)\.(?P<start>\d*)\.[0-9a-f]{12}\.tmp(\.[^.]*)?$"
)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path for a writer that needs a file name; it replaces `path` on success.

    The temporary file lies in the same folder (created when missing) and keeps the suffix, from
    which many writers take the format. It is synced before the rename and the folder after it.
    If the block raises, `path` is as before and the temporary file is gone.
    """
    target = Path(path).absolute()
    make_folder(target.parent)
    temporary = beside(target)
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

    A reader sees the old folder, no folder for an instant, or the new one: never half of one. Of
    several writers at once, the last one's folder stays.
    """
    target = Path(path).absolute()
    make_folder(target.parent)
    temporary = beside(target)
    temporary.mkdir()
    try:
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                _sync(Path(folder, name))
            _sync(Path(folder))
        _take_place(temporary, target)
    finally:
        remove(temporary)
    _sync(target.parent)


def make_folder(path: str | Path) -> None:
    """Create a folder with its parents, and sync the places where new ones appeared."""
    missing = [folder for folder in (Path(path), *Path(path).parents) if not folder.exists()]
    Path(path).mkdir(parents=True, exist_ok=True)
    for folder in missing:
        _sync(folder.parent)


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
    """Return the JSON data in `path`; raises UserError when it cannot be had."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(Problem(str(path), "no such file")) from None
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}:{error.colno}"
        raise UserError(Problem(where, f"not valid JSON: {error.msg}")) from None
    except UnicodeDecodeError as error:
        raise UserError(Problem(str(path), f"not UTF-8 text (byte {error.start})")) from None
    except (OSError, ValueError, RecursionError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise UserError(Problem(str(path), f"cannot be read: {what}")) from None


def append_line(path: str | Path, text: str) -> None:
    """Append one line to `path` in a single synced write, so that several writers may share it.

    A line that a killed writer left unfinished is closed first, so it spoils no other line.
    Raises ValueError when `text` holds a line break.
    """
    if "\n" in text or "\r" in text:
        raise ValueError("append_line takes one line, without a line break")
    target = Path(path)
    make_folder(target.parent)
    handle = os.open(target, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(handle).st_size
        unfinished = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        line = ("\n" if unfinished else "").encode() + text.encode() + b"\n"
        if os.write(handle, line) != len(line):
            raise OSError(errno.ENOSPC, "the disk took only a part of a line", str(target))
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


def own_path(root: str | Path, *parts: str) -> Path:
    """Return `root/part/...`; raises UserError when a link below `root`, or `..`, leads elsewhere.

    Links that stay inside are refused too; `root` itself may lie behind one.
    """
    path = Path(root, *parts)
    # By texts: a plan asks once per cell, and pathlib takes three times as long.
    expected = os.sep.join((os.path.realpath(root), *parts))
    if "\0" in expected or os.path.realpath(path) != expected:
        what = "is, or lies behind, a symbolic link"
        raise UserError(Problem(str(path), what, "files and folders of its own", "Remove the link"))
    return path


def unpack(archive: str | Path, folder: str | Path, *, limit: int = UNPACKED_BYTES) -> list[Path]:
    """Unpack a zip, tar, tar.gz or tar.xz into `folder`, which it replaces; return the files.

    The whole archive is refused with a UserError, before anything is written, when one member is
    absolute, escapes by "..", is a device or a link that leads out, when the files take more than
    `limit` bytes together, or when it cannot be read. The folder appears whole or not at all.
    """
    from crossframe.archives import checked, contents

    origins = checked(Path(archive), limit)
    try:
        with replacing_folder(folder) as temporary:
            for name, chunks in contents(Path(archive), limit):
                with _new_file(safe_join(temporary, name)) as file:
                    file.writelines(chunks)
            for name, origin in origins.items():
                if name != origin:
                    with _new_file(safe_join(temporary, name)) as file:
                        file.write(safe_join(temporary, origin).read_bytes())
    except OSError as error:
        what = f"cannot be unpacked to {folder}: {error.strerror or error}"
        raise UserError(Problem(str(archive), what)) from None
    return [Path(folder, name) for name in origins]


def _new_file(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("xb")


def beside(target: Path) -> Path:
    """Return a fresh hidden name in the folder of `target`, with its suffix and with our name."""
    pid = os.getpid()
    owner = f"{host()}.{pid}.{started(pid) or ''}.{uuid.uuid4().hex[:12]}"
    return target.with_name(f".{target.stem[:KEPT_CHARACTERS]}.{owner}.tmp{target.suffix}")


def leftovers(folder: str | Path) -> Iterator[Path]:
    """Yield the temporary files and folders under `folder` that no living writer is at.

    The writer is dead (on this host), or cannot be asked and has not touched them for a day.
    Links are not followed.
    """
    for place, folders, names in os.walk(folder):
        hidden = [name for name in (*folders, *names) if name.startswith(".") and ".tmp" in name]
        folders[:] = [name for name in folders if name not in hidden]
        yield from (Path(place, name) for name in sorted(hidden) if _abandoned(Path(place, name)))


def sweep(folder: str | Path) -> list[Path]:
    """Remove the `leftovers` under `folder` and return their paths."""
    found = list(leftovers(folder))
    for path in found:
        remove(path)
    return found


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if it is there; links are not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files under a folder.

    Links count as nothing, and so does what somebody removes meanwhile.
    """
    try:
        facts = path.lstat()
        items = list(path.iterdir()) if stat.S_ISDIR(facts.st_mode) else []
    except OSError:
        return 0
    return sum(map(size_of, items)) if items else facts.st_size * stat.S_ISREG(facts.st_mode)


def _abandoned(path: Path) -> bool:
    owner = TEMPORARY.search(path.name)
    if owner and owner["host"] == host():
        return not alive(int(owner["pid"]), owner["start"])
    try:
        return time.time() - path.lstat().st_mtime > LEFT_SECONDS
    except FileNotFoundError:
        return False


def _take_place(new: Path, target: Path) -> None:
    """Rename a folder to a name that others may be taking at the same time."""
    while True:
        old = beside(target)
        with suppress(FileNotFoundError):
            os.replace(target, old)
        try:
            os.replace(new, target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        finally:
            remove(old)


def _sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
