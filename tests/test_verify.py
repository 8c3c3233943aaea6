"""`crossframe verify` finds every damage and mends it by removing only that; `gc` clears up."""

import hashlib
import json
import multiprocessing
import os
import signal

import numpy as np
import pytest
from click.testing import CliRunner
from lab import Lab

from ablations.clips import keep_clip
from ablations.health import WRITTEN_INTO
from ablations.leftovers import find
from ablations.stages import StageCache
from ablations.store import Store
from crossframe.cli import main
from crossframe.files import beside
from crossframe.keys import array_sha256
from crossframe.video import write_frames
from crossframe.voice import Voice
from data_manifests.clips import Clip

KEYS = ["a" * 64, "b" * 64]
FRAMES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def store(tmp_path):
    """Two finished cells, a clip, a stage and a journal, as a run leaves them."""
    store = Store(tmp_path / "run")
    store.write_spec({"schema": 1})
    store.write_plan([{"key": key} for key in KEYS])
    for key in KEYS:
        fill_cell(store, key)
    keep_clip(Clip("one", FRAMES, 4.0), store)
    StageCache(store.stage_folder).get("text", "parts", lambda: {"x": np.arange(9)})
    store.journal("run-start")
    store.journal("run-end")
    return store


def fill_cell(store, key):
    folder = store.cell_folder(key)
    sample = {"schema": 1, "key": key, "frames_sha256": array_sha256(FRAMES)}
    write_frames(folder / "frames", FRAMES)
    (folder / "video.mp4").write_bytes(b"video")
    store.write_sample(key, sample)
    store.write_result(key, {**sample, "status": "done", "method": "m", "row": "r"})


def crossframe(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def snapshot(store):
    files = sorted(path for path in store.root.rglob("*") if path.is_file())
    return {
        path.relative_to(store.root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}), encoding="utf-8")


CELL = f"cells/{'a' * 16}"
TEXT = "stages/text"
# what happens to the folder -> what is told, and what --repair takes away
DAMAGE = {
    "a frame, flipped": (lambda r: flip(r / CELL / "frames/0001.png"), "frames", [CELL]),
    "a frame, gone": (lambda r: (r / CELL / "frames/0001.png").unlink(), "frames", [CELL]),
    "result, cut": (
        lambda r: (r / CELL / "result.json").write_text('{"a'),
        "not valid JSON",
        [f"{CELL}/result.json"],
    ),
    "result, of another cell": (
        lambda r: change(r / CELL / "result.json", key=KEYS[1]),
        "belongs to another cell",
        [f"{CELL}/result.json"],
    ),
    "result, other schema": (
        lambda r: change(r / CELL / "result.json", schema=0),
        "schema 0 instead of 1",
        [f"{CELL}/result.json"],
    ),
    "result, no status": (
        lambda r: change(r / CELL / "result.json", status="fine"),
        "status 'fine'",
        [f"{CELL}/result.json"],
    ),
    "result, a score changed": (
        lambda r: change(r / CELL / "result.json", metrics={"psnr": {"value": 99.0}}),
        "does not match the sha256 in it",
        [f"{CELL}/result.json"],
    ),
    "sample, cut": (
        lambda r: (r / CELL / "sample.json").write_text(""),
        "sample.json: ",
        [CELL],
    ),
    "sample, gone": (lambda r: (r / CELL / "sample.json").unlink(), "without sample", [CELL]),
    "video, empty": (
        lambda r: (r / CELL / "video.mp4").write_bytes(b""),
        "video.mp4: is missing or empty",
        [f"{CELL}/video.mp4", f"{CELL}/result.json"],
    ),
    "failure, cut": (
        lambda r: (r / CELL / "failed.json").write_text("{"),
        "failed.json",
        [f"{CELL}/failed.json"],
    ),
    "clip, flipped": (
        lambda r: flip(r / "clips/one/frames/0000.png"),
        "clip.json",
        ["clips/one"],
    ),
    "clip, cut": (
        lambda r: (r / "clips/one/clip.json").write_text("["),
        "clips/one/clip.json: 1:2: not valid",
        ["clips/one"],
    ),
    "stage, flipped": (lambda r: flip(next((r / TEXT).rglob("*.s*"))), "stages/text/", [TEXT]),
    "journal, torn": (
        lambda r: (r / "journal.jsonl").write_bytes(b'{"event": "x"}\n{"ev\n{"event": "y"}\n'),
        "1 unreadable line: 2",
        [],
    ),
    "plan, cut": (
        lambda r: (r / "plan.json").write_text("[{"),
        "plan.json: ",
        ["plan.json"],
    ),
}


def test_a_whole_folder_is_whole(store):
    before = snapshot(store)
    done = crossframe("verify", store.root, "--repair")
    assert (done.exit_code, done.output) == (0, "9 things checked: whole\n")
    assert snapshot(store) == before


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_found_and_mended_by_removing_it_alone(store, case):
    harm, told, goes = DAMAGE[case]
    harm(store.root)
    before = snapshot(store)
    done = crossframe("verify", store.root)
    assert done.exit_code == 1
    assert told in done.output
    assert "1 damaged" in done.output
    assert snapshot(store) == before
    done = crossframe("verify", store.root, "--repair")
    assert done.exit_code == 0, done.output
    assert "1 removed for the next run to make again" in done.output
    whole = {name: sha for name, sha in before.items() if not name.startswith(tuple(goes))}
    after = snapshot(store)
    if case == "journal, torn":
        assert [event["event"] for event in store.events()] == ["x", "y"]
        del after["journal.jsonl"], whole["journal.jsonl"]
    assert after == whole
    assert crossframe("verify", store.root).exit_code == 0


def test_a_clip_with_sound_and_control_files_is_whole(store):
    """Their clip's sha256 covers more than the frames."""
    voice = Voice(np.zeros(8000, np.float32))
    keep_clip(Clip("two", FRAMES, 4.0, controls={"pose": FRAMES}, voice=voice), store)
    done = crossframe("verify", store.root, "--repair")
    assert (done.exit_code, done.output) == (0, "10 things checked: whole\n")
    flip(store.clip_folder("two") / "frames/0000.png")
    assert crossframe("verify", store.root).exit_code == 1


def test_a_clip_of_an_earlier_version_is_called_damaged_only_if_that_is_known(store):
    for name, sha in (("old", array_sha256(FRAMES)), ("sound", "0" * 64)):
        folder = store.clip_folder(name)
        keep_clip(Clip(name, FRAMES, 4.0), store)
        card = json.loads((folder / "clip.json").read_text())
        del card["frames_sha256"]
        (folder / "clip.json").write_text(json.dumps({**card, "sha256": sha}), encoding="utf-8")
    done = crossframe("verify", store.root, "--repair")
    assert (done.exit_code, done.output.count("cannot be compared")) == (0, 1)
    (store.clip_folder("sound") / "frames/0000.png").unlink()
    (store.clip_folder("sound") / "frames/0001.png").unlink()
    assert crossframe("verify", store.root).exit_code == 1


def test_a_clip_that_was_removed_comes_back_though_all_its_cells_are_done(tmp_path):
    lab = Lab(tmp_path)
    lab.run()
    folder = lab.store.clip_folder("world:tiny/1")
    before = snapshot(lab.store)
    flip(folder / "frames/0000.png")
    assert crossframe("verify", lab.store.root, "--repair").exit_code == 0
    assert not folder.exists()
    assert (lab.run().done, lab.plan().counts()["cached"]) == (0, 10)
    assert crossframe("verify", lab.store.root).exit_code == 0
    after = snapshot(lab.store)
    assert {name for name in before if before[name] != after[name]} == {"journal.jsonl"}


def test_notes_are_told_and_are_no_damage(store):
    (store.root / "cells" / ("c" * 16) / "frames").mkdir(parents=True)
    fill_cell(store, "d" * 64)
    (store.root / "notes.txt").write_text("mine", encoding="utf-8")
    with open(store.root / "journal.jsonl", "ab") as file:
        file.write(b'{"torn')
    (store.root / "evil\x1b[2J\n").write_text("", encoding="utf-8")
    done = crossframe("verify", store.root, "--repair")
    assert done.exit_code == 0
    for words in (
        "cccccccccccccccc: was left unfinished",
        "dddddddddddddddd: is in no plan",
        "notes.txt: is no part of a run folder",
        "journal.jsonl: the last line was cut off",
        "evil\\x1b[2J\\x0a: is no part",
    ):
        assert words in done.output
    assert "\x1b" not in done.output


def test_a_cell_that_somebody_is_at_is_left_alone(store):
    (store.root / CELL / "sample.json").write_text("", encoding="utf-8")
    before = snapshot(store)
    with store.claim(KEYS[0]):
        done = crossframe("verify", store.root, "--repair")
        assert done.exit_code == 0
        assert f"{CELL}: in work: process {os.getpid()} on" in done.output
    assert snapshot(store) == before
    assert crossframe("verify", store.root).exit_code == 1


def test_links_are_damage_and_what_they_lead_to_stays(store, tmp_path):
    outside = tmp_path / "outside"
    (outside / "aa").mkdir(parents=True)
    (outside / "kept.txt").write_text("", encoding="utf-8")
    (outside / "aa" / "x.safetensors").write_text("", encoding="utf-8")
    (store.root / "cells" / ("e" * 16)).symlink_to(outside)
    (store.root / CELL / "more").symlink_to(outside)
    (store.root / "stages" / "flow").symlink_to(outside)
    assert crossframe("verify", store.root).exit_code == 1
    done = crossframe("verify", store.root, "--repair")
    assert (done.exit_code, done.output.count("link")) == (0, 3)
    assert crossframe("gc", store.root, "--stages").exit_code == 0
    assert sorted(path.name for path in outside.rglob("*")) == ["aa", "kept.txt", "x.safetensors"]
    assert not (store.root / "stages" / "flow").is_symlink()


@pytest.mark.parametrize("verb", ["verify", "gc"])
def test_only_run_folders_are_touched(tmp_path, store, verb):
    (tmp_path / "other" / "cells").mkdir(parents=True)
    for folder in (tmp_path / "other", tmp_path / "missing"):
        done = crossframe(verb, folder)
        assert done.exit_code == 2
        assert "is not a run folder: it has no spec.json. crossframe run" in done.output


@pytest.mark.parametrize("name", WRITTEN_INTO)
@pytest.mark.parametrize("verb", ["verify", "gc"])
def test_what_is_written_into_is_no_link(tmp_path, verb, name):
    store = Store(tmp_path / "run")
    store.write_spec({"schema": 1})
    (store.root / name).symlink_to(tmp_path / "outside")
    done = crossframe(verb, store.root)
    assert done.exit_code == 2
    assert f"{name}: is, or lies behind, a symbolic link" in done.output


def claim_and_die(store):
    store.claim(KEYS[0])
    beside(store.root / CELL / "frames").mkdir()
    beside(store.root / "plan.json").write_text("[" * 1000, encoding="utf-8")
    os.kill(os.getpid(), signal.SIGKILL)


def kill_a_runner(store):
    process = multiprocessing.get_context("fork").Process(target=claim_and_die, args=(store,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_gc_takes_what_the_dead_left(store):
    before = snapshot(store)
    kill_a_runner(store)
    littered = snapshot(store)
    done = crossframe("verify", store.root)
    assert (done.exit_code, done.output.count("killed process")) == (0, 2)
    assert "claims/aaaaaaaaaaaaaaaa: is claimed by a dead process" in done.output
    done = crossframe("gc", store.root, "--dry-run")
    assert "would remove 3 things, " in done.output
    assert snapshot(store) == littered
    with store.claim(KEYS[1]):
        ours = beside(store.root / "plan.json")
        ours.write_text("[", encoding="utf-8")
        done = crossframe("gc", store.root)
        assert "removed 3 things, " in done.output
        assert store.holder(KEYS[1]) is not None
        assert ours.exists()
    ours.unlink()
    assert snapshot(store) == before
    assert crossframe("gc", store.root).output == "nothing to remove\n"


def test_gc_takes_damaged_stages_that_were_moved_aside(store):
    cache = StageCache(store.stage_folder)
    flip(next(cache.entries()))
    cache.get("text", "parts", lambda: {"x": np.arange(9)})
    done = crossframe("gc", store.root)
    assert "damaged, moved aside" in done.output
    assert (len(list(cache.entries())), len(list(cache.damaged()))) == (1, 0)


def test_gc_takes_orphans_and_stages_when_asked(store):
    fill_cell(store, "d" * 64)
    before = snapshot(store)
    assert crossframe("gc", store.root).output == "nothing to remove\n"
    assert snapshot(store) == before
    with store.claim("d" * 64):
        assert crossframe("gc", store.root, "--orphans").output == "nothing to remove\n"
    done = crossframe("gc", store.root, "--orphans", "--stages")
    assert "cells/dddddddddddddddd (cell in no plan" in done.output
    assert "stages/text (shared stage" in done.output
    gone = {name for name in before if name.startswith(("cells/dddd", "stages/"))}
    assert set(snapshot(store)) == set(before) - gone


def test_gc_leaves_what_cells_share_while_somebody_is_at_work(store):
    (store.scratch_folder / "tuning").mkdir(parents=True)
    (store.scratch_folder / "tuning" / "state").write_bytes(b"half")
    before = snapshot(store)
    with store.claim(KEYS[0]):
        done = crossframe("gc", store.root, "--stages")
        assert (done.exit_code, "nothing to remove" in done.output) == (0, True)
        assert f"kept: stages and scratch, in use by process {os.getpid()} on" in done.output
        assert {name: snapshot(store)[name] for name in before} == before
    found = list(find(store, stages=True))
    with store.claim(KEYS[0]):
        assert [item.discard() for item in found] == [False, False], "a runner came meanwhile"
    assert snapshot(store) == before
    assert "kept" not in crossframe("gc", store.root, "--stages").output
    assert not store.scratch_folder.exists()


def test_orphans_need_a_plan(store):
    (store.root / "plan.json").write_text("", encoding="utf-8")
    done = crossframe("gc", store.root, "--orphans")
    assert done.exit_code == 2
    assert "plan.json: cannot be read" in done.output
    assert (store.root / CELL).exists()
