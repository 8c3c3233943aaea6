"""Reading zip and tar archives from strangers: everything is judged before anything is written.

`checked` goes through an archive and raises for the first reason not to unpack it, `contents`
yields the files. Only plain files and folders come out: a link inside the archive becomes a copy of
the file that it names. See `crossframe.files.unpack`.
"""

from __future__ import annotations

import gzip
import lzma
import posixpath
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, cast

from crossframe.errors import Problem, UserError

CHUNK_BYTES = 1 << 20
# Headers of an archive take room too; so many bytes are allowed for them beside the files.
HEADER_BYTES = 1 << 26
MEMBERS = 100_000
NAME_BYTES = 255
# What the first bytes say of a compressed tar.
INFLATERS: Mapping[bytes, Callable[[IO[bytes]], Any]] = MappingProxyType(
    {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open}
)
DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    # encrypted, or compressed in a way that Python does not know
    RuntimeError,
    NotImplementedError,
)


@dataclass(frozen=True)
class Member:
    """One entry: kind is `file`, `folder`, `link` (to `target`, seen from the root) or `other`."""

    name: str
    kind: str
    size: int
    target: str = ""


def checked(archive: Path, limit: int) -> dict[str, str]:
    """Return name -> name of the member with its bytes, for every file that may be unpacked.

    The names are relative, with "/" and without "." parts. Raises UserError, naming the member,
    for one that is absolute, leads out by "..", is a device, a link out of the archive or to no
    file of it, comes twice, or cannot be a file name; for files of more than `limit` bytes
    together, more than `MEMBERS` members, and an archive that is damaged or none at all.
    """
    members: dict[str, Member] = {}
    total = 0
    with _told(archive), _reading(archive, limit) as source:
        for member in _members(source):
            name = _clean(archive, member)
            total += member.size
            _require(archive, member, total <= limit, f"holds more than {limit} bytes unpacked")
            _require(archive, member, len(members) < MEMBERS, f"holds more than {MEMBERS} members")
            again = name in members and "folder" not in (member.kind, members[name].kind)
            _require(archive, member, not again, "comes twice")
            if name:
                members[name] = member
    for name, member in members.items():
        above = (members.get(parent) for parent in _parents(name))
        clear = all(parent is None or parent.kind == "folder" for parent in above)
        _require(archive, member, clear, "lies in what is no folder")
    wanted = {name: m for name, m in members.items() if m.kind != "folder"}
    origins = {name: _origin(archive, name, members) for name in wanted}
    copies = sum(members[origin].size for name, origin in origins.items() if name != origin)
    if total + copies > limit:
        raise UserError(Problem(str(archive), f"holds more than {limit} bytes unpacked"))
    return origins


def contents(archive: Path, limit: int) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield (name, chunks of bytes) of every plain file, in the order of the archive."""
    with _told(archive), _reading(archive, limit) as source:
        if isinstance(source, zipfile.ZipFile):
            for info in source.infolist():
                if _zip_member(info).kind == "file":
                    with source.open(info) as file:
                        yield posixpath.normpath(info.filename), _chunks(file)
            return
        for entry in source:
            if entry.isfile():
                yield (
                    posixpath.normpath(entry.name),
                    _chunks(cast(IO[bytes], source.extractfile(entry))),
                )


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


class _Bounded:
    """A stream that refuses to be read beyond a number of bytes, however much it inflates to."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self.file, self.left = file, limit

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self.left:
            raise ValueError("holds more than it may")
        data = self.file.read(size)
        self.left -= len(data)
        return data


@contextmanager
def _reading(archive: Path, limit: int) -> Iterator[zipfile.ZipFile | tarfile.TarFile]:
    """Open an archive by what its first bytes say; the name does not count."""
    with open(archive, "rb") as raw:
        start = raw.read(6)
        raw.seek(0)
        if start.startswith(b"PK"):
            with zipfile.ZipFile(raw) as made:
                yield made
            return
        inflate = next((made for magic, made in INFLATERS.items() if start.startswith(magic)), None)
        stream = cast(IO[bytes], inflate(raw) if inflate else raw)
        bounded = cast(IO[bytes], _Bounded(stream, limit + HEADER_BYTES))
        with tarfile.open(fileobj=bounded, mode="r|", errorlevel=2) as tar:
            yield tar


@contextmanager
def _told(archive: Path) -> Iterator[None]:
    """Turn what the readers of archives raise into one line."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(Problem(str(archive), "no such file")) from None
    except DAMAGE as error:
        what = f"cannot be read as zip, tar, tar.gz or tar.xz: {str(error) or type(error).__name__}"
        raise UserError(Problem(str(archive), what)) from None


def _members(source: zipfile.ZipFile | tarfile.TarFile) -> Iterator[Member]:
    if isinstance(source, zipfile.ZipFile):
        for info in source.infolist():
            member = _zip_member(info)
            if member.kind == "link":
                target = source.read(info).decode() if info.file_size < 4096 else "/"
                member = Member(member.name, "link", 0, _from_root(member.name, target))
            yield member
    else:
        yield from map(_tar_member, source)


def _zip_member(info: zipfile.ZipInfo) -> Member:
    mode = info.external_attr >> 16
    kinds = {0: "file", stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
    kind = "folder" if info.is_dir() else kinds.get(stat.S_IFMT(mode), "other")
    # orig_filename: zipfile cuts the name at a null character and turns the separators.
    return Member(info.orig_filename, kind, info.file_size)


def _tar_member(entry: tarfile.TarInfo) -> Member:
    if entry.issym():
        return Member(entry.name, "link", 0, _from_root(entry.name, entry.linkname))
    if entry.islnk():
        return Member(entry.name, "link", 0, entry.linkname)
    kind = "file" if entry.isfile() else "folder" if entry.isdir() else "other"
    return Member(entry.name, kind, entry.size if kind == "file" else 0)


def _from_root(name: str, target: str) -> str:
    """A symbolic link's target as seen from the root of the archive; absolute ones stay so."""
    return posixpath.join(posixpath.dirname(name), target)


def _clean(archive: Path, member: Member) -> str:
    """The name of a member without "." parts, "" for the root; raises UserError if it is unsafe."""
    name = member.name
    _require(archive, member, name.isprintable(), "has control characters in its name")
    _require(archive, member, not _is_absolute(name), "has an absolute path")
    parts = name.replace("\\", "/").split("/")
    _require(archive, member, ".." not in parts, "leads out of the archive by '..'")
    _require(archive, member, "\\" not in name, "has a backslash in its name")
    _require(archive, member, member.kind != "other", "is neither a file nor a folder nor a link")
    short = all(len(part.encode()) <= NAME_BYTES for part in parts)
    _require(archive, member, short, f"has a name of more than {NAME_BYTES} bytes")
    _require(archive, member, name != "" or member.kind == "folder", "has no name")
    clean = posixpath.normpath(name)
    return "" if clean == "." else clean


def _is_absolute(name: str) -> bool:
    return name.startswith(("/", "\\")) or name[1:2] == ":"


def _parents(name: str) -> Iterator[str]:
    while name := posixpath.dirname(name):
        yield name


def _origin(archive: Path, name: str, members: dict[str, Member]) -> str:
    """The plain file whose bytes a member has, through any chain of links."""
    origin, seen = name, set[str]()
    while members[origin].kind == "link":
        target = members[origin].target
        seen.add(origin)
        inside = posixpath.normpath(target)
        out = _is_absolute(target) or inside.split("/")[0] == ".."
        _require(archive, members[name], not out, "is a link that leads out of the archive")
        found = inside in members and inside not in seen and members[inside].kind != "folder"
        _require(archive, members[name], found, "is a link to no file of the archive")
        origin = inside
    return origin


def _require(archive: Path, member: Member, good: bool, what: str) -> None:
    if not good:
        shown = member.name if len(member.name) <= 80 else member.name[:77] + "..."
        where = f"{archive}: {shown!r}"
        raise UserError(Problem(where, what, fix="Nothing was unpacked"))
