"""Weight files that may be damaged or hostile: what is read of them, and what is said of the rest.

Safetensors are data by construction; their header is checked against the file, so that a cut
download is found by a plan and not by a run. Pickled files (`.bin`) are programs: they are read by
`torch.load(weights_only=True)` alone, which builds tensors and runs nothing else, and must hold
plain tensors by name. Links are followed, since hub caches consist of them.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crossframe.errors import Problem, UserError

SAFETENSORS, PICKLED = ".safetensors", ".bin"
FOREIGN = (".ckpt", ".pt", ".pth", ".pkl", ".h5", ".msgpack", ".onnx")
"""Weights in formats that are not read; their names go into a message."""

MAX_HEADER = 100_000_000
"""Bytes; the format's own limit."""

_LFS = b"version https://git-lfs"
_WIDTH: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2,
    "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
_GLOBAL = re.compile(r"GLOBAL (\S+)")
CONVERT = (
    "only plain tensors are read from pickled files, nothing is run; get the checkpoint as "
    "safetensors, or, where you trust it, save its tensors with safetensors.torch.save_file"
)


def require_whole(path: Path, where: str) -> None:
    """Check a weight file as far as that goes without torch: links, LFS pointers, safetensors.

    Raises UserError naming the file, located at `where`.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(len(_LFS))
            if start == _LFS:
                raise _Unsound("is a Git LFS pointer, not the file", "fetch it: git lfs pull")
            if path.suffix == SAFETENSORS:
                file.seek(0)
                _check_header(_header(file.read(8), file, size), size)
    except _Unsound as unsound:
        raise UserError(Problem(where, f"{str(path)!r} {unsound.what}", fix=unsound.fix)) from None
    except OSError as error:
        what = f"{str(path)!r} cannot be read: {error.strerror or error}"
        raise UserError(Problem(where, what)) from error


class _Unsound(Exception):
    def __init__(self, what: str, fix: str = "download or convert it again") -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


def _header(length: bytes, file: Any, size: int) -> tuple[Any, int]:
    """Return the parsed header of a safetensors file and the offset at which tensors begin."""
    count = int.from_bytes(length, "little")
    if len(length) < 8 or count > min(size - 8, MAX_HEADER):
        raise _Unsound(f"is no whole safetensors file: a header of {count} bytes in {size}")
    try:
        return json.loads(file.read(count)), 8 + count
    except (ValueError, RecursionError) as error:
        raise _Unsound(f"is no safetensors file: its header is not JSON ({error})") from None


def _check_header(found: tuple[Any, int], size: int) -> None:
    """Raise _Unsound unless the tensors fill the file without gap or overlap, as its shapes say."""
    header, begin = found
    if not isinstance(header, dict):
        raise _Unsound("is no safetensors file: its header is no mapping")
    spans = sorted(_span(name, entry) for name, entry in header.items() if name != "__metadata__")
    end = 0
    for first, last, name in spans:
        if first != end:
            raise _Unsound(f"is not a sound safetensors file: {name!r} does not follow the last")
        end = last
    if begin + end != size:
        raise _Unsound(f"holds {size:,} bytes where its header tells of {begin + end:,}")


def _span(name: str, entry: Any) -> tuple[int, int, str]:
    """Return (first byte, end, name) of a tensor after checking them against its shape."""
    try:
        first, last = entry["data_offsets"]
        bytes_told = math.prod(entry["shape"]) * _WIDTH.get(entry["dtype"], 0)
        sound = 0 <= first <= last and bytes_told in (0, last - first)
    except (TypeError, KeyError, ValueError):
        sound, first, last = False, 0, 0
    if not sound:
        raise _Unsound(f"is not a sound safetensors file: the entry {name[:60]!r} makes no sense")
    return first, last, name


def require_readable(folder: Path, where: str) -> None:
    """Check the weights of a `from_pretrained` folder before a library reads them.

    Safetensors win over pickled files, as they do in transformers and diffusers. Raises UserError
    naming the file, located at `where`.
    """
    if found := list(index_problems(folder, where)):
        raise UserError(found)
    for path in sorted(folder.glob(f"*{SAFETENSORS}")):
        require_whole(path, where)
    if not list(folder.glob("model.safetensors*")):
        for path in sorted(folder.glob(f"pytorch_model*{PICKLED}")):
            require_plain_tensors(path, where)


def require_plain_tensors(path: Path, where: str) -> None:
    """Check that a pickled file holds plain tensors by name, running nothing that is in it.

    Raises UserError naming the file and what it holds instead, located at `where`.
    """
    import torch

    odd = _odd_entries(require_no_code(path, where), torch.Tensor)
    if odd:
        what = f"{str(path)!r} holds more than tensors by name: {', '.join(odd[:3])}"
        raise UserError(Problem(where, what, fix=CONVERT))


def require_no_code(path: Path, where: str) -> Any:
    """Return what a pickled file holds, its tensors without values, running nothing that is in it.

    Raises UserError for a file that asks for more than tensors and plain containers.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols
            return torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:  # torch, pickle and zipfile raise a dozen kinds for a hostile file
        known = _GLOBAL.search(str(error))
        lines = str(error).splitlines() or [type(error).__name__]
        what = f"asks for {known[1]}" if known else f"cannot be read safely: {lines[0][:200]}"
        raise UserError(Problem(where, f"{str(path)!r} {what}", fix=CONVERT)) from error


def _odd_entries(data: Any, tensor: type) -> list[str]:
    if not isinstance(data, Mapping):
        return [f"a {type(data).__name__}"]
    return [
        f"{str(name)[:40]!r} is a {type(value).__name__}"
        for name, value in data.items()
        if not (isinstance(name, str) and isinstance(value, tensor))
    ]


def index_problems(folder: Path, where: str) -> Iterator[Problem]:
    """Yield a problem for every index of shards that is unreadable or names files elsewhere."""
    for index in sorted(folder.glob("*.index.json")):
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            yield Problem(where, f"{str(index)!r} is no index of shards", fix="download it again")
            continue
        for name in sorted(str(name) for name in names):
            if name in ("", ".", "..") or re.search(r"[/\\\x00]", name):
                what = f"{str(index)!r} names a file outside its folder: {name!r}"
                yield Problem(where, what, "plain file names")
