"""States of the files behind a clip of a data set, from which a plan sees that nothing changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from crossframe.cache import file_state
from crossframe.errors import UserError
from data_manifests.datasets import (
    PROMPTS,
    dataset_folder,
    find_annotations,
    find_clip,
    notes_folder,
)
from data_manifests.manifest import FOLDER, Manifest, manifest

ABSENT = "absent"


def clip_state(source: str, name: str) -> list[Any]:
    """Return the states of a clip's video or pictures and masks, of its set's texts and manifest.

    [None] when the clip is not here; a state is None when the file has just been written.
    """
    try:
        facts = manifest(source)
        path, masks = find_clip(facts, name), find_annotations(facts, name)
    except UserError:
        return [None]
    if path is None:
        return [None]
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    files += sorted(masks.iterdir()) if masks is not None else []
    return [*map(file_state, files), *_states(_notes(facts))]


def package_state(source: str, name: str) -> list[Any]:
    """Return the states of all files of a set that comes with a package, and of its manifest."""
    try:
        facts = manifest(source)
        folder = dataset_folder(facts)
    except UserError:
        return [None]
    return list(_states([*(folder / file.name for file in facts.files), *_notes(facts)]))


def _notes(facts: Manifest) -> Iterable[Path]:
    yield from (FOLDER / f"{name}.yaml" for name in (facts.id, facts.uses) if name)
    yield notes_folder(facts) / PROMPTS
    if facts.prompts is not None:
        yield dataset_folder(facts) / facts.prompts.file


def _states(paths: Iterable[Path]) -> Iterable[Any]:
    for path in paths:
        yield file_state(path) if path.exists() else ABSENT
