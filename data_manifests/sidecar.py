"""What a person noted about clips in YAML: captions, prompts by kind of edit, and a frame rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from crossframe.errors import Problem, UserError, did_you_mean

FIELDS = ("caption", "edits", "fps")


@dataclass(frozen=True)
class Sidecar:
    """Notes on one clip. edits: prompts by kind. fps: frames per second, None when not noted."""

    caption: str = ""
    edits: Mapping[str, str] = field(default_factory=dict)
    fps: float | None = None


def read_sidecar(path: Path) -> Sidecar:
    """Return the notes in a sidecar; an absent file is an empty sidecar.

    The file holds `caption: TEXT`, `edits: {KIND: TEXT, ...}` and `fps: NUMBER`, all optional.
    Raises UserError with every problem found.
    """
    data = read_yaml(path) if path.exists() else None
    return _sidecar(data, [*_problems(str(path), data)])


def read_sidecars(path: Path) -> dict[str, Sidecar]:
    """Return the notes of many clips by name, from a file that holds `CLIP: {caption: ..., ...}`.

    An absent file gives none. Raises UserError with every problem found.
    """
    data = read_yaml(path) if path.exists() else {}
    if not isinstance(data, dict):
        raise UserError(Problem(str(path), f"holds {data!r}", "CLIP: {caption: TEXT, edits: ...}"))
    problems = [p for name, item in data.items() for p in _problems(f"{path}: {name}", item)]
    if problems:
        raise UserError(problems)
    return {str(name): _sidecar(item, []) for name, item in data.items()}


def read_yaml(path: Path) -> Any:
    """Return the YAML 1.2 data in `path`; raises UserError with line and column when it is none."""
    try:
        return YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        raise UserError(_syntax(path, error)) from error
    except UnicodeDecodeError as error:
        raise UserError(Problem(str(path), f"not UTF-8 text (byte {error.start})")) from error


def _sidecar(data: Any, problems: list[Problem]) -> Sidecar:
    if problems:
        raise UserError(problems)
    return Sidecar(**(data or {}))


def _syntax(path: Path, error: MarkedYAMLError) -> Problem:
    mark = error.problem_mark
    where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
    return Problem(where, f"not valid YAML: {error.problem}")


def _problems(where: str, data: Any) -> Iterator[Problem]:
    """Yield what is wrong with the notes on one clip."""
    if data is None:
        return
    if not isinstance(data, dict):
        yield Problem(where, f"holds {data!r}", "caption: TEXT and edits: {KIND: TEXT}")
        return
    for key in data:
        if key not in FIELDS:
            hint = did_you_mean(str(key), FIELDS)
            yield Problem(where, f"unknown key {key!r}", ", ".join(FIELDS), hint)
    yield from _not_texts(where, data)
    fps = data.get("fps", 1)
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not fps > 0:
        yield Problem(f"{where}: fps", f"{fps!r} is not a frame rate", "a number above 0")


def _not_texts(where: str, data: Mapping[Any, Any]) -> Iterator[Problem]:
    edits = data.get("edits", {})
    texts = {"caption": data.get("caption", "")}
    if isinstance(edits, dict):
        texts |= {f"edits.{kind}": prompt for kind, prompt in edits.items()}
    else:
        yield Problem(f"{where}: edits", f"holds {edits!r}", "{KIND: TEXT, ...}")
    for name, text in texts.items():
        if not isinstance(text, str):
            yield Problem(f"{where}: {name}", f"{text!r} is not a text", fix="put it in quotes")
