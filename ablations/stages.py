"""What cells share, kept by the content that made it: one checked safetensors file per entry.

    <root>/<stage>/<key[:2]>/<key>.safetensors

The key is the identity of (stage, its version, parts), where the parts name everything that the
value depends on: settings, content hashes of clips and weights, names of models. Each file carries
a sha256 over its key, its parts and every array, so that a damaged file, or one of another key, is
noticed, told and made again; it can never be taken for the value. Entries of the stages in
`GUARDED` are claimed while they are made, so that two runners never make the same. Torch-free.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ablations.leases import Owner, acquire, holder
from ablations.stage_versions import GUARDED, STAGES, SUFFIX, stage_file, stage_key
from crossframe.files import own_path, write_bytes
from crossframe.keys import array_sha256, canonical_json, identity

DAMAGED = ".damaged"
# The one entry of the files' metadata; several would be written in an order that varies.
LABEL = "crossframe"
# Parts up to this many characters of JSON are written into the file, for readers.
PARTS_CHARACTERS = 4096
# Digits of an entry's key in the name of its claim.
KEY_DIGITS = 16

Arrays = dict[str, np.ndarray]


def _silent(line: str) -> None:
    """Take a notice and drop it."""


class InWork(Exception):
    """A living runner is making an entry. claim: the name of its claim; its end is to be awaited.

    A claim of the dead never raises this: whoever comes next takes it over.
    """

    def __init__(self, stage: str, claim: str, owner: Owner | None) -> None:
        super().__init__(f"{owner or 'another runner'} is at the {stage} that it shares")
        self.claim = claim


class StageCache:
    """Reads and writes the entries under `root`. Nothing is created before the first write.

    notice: is given one line for every file that was damaged or could not be written.
    claims: the folder in which entries are claimed, None where nobody else can make them.
    """

    def __init__(
        self, root: Path, notice: Callable[[str], None] = _silent, claims: Path | None = None
    ) -> None:
        self.root = root
        self.notice = notice
        self.claims = claims

    def key(self, stage: str, parts: Any) -> str:
        """Return the key of an entry; raises as `stage_key` does."""
        return stage_key(stage, parts)

    def path(self, stage: str, key: str) -> Path:
        """Return the file of an entry; raises UserError when a link leads it out of `root`."""
        *folder, name = stage_file(stage, key)
        return own_path(self.root, *folder) / name

    def get(self, stage: str, parts: Any, make: Callable[[], Mapping[str, np.ndarray]]) -> Arrays:
        """Return an entry, made by `make` and kept when it is not there or damaged.

        The arrays are the caller's own, C-ordered, little-endian and equal, bit by bit, to what
        every later reader gets. A disk that takes no more costs the entry, not the value. Raises
        what `make` raises, and then keeps nothing; `InWork` for an entry of a stage in `GUARDED`
        that another runner is making.
        """
        key = self.key(stage, parts)
        path = self.path(stage, key)
        found = self._found(path)
        if found is not None:
            return found
        with self._claim(stage, key):
            # Looked for again: the last owner of the claim may have made it meanwhile.
            found = self._found(path)
            if found is not None:
                return found
            return self._kept(path, _packed(stage, key, parts, make()))

    def _claim(self, stage: str, key: str) -> AbstractContextManager[Any]:
        if self.claims is None or stage not in GUARDED:
            return nullcontext()
        name = f"{stage}-{key[:KEY_DIGITS]}"
        lease = acquire(self.claims, name)
        if lease is None:
            raise InWork(stage, name, holder(self.claims, name))
        return lease

    def _kept(self, path: Path, data: bytes) -> Arrays:
        try:
            write_bytes(path, data)
        except OSError as error:
            self.notice(f"{path}: not kept, to be computed again: {error.strerror or error}")
        return _arrays(data)

    def check(self, path: Path) -> str:
        """Return what is wrong with the file of an entry, or ""."""
        try:
            _read(path)
        except _Damage as damage:
            return str(damage)
        return ""

    def entries(self) -> Iterator[Path]:
        """Yield the files of all entries, stage by stage."""
        yield from self._files(SUFFIX)

    def damaged(self) -> Iterator[Path]:
        """Yield the files that were found damaged and moved aside."""
        yield from self._files(DAMAGED)

    def _files(self, suffix: str) -> Iterator[Path]:
        root = self.root.resolve()
        for stage in STAGES:
            # A folder behind a link is none of ours: nothing in it may be judged or removed.
            folders = [
                f for f in self.root.glob(f"{stage}/??") if f.resolve() == root / stage / f.name
            ]
            found = (path for folder in sorted(folders) for path in folder.glob(f"*{suffix}"))
            yield from sorted(path for path in found if not path.name.startswith("."))

    def _found(self, path: Path) -> Arrays | None:
        """The arrays of a file, or None when it is not there or damaged, which is told."""
        if not os.path.lexists(path):
            return None
        try:
            return _read(path)
        except _Damage as damage:
            self.notice(f"{path}: {damage}; moved aside and computed again")
            _move_aside(path)
            return None


class _Damage(Exception):
    """What is wrong with a file."""


def _packed(stage: str, key: str, parts: Any, made: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of an entry; equal entries give equal bytes."""
    arrays = {name: _plain_array(array) for name, array in made.items()}
    text = canonical_json(parts)
    label: dict[str, Any] = {"stage": stage, "version": STAGES[stage], "key": key}
    label["parts"] = json.loads(text) if len(text) <= PARTS_CHARACTERS else None
    return save(arrays, metadata={LABEL: canonical_json({**label, "sha256": _sha(label, arrays)})})


def _plain_array(array: np.ndarray) -> np.ndarray:
    """A C-ordered little-endian array; zero dimensions stay zero."""
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _sha(label: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    return identity([label, {name: array_sha256(array) for name, array in arrays.items()}])


def _read(path: Path) -> Arrays:
    """The arrays of a file whose label, place and checksum agree; raises _Damage otherwise."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _Damage(f"cannot be read: {error.strerror or error}") from None
    try:
        arrays, label = _arrays(data), _label(data)
        sha = label.pop("sha256")
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Damage(f"not a whole stage file ({str(error) or type(error).__name__})") from None
    if sha != _sha(label, arrays):
        raise _Damage("its content does not match its sha256")
    place = (path.parent.parent.name, path.name.removesuffix(SUFFIX))
    if (label.get("stage"), label.get("key")) != place:
        raise _Damage(f"holds another entry: {label.get('stage')} {label.get('key')}")
    return arrays


def _arrays(data: bytes) -> Arrays:
    # Copied, because those of safetensors are views of bytes and cannot be written to.
    return {name: array.copy() for name, array in sorted(load(data).items())}


def _label(data: bytes) -> dict[str, Any]:
    """The metadata that `_packed` wrote; the format is an 8-byte length, JSON, then the arrays."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    label = json.loads(header["__metadata__"][LABEL])
    if not isinstance(label, dict):
        raise TypeError("its label is no mapping")
    return label


def _move_aside(path: Path) -> None:
    try:
        os.replace(path, path.with_suffix(DAMAGED))
    except OSError:
        return  # it will be replaced, or the failure to do so told, by the write that follows
