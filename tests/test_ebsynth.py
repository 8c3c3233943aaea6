"""EbSynth by a stand-in program: the command line, its pictures, and every way to fail."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from crossframe.errors import NotAvailable, UserError
from methods.ebsynth import guide_pictures, synthesise

STAND_IN = """#!{python}
import json, sys, shutil
words = sys.argv[1:]
json.dump(words, open({log!r}, "w"))
shutil.copy(words[words.index("-style") + 1], words[words.index("-output") + 1])
"""
SIZE = (6, 8)


def program(folder: Path, text: str) -> str:
    path = folder / "ebsynth"
    path.write_text(text.format(python=sys.executable, log=str(folder / "words.json")))
    path.chmod(0o755)
    return str(path)


def pictures() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    names = ("key", "frame", "style", "carried")
    return {name: generator.random((*SIZE, 3)).astype(np.float32) for name in names}


def guides():
    found = pictures()
    flow = np.zeros((*SIZE, 2), np.float32)
    return guide_pictures(found["key"], found["frame"], found["style"], flow, found["carried"])


def test_the_command_line_and_the_picture(tmp_path):
    style = pictures()["style"]
    path = program(tmp_path, STAND_IN)
    out = synthesise(path, style, guides())
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, style, atol=0.5 / 255 + 1e-6)
    words = json.loads((tmp_path / "words.json").read_text())
    weights = [words[i + 4] for i, word in enumerate(words) if word == "-guide"]
    assert [words[i + 3] for i, word in enumerate(words) if word == "-guide"] == 4 * ["-weight"]
    assert weights == ["6", "0.5", "0.5", "2"]
    assert words[-4:] == ["-searchvoteiters", "12", "-patchmatchiters", "6"]
    assert words[0] == "-style"
    assert "-output" in words


def test_places_follow_the_flow():
    found = pictures()
    flow = np.zeros((*SIZE, 2), np.float32)
    flow[..., 0] = 1
    made = guide_pictures(found["key"], found["frame"], found["style"], flow, found["carried"])
    here, there = made["place"]
    np.testing.assert_allclose(there[:, :-1, 0], here[:, 1:, 0], atol=1e-6)
    np.testing.assert_allclose(there[..., 1], here[..., 1])


def test_an_absent_program_is_told(tmp_path):
    with pytest.raises(NotAvailable, match=r"no program .*nowhere"):
        synthesise(str(tmp_path / "nowhere"), pictures()["style"], guides())
    (tmp_path / "plain").write_text("not a program")
    with pytest.raises(NotAvailable, match="plain"):
        synthesise(str(tmp_path / "plain"), pictures()["style"], guides())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#!{python}\nimport sys\nsys.exit('no CUDA device')\n", "exit code 1: no CUDA device"),
        ("#!{python}\nimport sys\nsys.exit(3)\n", "exit code 3: it printed nothing"),
        ("#!{python}\npass\n", "left no picture"),
        ("#!/nowhere/interpreter\n", "No such file"),
    ],
)
def test_a_failing_program_is_told(tmp_path, text, message):
    path = program(tmp_path, text)
    with pytest.raises(UserError, match=message):
        synthesise(path, pictures()["style"], guides())
