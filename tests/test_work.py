"""Workers: a video is encoded beside the next cell, and a result never comes before it."""

import threading
from types import SimpleNamespace

import pytest
from lab import Lab, spec_text

from ablations import cell as cell_module
from ablations.engines.base import Order, last_words
from ablations.engines.local import Slot
from ablations.work import Worker


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path, spec_text(sentinels=[]))


@pytest.fixture
def cells(lab):
    return lab.plan().with_state("run")


@pytest.fixture
def worker(lab):
    checked = lab.plan().checked
    root = lab.store.root.resolve()
    return Worker(Order(checked.spec, checked.backbone, root, lambda: lab.parts, 1))


def test_a_video_is_encoded_beside_the_next_cell(lab, cells, worker, monkeypatch):
    first, second, *_ = cells
    encode, drawing, ends, seen = cell_module.write_mp4, threading.Event(), [], []

    def encode_late(path, *rest):
        if path.parent.name == first.key[:16]:
            assert drawing.wait(60), "the next cell is not begun while this one is encoded"
        encode(path, *rest)

    def progress(step, steps):
        seen.append((lab.store.result(first.key), lab.store.holder(first.key)))
        drawing.set()

    monkeypatch.setattr(cell_module, "write_mp4", encode_late)
    assert worker.begin(first, ends.append), "the worker is free again"
    assert ends == []
    worker.begin(second, ends.append, progress)
    result, owner = seen[0]
    assert result is None, "the result is written last"
    assert owner is not None, "until then the cell is claimed"
    worker.join()
    assert [(end.key, end.status) for end in ends] == [(c.key, "done") for c in (first, second)]
    for cell in (first, second):
        assert (lab.store.cell_folder(cell.key) / "video.mp4").stat().st_size > 0
        assert lab.store.holder(cell.key) is None


def test_a_video_that_fails_fails_its_cell(lab, cells, worker, monkeypatch):
    encode = cell_module.write_mp4

    def refuse(path, *rest):
        if path.parent.name == cells[0].key[:16]:
            raise RuntimeError("no encoder")
        encode(path, *rest)

    monkeypatch.setattr(cell_module, "write_mp4", refuse)
    ends = [worker.run(cell).status for cell in cells[:2]]
    assert ends == ["failed", "done"]
    assert lab.store.result(cells[0].key) is None
    assert lab.store.failure(cells[0].key)["reason"] == "RuntimeError: no encoder"
    assert lab.store.holder(cells[0].key) is None


def test_a_cell_that_another_took_over_is_left_to_it(lab, cells, worker):
    """The claim of a runner that was taken for dead is topped by the next number."""
    (cell, *_), folder = cells, lab.store.claim_folder

    def progress(step, steps):
        own = folder / f"{cell.key[:16]}.1"
        own.with_suffix(".2").write_text(own.read_text().replace('"token": "', '"token": "other'))

    assert worker.run(cell, progress).status == "busy"
    assert lab.store.result(cell.key) is None
    assert lab.store.holder(cell.key).token.startswith("other")


def test_the_cell_that_a_dead_slot_computed_is_to_blame():
    one, two = (SimpleNamespace(key=key) for key in ("one", "two"))
    slot = Slot(None, None, None, {}, cell=one)
    slot.freed("another")
    assert slot.cell is one
    slot.freed("one")
    slot.cell = two
    assert slot.finishing == {"one": one}
    told = [(end.key, end.status, end.lost) for end in last_words(slot.cells, "failed", "")]
    assert told == [("one", "busy", True), ("two", "failed", True)]
    slot.ended("two")
    assert slot.cells == [one]
    slot.ended("one")
    assert not slot.busy
