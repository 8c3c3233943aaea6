"""The run folder: trusted records and frames only, failures beside results, a full disk."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from lab import small_disk

from ablations.seals import SEAL
from ablations.stages import StageCache
from ablations.store import FAILURES, STATUSES, Store, clip_slug
from crossframe.errors import UserError
from crossframe.files import beside, read_json, write_json
from crossframe.keys import array_sha256
from crossframe.video import write_frames

KEY = "0123456789abcdef" + "0" * 48
RECORD = {"schema": 1, "key": KEY, "method": "m", "row": "r", "cost": {"seconds": 2.0}}
FAILED = {"schema": 1, "key": KEY, "status": "oom", "reason": "out of memory"}
FRAMES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "run")


@pytest.fixture
def drawn(store):
    write_frames(store.cell_folder(KEY) / "frames", FRAMES)
    store.write_sample(KEY, {"schema": 1, "key": KEY, "frames_sha256": array_sha256(FRAMES)})
    return store


def test_nothing_is_made_by_looking(store):
    assert store.result(KEY) is None
    assert store.whole_frames(KEY) is None
    assert store.holder(KEY) is None
    assert [*store.seconds(), *store.events(), *store.cells(), *store.sweep()] == []
    assert not store.root.exists()


def test_a_result_comes_back_and_clears_the_failure(store):
    store.write_failure(KEY, FAILED, log="Traceback ...")
    assert store.failure(KEY)["reason"] == "out of memory"
    store.write_result(KEY, RECORD)
    assert store.result(KEY) == RECORD
    assert store.failure(KEY) is None
    assert [path.name for path in store.cell_folder(KEY).iterdir()] == ["result.json"]
    assert list(store.seconds()) == [("m", "r", 2.0, None)]


def test_a_failure_leaves_the_result(store):
    store.write_result(KEY, RECORD)
    store.write_failure(KEY, FAILED)
    assert store.result(KEY) == RECORD
    assert store.failure(KEY) == FAILED


def test_the_log_of_a_failure_lies_beside_it(store):
    store.write_failure(KEY, FAILED, log="line 1\nline 2")
    log = store.failure(KEY)["log"]
    assert log == f"cells/{KEY[:16]}/log.txt"
    assert (store.root / log).read_text(encoding="utf-8") == "line 1\nline 2"


def test_a_failure_has_a_known_status(store):
    assert {"done", *FAILURES} == set(STATUSES)
    for status in ("done", "broken", None):
        with pytest.raises(ValueError, match=r"is no failure \(allowed: skipped, failed"):
            store.write_failure(KEY, {**FAILED, "status": status})
    assert not store.root.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        json.dumps(RECORD)[:-5],
        "[]",
        "[" * 99999,
        json.dumps({**RECORD, "key": KEY[:-1] + "1"}),
        json.dumps({**RECORD, "schema": 0}),
    ],
)
def test_a_record_that_is_broken_or_of_another_cell_is_not_trusted(store, text):
    store.write_result(KEY, RECORD)
    (store.cell_folder(KEY) / "result.json").write_text(text, encoding="utf-8")
    assert store.result(KEY) is None


def test_a_changed_result_is_not_trusted_and_one_without_a_seal_is(store):
    path = store.cell_folder(KEY) / "result.json"
    scores = {"psnr": {"value": 21.0, "series": [0.1, 1e-9, 3e22]}}
    store.write_result(KEY, {**RECORD, "clip": "ü", "metrics": scores})
    assert store.result(KEY)["metrics"] == scores
    whole = read_json(path)
    for changed in (
        {"metrics": {"psnr": {**scores["psnr"], "value": 21.1}}},
        {"cost": {"seconds": float("nan")}},
        {"more": None},
        {SEAL: None},
    ):
        path.write_text(json.dumps({**whole, **changed}), encoding="utf-8")
        assert store.result(KEY) is None
        assert store.spoilt(KEY)
    del whole[SEAL]
    write_json(path, whole)
    assert store.result(KEY) == whole
    assert not store.spoilt(KEY)


def test_a_record_that_is_read_and_written_again_is_sealed_anew(store):
    store.write_result(KEY, RECORD)
    store.write_result(KEY, {**store.result(KEY), "row": "another label"})
    assert store.result(KEY) == {**RECORD, "row": "another label"}


def test_frames_come_back_while_they_are_those_that_were_written(drawn):
    assert np.array_equal(drawn.whole_frames(KEY), FRAMES)
    drawn.write_sample(KEY, {"schema": 1, "key": KEY})
    assert drawn.whole_frames(KEY) is None


def test_missing_and_added_frames_are_noticed(drawn):
    folder = drawn.cell_folder(KEY) / "frames"
    (folder / "0002.png").write_bytes((folder / "0001.png").read_bytes())
    assert drawn.whole_frames(KEY) is None
    (folder / "0002.png").unlink()
    assert drawn.whole_frames(KEY) is not None
    (folder / "0000.png").unlink()
    assert drawn.whole_frames(KEY) is None


def test_a_damaged_frame_is_noticed_wherever_it_is_damaged(drawn):
    """A flipped bit is noticed, or does not reach the pixels; a cut file likewise. No exception."""
    path = drawn.cell_folder(KEY) / "frames" / "0001.png"
    whole = path.read_bytes()
    noticed = 0
    for index in range(0, len(whole), 2):
        spoilt = bytearray(whole)
        spoilt[index] ^= 1 << index % 8
        path.write_bytes(spoilt)
        found = drawn.whole_frames(KEY)
        assert found is None or np.array_equal(found, FRAMES)
        noticed += found is None
    assert noticed > len(whole) / 2 * 0.8
    # The last 24 bytes are two checksums and the end marker: no pixel is lost with them.
    for length in range(0, len(whole) - 24, 5):
        path.write_bytes(whole[:length])
        assert drawn.whole_frames(KEY) is None


def test_a_claim_keeps_others_from_a_cell(store):
    with store.claim(KEY) as lease:
        assert store.claim(KEY) is None
        assert store.holder(KEY) == lease.owner
    assert store.holder(KEY) is None


def test_the_journal_is_one_object_per_line_and_bears_a_torn_one(store):
    store.journal("one", key=KEY)
    store.journal("two", reason="line\nbreak")
    with open(store.root / "journal.jsonl", "ab") as file:
        file.write(b'{"event": "torn\xff')
    assert [event["event"] for event in store.events()] == ["one", "two"]
    store.journal("three")
    assert [event["event"] for event in store.events()] == ["one", "two", "three"]


@pytest.mark.parametrize("inside", [True, False])
def test_a_cell_that_is_a_link_is_refused(store, tmp_path, inside):
    aim = store.root / "cells" / "x" if inside else tmp_path / "outside"
    aim.mkdir(parents=True)
    store.cell_folder("f" * 64).parent.mkdir(parents=True, exist_ok=True)
    (store.root / "cells" / KEY[:16]).symlink_to(aim)
    for act in (store.result, store.forget, store.whole_frames):
        with pytest.raises(UserError, match="symbolic link"):
            act(KEY)
    with pytest.raises(UserError, match="symbolic link"):
        store.write_result(KEY, RECORD)
    assert list(aim.iterdir()) == []
    assert KEY[:16] not in [path.name for path in store.cells()]


@pytest.mark.parametrize("key", ["../../../outside", "/tmp/outside", "a\0b"])
def test_keys_never_lead_out(store, key):
    with pytest.raises(UserError):
        store.cell_folder(key)


WRITERS = {
    "claims": lambda store: store.claim(KEY),
    "journal.jsonl": lambda store: store.journal("run-start"),
    "slurm": lambda store: store.slurm_folder,
    "stages": lambda store: store.stage_folder,
    "scratch": lambda store: store.scratch_folder,
    "clips": lambda store: store.clip_folder("one"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_nothing_is_written_through_a_link(store, tmp_path, name):
    store.root.mkdir()
    (store.root / name).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match=f"{name}.*: is, or lies behind, a symbolic link"):
        WRITERS[name](store)
    assert not (tmp_path / "outside").exists()


def test_sweeping_takes_what_killed_writers_left_and_nothing_of_the_living(store):
    code = f"""
        import os, signal
        from pathlib import Path
        from crossframe.files import replacing, replacing_folder
        folder = Path({str(store.cell_folder(KEY))!r})
        with replacing(folder / "video.mp4") as file, replacing_folder(folder / "frames") as frames:
            file.write_bytes(b"half")
            (frames / "0000.png").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -signal.SIGKILL
    left = set(store.cell_folder(KEY).iterdir())
    assert len(left) == 2
    ours = beside(store.cell_folder(KEY) / "result.json")
    ours.write_text("{", encoding="utf-8")
    store.journal("kept")
    assert set(store.sweep()) == left
    assert list(store.cell_folder(KEY).iterdir()) == [ours]
    assert [event["event"] for event in store.events()] == ["kept"]


def test_sweeping_takes_what_others_left_for_a_day(store):
    folder = store.cell_folder(KEY)
    folder.mkdir(parents=True)
    fresh, old = (folder / f".x.elsewhere.7.1.{digit * 12}.tmp.json" for digit in "ab")
    older = folder / ".frames.1234.tmp"
    older.mkdir()
    for path in (fresh, old):
        path.write_text("{", encoding="utf-8")
    for path in (old, older):
        os.utime(path, (fresh.stat().st_mtime - 90_000,) * 2)
    assert sorted(store.sweep()) == sorted([old, older])
    assert list(folder.iterdir()) == [fresh]


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", 256 * 1024) as folder:
        yield folder


def test_a_full_disk_loses_nothing_that_was_done(disk):
    store = Store(disk / "run")
    write_frames(store.cell_folder(KEY) / "frames", FRAMES)
    store.write_sample(KEY, {"schema": 1, "key": KEY, "frames_sha256": array_sha256(FRAMES)})
    store.write_result(KEY, RECORD)
    store.journal("one")
    before = {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    noise = np.random.default_rng(1).integers(0, 256, (9, 128, 128, 3), dtype=np.uint8)
    other = "f" * 64
    with pytest.raises(OSError, match="No space left"):
        write_frames(store.cell_folder(other) / "frames", noise)
    notices = []
    cache = StageCache(store.stage_folder, notices.append)
    found = cache.get("decode", {}, lambda: {"frames": noise})
    assert np.array_equal(found["frames"], noise)
    assert "No space left on device" in notices[0]
    filler = disk / "filler"
    with pytest.raises(OSError, match="No space left"), open(filler, "wb", buffering=0) as file:
        while file.write(b"x" * 512):
            pass
    with pytest.raises(OSError, match=r"No space left|only a part"):
        store.write_result(other, {**RECORD, "key": other, "text": "x" * 9999})
    assert store.result(other) is None
    assert store.whole_frames(other) is None
    after = {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    assert after == before
    assert store.result(KEY) == RECORD
    assert np.array_equal(store.whole_frames(KEY), FRAMES)
    filler.unlink()
    store.write_result(other, {**RECORD, "key": other})
    assert read_json(store.cell_folder(other) / "result.json")["key"] == other


@pytest.mark.parametrize(
    ("clip_id", "slug"),
    [("world:heldout/3", "world-heldout-3"), ("../../x", "x"), ("..", "clip"), ("a b.c", "a-b.c")],
)
def test_slugs_are_safe_names(clip_id, slug):
    assert re.fullmatch(re.escape(slug) + "-[0-9a-f]{8}", clip_slug(clip_id))


def test_a_clip_whose_id_is_a_safe_name_keeps_it_and_others_stay_apart():
    assert clip_slug("bear-1.x_y") == "bear-1.x_y"
    assert len({clip_slug(name) for name in ("a:b", "a-b", "a/b", "a b", "a:b:")}) == 5
