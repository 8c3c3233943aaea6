"""The run folder: trusted records only, exclusive lock, leftovers swept."""

import json
import subprocess
import sys

import pytest

from ablations.store import Store, clip_slug
from crossframe.errors import UserError

KEY = "0123456789abcdef" + "0" * 48
RECORD = {"schema": 1, "key": KEY, "method": "m", "row": "r", "cost": {"seconds": 2.0}}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "run")


def test_nothing_is_made_by_looking(store):
    assert store.result(KEY) is None
    assert list(store.seconds()) == []
    assert not store.root.exists()


def test_a_result_comes_back_and_clears_the_failure(store):
    store.write_failure(KEY, {"schema": 1, "key": KEY, "reason": "x"})
    assert store.failure(KEY)["reason"] == "x"
    store.write_result(KEY, RECORD)
    assert store.result(KEY) == RECORD
    assert store.failure(KEY) is None
    assert list(store.seconds()) == [("m", "r", 2.0)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        json.dumps(RECORD)[:-5],
        "[]",
        json.dumps({**RECORD, "key": KEY[:-1] + "1"}),
        json.dumps({**RECORD, "schema": 0}),
    ],
)
def test_a_record_that_is_broken_or_of_another_cell_is_not_trusted(store, text):
    store.write_result(KEY, RECORD)
    (store.cell_folder(KEY) / "result.json").write_text(text, encoding="utf-8")
    assert store.result(KEY) is None


def test_the_journal_is_one_object_per_line(store):
    store.journal("one", key=KEY)
    store.journal("two", reason="line\nbreak")
    lines = (store.root / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["one", "two"]


def test_a_second_run_is_refused_and_a_dead_one_is_not(store):
    with store.lock(), pytest.raises(UserError, match="another run"), store.lock():
        pass
    code = (
        "import os, signal, sys; from pathlib import Path; from ablations.store import Store\n"
        "with Store(Path(sys.argv[1])).lock(): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(store.root)], check=False).returncode < 0
    with store.lock():
        pass


def test_the_lock_sweeps_temporary_files(store):
    folder = store.cell_folder(KEY)
    (folder / ".frames.1234.tmp").mkdir(parents=True)
    (folder / ".result.1234.tmp.json").write_text("{", encoding="utf-8")
    (folder / "video.mp4").write_bytes(b"x")
    with store.lock():
        assert [path.name for path in folder.iterdir()] == ["video.mp4"]


@pytest.mark.parametrize(
    ("clip_id", "slug"),
    [("world:heldout/3", "world-heldout-3"), ("../../x", "x"), ("..", "clip"), ("a b.c", "a-b.c")],
)
def test_slugs_are_safe_names(clip_id, slug):
    assert clip_slug(clip_id) == slug
