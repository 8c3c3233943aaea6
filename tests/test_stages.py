"""The stage cache: exact, shared, and never taken in by a damaged file."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
from types import MappingProxyType

import numpy as np
import pytest

from ablations import stage_versions, stages
from ablations.leases import claimed
from ablations.stage_versions import STAGES
from ablations.stages import DAMAGED, InWork, StageCache
from crossframe.errors import UserError
from crossframe.keys import array_sha256

PARTS = {"clip": "ab" * 32, "steps": 4}
ARRAYS = {
    "flow": np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
    "mask": np.array([[True, False]]),
    "half": np.array([np.nan, -0.0, np.inf], dtype=np.float16),
    "fps": np.array(24.0),
    "none": np.zeros((0, 3), dtype=np.uint8),
    "turned": np.arange(3, dtype=">i4"),
}


@pytest.fixture
def notices():
    return []


@pytest.fixture
def cache(tmp_path, notices):
    return StageCache(tmp_path / "stages", notices.append)


def never():
    raise AssertionError("computed again")


def small():
    return {"x": np.arange(3, dtype=np.int16)}


def entry(cache, stage="flow", parts=PARTS, make=small):
    cache.get(stage, parts, make)
    return cache.path(stage, cache.key(stage, parts))


def test_values_come_back_exactly(cache, notices):
    made = cache.get("flow", PARTS, lambda: ARRAYS)
    read = cache.get("flow", PARTS, never)
    for found in (made, read):
        assert set(found) == set(ARRAYS)
        for name, array in ARRAYS.items():
            assert found[name].shape == array.shape
            assert array_sha256(found[name]) == array_sha256(array)
            assert found[name].flags.c_contiguous
            assert found[name].flags.writeable
    assert [made[name].dtype for name in made] == [read[name].dtype for name in read]
    read["flow"][:] = 0
    assert array_sha256(cache.get("flow", PARTS, never)["flow"]) == array_sha256(ARRAYS["flow"])
    assert notices == []


def test_nothing_is_made_by_looking(cache):
    assert list(cache.entries()) == []
    assert not cache.root.exists()


def test_entries_are_told_apart_by_stage_version_and_parts(cache, monkeypatch):
    keys = {
        cache.key("flow", PARTS),
        cache.key("text", PARTS),
        cache.key("flow", {**PARTS, "x": 1}),
    }
    assert len(keys) == 3
    before = cache.key("flow", {"b": 1, "a": 2})
    assert before == cache.key("flow", {"a": 2, "b": 1})
    monkeypatch.setattr(stage_versions, "STAGES", MappingProxyType({**STAGES, "flow": 99}))
    assert cache.key("flow", {"b": 1, "a": 2}) != before


def test_an_unknown_stage_is_refused(cache):
    with pytest.raises(ValueError, match=r"no stage 'flaw' \(allowed: .*flow"):
        cache.get("flaw", PARTS, small)


def test_what_make_raises_is_passed_on_and_nothing_kept(cache):
    with pytest.raises(AssertionError, match="computed again"):
        cache.get("flow", PARTS, never)
    assert list(cache.entries()) == []


def test_one_flipped_bit_is_noticed_wherever_it_is(cache):
    path = entry(cache)
    whole = path.read_bytes()
    assert cache.check(path) == ""
    for index in range(0, len(whole), 2):
        spoilt = bytearray(whole)
        spoilt[index] ^= 1 << index % 8
        path.write_bytes(spoilt)
        assert cache.check(path), f"bit {index % 8} of byte {index}: {bytes(spoilt[index - 9 :])}"


def test_a_cut_file_is_noticed_wherever_it_is_cut(cache):
    path = entry(cache)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert cache.check(path)
    path.write_bytes(whole + b"\0")
    assert cache.check(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a whole stage file"),
        (b"\xff" * 300, "not a whole stage file"),
        (b"\x02\0\0\0\0\0\0\0{}", "not a whole stage file"),
        (b"\x80\x05cos\nsystem\n", "not a whole stage file"),
        ("another", "holds another entry"),
        ("folder", "cannot be read: Is a directory"),
    ],
)
def test_damage_is_told_moved_aside_and_made_good(cache, notices, data, reason):
    path = entry(cache)
    if data == "another":
        os.replace(entry(cache, parts={"other": 1}), path)
    elif data == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(data)
    made = []
    found = cache.get("flow", PARTS, lambda: made.append(1) or small())
    assert found["x"].tolist() == [0, 1, 2]
    assert made == [1]
    (notice,) = notices
    assert notice.startswith(f"{path}: {reason}")
    assert notice.endswith("computed again")
    assert "\n" not in notice
    assert list(cache.damaged()) == [path.with_suffix(DAMAGED)]
    cache.get("flow", PARTS, never)
    assert cache.check(path) == ""


def test_a_full_disk_costs_the_entry_and_not_the_value(cache, notices, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(stages, "write_bytes", full)
    assert cache.get("flow", PARTS, small)["x"].tolist() == [0, 1, 2]
    assert list(cache.entries()) == []
    (notice,) = notices
    assert "No space left on device" in notice


def compute_often(root, barrier):
    for index in range(10):
        barrier.wait()
        StageCache(root, never).get("flow", {"index": index}, lambda: ARRAYS)


def test_several_processes_may_compute_one_entry_at_once(cache):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    processes = [context.Process(target=compute_often, args=(cache.root, barrier)) for _ in "123"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    found = list(cache.entries())
    assert len(found) == 10
    assert [cache.check(path) for path in found] == [""] * 10
    assert {path.suffix for path in cache.root.rglob("*") if path.is_file()} == {".safetensors"}


def test_equal_entries_are_equal_files_in_any_process(cache, tmp_path):
    code = (
        "import sys; import numpy as np; from pathlib import Path\n"
        "from ablations.stages import StageCache\n"
        "make = lambda: {'b': np.ones(2), 'a': np.zeros(3, np.int8), 'c': np.ones(1, np.float16)}\n"
        "StageCache(Path(sys.argv[1])).get('text', {'x': 1, 'y': [2, 'é']}, make)\n"
    )
    texts = []
    for name in ("one", "two"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True)
        (path,) = StageCache(tmp_path / name).entries()
        texts.append(path.read_bytes())
    assert texts[0] == texts[1]


def test_small_parts_stand_in_the_file_for_readers(cache):
    assert b'\\"steps\\":4' in entry(cache).read_bytes()
    assert b"x" * 99 not in entry(cache, parts={"text": "x" * 9999}).read_bytes()


def test_a_link_out_of_the_cache_is_not_followed(cache, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    cache.root.mkdir()
    (cache.root / "flow").symlink_to(outside)
    with pytest.raises(UserError, match=r"symbolic link|leads out"):
        cache.get("flow", PARTS, small)
    assert list(outside.iterdir()) == []


def guarded(tmp_path):
    return StageCache(tmp_path / "stages", claims=tmp_path / "claims")


def test_of_two_makers_of_a_dear_entry_one_makes_it(tmp_path):
    first, second = guarded(tmp_path), guarded(tmp_path)

    def make():
        with pytest.raises(InWork, match=f"process {os.getpid()} .* is at the tuning") as other:
            second.get("tuning", PARTS, never)
        assert list(claimed(tmp_path / "claims")) == [other.value.claim]
        second.get("tuning", {"another": "clip"}, small)
        assert second.get("flow", PARTS, small), "cheap stages are not claimed"
        return small()

    first.get("tuning", PARTS, make)
    np.testing.assert_array_equal(second.get("tuning", PARTS, never)["x"], small()["x"])
    assert claimed(tmp_path / "claims") == {}


def test_a_maker_that_fails_or_dies_makes_way(tmp_path):
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        guarded(tmp_path).get("inversion", PARTS, fail)

    def die():
        guarded(tmp_path).get("inversion", PARTS, lambda: os.kill(os.getpid(), signal.SIGKILL))

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(claimed(tmp_path / "claims").values()) == [None]
    assert guarded(tmp_path).get("inversion", PARTS, small)
    assert claimed(tmp_path / "claims") == {}


def test_what_another_made_before_the_claim_was_won_is_taken(tmp_path, monkeypatch):
    cache, found = guarded(tmp_path), StageCache._found

    def late(self, path):
        """The first look misses what another runner is just about to write."""
        monkeypatch.setattr(StageCache, "_found", found)
        guarded(tmp_path).get("tuning", PARTS, small)

    monkeypatch.setattr(StageCache, "_found", late)
    assert set(cache.get("tuning", PARTS, never)) == {"x"}
