"""Engines: slots that crash, run out of memory or lose their run; several runs on one store."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from fake_parts import fake_parts
from rich.console import Console

from ablations.check import load_spec
from ablations.engines import ENGINES
from ablations.engines.base import EngineOptions
from ablations.engines.local import LocalEngine, environments, visible_gpus
from ablations.failures import explain_exit
from ablations.plan import make_plan
from ablations.run import run_plan
from ablations.store import Store
from crossframe.errors import UserError

HERE = Path(__file__).parent
SPEC = """\
name: tiny
method: noisy
base: {steps: 2}
grid: {attention.pattern: [individual, full]}
clips: [world:tiny/0..1]
clip: {frames: 2, size: 8}
seeds: {count: 2}
metrics: [psnr/mean_error]
"""


class Lab:
    """A spec over the fake parts, and the store of its runs."""

    def __init__(self, folder, text=SPEC):
        folder.mkdir(exist_ok=True)
        self.path = folder / "tiny.yaml"
        self.path.write_text(text, encoding="utf-8")
        self.store = Store(folder / "run")

    def run(self, engine, *overrides, retry=()):
        parts = fake_parts()
        plan = make_plan(load_spec(self.path, overrides, parts), self.store, parts, retry)
        console = Console(file=open(os.devnull, "w"))  # noqa: SIM115
        return run_plan(plan, self.store, fake_parts, engine, console=console)

    def metrics(self):
        records = [json.loads(p.read_text()) for p in self.store.root.glob("cells/*/result.json")]
        return {record["key"]: record["metrics"] for record in records}

    def starts(self):
        return Counter(e["key"] for e in self.store.events() if e["event"] == "cell-start")


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The metrics of every cell, computed in this process."""
    lab = Lab(tmp_path_factory.mktemp("inline"))
    assert lab.run(engine("inline")).exit_code == 0
    return lab.metrics()


def engine(name, jobs=1, **options):
    return ENGINES.load(name)(EngineOptions(jobs=jobs, threads=1, **options))


def test_two_slots_give_the_same_numbers(lab, expected):
    outcome = lab.run(engine("local", jobs=2))
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
    outcome = lab.run(engine("local"), f"grid.death=[none, {death}]", "clips=[world:tiny/0]")
    assert (outcome.done, len(outcome.failed), outcome.exit_code) == (4, 4, 1)
    for cell, reason in outcome.failed:
        assert words in reason
        assert lab.store.failure(cell.key)["status"] == status
        assert lab.store.holder(cell.key) is None


def test_failures_wait_to_be_asked_for(lab):
    overrides = ("base.death=exit", "clips=[world:tiny/0]", "seeds.count=1")
    assert len(lab.run(engine("inline"), "base.fail=true").failed) == 8
    again = lab.run(engine("inline"), "base.fail=true")
    assert (again.done, len(again.failed), len(again.earlier), again.exit_code) == (0, 0, 8, 1)
    assert "told to fail" in again.earlier[0][1]
    retried = lab.run(engine("inline"), "base.fail=true", retry=("failed",))
    assert (len(retried.failed), len(retried.earlier)) == (8, 0)
    assert len(lab.run(engine("local"), *overrides).failed) == 2


def command(lab, *words):
    arguments = [sys.executable, str(HERE / "fake_parts.py"), "run", str(lab.path), *words]
    paths = os.pathsep.join([str(HERE.parent), str(HERE), *sys.path])
    return subprocess.Popen(
        [*arguments, "--out", str(lab.store.root)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_four_runs_share_a_store(lab, expected):
    runs = [command(lab, "--engine", "inline", "--threads", "1") for _ in range(4)]
    told = [run.communicate(timeout=240)[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * 4, told
    assert lab.metrics() == expected
    assert set(lab.starts().values()) == {1}, "no cell is computed twice"


def test_what_a_dead_run_had_begun_is_taken_over(lab, expected):
    slow = command(lab, "--set", "base.sleep=30", "--threads", "1")
    wait_until(lambda: lab.starts(), slow)
    (key,) = lab.starts()
    assert lab.store.holder(key) is not None
    slow.kill()
    slow.communicate()
    wait_until_dead = time.monotonic() + 10
    while lab.store.holder(key) is not None:
        assert time.monotonic() < wait_until_dead, "a slot outlives its run"
        time.sleep(0.01)
    assert lab.run(engine("inline")).done == 8
    assert lab.metrics() == expected


def test_an_interrupt_abandons_cells_and_says_how_to_resume(lab):
    run = command(lab, "--set", "base.sleep=30", "--threads", "1")
    wait_until(lambda: lab.starts(), run)
    run.send_signal(signal.SIGINT)
    told, _ = run.communicate(timeout=60)
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


def test_exits_are_explained():
    assert explain_exit(-signal.SIGKILL)[0] == "oom"
    assert explain_exit(-signal.SIGSEGV) == ("failed", "its process was ended by SIGSEGV")
    assert explain_exit(3) == ("failed", "its process ended with exit code 3")


def test_an_unknown_engine_is_told():
    with pytest.raises(UserError, match="did you mean 'local'"):
        ENGINES.load("locale")
    assert issubclass(ENGINES.load("local"), LocalEngine)
