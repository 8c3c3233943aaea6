"""Attention patterns: their index tables, spellings and errors."""

from __future__ import annotations

import subprocess
import sys

import pytest

from crossframe.errors import UserError
from methods.patterns import Pattern, Term, compact, group_queries, parse_pattern

# Written out by hand from the definitions in the papers, four frames.
TABLES = {
    "individual": ((0,), (1,), (2,), (3,)),
    "first": ((0,), (0,), (0,), (0,)),
    "previous": ((0,), (0,), (1,), (2,)),
    "first+previous": ((0,), (0,), (0, 1), (0, 2)),
    "full": ((0, 1, 2, 3),) * 4,
    "keyframes[0,-1]": ((0, 3),) * 4,
    "window[1]": ((0, 1), (0, 1, 2), (1, 2, 3), (2, 3)),
    "reference": ((),) * 4,
    "first+previous+individual": ((0,), (0, 1), (0, 1, 2), (0, 2, 3)),
    "individual+keyframes[-1]": ((0, 3), (1, 3), (2, 3), (3,)),
    "individual+reference": ((0,), (1,), (2,), (3,)),
}


@pytest.mark.parametrize("text", TABLES)
def test_table_is_the_published_definition(text: str) -> None:
    assert parse_pattern(text).table(4) == TABLES[text]


@pytest.mark.parametrize("text", TABLES)
def test_canonical_text_reads_back(text: str) -> None:
    pattern = parse_pattern(text)
    assert str(pattern) == text
    assert parse_pattern(str(pattern)) == pattern


@pytest.mark.parametrize("text", [text for text in TABLES if text != "reference"])
def test_one_frame_sees_itself(text: str) -> None:
    assert parse_pattern(text).table(1) == ((0,),)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("previous + first", "first+previous"),
        ("first+first", "first"),
        ({"keyframes": [-1, 0, 0]}, "keyframes[0,-1]"),
        ({"keyframes": 2}, "keyframes[2]"),
        ({"window": 2}, "window[2]"),
        ({"full": None}, "full"),
        (["individual", {"keyframes": [0, -1]}], "individual+keyframes[0,-1]"),
        (Pattern((Term("full"),)), "full"),
    ],
)
def test_spellings(value: object, text: str) -> None:
    assert str(parse_pattern(value)) == text  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        *("", "fool", "first+", "first[1]", "keyframes", "keyframes[]", "keyframes[a]"),
        *("keyframes[0", "window", "window[-1]", "window[1,2]", "full full"),
        *({"keyframes": []}, {"keyframes": [0.5]}, {"window": True}, {"first": 1, "full": 1}),
        *([], 3, None, b"full"),
    ],
)
def test_bad_spellings_are_user_errors(value: object) -> None:
    with pytest.raises(UserError, match="attention pattern"):
        parse_pattern(value)  # type: ignore[arg-type]


def test_misspelt_name_gets_a_hint() -> None:
    with pytest.raises(UserError, match="did you mean 'individual'"):
        parse_pattern("indvidual")


def test_keyframes_outside_the_clip_are_named() -> None:
    pattern = parse_pattern("keyframes[0,4,-5,-1]")
    with pytest.raises(UserError, match=r"key frame -5, 4 is outside a clip of 4 frames"):
        pattern.table(4)
    assert pattern.table(5) == ((0, 4),) * 5


def test_negative_and_positive_index_of_one_frame_count_once() -> None:
    assert parse_pattern("keyframes[3,-1]").table(4) == ((3,),) * 4


def test_only_reference_needs_a_bank() -> None:
    assert parse_pattern("individual+reference").needs_bank
    assert not parse_pattern("full").needs_bank


def test_compact_keeps_only_used_frames() -> None:
    assert compact(((1, 4), (4,), (1,))) == ((1, 4), ((0, 1), (1,), (0,)))


def test_groups_join_queries_with_common_keys() -> None:
    table = parse_pattern("first+previous").table(4)
    assert group_queries(table) == (((0, 1), (0,)), ((2,), (0, 1)), ((3,), (0, 2)))


def test_patterns_do_not_import_torch() -> None:
    code = "import sys, methods.patterns; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
