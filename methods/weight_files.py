"""Where the weights of a backbone lie: folders and cached hub snapshots, found without torch.

A part is one `from_pretrained` folder: a config file and, for networks, weights in safetensors or
in PyTorch's own format. The same rules choose the files that are loaded and those that are hashed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crossframe.cache import file_state, table
from crossframe.errors import Problem, UserError
from crossframe.keys import file_sha256, identity

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_SUFFIXES = (".safetensors", ".bin")
_SIDE_FILES = ("*.json", "*.txt", "*.model")
# Files beside the weights that say how a part is loaded; their names do not depend on its author.
_CONFIGS = {
    "scheduler": ("scheduler_config.json",),
    "tokenizer": ("tokenizer.json", "vocab.json"),
}


@dataclass(frozen=True)
class Part:
    """One piece of a backbone.

    role: `unet`, `vae`, `text_encoder`, `tokenizer`, `scheduler` or `controlnet.<kind>`.
    source: a folder or a hub id (`owner/name`).
    subfolder: folder inside of the source, or "".
    variant: the `fp16` of `model.fp16.safetensors`, or "".
    """

    role: str
    source: str
    subfolder: str = ""
    variant: str = ""

    @property
    def has_weights(self) -> bool:
        """Whether the part is a network."""
        return self.role not in _CONFIGS

    def __str__(self) -> str:
        return f"{self.source}/{self.subfolder}" if self.subfolder else self.source


def locate(part: Part, *, allow_download: bool = False) -> Path:
    """Return the folder of a part, complete as far as can be told from file names.

    A source that is no folder but reads like a hub id is looked up in the local hub cache, and
    fetched only when `allow_download` is set.

    Raises UserError naming the folder or the files that are missing.
    """
    source = os.path.expanduser(part.source)
    if os.path.isdir(source):
        folder = Path(source) / part.subfolder
    elif _HUB_ID.fullmatch(part.source):
        folder = _snapshot(part, allow_download) / part.subfolder
    else:
        what = f"there is no folder {part.source!r}"
        fix = "give a folder in from_pretrained layout, or a hub id such as owner/name"
        raise UserError(Problem(f"backbone.{part.role}", what, fix=fix))
    _require_complete(part, folder)
    return folder


def weight_files(folder: Path, variant: str = "") -> tuple[Path, ...]:
    """Return the weight files that loading `folder` reads, shards in order, or ().

    Safetensors win over PyTorch's format; a variant's files count only when it is asked for.
    """
    infix = f".{variant}" if variant else ""
    for suffix in _SUFFIXES:
        for stem in _STEMS:
            name = re.compile(re.escape(stem + infix) + r"(-\d+-of-\d+)?" + re.escape(suffix))
            found = sorted(path for path in folder.glob(f"*{suffix}") if name.fullmatch(path.name))
            if found:
                return tuple(found)
    return ()


def identity_of_part(part: Part, folder: Path) -> dict[str, str]:
    """Return sha256 (64 hex digits) by `role/file name` of every file that matters to a part."""
    side = [path for pattern in _SIDE_FILES for path in folder.glob(pattern)]
    if part.has_weights:
        side = [path for path in side if path.name == "config.json"]
    files = [*side, *(weight_files(folder, part.variant) if part.has_weights else ())]
    return {f"{part.role}/{path.name}": hash_file(path) for path in sorted(files)}


def hash_file(path: Path) -> str:
    """Return a file's sha256; remembered across processes until the file's state changes."""
    state = file_state(path)
    if state is None:
        return file_sha256(path)
    known, key = table("files"), identity(state)
    found = known.recall(key)
    if isinstance(found, str):
        return found
    known.remember({key: file_sha256(path)})
    return str(known.recall(key))


def _snapshot(part: Part, allow_download: bool) -> Path:
    """Return the snapshot of a hub id; PyTorch files are fetched only without safetensors."""
    safetensors, *others = _download_patterns(part)
    snapshot = _fetch(part, safetensors, allow_download)
    if part.has_weights and not weight_files(snapshot / part.subfolder, part.variant):
        for patterns in others:
            snapshot = _fetch(part, patterns, allow_download)
    return snapshot


def _fetch(part: Part, patterns: list[str], allow_download: bool) -> Path:
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            part.source, allow_patterns=patterns, local_files_only=not allow_download
        )
    except Exception as error:  # the hub client raises its own, the network's and httpx's errors
        if allow_download:
            what, fix = f"{part.source!r} cannot be downloaded: {_first_line(error)}", ""
        else:
            what = f"{part.source!r} is neither a folder nor in the local hub cache"
            fix = "download it first, or set backbone.allow_download: true"
        raise UserError(Problem(f"backbone.{part.role}", what, fix=fix)) from error
    return Path(folder)


def _download_patterns(part: Part) -> list[list[str]]:
    """Return lists of globs, the most wanted list first."""
    prefix = f"{part.subfolder}/" if part.subfolder else ""
    side = [prefix + pattern for pattern in _SIDE_FILES]
    if not part.has_weights:
        return [side]
    infix = f".{part.variant}" if part.variant else ""
    tails = [f"{stem}{infix}{shard}" for stem in _STEMS for shard in ("", "-*-of-*")]
    return [[*side, *(f"{prefix}{tail}{suffix}" for tail in tails)] for suffix in _SUFFIXES]


def _require_complete(part: Part, folder: Path) -> None:
    where = f"backbone.{part.role}"
    if not folder.is_dir():
        present = _children(folder.parent)
        raise UserError(Problem(where, f"there is no folder {str(folder)!r}", fix=present))
    wanted = _CONFIGS.get(part.role, ("config.json",))
    missing = [] if any((folder / name).is_file() for name in wanted) else [" or ".join(wanted)]
    if part.has_weights and not weight_files(folder, part.variant):
        infix = f".{part.variant}" if part.variant else ""
        missing.append(" or ".join(f"{_STEMS[0]}|model{infix}{suffix}" for suffix in _SUFFIXES))
    if missing:
        what = f"{str(folder)!r} lacks {' and '.join(missing)}"
        raise UserError(Problem(where, what, fix=_children(folder)))


def _children(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return f"{str(folder)!r} holds {', '.join(names[:12]) or 'nothing'}"


def _first_line(error: Exception) -> str:
    lines: Sequence[str] = str(error).splitlines() or [type(error).__name__]
    return lines[0]
