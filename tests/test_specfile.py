"""YAML reading: marks, YAML 1.2 scalars, every problem at once, overrides."""

import pytest

from ablations.spec import OPEN_MAPPINGS
from ablations.specfile import apply_overrides, parse_document, read_document, show_path
from crossframe.errors import UserError


def problems(text):
    return [str(problem) for problem in parse_document(text, "s.yaml").problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-5", 3e-5),
        ("off", "off"),
        ("yes", "yes"),
        ("010", 10),
        ("10:30", "10:30"),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("~", None),
        ("'1'", "1"),
        ("keyframes[0,-1]", "keyframes[0,-1]"),
        ("[1, {a: b}]", [1, {"a": "b"}]),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    assert parse_document(f"x: {text}", "s.yaml").data == {"x": value}


def test_every_node_has_a_mark():
    document = parse_document("a:\n  b.c: [1, two]\n", "s.yaml")
    assert document.where(("a", "b.c", 1)) == "s.yaml:2:12: a.b.c[1]"
    assert document.where(("a", "b.c"), key=True) == "s.yaml:2:3: a.b.c"
    assert document.where(("a", "missing")) == "s.yaml:2:3: a.missing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "s.yaml:3:1: a: key given twice, first at s.yaml:1:1. keep one"),
        ("1: x\n", 's.yaml:1:1: (the file): the key 1 is not text. write "1" in quotes'),
        ("a: .nan\n", "s.yaml:1:4: a: .nan is not a finite number"),
        ("a: !!python/object x\n", "s.yaml:1:4: a: the tag !!python/object is not allowed"),
        ("a: &x [*x]\n", "s.yaml:1:4: a[0]: an alias that contains itself"),
        ("- 1\n", "s.yaml:1:1: the top level must be `key: value` lines"),
        ("", "s.yaml: the file is empty"),
        ("a: [keyframes[0,-1]]\n", 'needs quotes, as in "keyframes[0,-1]"'),
        ("a: b: c\n", "quote text that contains ': '"),
        ("a:\n\tb: 1\n", "indent with spaces, not tabs"),
    ],
)
def test_problems_name_the_place(text, message):
    found = problems(text)
    assert len(found) == 1
    assert message in found[0]


def test_all_problems_are_collected():
    assert len(problems("a: 1\na: 2\n1: x\nb: .inf\n")) == 3


def test_a_bomb_of_aliases_is_refused():
    lines = ["a0: &a0 [x, x]"] + [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)
    ]
    assert any("more than" in text for text in problems("\n".join(lines)))


def override(text, *flags):
    document = parse_document(text, "s.yaml")
    apply_overrides(document, flags, OPEN_MAPPINGS)
    return document


def test_overrides_use_the_rules_of_the_file():
    document = override("seeds: {count: 3}\nmetrics: [a, b]\n", "seeds.count=1", "metrics.1=off")
    assert document.data == {"seeds": {"count": 1}, "metrics": ["a", "off"]}
    assert document.where(("seeds", "count")) == "--set seeds.count=1: seeds.count"


def test_overrides_of_options_replace_either_spelling():
    flag = "base.attention.pattern=full"
    nested = override("base: {attention: {pattern: first, alpha: 1}}\n", flag)
    dotted = override("base: {attention.pattern: first}\n", flag)
    assert nested.data["base"] == {"attention": {"alpha": 1}, "attention.pattern": "full"}
    assert dotted.data["base"] == {"attention.pattern": "full"}


def test_overrides_make_missing_mappings():
    assert override("a: 1\n", "grid.x.y=[1, 2]").data == {"a": 1, "grid": {"x.y": [1, 2]}}


@pytest.mark.parametrize("flag", ["nothing", "=1", "metrics.7=x", "a.b=1", "x=[1", "x=.nan"])
def test_bad_overrides_are_problems(flag):
    document = override("a: 1\nmetrics: [m]\n", flag)
    assert [problem.where for problem in document.problems] == [f"--set {flag}"]
    assert document.data == {"a": 1, "metrics": ["m"]}


def test_unreadable_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_document(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        read_document(tmp_path / "bytes.yaml")


def test_paths_read_as_written():
    assert show_path(("grid", "attention.pattern", 2)) == "grid.attention.pattern[2]"
