"""Tables of facts: kept across processes, never trusted when damaged, never needed."""

import json
import os
import time

import pytest

from crossframe import cache
from crossframe.cache import MOST_ENTRIES, Table, file_state, table


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSFRAME_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_is_remembered_is_recalled_by_another_process(folder):
    table("x").remember({"a": [1, "b", None]})
    assert Table(folder / "x.json").recall("a") == [1, "b", None]
    assert Table(folder / "x.json").recall("b") is None


def test_two_writers_keep_each_others_entries(folder):
    first, second = Table(folder / "x.json"), Table(folder / "x.json")
    assert first.recall("b") is second.recall("a") is None
    first.remember({"a": 1})
    second.remember({"b": 2})
    assert Table(folder / "x.json").recall("a") == 1


def test_every_flipped_byte_empties_the_table(folder):
    path = folder / "x.json"
    Table(path).remember({"key": "value"})
    whole = path.read_bytes()
    for index in range(len(whole) - 1):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        assert Table(path).recall("key") is None, index
    path.write_bytes(whole)
    assert Table(path).recall("key") == "value"


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"x\n{}", b"[" * 100_000])
def test_rubbish_is_an_empty_table_and_is_replaced(folder, content):
    folder.mkdir()
    (folder / "x.json").write_bytes(content)
    found = Table(folder / "x.json")
    assert found.recall("a") is None
    found.remember({"a": 1})
    assert Table(folder / "x.json").recall("a") == 1


def test_a_table_of_another_layout_is_empty(folder, monkeypatch):
    monkeypatch.setattr(cache, "LAYOUT", cache.LAYOUT + 1)
    Table(folder / "x.json").remember({"a": 1})
    monkeypatch.undo()
    assert Table(folder / "x.json").recall("a") is None


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_text("in the way")
    found = Table(tmp_path / "file" / "x.json")
    found.remember({"a": 1})
    assert found.recall("a") == 1


def test_a_full_table_forgets_the_oldest(folder):
    found = Table(folder / "x.json")
    found.remember({str(i): i for i in range(MOST_ENTRIES)})
    found.remember({"new": 1})
    assert (found.recall("0"), found.recall("1"), found.recall("new")) == (None, 1, 1)
    body = (folder / "x.json").read_text().split("\n")[1]
    assert len(json.loads(body)["entries"]) == MOST_ENTRIES


def aged(path, seconds=10):
    """Let a file look as if written a while ago; its change time cannot be set, so time moves."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_file_has_a_state_once_it_has_settled(tmp_path, monkeypatch):
    path = tmp_path / "f"
    assert file_state(path) is None
    path.write_text("1")
    assert file_state(path) is None
    now = time.time()
    monkeypatch.setattr(cache.time, "time", lambda: now + 60)
    first = file_state(path)
    assert first is not None
    assert file_state(path) == first
    aged(path)
    assert file_state(path) != first
    second = file_state(path)
    path.write_text("2")  # the same size
    os.utime(path, ns=(second[2], second[2]))
    assert file_state(path) != second, "a change under a restored time is seen"


def test_odd_paths_have_no_state(tmp_path):
    assert file_state(tmp_path / ("a" * 5000)) is None
    assert file_state(tmp_path / "a\0b") is None
