"""A clip is read again whenever it could read differently."""

import ast
import importlib.util
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ablations.cards import read_cards
from ablations.shipped import shipped_parts
from ablations.spec import Spec
from crossframe import cache
from crossframe.video import write_frames
from data_manifests.clips import SOURCES, ClipRequest, load_clip
from data_manifests.fingerprints import fingerprint

REF = "world:heldout/0"
SPEC = Spec(
    name="x",
    method="x",
    clips=(REF,),
    metrics=("x",),
    clip={"frames": 2, "size": 16},
)


@pytest.fixture(autouse=True)
def settled(tmp_path, monkeypatch):
    """A cache of its own, and files that look old enough to be trusted."""
    monkeypatch.setenv("CROSSFRAME_CACHE", str(tmp_path / "cache"))
    now = time.time()
    monkeypatch.setattr(cache.time, "time", lambda: now + 60)


def test_every_field_of_a_request_counts():
    base = ClipRequest(REF)
    others = [replace(base, ref="world:heldout/1")] + [
        replace(base, **{name: getattr(base, name) + 1})
        for name in ("frames", "size", "start", "stride")
    ]
    assert len({fingerprint(request) for request in [base, *others]}) == 6
    assert fingerprint(base) == fingerprint(ClipRequest(REF))


def test_a_video_and_its_sidecar_count(tmp_path, clip_mp4):
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip_mp4.read_bytes())
    request = ClipRequest(str(path))
    bare = fingerprint(request)
    path.with_suffix(".yaml").write_text("caption: a")
    noted = fingerprint(request)
    os.utime(path, (1, 1))
    assert len({bare, noted, fingerprint(request)}) == 3


@pytest.mark.parametrize("ref", ["missing.mp4", "none:x", "folder", "*.mp4"])
def test_what_cannot_be_known_has_no_fingerprint(ref, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    assert fingerprint(ClipRequest(ref)) is None


def test_a_file_just_written_has_no_fingerprint(tmp_path, clip_mp4, monkeypatch):
    monkeypatch.undo()
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip_mp4.read_bytes())
    assert fingerprint(ClipRequest(str(path))) is None


def project_imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in getattr(node, "names", ())]
        module = getattr(node, "module", None)
        yield from [module] if isinstance(node, ast.ImportFrom) else names


@pytest.mark.parametrize(
    "source", [name for name in SOURCES if SOURCES.entry(name).extra.get("code")]
)
def test_all_code_that_a_source_runs_is_in_its_fingerprint(source):
    """Rendered bytes can only change with a module that the fingerprint hashes."""
    extra = SOURCES.entry(source).extra
    waiting, seen = [SOURCES.entry(source).target.partition(":")[0]], set()
    packages = {"ablations", "crossframe", "data_manifests", "methods", "metrics", "miniature"}
    while waiting:
        module = waiting.pop()
        assert any(module == name or module.startswith(f"{name}.") for name in extra["code"]), (
            module
        )
        seen.add(module)
        found = project_imports(Path(importlib.util.find_spec(module).origin))
        waiting += [n for n in found if n and n.split(".")[0] in packages and n not in seen]


def test_cards_from_the_cache_are_those_of_the_clips():
    calls = []
    parts = shipped_parts()
    counted = replace(parts, load_clip=lambda request: calls.append(1) or parts.load_clip(request))
    refs = [REF, "world:heldout/1"]
    first = read_cards(refs, SPEC, counted)
    assert read_cards(refs, SPEC, counted) == first
    assert len(calls) == 2
    clip = load_clip(ClipRequest(REF, frames=2, size=16))
    assert (first[0].sha256, first[0].caption) == (clip.sha256, clip.caption)
    assert first[0].truth_sha256
    assert first[0].sha256 != first[1].sha256


def test_a_clip_that_cannot_be_read_is_not_remembered():
    parts = shipped_parts()
    (card,) = read_cards(["world:nowhere/0"], SPEC, parts)
    assert card.problems
    assert cache.table("clips").recall(str(fingerprint(ClipRequest("world:nowhere/0")))) is None


@pytest.mark.parametrize("entry", [None, [], {}, {"id": "x", "edits": {}, "surplus": 1}])
def test_an_entry_of_another_shape_is_read_again(entry):
    request = ClipRequest(REF, frames=2, size=16)
    (whole,) = read_cards([REF], SPEC, shipped_parts())
    cache.table("clips").remember({fingerprint(request): entry})
    assert read_cards([REF], SPEC, shipped_parts()) == [whole]


def test_a_clip_of_a_set_counts_with_its_pictures_and_texts(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSFRAME_DATA", str(tmp_path))
    request = ClipRequest("v2vbench:7")
    assert fingerprint(request) is None
    pictures = tmp_path / "v2vbench" / "frames" / "7"
    write_frames(pictures, np.zeros((2, 8, 8, 3), np.uint8))
    marks = [fingerprint(request)]
    os.utime(pictures / "0001.png", (1, 1))
    marks.append(fingerprint(request))
    (tmp_path / "v2vbench" / "prompts.yaml").write_text("'7': {caption: a}")
    marks.append(fingerprint(request))
    assert None not in marks
    assert len(set(marks)) == 3
    assert fingerprint(ClipRequest("v2vbench:8")) is None


def test_a_photograph_is_remembered():
    mark = fingerprint(ClipRequest("photo:astronaut/pan"))
    assert mark == fingerprint(ClipRequest("photo:astronaut/pan"))
    assert mark not in (None, fingerprint(ClipRequest("photo:astronaut/zoom")))
