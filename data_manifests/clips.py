"""Clip references, the clips they stand for, and the exact truth that rendered clips carry.

A reference is `SOURCE:NAME` (`world:heldout/3`, `davis:bear`, `photo:astronaut/pan`) or the path of
a video file or a folder of pictures.
"""

from __future__ import annotations

import fnmatch
import glob
import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from crossframe.errors import Problem, UserError, did_you_mean
from crossframe.form import Size, show_size, width_height
from crossframe.keys import array_sha256, identity
from crossframe.registry import Entry, Registry

if TYPE_CHECKING:
    import numpy as np

    from crossframe.voice import Voice

MOST_CLIPS = 10_000
"""Clips that one range may stand for."""

MOST_DIGITS = 12

_DATASET = "data_manifests.datasets:load_dataset_clip"
_NAMES = "data_manifests.datasets:clip_names"
_FROM_DISK = {
    "names": _NAMES,
    "code": ("data_manifests", "crossframe"),
    "packages": ("av", "PIL", "numpy"),
    "state": "data_manifests.states:clip_state",
}

SOURCES = Registry(
    "clip source",
    {
        "world": Entry(
            "miniature.world:load_world_clip",
            "the rendered miniature world, with exact flow, occlusion, depth and masks",
            {
                "square": True,
                "code": ("miniature.world", "miniature.shapes", "data_manifests", "crossframe"),
                "packages": ("numpy",),
            },
        ),
        "faces": Entry(
            "miniature.faces:load_face_clip",
            "rendered talking faces with their voices, with exact mouth, pose and flow",
            {
                "square": True,
                "code": (
                    "miniature.faces",
                    "miniature.face_layers",
                    "miniature.face",
                    "miniature.voices",
                    "miniature.world",
                    "miniature.shapes",
                    "data_manifests",
                    "crossframe",
                ),
                "packages": ("numpy",),
            },
        ),
        "file": Entry(
            "data_manifests.footage:load_footage",
            "a video, gif, folder of pictures, or a picture with a voice; notes in a .yaml beside",
            {
                "code": ("data_manifests", "crossframe"),
                "packages": ("av", "PIL", "numpy"),
                "files": ("", ".yaml"),
                "state": "data_manifests.footage:noted_states",
            },
        ),
        "photo": Entry(
            "data_manifests.photos:load_photo_clip",
            "photographs under known camera motion, with exact flow and occlusion",
            {
                "names": _NAMES,
                "code": ("data_manifests", "crossframe"),
                "packages": ("PIL", "numpy", "scipy"),
                "state": "data_manifests.states:package_state",
            },
        ),
        "davis": Entry(_DATASET, "DAVIS 2017, 480p", _FROM_DISK),
        "controlvideo": Entry(_DATASET, "ControlVideo's 25 videos of DAVIS", _FROM_DISK),
        "tgve": Entry(_DATASET, "LOVEU-TGVE-2023, from your copy", _FROM_DISK),
        "v2vbench": Entry(_DATASET, "V2VBench, from your copy", _FROM_DISK),
        "balancecc": Entry(_DATASET, "BalanceCC, from your copy", _FROM_DISK),
        "hdtf": Entry(_DATASET, "HDTF, from your copy", _FROM_DISK),
    },
    group="crossframe.clips",
)

_SCHEME = re.compile(r"(?P<source>[A-Za-z][\w-]*):(?P<name>.+)", re.DOTALL)
_RANGE = re.compile(r"(?P<stem>.*?)(?P<first>\d+)\.\.(?P<last>\d+)", re.DOTALL)


@dataclass(frozen=True)
class Truth:
    """What a renderer knows exactly about a clip of f frames. Flow is (dx, dy) in pixels.

    The last ones are known of talking faces only.
    """

    flow_forward: np.ndarray  # (f-1, h, w, 2) float32, frame t -> t+1, on the grid of t
    flow_backward: np.ndarray  # (f-1, h, w, 2) float32, frame t+1 -> t, on the grid of t+1
    occluded_forward: np.ndarray  # (f-1, h, w) bool, pixel of t is not visible in t+1
    occluded_backward: np.ndarray  # (f-1, h, w) bool, pixel of t+1 is not visible in t
    depth: np.ndarray  # (f, h, w) float32 in [0, 1], 1 = near
    masks: np.ndarray  # (f, n, h, w) bool, the visible part of each sprite
    edges: np.ndarray | None = None  # (f, h, w) float32, 0 or 1; None where not known exactly
    mouth: np.ndarray | None = None  # (f, h, w) bool, one box that holds the mouth in all frames
    lip: np.ndarray | None = None  # (f, h, w) bool, the box around the lips of each frame
    face: np.ndarray | None = None  # (f, h, w) bool, the box around the face of each frame
    opening: np.ndarray | None = None  # (f,) float32 in [0, 1], how far the mouth is open
    pose: np.ndarray | None = None  # (f, 2) float32, (x, y) of the head off its middle, in pixels
    envelope: np.ndarray | None = None  # (f,) float32 in [0, 1], loudness of the voice
    identity: np.ndarray | None = None  # (k,) float32 in about [-1, 1], who the face is


@dataclass(frozen=True)
class Clip:
    """Frames with what is known about them.

    id: name in tables, unique within a run. frames: (f, h, w, 3) uint8 RGB. fps: frames per
    second of these frames. caption: "" when unknown. edits: edit kind -> prompt. truth: None for
    footage. controls: control maps that were read from files, by kind, (f, h, w, 3) uint8 RGB.
    masks: objects that people marked in footage, (f, n, h, w) bool; None where nobody did.
    voice: what is heard during these frames, as long as they are; None for silent clips.
    """

    id: str
    frames: np.ndarray
    fps: float
    caption: str = ""
    edits: Mapping[str, str] = field(default_factory=dict)
    truth: Truth | None = None
    controls: Mapping[str, np.ndarray] = field(default_factory=dict)
    masks: np.ndarray | None = None
    voice: Voice | None = None

    @cached_property
    def sha256(self) -> str:
        """The sha256 of the frames (dtype, shape, values), control maps from files, and voice."""
        frames = array_sha256(self.frames)
        maps = {kind: array_sha256(array) for kind, array in sorted(self.controls.items())}
        if self.voice is not None:
            return identity([frames, maps, self.voice.sha256])
        return identity([frames, maps]) if maps else frames


@dataclass(frozen=True)
class ClipRequest:
    """Which part of a clip is wanted, and how large.

    frames: how many. size: side in pixels of the square result, or its width and height. start:
    first source frame. stride: source frames from one to the next. Raises UserError for values that
    make no sense.
    """

    ref: str
    frames: int = 8
    size: Size = 128
    start: int = 0
    stride: int = 1

    def __post_init__(self) -> None:
        size = min(width_height(self.size))
        least = [("frames", self.frames, 1), ("size", size, 1), ("start", self.start, 0)]
        problems = [
            Problem(f"clip.{name}", f"{value} is too small", f"{low} or more")
            for name, value, low in [*least, ("stride", self.stride, 1)]
            if value < low
        ]
        if problems:
            raise UserError(problems)

    @property
    def side(self) -> int:
        """Side of a clip that can only be square; raises UserError for another form."""
        width, height = width_height(self.size)
        if width != height:
            raise UserError(not_square(self.size, split_ref(self.ref)[0]))
        return width


def not_square(size: Size, source: str) -> Problem:
    """Return that clips of a source have no such form."""
    what = f"is {show_size(size)}, and clips of {source}: are drawn as squares"
    return Problem("clip.size", what, "one number", "or take footage or photographs")


def split_ref(ref: str) -> tuple[str, str]:
    """Return (source, name): `world:heldout/3` -> ("world", "heldout/3"), a path -> ("file", it).

    Any word before a colon is taken as a source; `file:PATH` spells a path that holds a colon.
    """
    match = _SCHEME.fullmatch(ref)
    return (match["source"], match["name"]) if match else ("file", ref)


def clip_id(ref: str) -> str:
    """Return the name of a reference in tables: a file's stem, otherwise the reference itself."""
    source, name = split_ref(ref)
    return Path(name).stem if source == "file" else ref


def expand_refs(refs: Sequence[str], base: Path) -> list[str]:
    """Return the single clips that `refs` stand for, in order and without repetition.

    `world:heldout/0..7` is 8 clips, both ends included. `davis:*` and `photo:*/pan` are all clips
    of that source whose names match, in its order. Paths and globs (`**` too) are taken relative
    to `base`; the matches of a glob are sorted, `.yaml` sidecars left out. A path or glob that
    matches nothing stays in the list, so that its own cells fail and the others go on.
    Raises UserError for a range that runs backwards and for two files that share a name, because
    tables and prompts tell clips apart by it.
    """
    expanded = list(dict.fromkeys(single for ref in refs for single in _expand(ref, base)))
    problems = list(_clashes(expanded))
    if problems:
        raise UserError(problems)
    return expanded


def load_clip(request: ClipRequest) -> Clip:
    """Return the requested clip; raises UserError when it does not exist or cannot be read."""
    source, name = split_ref(request.ref)
    if source not in SOURCES:
        is_path = Path(request.ref).exists()
        fix = f"write file:{request.ref}" if is_path else did_you_mean(source, SOURCES.names())
        what = f"reads as SOURCE:NAME, and there is no clip source {source!r}"
        raise UserError(Problem(request.ref, what, ", ".join(SOURCES), fix))
    clip: Clip = SOURCES.load(source)(name, request)
    return clip


def _expand(ref: str, base: Path) -> list[str]:
    source, name = split_ref(ref)
    if source == "file":
        prefix = "file:" if ":" in name else ""
        return [prefix + path for path in _expand_path(name, base)]
    match = _RANGE.fullmatch(name)
    if match is None:
        return _matching(source, name) or [ref]
    _require_numbers(ref, match["first"], match["last"])
    first, last = int(match["first"]), int(match["last"])
    if last - first >= MOST_CLIPS:
        what = f"the range {first}..{last} is {last - first + 1} clips"
        raise UserError(Problem(f"clips: {ref}", what, f"at most {MOST_CLIPS}"))
    if last < first:
        what = f"the range {first}..{last} runs backwards"
        raise UserError(Problem(f"clips: {ref}", what, fix=f"write {last}..{first}"))
    return [f"{source}:{match['stem']}{index}" for index in range(first, last + 1)]


def _matching(source: str, name: str) -> list[str]:
    """Return the references to a source's clips that match a glob; none for a plain name."""
    target = SOURCES.entry(source).extra.get("names", "") if source in SOURCES else ""
    if not target or not glob.has_magic(name):
        return []
    module, _, attribute = target.partition(":")
    names = getattr(importlib.import_module(module), attribute)(source)
    return [f"{source}:{found}" for found in names if fnmatch.fnmatchcase(found, name)]


def _require_numbers(ref: str, *texts: str) -> None:
    """Raise UserError for a number of a range that no clip can have."""
    if any(len(text) > MOST_DIGITS for text in texts):
        what = f"a number in this range has more than {MOST_DIGITS} digits"
        raise UserError(Problem(f"clips: {ref[:60]}", what, fix="write FIRST..LAST"))


def _expand_path(name: str, base: Path) -> list[str]:
    try:
        path = base / Path(name).expanduser()
        if path.exists() or not glob.has_magic(name):
            return [str(path)]
        found = sorted(glob.glob(str(path), recursive=True))
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, ~nobody
        reason = getattr(error, "strerror", None) or error
        what = f"cannot be looked for: {reason}"
        raise UserError(Problem(f"clips: {name[:60]}", what)) from error
    return [match for match in found if not match.endswith(".yaml")] or [str(path)]


def _clashes(refs: Iterable[str]) -> Iterable[Problem]:
    """Yield a problem for every later reference that has the id of an earlier one."""
    first: dict[str, str] = {}
    for ref in refs:
        other = first.setdefault(clip_id(ref), ref)
        if other != ref:
            what = f"has the same name {clip_id(ref)!r} as {other}"
            yield Problem(f"clips: {ref}", what, fix="rename one of the two files")
