"""What a person noted about clips in YAML: captions, prompts, a rate, control maps, a voice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from crossframe.errors import Problem, UserError, did_you_mean

FIELDS = ("caption", "edits", "fps", "controls", "voice")
PATHS = ("controls", "voice")
"""Those that name files, relative to the sidecar."""


@dataclass(frozen=True)
class Sidecar:
    """Notes on one clip.

    edits: prompts by kind. fps: frames per second, None when not noted. controls: by kind of
    control, the video or the folder of pictures that holds its maps, relative to the sidecar.
    voice: the file whose sound is heard with the frames, relative to the sidecar; "" for the sound
    of the video itself, where it has any.
    """

    caption: str = ""
    edits: Mapping[str, str] = field(default_factory=dict)
    fps: float | None = None
    controls: Mapping[str, str] = field(default_factory=dict)
    voice: str = ""


def read_sidecar(path: Path) -> Sidecar:
    """Return the notes in a sidecar; an absent file is an empty sidecar.

    The file holds `caption: TEXT`, `edits: {KIND: TEXT, ...}`, `fps: NUMBER`, `controls:
    {KIND: PATH, ...}` and `voice: PATH`, all optional. Raises UserError with every problem found.
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
    noted = [
        name for name in FIELDS if name not in PATHS
    ]  # they would have no folder to start from
    problems = [p for name, item in data.items() for p in _problems(f"{path}: {name}", item, noted)]
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


def _problems(where: str, data: Any, fields: Sequence[str] = FIELDS) -> Iterator[Problem]:
    """Yield what is wrong with the notes on one clip."""
    if data is None:
        return
    if not isinstance(data, dict):
        yield Problem(where, f"holds {data!r}", "caption: TEXT and edits: {KIND: TEXT}")
        return
    for key in data:
        if key not in fields:
            hint = did_you_mean(str(key), fields)
            yield Problem(where, f"unknown key {key!r}", ", ".join(fields), hint)
    yield from _not_texts(where, data)
    fps = data.get("fps", 1)
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not fps > 0:
        yield Problem(f"{where}: fps", f"{fps!r} is not a frame rate", "a number above 0")


def _not_texts(where: str, data: Mapping[Any, Any]) -> Iterator[Problem]:
    texts = {name: data.get(name, "") for name in ("caption", "voice")}
    for group, what in (("edits", "TEXT"), ("controls", "PATH")):
        named = data.get(group, {})
        if isinstance(named, dict):
            texts |= {f"{group}.{kind}": text for kind, text in named.items()}
        else:
            yield Problem(f"{where}: {group}", f"holds {named!r}", f"{{KIND: {what}, ...}}")
    for name, text in texts.items():
        if not isinstance(text, str):
            yield Problem(f"{where}: {name}", f"{text!r} is not a text", fix="put it in quotes")
