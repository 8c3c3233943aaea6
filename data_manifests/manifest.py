"""Manifests: what is known of a set of clips, one YAML file each, without the clips themselves.

A manifest holds facts (names, sizes, checksums, licences, addresses) and, where they are ours,
prompts. Frames are never part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from crossframe.errors import Problem, UserError, did_you_mean

FOLDER = Path(__file__).parent / "manifests"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Side = Annotated[int, Field(ge=1)]
Kind = Literal["fetched", "own copy", "packaged", "rendered"]
"""fetched: downloaded by `crossframe clips fetch`. own copy: placed by the user. packaged: part of
an installed package. rendered: made on demand."""


class Facts(BaseModel):
    """Base of all parts of a manifest: unchangeable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(Facts):
    """Where a set comes from: its page, and whom to cite."""

    page: str
    citation: str


class DataFile(Facts):
    """One file as its publisher gives it. members: a glob of the files wanted from an archive."""

    name: str
    url: str = ""
    bytes: Annotated[int, Field(ge=1)]
    sha256: Sha256
    unpack: bool = False
    members: str = ""


class PromptFile(Facts):
    """A file with captions and prompts in the user's copy, and who reads it (see `prompts.py`)."""

    file: str
    reader: Literal["tgve", "v2vbench"]


class Transform(Facts):
    """From whole clip to the part that a publication uses, and that decoded hashes are taken of.

    frames: how many, None for all. size: side of a square, or width and height, in pixels; None for
    as it is. Cropped and resized as `crossframe.video.fit_frame` does.
    """

    frames: Annotated[int, Field(ge=1)] | None = None
    start: Annotated[int, Field(ge=0)] = 0
    stride: Annotated[int, Field(ge=1)] = 1
    size: Side | tuple[Side, Side] | None = None


class ClipFacts(Facts):
    """What is known of one clip.

    frames: how many there are, None when unknown. group: the `{group}` of layouts. file: the data
    file it is made from. licence, credit: where it differs from the set. decoded: sha256 of the
    decoded frames (`crossframe.keys.array_sha256`) after the manifest's transform, by variant, or
    under `frames` where the set has no variants.
    """

    frames: Annotated[int, Field(ge=1)] | None = None
    group: str = ""
    file: str = ""
    licence: str = ""
    credit: str = ""
    caption: str = ""
    edits: Mapping[str, str] = {}
    decoded: Mapping[str, Sha256] = {}


class Manifest(Facts):
    """A set of clips.

    prefix: what stands before the colon in references. licence: SPDX, words, or `unknown`.
    place: how a person puts the data in place. uses: id of the set whose folder holds the frames.
    layout: paths of a clip inside the set's folder, `{clip}` and `{group}` filled in; the first
    that exists counts. annotations: likewise of its objects' masks, read where they are (see
    `annotations.py`). package: the folder of an installed package with `files`. count: how many
    clips there are when `clips` does not list them. size: width and height in pixels. decoder:
    what the decoded hashes were made with. variants: each clip exists once per variant, as
    `clip/variant`.
    """

    version: Literal[1]
    id: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]
    prefix: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
    title: str
    kind: Kind
    licence: str
    licence_note: str = ""
    redistributable: Literal["yes", "no", "unknown"]
    source: Source
    place: str
    uses: str = ""
    files: tuple[DataFile, ...] = ()
    layout: tuple[str, ...] = ()
    annotations: tuple[str, ...] = ()
    package: str = ""
    prompts: PromptFile | None = None
    fps: Annotated[float, Field(gt=0)] | None = None
    size: tuple[int, int] | None = None
    transform: Transform = Transform()
    decoder: str = ""
    variants: tuple[str, ...] = ()
    count: Annotated[int, Field(ge=1)] | None = None
    clips: Mapping[str, ClipFacts] = {}

    @model_validator(mode="after")
    def _agree(self) -> Manifest:
        names = {file.name for file in self.files}
        for name, clip in self.clips.items():
            if clip.file and clip.file not in names:
                raise ValueError(f"clips.{name}.file: {clip.file!r} is not among files")
            unknown = set(clip.decoded) - set(self.variants or ("frames",))
            if unknown:
                raise ValueError(f"clips.{name}.decoded: no variant is called {sorted(unknown)}")
        if any(file.unpack and not file.url for file in self.files):
            raise ValueError("files: what is unpacked needs a url")
        return self

    def names(self) -> tuple[str, ...]:
        """Return the names of all listed clips, with their variants."""
        if not self.variants:
            return tuple(self.clips)
        return tuple(f"{clip}/{variant}" for clip in self.clips for variant in self.variants)

    def facts(self, name: str) -> ClipFacts:
        """Return what is known of the clip `name` (or `clip/variant`); empty when not listed."""
        base = name.rpartition("/")[0] if self.variants else name
        return self.clips.get(base, ClipFacts())

    def decoded(self, name: str) -> str:
        """Return the recorded sha256 of the decoded clip `name`, or ""."""
        variant = name.rpartition("/")[2] if self.variants else "frames"
        return self.facts(name).decoded.get(variant, "")


def manifest_ids() -> tuple[str, ...]:
    """Return the ids of the shipped manifests, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def manifest(name: str) -> Manifest:
    """Return the shipped manifest called `name`, by id or by prefix.

    Raises UserError when there is none, with the nearest name.
    """
    if name in manifest_ids():
        return _shipped(name)
    known = {_shipped(key).prefix: key for key in manifest_ids()}
    if name in known:
        return _shipped(known[name])
    what = f"no set of clips is called {name!r}"
    names = ", ".join(manifest_ids())
    raise UserError(Problem("clips", what, names, did_you_mean(name, [*manifest_ids(), *known])))


@cache
def _shipped(name: str) -> Manifest:
    return read_manifest(FOLDER / f"{name}.yaml")


def read_manifest(path: str | Path) -> Manifest:
    """Return the manifest in a YAML file; raises UserError with every problem found."""
    try:
        data: Any = YAML(typ="safe").load(Path(path).read_text(encoding="utf-8"))
        return Manifest.model_validate(data)
    except FileNotFoundError:
        raise UserError(Problem(str(path), "no such file")) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise UserError(Problem(where, f"not valid YAML: {error.problem}")) from error
    except ValidationError as error:
        raise UserError(
            Problem(f"{path}: {'.'.join(map(str, item['loc'])) or 'manifest'}", item["msg"])
            for item in error.errors()
        ) from error
