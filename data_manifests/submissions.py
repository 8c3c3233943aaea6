"""Videos made elsewhere: what lies under a path, and which prompt belongs to which video.

Read are video files, gifs and folders of pictures, alone or in folders, and the layout in which
results are handed in to LOVEU-TGVE-2023: one picture per frame in
`<subset>/<video>/{style,object,background,multiple}/`. The sources of that challenge
(`<subset>/480p_frames/<video>/`) are found too. That layout is also written and checked here.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import numpy as np
from PIL import Image

from crossframe.errors import Problem, UserError, did_you_mean
from crossframe.files import replacing_folder
from crossframe.video import probe, read_video
from data_manifests.manifest import manifest
from data_manifests.pictures import SUFFIXES as PICTURES
from data_manifests.pictures import natural_key, picture_paths, read_pictures
from data_manifests.prompts import TGVE_EDITS, TGVE_NAME, read_tgve

VIDEOS = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
SET = "tgve2023"
JPEG_QUALITY = 95
DEEPEST = 4
"""Folders below the one that is named in which videos are looked for."""


@dataclass(frozen=True)
class Video:
    """A video on disk. name: unique in its listing. clip: what sources and prompts are matched by.

    kind: of edit, where the folder is named after one of TGVE's, else "".
    """

    name: str
    path: Path
    clip: str
    kind: str = ""


@dataclass(frozen=True)
class Shape:
    """What a video holds, told without decoding it. fps: None for a folder of pictures."""

    frames: int
    width: int
    height: int
    fps: float | None

    @property
    def size(self) -> str:
        """`WIDTHxHEIGHT`."""
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Texts:
    """What was asked for, and what the source shows; "" when unknown."""

    prompt: str = ""
    source_prompt: str = ""


def find_videos(root: str | Path) -> list[Video]:
    """Return the videos at `root`: the one that it is, or all in it, in natural order.

    Raises UserError when there is nothing at `root`, or no video in it.
    """
    root = Path(root)
    if not root.exists():
        raise UserError(Problem(str(root), "no such file or folder"))
    if root.is_file() or _is_pictures(root):
        return [_video(root, root.name if root.is_dir() else root.stem)]
    found = [_video(path, path.relative_to(root).as_posix()) for path in _leaves(root, DEEPEST)]
    if not found:
        inner = ", ".join(sorted(path.name for path in root.iterdir())[:6]) or "nothing"
        allowed = f"videos ({' '.join(VIDEOS)}), folders of pictures, or TGVE's layout"
        raise UserError(Problem(str(root), f"holds no video, only {inner}", allowed))
    return _named_apart(found)


def shape_of(path: Path) -> Shape:
    """Return number of frames, size and rate; of pictures only the first is opened.

    Raises UserError as `probe` and `read_pictures` do.
    """
    if path.is_dir():
        height, width = read_pictures(path, frames=1).shape[1:3]
        return Shape(len(picture_paths(path)), width, height, None)
    info = probe(path)
    return Shape(info.frames, info.width, info.height, info.fps)


def read_whole(path: Path, shape: Shape) -> np.ndarray:
    """Return all frames, uint8 (f, h, w, 3), neither cropped nor resized; UserError as above."""
    if path.is_dir():
        return read_pictures(path, frames=shape.frames)
    return read_video(path, frames=shape.frames)[0]


def sources_by_clip(videos: Sequence[Video]) -> dict[str, Video]:
    """Return sources by the clip that they show; folders of pictures win over videos.

    Raises UserError when two of the same sort show one clip.
    """
    chosen: dict[str, Video] = {}
    problems = []
    for video in sorted(videos, key=lambda video: video.path.is_file()):
        other = chosen.setdefault(video.clip, video)
        if other is not video and other.path.is_dir() == video.path.is_dir():
            what = f"and {other.path} are both called {video.clip!r}"
            problems.append(Problem(str(video.path), what, fix="name one of them as --source"))
    if problems:
        raise UserError(problems)
    return chosen


def read_texts(path: Path, videos: Sequence[Video]) -> dict[str, Texts]:
    """Return texts by the name of a video, from a CSV; videos that it lacks are left out.

    The CSV is that of LOVEU-TGVE-2023, or has columns `video`, `prompt` and, if wanted,
    `source_prompt`; `video` is the name of a video, of its file, or of its clip. Raises UserError
    for other columns, and for a row whose video is not there.
    """
    with _text_file(path) as file:
        columns = [name.strip() for name in next(csv.reader(file), [])]
    if TGVE_NAME in columns:
        return _tgve_texts(path, videos)
    if not {"video", "prompt"} <= set(columns):
        allowed = f"video, prompt, source_prompt; or those of TGVE ({TGVE_NAME}, ...)"
        raise UserError(Problem(str(path), f"has columns {', '.join(columns) or 'none'}", allowed))
    return _plain_texts(path, videos)


def wanted_entries() -> Iterator[tuple[str, str]]:
    """Yield what a submission to LOVEU-TGVE-2023 consists of: 304 pairs of video and kind."""
    for video in manifest(SET).names():
        yield from ((video, kind) for kind in TGVE_EDITS)


def entry_folder(root: Path, video: str, kind: str) -> Path:
    """Return the folder of one video of a submission; raises UserError for an unknown video."""
    return root / manifest(SET).facts(video).group / video / kind


def write_entry(root: Path, video: str, kind: str, frames: np.ndarray) -> Path:
    """Write one video of a submission as JPEG without chroma subsampling; return its folder.

    frames: uint8 (f, h, w, 3), RGB. The folder appears whole, in place of one that is there.
    Raises UserError for a video that is not of the challenge.
    """
    folder = entry_folder(root, video, kind)
    with replacing_folder(folder) as made:
        for index, frame in enumerate(frames):
            path = made / f"{index:05d}.jpg"
            Image.fromarray(frame).save(path, quality=JPEG_QUALITY, subsampling=0)
    return folder


def entry_problems(root: Path) -> list[Problem]:
    """Return what a submission lacks: videos, frames, names that the challenge's code expects.

    Looked at are names and numbers of files; no picture is opened.
    """
    facts = manifest(SET)
    problems = []
    for video, kind in wanted_entries():
        folder = entry_folder(root, video, kind)
        names = sorted(path.name for path in folder.glob("*.jpg")) if folder.is_dir() else []
        frames = facts.facts(video).frames or len(names)
        if not names:
            problems.append(Problem(str(folder), "is absent, or holds no .jpg"))
        elif len(names) != frames:
            what = f"holds {len(names)} frames"
            problems.append(Problem(str(folder), what, str(frames)))
        elif names != [f"{index:05d}.jpg" for index in range(frames)]:
            what = f"has files such as {names[0]}, {names[-1]}"
            problems.append(Problem(str(folder), what, f"00000.jpg to {frames - 1:05d}.jpg"))
    return problems


def _text_file(path: Path) -> TextIO:
    try:
        return open(path, encoding="utf-8-sig", newline="")
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise UserError(Problem(str(path), what, fix="give a CSV in UTF-8")) from error


def _tgve_texts(path: Path, videos: Sequence[Video]) -> dict[str, Texts]:
    noted = read_tgve(path)
    return {
        video.name: Texts(noted[video.clip].edits.get(video.kind, ""), noted[video.clip].caption)
        for video in videos
        if video.clip in noted
    }


def _plain_texts(path: Path, videos: Sequence[Video]) -> dict[str, Texts]:
    with _text_file(path) as file:
        rows = list(csv.DictReader(file, restval="", skipinitialspace=True))
    made: dict[str, Texts] = {}
    problems = []
    for number, row in enumerate(rows, start=2):
        word = row["video"].strip()
        meant = [video for video in videos if word in _calls(video)]
        if not meant:
            names = [video.name for video in videos]
            few = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            what = f"no video is called {word!r}"
            problems.append(Problem(f"{path}:{number}", what, few, did_you_mean(word, names)))
        texts = Texts(row["prompt"].strip(), (row.get("source_prompt") or "").strip())
        made |= {video.name: texts for video in meant}
    if problems:
        raise UserError(problems)
    return made


def _calls(video: Video) -> tuple[str, ...]:
    return video.name, video.path.name, video.path.stem, video.clip


def _video(path: Path, name: str) -> Video:
    if path.is_dir() and path.name in TGVE_EDITS:
        return Video(f"{path.parent.name}/{path.name}", path, path.parent.name, path.name)
    stem = path.name if path.is_dir() else path.stem
    return Video(name if path.is_dir() else str(Path(name).with_suffix("")), path, stem)


def _named_apart(videos: Sequence[Video]) -> list[Video]:
    """Give videos that share a name their file's suffix, or their whole path."""
    shared = {name for name, count in Counter(v.name for v in videos).items() if count > 1}
    apart = [replace(v, name=f"{v.name}{v.path.suffix}") if v.name in shared else v for v in videos]
    still = {name for name, count in Counter(v.name for v in apart).items() if count > 1}
    return [replace(v, name=v.path.as_posix()) if v.name in still else v for v in apart]


def _leaves(folder: Path, depth: int) -> Iterator[Path]:
    children = [path for path in folder.iterdir() if not path.name.startswith(".")]
    for path in sorted(children, key=lambda path: natural_key(path.name)):
        if path.is_file():
            if path.suffix.lower() in VIDEOS:
                yield path
        elif _is_pictures(path):
            yield path
        elif depth > 1:
            yield from _leaves(path, depth - 1)


def _is_pictures(folder: Path) -> bool:
    return any(
        path.suffix.lower() in PICTURES and not path.name.startswith(".")
        for path in folder.iterdir()
        if path.is_file()
    )
