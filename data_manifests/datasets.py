"""Clips of published data sets: where they lie on this machine, and what to do when they do not."""

from __future__ import annotations

import glob
import importlib.util
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from crossframe.errors import Problem, UserError, did_you_mean
from crossframe.files import safe_join
from data_manifests.annotations import read_masks
from data_manifests.clips import Clip, ClipRequest, split_ref
from data_manifests.footage import read_moving, read_voice
from data_manifests.manifest import DataFile, Manifest, manifest
from data_manifests.pictures import picture_paths
from data_manifests.prompts import READERS
from data_manifests.sidecar import Sidecar, read_sidecars

if TYPE_CHECKING:
    import numpy as np

ROOT_VARIABLE = "CROSSFRAME_DATA"
PROMPTS = "prompts.yaml"
"""A user's own captions and prompts in the folder of a set; they replace those of the manifest."""


def data_root() -> Path:
    """Return the folder of all data: `$CROSSFRAME_DATA`, or ~/.cache/crossframe/data."""
    named = os.environ.get(ROOT_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "crossframe" / "data"


def notes_folder(facts: Manifest) -> Path:
    """Return the folder of a set's own notes (`prompts.yaml`), `$CROSSFRAME_DATA/<id>`."""
    return data_root() / facts.id


def dataset_folder(facts: Manifest) -> Path:
    """Return the folder that holds a set's frames: its own, a package's, or that of another set.

    Raises UserError when the set comes with a package that is not installed.
    """
    if not facts.package:
        return data_root() / (facts.uses or facts.id)
    package, *inner = facts.package.split("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        what = f"needs the package that holds {facts.package}, which is not installed"
        raise UserError(Problem(facts.id, what, fix=facts.place))
    return Path(spec.submodule_search_locations[0], *inner)


def holder(facts: Manifest) -> Manifest:
    """Return the set whose files hold the frames: the set itself, or the one that it uses."""
    return manifest(facts.uses) if facts.uses else facts


def find_clip(facts: Manifest, name: str) -> Path | None:
    """Return the video or frame folder of the clip `name`, or None when it is not here.

    Raises UserError for a name that leads out of the set's folder.
    """
    return _placed(facts, name, holder(facts).layout)


def find_annotations(facts: Manifest, name: str) -> Path | None:
    """Return the folder with the masks of a clip's objects, or None where there are none.

    Raises as `find_clip` does.
    """
    return _placed(facts, name, holder(facts).annotations)


def _placed(facts: Manifest, name: str, layouts: Sequence[str]) -> Path | None:
    """The first place among layouts that exists."""
    folder = dataset_folder(facts)
    safe_join(folder, name)
    group = glob.escape(facts.facts(name).group) or "*"
    for layout in layouts:
        path = layout.format(clip=glob.escape(name), group=group)
        if found := sorted(folder.glob(path)):
            return found[0]
    return None


def clip_names(source: str) -> tuple[str, ...]:
    """Return the names behind a prefix: those the manifest lists, else those found here."""
    facts = manifest(source)
    return facts.names() or tuple(sorted(set(_found_names(facts))))


def present(facts: Manifest) -> int:
    """Return how many clips of a set are on this machine."""
    if facts.kind == "rendered":
        return len(facts.names())
    if facts.kind == "packaged":
        return 0 if list(missing(facts)) else len(facts.names())
    if not dataset_folder(facts).is_dir():
        return 0
    return sum(find_clip(facts, name) is not None for name in clip_names(facts.prefix))


def missing(facts: Manifest) -> Iterator[Problem]:
    """Yield one problem per absent file of a set: where it comes from, and how to place it."""
    owner = holder(facts)
    if owner.kind == "packaged":
        yield from _missing_in_package(owner)
    elif owner.kind == "own copy":
        if not dataset_folder(owner).is_dir():
            yield _absent_copy(owner)
    elif owner.files and not _any_clip(owner):
        yield from (_not_ready(owner, file) for file in owner.files)


def is_here(folder: Path, file: DataFile) -> bool:
    """Tell whether a data file lies in `folder` at its full length; its hash is not looked at."""
    path = folder / file.name
    return path.is_file() and path.stat().st_size == file.bytes


def load_dataset_clip(name: str, request: ClipRequest) -> Clip:
    """Return the requested part of a clip such as `davis:bear`, with captions and prompts.

    Its objects' masks come with it where the set marks them and they are placed. Raises UserError
    when the data is not here (with its source, licence, size and place), for an unknown name, and
    when a frame, a mask or a prompt file cannot be read.
    """
    facts = manifest(split_ref(request.ref)[0])
    path = find_clip(facts, name)
    if path is None:
        raise UserError(list(missing(facts)) or _unknown(facts, name))
    notes = prompts_of(facts).get(name, Sidecar())
    known = facts.facts(name)
    rate = notes.fps or facts.fps or holder(facts).fps
    frames, fps = read_moving(path, request, rate if path.is_dir() else notes.fps)
    return Clip(
        id=request.ref,
        frames=frames,
        fps=fps,
        caption=notes.caption or known.caption,
        edits=notes.edits or known.edits,
        masks=_masks(facts, name, path, request),
        voice=read_voice(path, request, fps),
    )


def _masks(facts: Manifest, name: str, path: Path, request: ClipRequest) -> np.ndarray | None:
    folder = find_annotations(facts, name)
    if folder is None or not path.is_dir():
        return None
    return read_masks(folder, request, len(picture_paths(path)))


def prompts_of(facts: Manifest) -> dict[str, Sidecar]:
    """Return captions and prompts by clip from the user's copy: prompts.yaml before the set's own.

    Raises UserError when one of the two files cannot be read, or the set's own is absent.
    """
    given = read_sidecars(notes_folder(facts) / PROMPTS)
    if facts.prompts is None:
        return given
    path = dataset_folder(facts) / facts.prompts.file
    if not path.exists():
        return given
    changed = path.stat().st_mtime_ns
    return {**_read_prompts(facts.prompts.reader, path, changed), **given}


@cache
def _read_prompts(reader: str, path: Path, changed: int) -> dict[str, Sidecar]:
    return READERS[reader](path)


def _found_names(facts: Manifest) -> Iterator[str]:
    """Yield the names of the clips that lie in a set's folder, by its layouts."""
    folder = dataset_folder(facts)
    for layout in holder(facts).layout:
        for path in folder.glob(layout.format(clip="*", group="*")):
            if not path.name.startswith("."):
                yield path.stem if layout.endswith("}.mp4") else path.name


def _any_clip(facts: Manifest) -> bool:
    return next(_found_names(facts), None) is not None


def _missing_in_package(facts: Manifest) -> Iterator[Problem]:
    try:
        folder = dataset_folder(facts)
    except UserError as error:
        yield from error.problems
        return
    for file in facts.files:
        if not is_here(folder, file):
            what = f"is absent or not the file of {file.bytes:,} bytes that is expected"
            yield Problem(str(folder / file.name), what, fix=facts.place)


def _not_ready(facts: Manifest, file: DataFile) -> Problem:
    """Tell that a file is absent, or that it still has to be unpacked."""
    folder = dataset_folder(facts)
    if is_here(folder, file):
        what, fix = "is here, but not unpacked", f"run `crossframe clips fetch {facts.id}`"
        return Problem(str(folder / file.name), what, fix=fix)
    what = f"is not here: {file.bytes:,} bytes, sha256 {file.sha256}, {_terms(facts)}, {file.url}"
    fix = f"run `crossframe clips fetch {facts.id}`, or in {folder} {facts.place}"
    return Problem(str(folder / file.name), what, fix=fix)


def _absent_copy(facts: Manifest) -> Problem:
    count = facts.count or len(facts.names())
    size = f"{count} clips, " if count else ""
    what = f"is not here: {facts.title}, {size}{_terms(facts)}, {facts.source.page}"
    return Problem(str(dataset_folder(facts)), what, fix=f"in that folder {facts.place}")


def _terms(facts: Manifest) -> str:
    return f"licence {facts.licence}, redistributable: {facts.redistributable}"


def _unknown(facts: Manifest, name: str) -> Problem:
    names = clip_names(facts.prefix)
    where = f"{facts.prefix}:{name}"
    if name in names:
        folder = dataset_folder(facts)
        places = " or ".join(holder(facts).layout).replace("{clip}", name)
        return Problem(where, f"not found in {folder}", places)
    what = f"no clip of {facts.id} is called {name!r}"
    few = ", ".join(names[:8]) + (f", ... ({len(names)} in all)" if len(names) > 8 else "")
    return Problem(where, what, few, did_you_mean(name, names))
