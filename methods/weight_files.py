"""Where the weights of a backbone lie: folders and cached hub snapshots, found without torch.

A part is one `from_pretrained` folder, that is a config file and, for networks, weights in
safetensors or in PyTorch's own format; or it is a single file (see `methods.single_file`). The same
rules choose the files that are loaded and those that are hashed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from crossframe.cache import file_state, table
from crossframe.checkpoints import (
    FOREIGN,
    PICKLED,
    SAFETENSORS,
    index_problems,
    require_whole,
)
from crossframe.errors import Problem, UserError
from crossframe.keys import file_sha256, identity

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_SUFFIXES = (SAFETENSORS, PICKLED)
_LORA_STEM = "pytorch_lora_weights"
SINGLE_FILES = (SAFETENSORS, PICKLED, ".ckpt", ".pt", ".pth")
"""Suffixes of checkpoints that are one file."""

SD15 = Path(__file__).parent / "sd15"
"""Configurations of Stable Diffusion 1.5, by role: single files hold none."""

_SHARD = re.compile(r"-(\d+)-of-(\d+)\.")
_SIDE_FILES = ("*.json", "*.txt", "*.model")
# Files beside the weights that say how a part is loaded; their names do not depend on its author.
_CONFIGS = {
    "scheduler": ("scheduler_config.json",),
    "tokenizer": ("tokenizer.json", "vocab.json"),
    "feature_extractor": ("preprocessor_config.json",),
}


@dataclass(frozen=True)
class Part:
    """One piece of a backbone.

    role: a role of `methods.families`, `controlnet.<kind>` or `lora.<index>`.
    source: a folder, a single file or a hub id (`owner/name`).
    subfolder: folder inside of the source, or "".
    variant: the `fp16` of `model.fp16.safetensors`, or "".
    files: names of files, the first of which that is in the folder is the part; () for a part in
        `from_pretrained` layout.
    """

    role: str
    source: str
    subfolder: str = ""
    variant: str = ""
    files: tuple[str, ...] = ()

    @property
    def has_weights(self) -> bool:
        """Whether the part is a network."""
        return self.role not in _CONFIGS

    @property
    def family(self) -> str:
        """The role without its kind or index."""
        return self.role.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.source}/{self.subfolder}" if self.subfolder else self.source


def locate(part: Part, *, allow_download: bool = False) -> Path:
    """Return the folder or the single file of a part, complete as far as names can tell.

    A source that is no folder but reads like a hub id is looked up in the local hub cache, and
    fetched only when `allow_download` is set.

    Raises UserError naming the folder or the files that are missing.
    """
    source = os.path.expanduser(part.source)
    named = bool(part.files) and os.path.isfile(source)
    if named or (is_single_file(source) and part.has_weights):
        return Path(source)
    if os.path.isdir(source):
        folder = Path(source) / part.subfolder
    elif _HUB_ID.fullmatch(part.source):
        folder = _snapshot(part, allow_download) / part.subfolder
    else:
        raise UserError(_no_folder(part, source))
    if part.files:
        return _one_of(part, folder)
    if part.family == "lora":
        return _lora_file(part, folder)
    _require_complete(part, folder)
    return folder


def is_single_file(source: str) -> bool:
    """Tell whether a source is a file that looks like a checkpoint by its name."""
    path = os.path.expanduser(source)
    return path.endswith(SINGLE_FILES) and os.path.isfile(path)


def _one_of(part: Part, folder: Path) -> Path:
    """Return the first of a part's files that is in a folder."""
    for name in part.files:
        if (folder / name).is_file():
            return folder / name
    what = f"{str(folder)!r} lacks {' or '.join(part.files)}"
    raise UserError(Problem(f"backbone.{part.role}", what, fix=_children(folder)))


def _lora_file(part: Part, folder: Path) -> Path:
    for suffix in _SUFFIXES:
        if (folder / (_LORA_STEM + suffix)).is_file():
            return folder / (_LORA_STEM + suffix)
    what = f"{str(folder)!r} lacks {_LORA_STEM}{SAFETENSORS}"
    raise UserError(Problem(f"backbone.{part.role}", what, fix="name the LoRA's file itself"))


def _no_folder(part: Part, source: str) -> Problem:
    kinds = ", ".join(SINGLE_FILES)
    what = f"there is no folder {part.source!r}"
    fix = f"give a folder in from_pretrained layout, a file ({kinds}), or a hub id: owner/name"
    if source.endswith(SINGLE_FILES):
        what = f"there is no file {part.source!r}"
    elif os.path.isfile(source):
        what = f"{part.source!r} is a file, but none of {kinds}"
    if os.path.isfile(source) and not part.has_weights:
        what, fix = f"{part.source!r} is a file, and holds no {part.role}", "give a folder"
    return Problem(f"backbone.{part.role}", what, fix=fix)


def weight_files(folder: Path, variant: str = "") -> tuple[Path, ...]:
    """Return the weight files that loading `folder` reads, shards in order, or ().

    Safetensors win over PyTorch's format; a variant's files count only when it is asked for. A
    single file is its own weights.
    """
    if folder.is_file():
        return (folder,)
    infix = f".{variant}" if variant else ""
    for suffix in _SUFFIXES:
        for stem in _STEMS:
            name = re.compile(re.escape(stem + infix) + r"(-\d+-of-\d+)?" + re.escape(suffix))
            found = sorted(path for path in folder.glob(f"*{suffix}") if name.fullmatch(path.name))
            if found:
                return tuple(found)
    return ()


def identity_of_part(part: Part, folder: Path) -> dict[str, str]:
    """Return sha256 (64 hex digits) by `role/file name` of every file that matters to a part.

    A single file counts by its content and by the configuration that it is read with.

    Raises UserError for a file that is damaged or cannot be read.
    """
    if folder.is_file():
        return _identity_of_file(part, folder)
    if part.role == "feature_extractor":  # such folders hold nothing else, or another part
        return _hashes(part, [folder / name for name in _CONFIGS[part.role]])
    side = [path for glob in _SIDE_FILES for path in folder.glob(glob) if path.is_file()]
    if part.has_weights:
        side = [path for path in side if path.name == "config.json"]
    files = [*side, *(weight_files(folder, part.variant) if part.has_weights else ())]
    return _hashes(part, files)


def _hashes(part: Part, files: Iterable[Path]) -> dict[str, str]:
    where = f"backbone.{part.role}"
    return {f"{part.role}/{path.name}": hash_file(path, where) for path in sorted(files)}


def _identity_of_file(part: Part, path: Path) -> dict[str, str]:
    """Hash a single file and the configuration it is read with, its own or Stable Diffusion's."""
    found = {f"{part.role}/checkpoint": hash_file(path, f"backbone.{part.role}")}
    config = path.parent / "config.json" if part.files else SD15 / part.family / "config.json"
    return found | ({f"{part.role}/config.json": file_sha256(config)} if config.is_file() else {})


def hash_file(path: Path, where: str = "backbone") -> str:
    """Return a file's sha256; remembered across processes until the file's state changes.

    Raises UserError, located at `where`, for a file that is damaged or cannot be read.
    """
    state = file_state(path)
    known, key = table("files"), identity(state)
    found = known.recall(key) if state else None
    if isinstance(found, str):
        return found
    require_whole(path, where)
    sha = file_sha256(path)
    known.remember({key: sha} if state else {})
    return sha


def _snapshot(part: Part, allow_download: bool) -> Path:
    """Return the snapshot of a hub id; PyTorch files are fetched only without safetensors."""
    safetensors, *others = _download_patterns(part)
    snapshot = _fetch(part, safetensors, allow_download)
    if (
        part.family != "lora"
        and not part.files
        and part.has_weights
        and not weight_files(snapshot / part.subfolder, part.variant)
    ):
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
    if part.files:
        return [[*side, *(prefix + name for name in part.files)]]
    if not part.has_weights:
        return [side]
    if part.family == "lora":
        return [[f"{prefix}{_LORA_STEM}{suffix}" for suffix in _SUFFIXES]]
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
        raise UserError(Problem(where, what, fix=_other_formats(folder) or _children(folder)))
    if part.has_weights:
        problems = [*_broken(part, folder), *index_problems(folder, where)]
        if problems:
            raise UserError(problems)


def _broken(part: Part, folder: Path) -> Iterator[Problem]:
    """Yield problems of weight files that are there by name only: dead links, missing shards."""
    where, found = f"backbone.{part.role}", weight_files(folder, part.variant)
    for path in found:
        if not path.is_file():
            what = f"{str(path)!r} is no file" + (", but a link to nothing" * path.is_symlink())
            yield Problem(where, what, fix="download it again")
    shards = [match for path in found if (match := _SHARD.search(path.name))]
    if shards and len(shards) < int(shards[0][2]):
        have = ", ".join(match[1] for match in shards)
        what = f"{str(folder)!r} has only the shards {have} of {int(shards[0][2])}"
        yield Problem(where, what, fix="download the others")


def _other_formats(folder: Path) -> str:
    """Say what to do about weights in a format that is not read, or ""."""
    found = sorted(path.name for path in folder.iterdir() if path.suffix in FOREIGN)
    single = [name for name in found if name.endswith(SINGLE_FILES)]
    if single:
        return f"{single[0]} is a single file; name it instead of its folder"
    fix = "convert it to safetensors in from_pretrained layout (save_pretrained)"
    return f"{found[0]} is in a format that is not read; {fix}" if found else ""


def _children(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return f"{str(folder)!r} holds {', '.join(names[:12]) or 'nothing'}"


def _first_line(error: Exception) -> str:
    lines: Sequence[str] = str(error).splitlines() or [type(error).__name__]
    return lines[0]
