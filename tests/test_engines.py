"""Engines: slots that crash, run out of memory or lose their run; several runs on one store."""

import io
import os
import signal
import time

import pytest
from click.testing import CliRunner
from fake_parts import fake_parts, fake_report
from lab import Lab, engine, spec_text
from rich.console import Console

from ablations.engines import ENGINES
from ablations.engines.base import EngineOptions, Told
from ablations.engines.inline import InlineEngine
from ablations.engines.local import LocalEngine, environments, visible_gpus
from ablations.failures import explain_exit
from ablations.run import run_plan
from crossframe.cli import main
from crossframe.errors import UserError
from crossframe.verbs.common import Tools

TEXT = spec_text(sentinels=[])


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path, TEXT)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The metrics of every cell, computed in this process."""
    lab = Lab(tmp_path_factory.mktemp("inline"), TEXT)
    assert lab.run().exit_code == 0
    return lab.metrics()


def test_two_slots_give_the_same_numbers(lab, expected):
    outcome = lab.run(engine=engine("local", jobs=2))
    assert (outcome.done, outcome.failed) == (8, [])
    assert lab.metrics() == expected
    assert set(lab.starts().values()) == {1}


@pytest.mark.parametrize(
    ("death", "status", "words"),
    [
        ("sigkill", "oom", "SIGKILL"),
        ("sigsegv", "failed", "SIGSEGV"),
        ("exit", "failed", "exit code 7"),
        ("memory", "oom", "MemoryError"),
    ],
)
def test_a_slot_that_dies_takes_only_its_cell(lab, death, status, words):
    outcome = lab.run(f"grid.death=[none, {death}]", "clips=[world:tiny/0]", engine=engine("local"))
    assert (outcome.done, len(outcome.failed), outcome.exit_code) == (4, 4, 1)
    for cell, reason in outcome.failed:
        assert words in reason
        assert lab.store.failure(cell.key)["status"] == status
        assert lab.store.holder(cell.key) is None


def test_failures_wait_to_be_asked_for(lab):
    overrides = ("base.death=exit", "clips=[world:tiny/0]", "seeds.count=1")
    assert len(lab.run("base.fail=true").failed) == 8
    again = lab.run("base.fail=true")
    assert (again.done, len(again.failed), len(again.earlier), again.exit_code) == (0, 0, 8, 1)
    assert "told to fail" in again.earlier[0][1]
    retried = lab.run("base.fail=true", retry=("failed",))
    assert (len(retried.failed), len(retried.earlier)) == (8, 0)
    assert len(lab.run(*overrides, engine=engine("local")).failed) == 2


def wait_until(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_four_runs_share_a_store(lab, expected):
    runs = [lab.start("--engine", "inline", "--threads", "1") for _ in range(4)]
    told = [run.communicate(timeout=240)[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * 4, told
    assert lab.metrics() == expected
    assert set(lab.starts().values()) == {1}, "no cell is computed twice"


def test_what_a_dead_run_had_begun_is_taken_over(lab, expected):
    slow = lab.start("--set", "base.sleep=30", "--threads", "1")
    wait_until(lambda: lab.starts(), slow)
    (key,) = lab.starts()
    assert lab.store.holder(key) is not None
    slow.kill()
    slow.communicate()
    wait_until_dead = time.monotonic() + 10
    while lab.store.holder(key) is not None:
        assert time.monotonic() < wait_until_dead, "a slot outlives its run"
        time.sleep(0.01)
    assert lab.run().done == 8
    assert lab.metrics() == expected


def test_an_interrupt_abandons_cells_and_says_how_to_resume(lab):
    run = lab.start("--set", "base.sleep=30", "--threads", "1")
    wait_until(lambda: lab.starts(), run)
    run.send_signal(signal.SIGINT)
    _, told = run.communicate(timeout=60)
    assert run.returncode == 130, told
    assert "Resume with:" in told
    assert "Traceback" not in told
    (key,) = lab.starts()
    assert lab.store.failure(key)["status"] == "interrupted"
    assert lab.store.holder(key) is None


def test_slots_see_one_gpu_each(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert visible_gpus() == ["3", "5"]
    seen = [pin["CUDA_VISIBLE_DEVICES"] for pin in environments(3, visible_gpus())]
    assert seen == ["3", "5", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert environments(2, visible_gpus()) == [{}, {}]


class Talking(InlineEngine):
    """An engine that has something to say."""

    def run(self, cells):
        yield Told("a line for you")
        yield from super().run(cells)


@pytest.mark.parametrize("terminal", [False, True])
def test_what_an_engine_tells_is_shown(lab, terminal):
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal)
    chosen = Talking(EngineOptions(threads=1))
    run_plan(lab.plan(), lab.store, lambda: lab.parts, chosen, console=console, limit=1)
    assert "a line for you\n" in shown.getvalue()


def test_cores_are_shared_by_what_runs_here_at_once(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    asked = [("inline", 1), ("local", 1), ("local", 4), ("local", 20)]
    assert [engine(name, jobs, None).threads for name, jobs in asked] == [None, None, 2, 1]
    assert engine("local", 4, 3).threads == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("inline", ["--jobs", "4"]),
        ("inline", ["--address", "host:1"]),
        ("local", ["--address", "host:1"]),
        ("local", ["--engine-option", "partition=gpu"]),
        ("slurm", ["--address", "host:1"]),
        ("ray", ["--engine-option", "partition=gpu"]),
    ],
)
def test_options_that_mean_nothing_to_an_engine_are_told(lab, name, words):
    if name in ("ray", "slurm"):
        pytest.importorskip({"ray": "ray", "slurm": "submitit"}[name])
    command = ["run", str(lab.path), "--out", str(lab.store.root), "--engine", name, *words]
    told = CliRunner().invoke(main, command, obj=Tools(fake_parts, fake_report))
    assert told.exit_code == 2, told.output
    assert f"{words[0]}: means nothing to --engine {name}" in told.output
    assert not lab.store.root.exists()


def test_exits_are_explained():
    assert explain_exit(-signal.SIGKILL)[0] == "oom"
    assert explain_exit(-signal.SIGSEGV) == ("failed", "its process was ended by SIGSEGV")
    assert explain_exit(3) == ("failed", "its process ended with exit code 3")


def test_an_unknown_engine_is_told():
    with pytest.raises(UserError, match="did you mean 'local'"):
        ENGINES.load("locale")
    assert issubclass(ENGINES.load("local"), LocalEngine)
