"""YAML 1.2 files with positions: text in, plain data plus a mark for every node out.

Nothing here knows what a spec is. Every problem is collected (syntax aside, where the parser cannot
go on), so that one look at the terminal is enough to mend a file. Scalars follow YAML 1.2: `off`
stays text, `3e-5` is a number, `010` is ten. There are no tags, so no code can be named in a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from crossframe.errors import Problem, UserError

NodePath = tuple[str | int, ...]

MAX_NODES = 100_000
SCALAR_TAGS = frozenset({"null", "bool", "int", "float", "str"})
TAG_PREFIX = "tag:yaml.org,2002:"


@dataclass
class Document:
    """Plain data with the position of every key and value.

    `values` and `keys` map a node's path to its place as users read it: `file:line:col`, or the
    command-line flag that set it.
    """

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    values: dict[NodePath, str] = field(default_factory=dict)
    keys: dict[NodePath, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def where(self, path: NodePath, *, key: bool = False) -> str:
        """Place and path of a node; the place of its nearest parent when it is not in the file."""
        marks = (self.keys, self.values) if key else (self.values, self.keys)
        for length in range(len(path), -1, -1):
            for table in marks:
                if path[:length] in table:
                    return f"{table[path[:length]]}: {show_path(path)}"
        return f"{self.name}: {show_path(path)}"

    def problem(self, path: NodePath, what: str, allowed: str = "", fix: str = "") -> Problem:
        """A `Problem` located at `path`."""
        return Problem(self.where(path), what, allowed, fix)


def show_path(path: Iterable[str | int]) -> str:
    """A path as users write it: `grid.attention.pattern[2]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "(the file)"


def read_document(path: Path) -> Document:
    """Read a YAML file; raises `UserError` if it cannot be read, collects what is wrong inside."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(Problem(str(path), "no such file", fix="check the path")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(Problem(str(path), f"cannot be read as UTF-8 text: {error}")) from None
    return parse_document(text, str(path))


def parse_document(text: str, name: str) -> Document:
    """Parse YAML text whose top level is a mapping."""
    document = Document(name)
    node = _compose(text, document, lambda line, column: f"{name}:{line}:{column}")
    if node is None:
        if not document.problems:
            document.problems.append(Problem(name, "the file is empty"))
    elif not isinstance(node, MappingNode):
        document.problems.append(Problem(f"{name}:1:1", "the top level must be `key: value` lines"))
    else:
        document.data = _Builder(document, lambda n: _mark(name, n)).build(node, ())
    return document


def _mark(name: str, node: Node) -> str:
    return f"{name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"


def _compose(text: str, document: Document, place: Any) -> Node | None:
    try:
        return YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = place(mark.line + 1, mark.column + 1) if mark else document.name
        document.problems.append(Problem(where, *_syntax_hint(error)))
    except YAMLError as error:
        document.problems.append(Problem(document.name, str(error).splitlines()[0]))
    return None


def _syntax_hint(error: MarkedYAMLError) -> tuple[str, str, str]:
    context = f" {error.context}" if error.context else ""
    what = f"not valid YAML: {error.problem}{context}"
    if "got '['" in what or "got '{'" in what:
        return what, "", 'text with brackets inside [...] needs quotes, as in "keyframes[0,-1]"'
    if "mapping values are not allowed" in what:
        return what, "", "quote text that contains ': '"
    if "'\\t'" in what:
        return what, "", "indent with spaces, not tabs"
    return what, "", ""


class _Builder:
    """One walk over composed nodes: plain data, marks, and every duplicate key or foreign tag."""

    def __init__(self, document: Document, place: Any) -> None:
        self.document = document
        self.place = place
        self.scalars = YAML(typ="safe", pure=True).constructor
        self.open: list[Node] = []
        self.count = 0

    def build(self, node: Node, path: NodePath) -> Any:
        """Plain data of a node; problems go to the document."""
        self.document.values[path] = self.place(node)
        self.count += 1
        if any(node is parent for parent in self.open) or self.count > MAX_NODES:
            self._complain(path, f"an alias that contains itself, or more than {MAX_NODES} values")
            return None
        self.open.append(node)
        value = self._dispatch(node, path)
        self.open.pop()
        return value

    def _dispatch(self, node: Node, path: NodePath) -> Any:
        tag = str(node.tag)
        if isinstance(node, MappingNode) and tag == TAG_PREFIX + "map":
            return self._mapping(node, path)
        if isinstance(node, SequenceNode) and tag == TAG_PREFIX + "seq":
            return [self.build(child, (*path, index)) for index, child in enumerate(node.value)]
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        self._complain(path, f"the tag {_short(tag)} is not allowed", "plain YAML values only")
        return None

    def _scalar(self, node: ScalarNode, path: NodePath) -> Any:
        kind = str(node.tag).removeprefix(TAG_PREFIX)
        if kind == "timestamp":
            return node.value
        if kind not in SCALAR_TAGS:
            self._complain(path, f"the tag {_short(node.tag)} is not allowed", "plain YAML values")
            return None
        value = self.scalars.construct_object(node)
        if isinstance(value, float) and not math.isfinite(value):
            self._complain(path, f"{node.value} is not a finite number")
            return None
        return value

    def _mapping(self, node: MappingNode, path: NodePath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            if key is None:
                continue
            if key in result:
                first = self.document.keys[(*path, key)]
                where = f"{self.place(key_node)}: {show_path((*path, key))}"
                self.document.problems.append(
                    Problem(where, f"key given twice, first at {first}", fix="keep one of them")
                )
                continue
            self.document.keys[(*path, key)] = self.place(key_node)
            result[key] = self.build(value_node, (*path, key))
        return result

    def _key(self, node: Node, path: NodePath) -> str | None:
        if isinstance(node, ScalarNode) and str(node.tag) == TAG_PREFIX + "str":
            return str(node.value)
        shown = node.value if isinstance(node, ScalarNode) else "a list or mapping"
        fix = "repeat the keys" if shown == "<<" else f'write "{shown}" in quotes'
        where = f"{self.place(node)}: {show_path(path)}"
        self.document.problems.append(Problem(where, f"the key {shown} is not text", fix=fix))
        return None

    def _complain(self, path: NodePath, what: str, allowed: str = "") -> None:
        self.document.problems.append(self.document.problem(path, what, allowed))


def _short(tag: Any) -> str:
    return str(tag).replace(TAG_PREFIX, "!!")


def apply_overrides(
    document: Document, overrides: Sequence[str], open_mappings: Mapping[str, str]
) -> None:
    """Apply `path=value` texts to a document, in order, in place.

    Values follow the same YAML rules as the file. Keys below one of `open_mappings` are taken
    whole (`base.attention.pattern` sets the option `attention.pattern` of `base`); elsewhere dots
    nest and numbers index lists.
    """
    for text in overrides:
        path_text, equals, value_text = text.partition("=")
        flag = f"--set {text}"
        if not equals or not path_text.strip():
            document.problems.append(
                Problem(flag, "not of the form path=value", fix="as in --set base.steps=4")
            )
            continue
        path = _override_path(path_text.strip(), open_mappings)
        value = _override_value(document, value_text, flag, path)
        if not document.problems or document.problems[-1].where != flag:
            _assign(document, path, value, flag)


def _override_path(text: str, open_mappings: Mapping[str, str]) -> NodePath:
    head, dot, rest = text.partition(".")
    if dot and head in open_mappings:
        return (head, rest)
    return tuple(int(part) if part.isdigit() else part for part in text.split("."))


def _override_value(document: Document, text: str, flag: str, path: NodePath) -> Any:
    scratch = Document(flag)
    node = _compose(text, scratch, lambda line, column: flag)
    value = None if node is None else _Builder(scratch, lambda n: flag).build(node, path)
    document.problems.extend(Problem(flag, p.what, p.allowed, p.fix) for p in scratch.problems)
    if not scratch.problems:
        _forget(document, path)
        document.values.update(scratch.values)
        document.keys.update(scratch.keys)
    return value


def _forget(document: Document, path: NodePath) -> None:
    for table in (document.values, document.keys):
        for known in [known for known in table if known[: len(path)] == path]:
            del table[known]


def _assign(document: Document, path: NodePath, value: Any, flag: str) -> None:
    document.keys[path] = document.values[path] = flag
    target: Any = document.data
    for position, part in enumerate(path[:-1]):
        target = _descend(target, part)
        if target is None:
            where = show_path(path[: position + 1])
            document.problems.append(Problem(flag, f"{where} is not a mapping or has no such item"))
            return
    if not _put(target, path[-1], value):
        document.problems.append(Problem(flag, f"{show_path(path[:-1])} has no item {path[-1]}"))


def _descend(target: Any, part: str | int) -> Any:
    if isinstance(target, list):
        return target[part] if isinstance(part, int) and part < len(target) else None
    if isinstance(target, dict):
        child = target.setdefault(str(part), {})
        return child if isinstance(child, dict | list) else None
    return None


def _put(target: Any, part: str | int, value: Any) -> bool:
    if isinstance(target, list):
        if not isinstance(part, int) or part >= len(target):
            return False
        target[part] = value
    else:
        _drop_nested(target, str(part))
        target[str(part)] = value
    return True


def _drop_nested(target: dict[str, Any], dotted: str) -> None:
    """Remove `a: {b: ...}` before `a.b` is set, so that one spelling of the option remains."""
    head, dot, rest = dotted.partition(".")
    child = target.get(head)
    if not dot or not isinstance(child, dict):
        return
    _drop_nested(child, rest)
    child.pop(rest, None)
