"""Edited videos with their sources, frame by frame: what fits, and what has to be said. Torch-free.

Nothing is cropped, resized or left out unless it was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from PIL import Image

from ablations.scoring_align import CLEAR, FEWEST, Alignment, align, outlines, written
from crossframe.errors import Problem, UserError
from data_manifests.submissions import Shape, Texts, Video, read_whole, shape_of, sources_by_clip

How = Literal["same length", "given", "found"]
Resized = Literal["", "edited", "source"]


@dataclass(frozen=True)
class Wishes:
    """What the user asks for about frames and sizes.

    edited_frames, source_frames: which frames are taken. align: take the alignment that is found.
    resize: the video that is resized to the size of the other. alone: those of the wanted metrics
    that look at no source, for telling what is left without one.
    """

    edited_frames: slice | None = None
    source_frames: slice | None = None
    align: bool = False
    resize: Resized = ""
    alone: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """An edited video with what it is compared with.

    frames, source_frames: the frames that are scored, in step. how: where these come from. size:
    (height, width) at which both are scored. notes: what the reader of the scores should know.
    """

    video: Video
    shape: Shape
    frames: range
    size: tuple[int, int]
    texts: Texts = field(default_factory=Texts)
    source: Video | None = None
    source_shape: Shape | None = None
    source_frames: range = range(0)
    how: How = "same length"
    notes: tuple[str, ...] = field(default=())


def pair_up(
    videos: Sequence[Video],
    sources: Sequence[Video],
    texts: Mapping[str, Texts],
    wishes: Wishes,
) -> list[Pair]:
    """Return every video with its source; one source goes with all videos, several by clip.

    Raises one UserError with every pair whose lengths or sizes differ, telling what would fit.
    """
    by_clip = sources_by_clip(sources) if len(sources) > 1 else {}
    pairs: list[Pair] = []
    problems: list[Problem] = []
    for video in videos:
        source = sources[0] if len(sources) == 1 else by_clip.get(video.clip)
        try:
            alone = _alone(video, texts.get(video.name, Texts()), wishes)
            if source is not None:
                pairs.append(_together(alone, source, wishes))
            else:
                note = (f"no source is called {video.clip!r}",) if sources else ()
                pairs.append(replace(alone, notes=note))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return pairs


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the frames to be scored and those of the source, uint8 (f, h, w, 3), at one size."""
    edited = _taken(pair.video, pair.shape, pair.frames, pair.size)
    if pair.source is None or pair.source_shape is None:
        return edited, None
    return edited, _taken(pair.source, pair.source_shape, pair.source_frames, pair.size)


def parse_frames(option: str, text: str) -> slice:
    """Return the slice that START:STOP:STEP stands for; raises UserError for other texts."""
    words = text.split(":")
    numeric = all(word == "" or word.isdecimal() for word in words)
    if len(words) not in (2, 3) or not numeric or (len(words) == 3 and words[2] == "0"):
        raise UserError(Problem(option, f"{text!r} names no frames", "START:STOP:STEP, as in 0::5"))
    return slice(*(int(word) if word else None for word in words))


def _taken(video: Video, shape: Shape, frames: range, size: tuple[int, int]) -> np.ndarray:
    whole = read_whole(video.path, shape)[frames.start : frames.stop : frames.step]
    if whole.shape[1:3] == size:
        return whole
    height, width = size
    images = (Image.fromarray(frame) for frame in whole)
    return np.stack(
        [np.asarray(i.resize((width, height), Image.Resampling.BICUBIC)) for i in images]
    )


def _alone(video: Video, texts: Texts, wishes: Wishes) -> Pair:
    shape = shape_of(video.path)
    frames = _chosen("--edited-frames", video, shape, wishes.edited_frames)
    return Pair(video, shape, frames, (shape.height, shape.width), texts)


def _chosen(option: str, video: Video, shape: Shape, wish: slice | None) -> range:
    frames = range(shape.frames)[wish or slice(None)]
    if not frames:
        what = f"{option} leaves none of the {shape.frames} frames"
        raise UserError(Problem(video.name, what))
    return frames


def _together(pair: Pair, source: Video, wishes: Wishes) -> Pair:
    shape = shape_of(source.path)
    frames = _chosen("--source-frames", source, shape, wishes.source_frames)
    given = wishes.source_frames or wishes.edited_frames
    how: How = "given" if given else "same length"
    made = replace(pair, source=source, source_shape=shape, source_frames=frames, how=how)
    problems = list(_size_problems(made, wishes))
    if len(made.frames) != len(frames):
        if given:
            problems.append(_still_uneven(made))
        else:
            found = _align(made)
            if not found.clear:
                raise UserError(_unlike(made, found, wishes))
            if wishes.align:
                made = _with(made, found)
            else:
                problems.append(_uneven(made, found))
    if problems:
        raise UserError(problems)
    sizes = {"": pair.size, "edited": (shape.height, shape.width), "source": pair.size}
    return replace(made, size=sizes[wishes.resize])


def _size_problems(pair: Pair, wishes: Wishes) -> Iterator[Problem]:
    assert pair.source_shape is not None
    if pair.shape.size == pair.source_shape.size or wishes.resize:
        return
    one, other = pair.shape, pair.source_shape
    what = f"the edited video is {one.size} pixels, the source {other.size}"
    if one.width * other.height != one.height * other.width:
        what += ", of another shape, so that resizing would squash it"
    fix = "give --resize edited (to the source's size) or --resize source"
    yield Problem(pair.video.name, what, fix=fix)


def _align(pair: Pair) -> Alignment:
    assert pair.source is not None
    assert pair.source_shape is not None
    edited = outlines(read_whole(pair.video.path, pair.shape))
    source = outlines(read_whole(pair.source.path, pair.source_shape))
    shorter, longer = sorted((edited, source), key=len)
    return align(shorter, longer)


def _with(pair: Pair, found: Alignment) -> Pair:
    note = f"aligned by likeness {found.likeness:.2f}"
    if len(pair.frames) < len(pair.source_frames):
        notes = (*pair.notes, f"source frames {written(found.frames)}, {note}")
        return replace(pair, source_frames=found.frames, how="found", notes=notes)
    notes = (*pair.notes, f"edited frames {written(found.frames)}, {note}")
    return replace(pair, frames=found.frames, how="found", notes=notes)


def _uneven(pair: Pair, found: Alignment) -> Problem:
    option, longer = _longer(pair)
    counts = f"the edited video has {_frames(pair.frames)}, the source {len(pair.source_frames)}"
    best = f"{written(found.frames)} with likeness {found.likeness:.2f}"
    if found.next_likeness is not None and found.second is not None:
        best += f", then {written(found.second)} with {found.next_likeness:.2f}"
    few = ", ".join(map(str, found.frames[:3]))
    what = f"{counts}; frames {few}, ... of the {longer} fit best ({best})"
    return Problem(
        pair.video.name, what, fix=f"give {option} {written(found.frames)}, or --align found"
    )


def _unlike(pair: Pair, found: Alignment, wishes: Wishes) -> Problem:
    """Say that no frames of the longer video fit, and what can be done all the same."""
    assert pair.source_shape is not None
    option, longer = _longer(pair)
    sizes = (
        f"it has {_frames(pair.frames)} of {pair.shape.size} pixels, the source "
        f"{len(pair.source_frames)} of {pair.source_shape.size}"
    )
    best = f"{written(found.frames)}, have a likeness of {found.likeness:.2f}"
    what = (
        f"does not seem to follow this source: {sizes}, and no evenly spaced frames of the "
        f"{longer} stand out (the best, {best}; {CLEAR} is needed)"
    )
    if len(found.frames) < FEWEST:
        what = f"cannot be aligned: {sizes}, and fewer than {FEWEST} frames tell nothing"
    resize = (
        "" if pair.shape.size == pair.source_shape.size or wishes.resize else " --resize edited"
    )
    left = f"scores {', '.join(wishes.alone)}" if wishes.alone else "scores metrics that need none"
    fix = (
        f"name another source; or leave out --source, which {left}; or, if you know the frames, "
        f"give {option} START:STOP:STEP{resize}"
    )
    return Problem(pair.video.name, what, fix=fix)


def _longer(pair: Pair) -> tuple[str, str]:
    """The option that chooses among the frames of the longer video, and what that video is."""
    if len(pair.frames) < len(pair.source_frames):
        return "--source-frames", "source"
    return "--edited-frames", "edited video"


def _still_uneven(pair: Pair) -> Problem:
    """Say what the chosen frames lack, and the stop that would cut the longer to fit."""
    edited, source = pair.frames, pair.source_frames
    what = f"{_frames(edited)} of the edited video are chosen, {len(source)} of the source"
    count = min(len(edited), len(source))
    option, longer = max((("--edited-frames", edited), ("--source-frames", source)), key=_length)
    return Problem(
        pair.video.name, what, fix=f"give {option} {written(longer[:count])} if that is meant"
    )


def _length(item: tuple[str, range]) -> int:
    return len(item[1])


def _frames(frames: range) -> str:
    return f"{len(frames)} frame{'s' * (len(frames) != 1)}"
