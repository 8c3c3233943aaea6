"""YAML 1.2 files with positions: text in, plain data plus a mark for every node out.

Nothing here knows what a spec is. Every problem is collected (syntax aside, where the parser cannot
go on), so that one look at the terminal is enough to mend a file. Scalars follow YAML 1.2: `off`
stays text, `3e-5` is a number, `010` is ten. There are no tags, so no code can be named in a file.
Size, depth, number of values and length of texts are bounded, so that a hostile file costs no more
time and memory than a large honest one; aliases count each time that they are used.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from crossframe.errors import Problem, UserError

NodePath = tuple[str | int, ...]

MAX_BYTES = 256 * 1024
MAX_NODES = 10_000
MAX_DEPTH = 64
MAX_TEXT = 10_000
MAX_KEY = 200
MAX_INTEGER = 2**63
MAX_PROBLEMS = 50
SCALAR_TAGS = frozenset({"null", "bool", "int", "float", "str"})
TAG_PREFIX = "tag:yaml.org,2002:"
_INDEX = re.compile(r"[0-9]{1,6}")


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
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(Problem(str(path), "no such file", fix="check the path")) from None
    except (OSError, ValueError) as error:
        raise UserError(Problem(str(path), f"cannot be read as UTF-8 text: {error}")) from None
    if len(data) > MAX_BYTES:
        what = f"is larger than {MAX_BYTES // 1024} KiB, which no spec needs"
        raise UserError(Problem(str(path), what, fix="split it, or check the path"))
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


class _Bounded(Composer):
    """Composes no more nodes than `MAX_NODES`; an anchor may be used for a second node."""

    warn_double_anchors = False
    count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.count += 1
        if self.count > MAX_NODES:
            mark = self.parser.peek_event().start_mark
            raise MarkedYAMLError(problem=f"more than {MAX_NODES} values", problem_mark=mark)
        return super().compose_node(parent, index)


def _compose(text: str, document: Document, place: Any) -> Node | None:
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _Bounded
    yaml.max_depth = MAX_DEPTH
    if _other_version(text):
        what = "only YAML 1.2 is read here"
        document.problems.append(Problem(place(1, 1), what, fix="remove the line %YAML"))
        return None
    try:
        return yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = place(mark.line + 1, mark.column + 1) if mark else document.name
        document.problems.append(Problem(where, *_syntax_hint(error)))
    except (YAMLError, ValueError, OverflowError) as error:  # such as \\U with no such character
        lines = str(error).splitlines() or [type(error).__name__]
        document.problems.append(Problem(document.name, f"not valid YAML: {lines[0]}"))
    return None


def _other_version(text: str) -> bool:
    """Whether a directive before the document asks for another YAML, where `off` is false."""
    for line in text.splitlines():
        if line.startswith("%YAML"):
            return line.split()[1:2] != ["1.2"]
        if line and line[0] not in "%# \t\ufeff":
            return False
    return False


def _syntax_hint(error: MarkedYAMLError) -> tuple[str, str, str]:
    context = f" {error.context}" if error.context else ""
    what = f"not valid YAML: {error.problem}{context}"
    if "maximum depth" in what:
        return f"nested more than {MAX_DEPTH} deep", "", ""
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
        self.full = False

    def build(self, node: Node, path: NodePath) -> Any:
        """Plain data of a node; problems go to the document."""
        if self.count >= MAX_NODES or len(self.open) > MAX_DEPTH:
            return self._too_much(path)
        self.count += 1
        self.document.values[path] = self.place(node)
        if any(node is parent for parent in self.open):
            self._complain(path, "an alias that contains itself")
            return None
        self.open.append(node)
        value = self._dispatch(node, path)
        self.open.pop()
        return value

    def _too_much(self, path: NodePath) -> None:
        """Complain once about a file whose aliases unfold into too much."""
        if not self.full:
            what = f"with its aliases unfolded the file has more than {MAX_NODES} values"
            self._complain(path, f"{what}, or nests more than {MAX_DEPTH} deep")
        self.full = True

    def _dispatch(self, node: Node, path: NodePath) -> Any:
        tag = str(node.tag)
        if isinstance(node, MappingNode) and tag == TAG_PREFIX + "map":
            return self._mapping(node, path)
        if isinstance(node, SequenceNode) and tag == TAG_PREFIX + "seq":
            return self._sequence(node, path)
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
        try:
            value = self.scalars.construct_object(node)
        except (ValueError, KeyError, ArithmeticError, YAMLError):
            self._complain(path, f"{node.value[:40]} is not a value of the type {_short(node.tag)}")
            return None
        wrong = wrong_scalar(value, MAX_TEXT)
        if wrong:
            self._complain(path, wrong if isinstance(value, str) else f"{node.value[:40]} {wrong}")
            return None
        return value

    def _sequence(self, node: SequenceNode, path: NodePath) -> list[Any]:
        result: list[Any] = []
        for index, child in enumerate(node.value):
            if self.full:
                break
            result.append(self.build(child, (*path, index)))
        return result

    def _mapping(self, node: MappingNode, path: NodePath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            if key is None:
                continue
            if self.full:
                break
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
        where = f"{self.place(node)}: {show_path(path)}"
        if isinstance(node, ScalarNode) and str(node.tag) == TAG_PREFIX + "str":
            wrong = wrong_scalar(node.value, MAX_KEY)
            if not wrong:
                return str(node.value)
            self.document.problems.append(Problem(where, f"a key {wrong}"))
            return None
        shown = node.value if isinstance(node, ScalarNode) else "a list or mapping"
        fix = "repeat the keys" if shown == "<<" else f'write "{shown}" in quotes'
        self.document.problems.append(Problem(where, f"the key {shown} is not text", fix=fix))
        return None

    def _complain(self, path: NodePath, what: str, allowed: str = "") -> None:
        self.document.problems.append(self.document.problem(path, what, allowed))


def wrong_scalar(value: Any, longest: int) -> str:
    """Say what makes a scalar unfit for a spec, or ""."""
    if isinstance(value, float) and not math.isfinite(value):
        return "is not a finite number"
    if isinstance(value, int) and abs(value) >= MAX_INTEGER:
        return "is a number of more than 64 bits"
    if not isinstance(value, str):
        return ""
    if len(value) > longest:
        return f"has {len(value)} characters, more than {longest}"
    bad = next(
        (c for c in value if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"), ""
    )
    return f"holds the control character U+{ord(bad):04X}" if bad else ""


def _short(tag: Any) -> str:
    return str(tag).replace(TAG_PREFIX, "!!")


def apply_overrides(
    document: Document,
    overrides: Sequence[str],
    open_mappings: Mapping[str, str],
    origin: str = "--set",
) -> None:
    """Apply `path=value` texts to a document, in order, in place.

    origin: names the texts in problems.

    Values follow the same YAML rules as the file. Keys below one of `open_mappings` are taken
    whole (`base.attention.pattern` sets the option `attention.pattern` of `base`); elsewhere dots
    nest and numbers index lists.
    """
    for text in overrides:
        path_text, equals, value_text = text.partition("=")
        flag = f"{origin} {text}"
        if not equals or not path_text.strip():
            document.problems.append(
                Problem(flag, "not of the form path=value", fix="as in --set base.steps=4")
            )
            continue
        path = _override_path(path_text.strip(), open_mappings)
        if len(path) > MAX_DEPTH or len(path_text) > MAX_KEY:
            document.problems.append(
                Problem(flag[: MAX_KEY + len(origin) + 5], "a path as long as no field has")
            )
            continue
        value = _override_value(document, value_text, flag, path)
        if not document.problems or document.problems[-1].where != flag:
            _assign(document, path, value, flag)


def _override_path(text: str, open_mappings: Mapping[str, str]) -> NodePath:
    head, dot, rest = text.partition(".")
    if dot and head in open_mappings:
        return (head, rest)
    return tuple(int(part) if _INDEX.fullmatch(part) else part for part in text.split("."))


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
