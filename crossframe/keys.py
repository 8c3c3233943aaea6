"""Identity: canonical JSON, sha256 of values, files and arrays, and seeds derived from names."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

CHUNK_BYTES = 1 << 20
# Tuples, because a plan asks ten thousand times: `bool | int | str` is made anew each time, and
# `Mapping` alone is slow to recognise a dict.
SCALARS = (bool, int, str)
MAPPINGS = (dict, Mapping)
SEQUENCES = (list, tuple, Sequence)


def plain(obj: Any, where: str = "") -> Any:
    """Return `obj` as JSON data: dict, list, str, int, float, bool and None only.

    Pydantic models, dataclasses, mappings, tuples, paths and numpy scalars are converted.
    Raises TypeError for anything else, for mapping keys that are not strings (1 and "1" would
    become one key), and ValueError for NaN and infinity; both name the place inside `obj`.
    """
    if obj is None or isinstance(obj, SCALARS):
        return obj
    if _is_numpy_scalar(obj):
        return plain(obj.item(), where)
    if isinstance(obj, float):
        return _finite(obj, where)
    if isinstance(obj, Path):
        return obj.as_posix()
    if isinstance(obj, MAPPINGS):
        return {_key(key, where): plain(item, f"{where}.{key}") for key, item in obj.items()}
    if isinstance(obj, SEQUENCES) and not isinstance(obj, bytes | bytearray):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(obj)]
    return plain(_fields(obj, where), where)


def canonical_json(obj: Any) -> str:
    """Return the one JSON text of `obj`: sorted keys, no spaces, ASCII, floats by `repr`.

    Accepts what `plain` accepts and raises as it does. 1 and 1.0 are different values.
    """
    data = obj if _is_plain(obj) else plain(obj)
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _is_plain(obj: Any) -> bool:
    """Tell whether `plain` would change nothing that shows in JSON: most of what plans hash."""
    kind = type(obj)
    if kind is dict:
        return all(type(key) is str and _is_plain(item) for key, item in obj.items())
    if kind is list or kind is tuple:
        return all(map(_is_plain, obj))
    return obj is None or kind in SCALARS or (kind is float and math.isfinite(obj))


def identity(obj: Any) -> str:
    """Return the sha256 (64 hex digits) of `canonical_json(obj)`."""
    return hashlib.sha256(canonical_json(obj).encode()).hexdigest()


def file_sha256(path: str | Path) -> str:
    """Return the sha256 (64 hex digits) of a file's bytes, read in chunks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def array_sha256(array: np.ndarray) -> str:
    """Return the sha256 (64 hex digits) of an array's dtype, shape and C-order bytes.

    Memory layout and byte order do not count: a transposed view and its copy are equal.
    """
    import numpy as np

    little = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    digest = hashlib.sha256(canonical_json([little.dtype.str, little.shape]).encode())
    digest.update(little.tobytes())
    return digest.hexdigest()


def derive_seed(base_seed: int, *parts: str | int) -> int:
    """Return a seed in [0, 2**63) that depends on every argument and their order, on nothing else.

    Example: `derive_seed(0, clip.sha256, seed_index)` is equal in every cell of a grid.
    """
    return int(identity([base_seed, *parts])[:16], 16) >> 1


def _is_numpy_scalar(obj: Any) -> bool:
    """Tell without importing numpy, which costs a plan more than all of its hashes."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(obj, numpy.generic)


def _finite(value: float, where: str) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{where or 'value'}: {value} has no place in JSON")
    return value


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{where or 'value'}: mapping key {key!r} is not a string")
    return key


def _fields(obj: Any, where: str) -> dict[str, Any]:
    """Return the named fields of a pydantic model or a dataclass instance."""
    if isinstance(obj, type):
        raise TypeError(f"{where or 'value'}: the class {obj.__name__} is not a value")
    if hasattr(obj, "model_dump"):
        return dict(obj.model_dump())
    if dataclasses.is_dataclass(obj):
        return {field.name: getattr(obj, field.name) for field in dataclasses.fields(obj)}
    raise TypeError(f"{where or 'value'}: {type(obj).__name__} has no canonical form")
