"""Runs on a disk that fills up: told in one line, nothing lost, and resumed when there is room."""

import errno

import pytest
from click.testing import CliRunner
from fake_parts import fake_parts, fake_report
from lab import Lab, small_disk

from ablations.health import examine, jobs
from crossframe.cli import Tools, main
from crossframe.verbs.common import trouble

SIZE = 2 * 1024 * 1024


@pytest.fixture
def lab(tmp_path):
    with small_disk(tmp_path / "disk", SIZE) as disk:
        yield Lab(disk)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The metrics of every cell, on a disk with room."""
    lab = Lab(tmp_path_factory.mktemp("room"))
    assert lab.run().exit_code == 0
    return lab.metrics()


def fill(lab, free):
    """Take all of the disk but some bytes."""
    filler = lab.path.with_name("filler")
    with pytest.raises(OSError, match="No space left"), open(filler, "wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    with open(filler, "rb+") as file:
        file.truncate(filler.stat().st_size - free)
    return filler


def told_in_one_line(text, lab):
    (line,) = [line for line in text.splitlines() if "No space left on device" in line]
    assert line.startswith(f"{lab.store.root}: No space left on device: ")
    assert " free" in line
    assert "Make room there, then go on with: crossframe " in line
    assert "Traceback" not in text


def resumed(lab, filler, expected):
    """With room again, the same command does the rest: no cell counts as failed."""
    filler.unlink()
    done = len(lab.results())
    outcome = lab.run()
    assert (outcome.cached, outcome.done, outcome.exit_code) == (done, 10 - done, 0)
    assert lab.metrics() == expected
    found = [f for job in jobs(lab.store) for f in examine(lab.store, job) if f.fix]
    assert [f.path.name for f in found if f.path.name != "journal.jsonl"] == []


@pytest.mark.parametrize("free", [0, 24 * 1024, 96 * 1024, 256 * 1024])
def test_a_disk_that_fills_up_stops_the_run(lab, expected, free):
    filler = fill(lab, free)
    words = ["run", str(lab.path), "--out", str(lab.store.root), "--engine", "inline"]
    result = CliRunner().invoke(main, words, obj=Tools(fake_parts, fake_report))
    assert result.exit_code == 2, result.output
    told_in_one_line(result.output, lab)
    resumed(lab, filler, expected)


def test_slots_on_a_full_disk_stop_the_run(lab, expected):
    filler = fill(lab, 128 * 1024)
    run = lab.start("--jobs", "2")
    _, told = run.communicate(timeout=120)
    assert run.returncode == 2, told
    told_in_one_line(told, lab)
    resumed(lab, filler, expected)


def test_what_is_needed_is_told_when_it_is_known(tmp_path):
    error = OSError(errno.ENOSPC, "x")
    assert ", about 3.0 MB needed. " in str(trouble(error, tmp_path / "run", 3_000_000, "go on"))
    quota = str(trouble(OSError(errno.EDQUOT, "x"), tmp_path))
    assert "have the quota raised" in quota


def test_other_refusals_of_the_file_system_are_told(tmp_path):
    read_only = OSError(errno.EROFS, "x", str(tmp_path / "spec.json"))
    line = str(trouble(read_only))
    assert line.startswith(f"{tmp_path / 'spec.json'}: Read-only file system")
    assert trouble(FileNotFoundError(errno.ENOENT, "x", "y")) is None
