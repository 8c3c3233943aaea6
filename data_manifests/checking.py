"""Checks of what lies on this machine against the manifests: lengths, hashes, decoded frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crossframe.errors import UserError
from crossframe.keys import array_sha256, file_sha256
from data_manifests.clips import ClipRequest, load_clip
from data_manifests.datasets import dataset_folder, find_clip, holder, missing, prompts_of
from data_manifests.footage import read_moving
from data_manifests.manifest import DataFile, Manifest
from data_manifests.pictures import picture_paths


@dataclass(frozen=True)
class Finding:
    """The result of one check. where: the file or clip. wrong: what is off, "" when all is well."""

    where: str
    wrong: str = ""


def verify(facts: Manifest) -> Iterator[Finding]:
    """Yield one finding per file and per clip of a set, in the order of the manifest.

    Files: length and sha256. The set's own table of prompts: readable, and with all listed clips.
    Clips: number of frames, and the sha256 of the decoded frames where the manifest records one.
    What is absent is a finding too.
    """
    absent = list(missing(facts))
    yield from (Finding(problem.where, str(problem)) for problem in absent)
    if absent:
        return
    folder = dataset_folder(facts)
    yield from (
        _file(folder, file) for file in holder(facts).files if (folder / file.name).exists()
    )
    if facts.prompts is not None:
        yield _prompts(facts, folder / facts.prompts.file)
    yield from (_clip(facts, name) for name in facts.names())


def _file(folder: Path, file: DataFile) -> Finding:
    path = folder / file.name
    length = path.stat().st_size
    if length != file.bytes:
        return Finding(str(path), f"has {length:,} bytes, not {file.bytes:,}")
    found = file_sha256(path)
    return Finding(str(path), "" if found == file.sha256 else f"has sha256 {found}")


def _prompts(facts: Manifest, path: Path) -> Finding:
    if not path.exists():
        return Finding(str(path), "is not here: captions and prompts are read from it")
    try:
        noted = prompts_of(facts)
    except UserError as error:
        return Finding(str(path), str(error))
    lacking = [name for name in facts.names() if name not in noted]
    return Finding(str(path), f"has no prompts for {', '.join(lacking)}" if lacking else "")


def _clip(facts: Manifest, name: str) -> Finding:
    where = f"{facts.prefix}:{name}"
    try:
        return Finding(where, _frames_wrong(facts, name) or _decoded_wrong(facts, name))
    except UserError as error:
        return Finding(where, str(error))


def _frames_wrong(facts: Manifest, name: str) -> str:
    """Tell whether a folder of pictures holds another number of frames than it should."""
    if facts.kind in ("rendered", "packaged"):
        return ""
    path = find_clip(facts, name)
    if path is None:
        return "is not here"
    wanted = facts.facts(name).frames
    found = len(picture_paths(path)) if path.is_dir() else None
    return f"has {found} frames, not {wanted}" if found and wanted not in (None, found) else ""


def _decoded_wrong(facts: Manifest, name: str) -> str:
    """Tell whether the decoded frames hash to something else than what is recorded."""
    wanted = facts.decoded(name)
    if not wanted:
        return ""
    found = decoded_sha256(facts, name)
    made = f", which was made with {facts.decoder}" if facts.decoder else ""
    return "" if found == wanted else f"decodes to sha256 {found}, not to {wanted}{made}"


def decoded_sha256(facts: Manifest, name: str) -> str:
    """Return the sha256 of the decoded frames of a clip after the manifest's transform.

    Raises UserError when the clip cannot be read, and ValueError when the manifest does not say
    how many frames of which size to take.
    """
    part = facts.transform
    if part.frames is None or part.size is None:
        raise ValueError(f"{facts.id}: a decoded hash needs transform.frames and transform.size")
    ref = f"{facts.prefix}:{name}"
    request = ClipRequest(ref, part.frames, part.size, part.start, part.stride)
    path = None if facts.kind in ("rendered", "packaged") else find_clip(facts, name)
    if path is None:
        return load_clip(request).sha256
    return array_sha256(read_moving(path, request)[0])
