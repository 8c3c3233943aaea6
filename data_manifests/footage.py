"""Clips from video files, with what a sidecar beside the file says about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from crossframe.errors import Problem, UserError, did_you_mean
from crossframe.video import read_video
from data_manifests.clips import Clip, ClipRequest, clip_id

FIELDS = ("caption", "edits")


@dataclass(frozen=True)
class Sidecar:
    """What a person noted about a video: a caption, and prompts by kind of edit."""

    caption: str = ""
    edits: Mapping[str, str] = field(default_factory=dict)


def load_footage(name: str, request: ClipRequest) -> Clip:
    """Return the part of the video file `name` that `request` asks for, with its sidecar.

    Raises UserError when the video or the sidecar cannot be read.
    """
    path = Path(name)
    sidecar = read_sidecar(path.with_suffix(".yaml"))
    frames, fps = read_video(
        path,
        frames=request.frames,
        start=request.start,
        stride=request.stride,
        size=request.size,
    )
    return Clip(clip_id(request.ref), frames, fps, sidecar.caption, sidecar.edits)


def read_sidecar(path: Path) -> Sidecar:
    """Return the caption and edit prompts in a sidecar; an absent file is an empty sidecar.

    The file holds `caption: TEXT` and `edits: {KIND: TEXT, ...}`, both optional. Raises UserError
    with every problem found.
    """
    if not path.exists():
        return Sidecar()
    try:
        data = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        raise UserError(_syntax(path, error)) from error
    except UnicodeDecodeError as error:
        raise UserError(Problem(str(path), f"not UTF-8 text (byte {error.start})")) from error
    problems = _problems(path, data)
    if problems:
        raise UserError(problems)
    return Sidecar(**(data or {}))


def _syntax(path: Path, error: MarkedYAMLError) -> Problem:
    mark = error.problem_mark
    where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
    return Problem(where, f"not valid YAML: {error.problem}")


def _problems(path: Path, data: Any) -> list[Problem]:
    if data is None:
        return []
    if not isinstance(data, dict):
        return [Problem(str(path), f"holds {data!r}", "caption: TEXT and edits: {KIND: TEXT}")]
    unknown = [
        Problem(
            str(path), f"unknown key {key!r}", ", ".join(FIELDS), did_you_mean(str(key), FIELDS)
        )
        for key in data
        if key not in FIELDS
    ]
    edits = data.get("edits", {})
    texts = {"caption": data.get("caption", "")}
    if isinstance(edits, dict):
        texts |= {f"edits.{kind}": prompt for kind, prompt in edits.items()}
    else:
        unknown.append(Problem(f"{path}: edits", f"holds {edits!r}", "{KIND: TEXT, ...}"))
    return unknown + [
        Problem(f"{path}: {name}", f"{text!r} is not a text", fix="put it in quotes")
        for name, text in texts.items()
        if not isinstance(text, str)
    ]
