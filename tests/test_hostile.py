"""Hostile specs: each ends in a checked spec or in clear lines, fast, and writes nothing."""

import json
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_parts import fake_parts, fake_report
from hypothesis import given, settings
from hypothesis import strategies as st

from ablations.check import CheckedSpec, load_spec
from ablations.plan import default_out, make_plan
from ablations.specfile import MAX_DEPTH, parse_document
from ablations.store import Store, clip_slug
from crossframe.cli import main
from crossframe.errors import Problem, UserError, _one_line
from crossframe.verbs.common import Tools, find_spec
from methods.backbone_config import parse_backbone

GOOD = """\
name: good
title: A title
method: noisy
sentinels: [source]
base: {steps: 2, attention: {alpha: 0.5}}
grid:
  attention.pattern: [individual, first, full]
zip: {sleep: [0.0, 1.0], steps: [3, 4]}
include:
  - {label: extra, steps: 9}
exclude: [{attention.pattern: first, steps: 3}]
clips: [world:tiny/0..1]
clip: {frames: 2, size: 8}
prompt: object
prompts: {world:tiny/1: [a, b]}
seeds: {base: 0, count: 2}
metrics: [psnr/mean_error, brightness]
report: {baseline: extra, clips: [world:tiny/0]}
claims:
  - {text: extra < source on brightness, source: a paper, paper: {extra: 1e-3}}
"""


def check(path, text, *overrides, **limits):
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return load_spec(path, overrides, fake_parts(), **limits)


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Load a bad spec; return its problems as lines."""
    monkeypatch.chdir(tmp_path)

    def load(text, *overrides, **limits):
        with pytest.raises(UserError) as caught:
            check(Path("s.yaml"), text, *overrides, **limits)
        lines = str(caught.value).splitlines()
        assert len(lines) == len(caught.value.problems)
        assert all(line.startswith(("s.yaml", "--set")) for line in lines), lines
        return lines

    return load


def swapped(old, new):
    assert old in GOOD
    return GOOD.replace(old, new)


BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
)
RECURSIVE = "a: &a {b: *a}\nc: &c [*c, *c]\n"
TRAPS = {
    "alias bomb": (BOMB, "with its aliases unfolded the file has more than 10000 values"),
    "mapping bomb": (
        BOMB.replace("[", "{k: [").replace("]", "]}"),
        "with its aliases unfolded the file has more than 10000 values",
    ),
    "recursive aliases": (RECURSIVE, "an alias that contains itself"),
    "merge keys": ("x: &x {a: 1}\ny: {<<: *x}\n", "the key << is not text. repeat the keys"),
    "ten thousand brackets": ("a: " + "[" * 10_000, "nested more than 64 deep"),
    "ten thousand closed brackets": ("a: " + "[" * 10_000 + "]" * 10_000, "nested more than 64"),
    "ten thousand braces": ("a: " + "{a: " * 10_000, "nested more than 64 deep"),
    "deep indentation": (
        "\n".join(" " * i + "a:" for i in range(200)),
        "nested more than 64 deep",
    ),
    "dashes": ("a: \n" + "- " * 5_000 + "x", "nested more than 64 deep"),
    "too many values": ("a: [" + "1," * 100_000 + "]", "more than 10000 values"),
    "a large file": ("a: '" + "x" * 300_000 + "'", "is larger than 256 KiB"),
    "a long text": (swapped("A title", "x" * 20_000), "title: has 20000 characters"),
    "a long key": ("k" * 900 + ": 1\n", "a key has 900 characters, more than 200"),
    "a long integer": (
        swapped("base: 0", "base: " + "9" * 5_000),
        "is not a value of the type !!int",
    ),
    "a wide integer": (swapped("base: 0", "base: 9223372036854775808"), "more than 64 bits"),
    "a long hexadecimal": (swapped("base: 0", "base: 0x" + "f" * 5_000), "more than 64 bits"),
    "overflow": (swapped("1e-3", "1e999"), "1e999 is not a finite number"),
    "not a number": (swapped("1e-3", ".nan"), ".nan is not a finite number"),
    "a false int": (swapped("count: 2", "count: !!int many"), "is not a value of the type !!int"),
    "a false bool": (swapped("count: 2", "count: !!bool perhaps"), "of the type !!bool"),
    "a false float": (swapped("1e-3", "!!float x"), "is not a value of the type !!float"),
    "a python tag": (swapped("name: good", "name: !!python/name:os.system x"), "is not allowed"),
    "an own tag": (swapped("name: good", "name: !run rm"), "the tag !run is not allowed"),
    "binary": (swapped("name: good", "name: !!binary aGk="), "the tag !!binary is not allowed"),
    "a set": (swapped("sentinels: [source]", "sentinels: !!set {a}"), "!!set is not allowed"),
    "an old version": ("%YAML 1.1\n---\n" + GOOD, "only YAML 1.2 is read here"),
    "two documents": (GOOD + "---\n" + GOOD, "not valid YAML"),
    "a null byte": (swapped("A title", "A\0title"), "not valid YAML"),
    "an escaped null": (
        swapped("A title", '"A\\0title"'),
        "title: holds the control character U+0000",
    ),
    "an escape": (swapped("A title", '"\\e[2J"'), "title: holds the control character U+001B"),
    "a lone surrogate": (swapped("A title", '"\\ud800"'), "U+D800"),
    "no such character": (swapped("A title", '"\\UFFFFFFFF"'), "s.yaml"),
    "a control in a key": ('"a\\eb": 1\n', "a key holds the control character U+001B"),
    "invalid UTF-8": (b"name: \xff\xfe\n", "cannot be read as UTF-8 text"),
    "UTF-16": (GOOD.encode("utf-16"), "cannot be read as UTF-8 text"),
    "UTF-16 without a mark": (GOOD.encode("utf-16-le"), "not valid YAML"),
    "a tab": ("a:\n\tb: 1\n", "indent with spaces, not tabs"),
    "a key twice": (GOOD + "name: x\n", "key given twice, first at s.yaml:1:1"),
    "a number as key": (GOOD + "1: x\n", 'the key 1 is not text. write "1" in quotes'),
    "null as key": (GOOD + "~: x\n", "is not text"),
    "a list as key": (GOOD + "[a]: x\n", "the key a list or mapping is not text"),
    "a text": ("just text", "the top level must be"),
    "nothing": ("", "the file is empty"),
    "only a mark": (b"\xef\xbb\xbf", "the file is empty"),
    "an undefined alias": ("a: *b\n", "found undefined alias"),
}


@pytest.mark.parametrize("name", TRAPS)
def test_traps_of_yaml_end_in_a_clear_line(name, refused):
    text, message = TRAPS[name]
    began = time.process_time()
    lines = refused(text)
    assert any(message in line for line in lines), lines[:5]
    assert time.process_time() - began < 5


def test_a_bomb_costs_little_memory(tmp_path):
    tracemalloc.start()
    try:
        assert parse_document(BOMB, "b.yaml").problems
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


def test_a_flood_of_problems_is_counted(refused):
    lines = refused("\n".join(f"k{i}: 1" for i in range(400)))
    assert len(lines) == 51
    assert lines[-1] == "s.yaml: and 354 more problems"


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("\n", "\r\n"),
        "\ufeff" + GOOD,
        "%YAML 1.2\n---\n" + GOOD,
        GOOD + "...\n",
        GOOD.replace("A title", "'off, no: שלום \u200f 你好 🎬'"),
        GOOD.replace("[0.0, 1.0]", "[1e-3, 1E+2]"),
    ],
)
def test_odd_but_sound_files_load(text, tmp_path):
    assert check(tmp_path / "s.yaml", text).spec.name == "good"


NAMES = {
    "../escape": "name: String should match pattern",
    "/etc/cron.d/x": "name: String should match pattern",
    "..": "name: String should match pattern",
    "a/b": "name: String should match pattern",
    "a\\b": "name: String should match pattern",
    "C:x": "name: String should match pattern",
    "näme": "name: String should match pattern",
    "аdmin": "name: String should match pattern",  # a Cyrillic a
    "a b": "name: String should match pattern",
    "a" * 300: "name: String should have at most 100 characters",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_elsewhere(name, refused):
    (line,) = refused(GOOD, f"name={json.dumps(name)}")
    assert NAMES[name] in line


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("include=[{label: %s, steps: 9}]" % ("x" * 300), "has 300 characters, more than 100"),
        ("include=[{label: [a], steps: 9}]", "include[0].label: must be a text of one line"),
        ("include=[{label: '', steps: 9}]", "include[0].label: must be a text of one line"),
        ('include=[{label: "a\\nb", steps: 9}]', "include[0].label: must be a text of one line"),
        ("include=[{method: [noisy]}]", "include[0].method: must be a text of one line"),
        ("include=[{method: ../noisy}]", "unknown method '../noisy'"),
        ("clips=[world:tiny/%s]" % ("0" * 300), "has 311 characters, more than 150"),
        ('clips=["a\\0b.mp4"]', "holds the control character U+0000"),
        ("clips=[%s.mp4]" % ("x" * 300), "cannot be looked for: File name too long"),
        ("clips=[~nobody-of-this-name/x.mp4]", "cannot be looked for"),
        ("clips=[world:tiny/0..999999999999]", "the range 0..999999999999 is 1000000000000 clips"),
        ("clips=[world:tiny/0..%s]" % ("9" * 5000), "has more than 12 digits"),
        ("prompts={../../x: [a]}", "'../../x' is not a clip of this spec"),
        ("clip.size=1000000", "sides must be 8 to 8,192 pixels"),
        ("clip={size: 8192, frames: 100000}", "is more than 1,073,741,824 pixels"),
        ("threads=1000000", "threads: should be less than or equal to 4096"),
    ],
)
def test_names_and_sizes_are_bounded(override, message, refused):
    lines = refused(GOOD, override, "report={}", "claims=[]")
    assert any(message in line for line in lines), lines


def test_long_axis_values_give_short_labels(tmp_path):
    long = ["x" * 300 + end for end in "ab"]
    checked = check(tmp_path / "s.yaml", GOOD, f"zip.controls=[[{long[0]}], [{long[1]}]]")
    assert max(len(row.label) for row in checked.rows) < 200
    assert len({row.label for row in checked.rows}) == len(checked.rows)


def huge(axes, values):
    line = ", ".join(f"x{i}: [{', '.join(map(str, range(values)))}]" for i in range(axes))
    return f"grid={{{line}}}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (huge(12, 10), "grid: 2,000,000,000,002 cells (grid 1,000,000,000,001 x seeds.count 2)"),
        ("seeds.count=1000000000000", "seeds.count: "),
        (
            "clips=[world:tiny/0..4999]",
            "clips: 45,000 cells (grid 4 x seeds.count 2 x clips 5,000 x",
        ),
    ],
)
def test_huge_grids_are_counted_and_not_made(override, message, refused):
    began = time.process_time()
    lines = refused(GOOD, override, "zip={}", "exclude=[]", "prompts=[x]", "report={}", "claims=[]")
    assert any(message in line for line in lines), lines
    assert "are more than 10,000. drop some, or allow them with --max-cells" in "".join(lines)
    assert time.process_time() - began < 2


def test_the_limit_of_cells_can_be_lifted(tmp_path, refused):
    exact = len(make_plan(check(tmp_path / "g.yaml", GOOD), Store(tmp_path), fake_parts()).cells)
    assert exact == 38
    check(tmp_path / "g.yaml", GOOD, max_cells=38)
    assert ": 38 cells" in refused(GOOD, max_cells=37)[0]
    text = GOOD.replace("count: 2", "count: 2000")
    result = CliRunner().invoke(main, ["plan", "s.yaml"], obj=Tools(fake_parts, fake_report))
    assert result.exit_code == 0
    Path("s.yaml").write_text(text)
    result = CliRunner().invoke(main, ["plan", "s.yaml"], obj=Tools(fake_parts, fake_report))
    assert result.exit_code == 2
    assert "--max-cells" in result.output
    words = ["plan", "s.yaml", "--max-cells", "100000", "--set", "clips=[world:tiny/0]"]
    assert CliRunner().invoke(main, words, obj=Tools(fake_parts, fake_report)).exit_code == 0


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nobody/x", "../../../etc", "\ud800"])
def test_a_spec_that_no_file_can_be(name):
    with pytest.raises(UserError, match="neither a file nor a shipped spec"):
        find_spec(name)


def test_a_spec_that_is_no_plain_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        load_spec(tmp_path, (), fake_parts())
    with pytest.raises(UserError, match="is larger than 256 KiB"):
        load_spec(Path("/dev/zero"), (), fake_parts())


@pytest.mark.parametrize("value", ["x" * 5000, "a\0b", "~nobody-of-this-name", {"root": ["x"]}])
def test_backbones_that_no_folder_can_be(value):
    with pytest.raises(UserError, match=r"^backbone"):
        parse_backbone(value)


@pytest.mark.parametrize(
    "clip", ["../../x", "/etc/passwd", "..", "a\\..\\b", "CON", "x\ny", "\u202egpj.exe", "-rf"]
)
def test_folders_of_a_run_stay_inside_it(clip, tmp_path):
    store = Store(tmp_path / "run")
    for folder in (store.clip_folder(clip), default_out(check(tmp_path / "s.yaml", GOOD).spec)):
        assert ".." not in folder.parts
    assert store.clip_folder(clip).parent == tmp_path / "run" / "clips"
    assert clip_slug(clip)[0] not in "-."


OUTS = {
    "file": (2, "Choose another folder: a "),
    "file/sub": (2, "Choose another folder: a part of this path is a file"),
    "nowhere": (0, "Choose another folder: a file or a link to nothing has this name"),
    "circle": (2, "Choose another folder: "),
    "x" * 300: (2, "File name too long. Choose a shorter name"),
}
"""A run folder that cannot be one: what `plan` ends with, and what is told."""


@pytest.mark.parametrize("out", OUTS)
def test_a_run_folder_that_cannot_be_one(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(GOOD)
    Path("file").write_text("mine")
    Path("nowhere").symlink_to("nothing")
    Path("circle").symlink_to("circle")
    there = sorted(tmp_path.iterdir())
    for verb, code in (("plan", OUTS[out][0]), ("run", 2)):
        words = [verb, "s.yaml", "--out", out]
        result = CliRunner().invoke(main, words, obj=Tools(fake_parts, fake_report))
        assert result.exit_code == code, result.exception
        if code:
            assert "1 problem:" in result.output
            assert OUTS[out][1] in result.output.splitlines()[-1]
    assert Path("file").read_text() == "mine"
    assert sorted(tmp_path.iterdir()) == there


def test_hostile_texts_reach_the_terminal_as_one_plain_line():
    problem = Problem("a\nb", "\x1b[2J\u202e\ud800", "\t", "ü")
    assert str(problem) == "a\\nb: \\x1b[2J\\u202e\\ud800 (allowed: \\t). ü"
    assert _one_line("plain ü 你好") == "plain ü 你好"


def test_planning_writes_nothing_but_the_cache(tmp_path):
    (tmp_path / "s.yaml").write_text(GOOD)
    here = Path(__file__).parent
    environment = {**os.environ, "CROSSFRAME_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    path = f"{here}{os.pathsep}{here.parent}"
    words = [sys.executable, str(here / "fake_parts.py"), "plan", "s.yaml", "--out", "run"]
    done = subprocess.run(
        words,
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"s.yaml", "cache"}


# --- any text at all, and valid specs with damage ---

SOUP = st.text(st.sampled_from(list("ab:-[]{}&*!|>%@`'\",#? \n\t0.9e~=<")), max_size=120)
ODD = st.text(
    st.sampled_from("aZ0 é你🎬\u200f\u202e\u2028\x00\x1b\x7f\x85\ud800\ufeff\r\n.:/\\"), max_size=40
)
ANYTHING = st.one_of(ODD, SOUP)
LEAF = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    ODD,
    st.sampled_from(["source", "noisy", "full", "world:tiny/0", "brightness", "steps", ""]),
)
TREE = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD, inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(list(parse_document(GOOD, "s.yaml").data))
many = settings(max_examples=100, derandomize=True, deadline=None)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "s.yaml"


def sound(path, text, *overrides):
    """The property: a checked spec, or problems that all name a place; nothing else, ever."""
    try:
        assert isinstance(check(path, text, *overrides), CheckedSpec)
        problems = ()
    except UserError as error:
        problems = error.problems
    for problem in problems:
        assert problem.where.startswith((str(path), "--set")), problem
        assert problem.what
        assert str(problem).isprintable()
        assert len(str(problem)) < 3000


@many
@given(text=ANYTHING)
def test_any_text_is_told_apart(home, text):
    sound(home, text)


@many
@given(text=st.binary(max_size=100))
def test_any_bytes_are_told_apart(home, text):
    sound(home, text)


@many
@given(field=FIELDS, tree=TREE)
def test_any_value_in_any_field(home, field, tree):
    data = {**parse_document(GOOD, "s.yaml").data, field: tree}
    sound(home, json.dumps(data))


@many
@given(start=st.integers(0, len(GOOD)), length=st.integers(0, 12), new=SOUP)
def test_a_damaged_spec(home, start, length, new):
    sound(home, GOOD[:start] + new[:20] + GOOD[start + length :])


PATHS = st.one_of(
    st.sampled_from(
        [
            f"{a}.{b}"
            for a in ("base", "grid", "clip", "seeds", "claims", "include.0")
            for b in ("steps", "0", "frames", "attention.pattern", "")
        ]
    ),
    st.text(st.sampled_from("abc.0١²_ "), max_size=12),
    FIELDS,
)


@many
@given(path=PATHS, value=st.one_of(SOUP, TREE.map(json.dumps)))
def test_any_override(home, path, value):
    sound(home, GOOD, f"{path}={value}")


def test_depth_is_bounded_for_overrides_too(refused):
    deep = "[" * 500 + "]" * 500
    assert "nested more than 64 deep" in refused(GOOD, f"base.steps={deep}")[0]
    assert "as long as no field has" in refused(GOOD, f"{'a.' * 5000}b=1")[0]
    assert MAX_DEPTH == 64
