"""Attention patterns as data: for every query frame, the frames that are its keys and values.

A pattern is a sum of terms. Each term is one rule `(frame i, frame count f, numbers) -> frames`;
a sum attends to the union, so no frame is ever attended twice. `Pattern.table(f)` is the whole
truth about a pattern: the attention core only ever reads index tables. Nothing here imports torch.

| term            | keys of frame i              | published as                                    |
|-----------------|------------------------------|-------------------------------------------------|
| `individual`    | i                            | per-frame self-attention                        |
| `first`         | 0, for every frame           | Text2Video-Zero (arXiv 2303.13439), cross-frame |
| `previous`      | i-1 (frame 0: itself)        |                                                 |
| `first+previous`| 0 and i-1 (frame 0: 0)       | Tune-A-Video (arXiv 2212.11565), sparse-causal  |
| `full`          | all                          | ControlVideo (arXiv 2305.13077), fully          |
| `keyframes[..]` | the listed ones, -1 = last   | ControlVideo, inter-frame                       |
| `window[k]`     | i-k .. i+k, cut at the ends  |                                                 |
| `reference`     | none: an external token bank | reference attention (Hallo, arXiv 2406.08801)   |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crossframe.errors import Problem, UserError, did_you_mean

Table = tuple[tuple[int, ...], ...]
Rule = Callable[[int, int, tuple[int, ...]], Iterable[int]]


def _window(i: int, f: int, numbers: tuple[int, ...]) -> Iterable[int]:
    (reach,) = numbers
    return range(max(i - reach, 0), min(i + reach, f - 1) + 1)


# Insertion order is the canonical order of the terms of a sum.
_RULES: dict[str, Rule] = {
    "first": lambda i, f, numbers: (0,),
    "previous": lambda i, f, numbers: (max(i - 1, 0),),
    "individual": lambda i, f, numbers: (i,),
    "window": _window,
    "keyframes": lambda i, f, numbers: (k % f for k in numbers),
    "full": lambda i, f, numbers: range(f),
    "reference": lambda i, f, numbers: (),
}
_ORDER = list(_RULES)
_SPELLINGS = [
    {"keyframes": "keyframes[0,-1]", "window": "window[1]"}.get(name, name) for name in _ORDER
]
_ALLOWED = ", ".join(_SPELLINGS) + ", or a sum such as first+previous"
_TERM = re.compile(r"([a-z_]+)\s*(?:\[([^\[\]]*)\])?")


def _problem(what: str, fix: str = "") -> UserError:
    return UserError(Problem("attention pattern", what, _ALLOWED, fix))


@dataclass(frozen=True)
class Term:
    """One rule of a pattern with its numbers, e.g. `Term("keyframes", (0, -1))`.

    Raises UserError for an unknown name or numbers that the rule does not take.
    """

    name: str
    numbers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in _RULES:
            raise _problem(f"unknown pattern {self.name!r}", did_you_mean(self.name, _ORDER))
        if self.name == "keyframes":
            if not self.numbers:
                raise _problem("keyframes needs at least one frame index")
            # As written but unique, counted from the front before counted from the back.
            ordered = sorted(set(self.numbers), key=lambda k: (k < 0, k))
            object.__setattr__(self, "numbers", tuple(ordered))
        elif self.name == "window":
            if len(self.numbers) != 1 or self.numbers[0] < 0:
                raise _problem("window needs one number of frames, 0 or more")
        elif self.numbers:
            raise _problem(f"{self.name} takes no numbers")

    def __str__(self) -> str:
        return self.name + (f"[{','.join(map(str, self.numbers))}]" if self.numbers else "")

    def frames(self, i: int, f: int) -> Iterable[int]:
        """Key frames of query frame `i` among `f`, possibly unsorted or repeated."""
        return _RULES[self.name](i, f, self.numbers)


@dataclass(frozen=True)
class Pattern:
    """A sum of terms, kept in canonical order and without repetitions; hashable."""

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise _problem("an attention pattern needs at least one term")
        ordered = sorted(set(self.terms), key=lambda t: (_ORDER.index(t.name), t.numbers))
        object.__setattr__(self, "terms", tuple(ordered))

    def __str__(self) -> str:
        return "+".join(map(str, self.terms))

    @property
    def needs_bank(self) -> bool:
        """Whether keys and values from outside the clip (a reference bank) must be supplied."""
        return any(term.name == "reference" for term in self.terms)

    def table(self, f: int) -> Table:
        """Key frames of each of `f` query frames, sorted and unique.

        Rows are empty only for `reference` alone, which attends to the bank and to no frame.
        Raises UserError when a key frame does not exist in a clip of `f` frames.
        """
        self._check_keyframes(f)
        return tuple(
            tuple(sorted({k for term in self.terms for k in term.frames(i, f)})) for i in range(f)
        )

    def _check_keyframes(self, f: int) -> None:
        if f < 1:
            raise ValueError(f"a clip has at least one frame, got {f}")
        listed = {k for term in self.terms if term.name == "keyframes" for k in term.numbers}
        outside = sorted(k for k in listed if not -f <= k < f)
        if outside:
            raise UserError(
                Problem(
                    f"attention pattern {self}",
                    f"key frame {', '.join(map(str, outside))} is outside a clip of {f} frames",
                    f"{-f}..{f - 1}",
                    "use more frames or other key frames",
                )
            )


INDIVIDUAL = Pattern((Term("individual"),))


def parse_pattern(value: str | Mapping[str, Any] | Sequence[Any] | Pattern) -> Pattern:
    """Read a pattern from its spec spelling.

    `"first+previous"`, `"keyframes[0,-1]"`, `"window[2]"`, `{"keyframes": [0, -1]}`,
    `{"window": 2}`, or a list of these, which is their sum. `str(pattern)` reads back to an equal
    pattern. Raises UserError for anything else.
    """
    if isinstance(value, Pattern):
        return value
    return Pattern(tuple(_read(value)))


def _read(value: Any) -> list[Term]:
    if isinstance(value, str):
        return [_read_term(text.strip()) for text in value.split("+")]
    if isinstance(value, Mapping):
        if len(value) != 1:
            raise _problem(f"{dict(value)!r}: write one pattern per mapping, a list for a sum")
        ((name, numbers),) = value.items()
        return [Term(str(name), _read_numbers(numbers))]
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [term for part in value for term in _read(part)]
    raise _problem(f"{value!r} is not an attention pattern")


def _read_term(text: str) -> Term:
    match = _TERM.fullmatch(text)
    if match is None:
        raise _problem(f"cannot read {text!r}")
    name, numbers = match.groups()
    if numbers is None:
        return Term(name)
    try:
        return Term(name, tuple(int(number) for number in numbers.split(",") if numbers.strip()))
    except ValueError:
        raise _problem(f"{text!r}: frame numbers are whole numbers") from None


def _read_numbers(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    numbers = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers):
        raise _problem(f"{value!r}: frame numbers are whole numbers")
    return tuple(numbers)


def compact(table: Table) -> tuple[tuple[int, ...], Table]:
    """The frames that are keys anywhere, ascending, and the table re-indexed into that list.

    Keys and values need projecting for these frames only.
    """
    used = tuple(sorted({k for keys in table for k in keys}))
    position = {k: n for n, k in enumerate(used)}
    return used, tuple(tuple(position[k] for k in keys) for keys in table)


def group_queries(table: Table) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """Pairs (query frames, their common key frames), in order of first appearance."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, keys in enumerate(table):
        groups.setdefault(keys, []).append(i)
    return tuple((tuple(queries), keys) for keys, queries in groups.items())
