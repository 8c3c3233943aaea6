"""The Slurm engine on submitit's own fake Slurm: shares, lost tasks, settings."""

import errno
import os
import signal
from contextlib import suppress

import pytest

pytest.importorskip("submitit", reason="no submitit here: pip install 'crossframe[slurm]'")

from fake_parts import fake_parts
from lab import Lab, engine, spec_text
from submitit.core.submission import process_job
from submitit.slurm.slurm import SlurmJob
from submitit.slurm.test_slurm import mocked_slurm

from ablations import work
from ablations.engines import slurm
from ablations.engines.base import Order
from ablations.leases import acquire
from ablations.stages import InWork
from crossframe.errors import UserError
from crossframe.provenance import provenance

FIRST_JOB = "12"
TEXT = spec_text(sentinels=[])


class Node:
    """Computes the next task of the array whenever the engine would sleep.

    dies: the state in which Slurm ends the array after one task, instead of computing the others.
    """

    def __init__(self, fake, folder, dies=""):
        self.fake, self.folder, self.dies = fake, folder, dies
        self.done = []

    def __call__(self, seconds):
        tasks = [path.name.split("_submitted")[0] for path in self.folder.glob("*_submitted.pkl")]
        waiting = sorted(set(tasks) - set(self.done))
        if self.done and self.dies:
            self.fake.set_job_state(FIRST_JOB, self.dies, len(tasks))
        elif waiting:
            with self.fake.job_context(waiting[0]), suppress(OSError):
                process_job(self.folder)
            self.done.append(waiting[0])
        else:
            self.fake.set_job_state(FIRST_JOB, "COMPLETED", len(tasks))


@pytest.fixture
def lab(tmp_path):
    """A lab; submitit's task runner replaces signal handlers, which are put back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    yield Lab(tmp_path, TEXT)
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def cluster(lab, monkeypatch):
    """Run over a fake Slurm with 2 tasks, given what becomes of them."""

    provenance()  # asks `uname`, which the fake does not know, once per process

    def run(*overrides, dies=""):
        with mocked_slurm() as fake:
            monkeypatch.setattr(slurm, "sleep", Node(fake, lab.store.root / "slurm", dies))
            return lab.run(
                *overrides, engine=engine("slurm", jobs=2, extra={"slurm_partition": "gpu"})
            )

    return run


def test_an_array_job_fills_the_store(lab, cluster, tmp_path):
    outcome = cluster()
    assert (outcome.done, outcome.failed) == (8, [])
    inline = Lab(tmp_path / "inline", TEXT)
    inline.run()
    assert lab.metrics() == inline.metrics()
    (script,) = (lab.store.root / "slurm").glob("*_submission.sh")
    assert "--array=0-1" in script.read_text()
    assert "--partition=gpu" in script.read_text()
    assert "--cpus-per-task=1" in script.read_text(), "as many as it was told to have threads"


def test_a_task_that_dies_loses_only_what_it_had_not_done(lab, cluster):
    outcome = cluster(dies="OUT_OF_MEMORY")
    assert (outcome.done, len(outcome.failed)) == (4, 4)
    for cell, reason in outcome.failed:
        assert "OUT_OF_MEMORY" in reason
        assert lab.store.failure(cell.key)["status"] == "oom"
    assert lab.run(retry=("oom",)).done == 4


def test_a_full_disk_leaves_the_other_cells_unreached(lab, cluster, monkeypatch):
    """The run stops and says so; with room again the same command does the rest."""
    begun, run_cell = [], work.run_cell

    def run_until_full(cell, *others):
        begun.append(cell)
        if len(begun) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return run_cell(cell, *others)

    cancelled = []
    monkeypatch.setattr(SlurmJob, "cancel", lambda job, check: cancelled.append(job.job_id))
    monkeypatch.setattr(work, "run_cell", run_until_full)
    with pytest.raises(OSError, match="met a full disk") as stopped:
        cluster()
    assert stopped.value.errno == errno.ENOSPC
    assert cancelled == [f"{FIRST_JOB}_1"], "what would meet the same disk is not begun"
    assert len(lab.results()) == 2
    assert not list(lab.store.root.glob("cells/*/failed.json"))
    assert not list(lab.store.root.glob("slurm/room-*")), "no flag is left behind"
    monkeypatch.setattr(work, "run_cell", run_cell)
    plan = lab.plan().counts()
    assert (plan["cached"], plan["run"] + plan["score"], plan["failed"]) == (2, 6, 0)
    assert lab.run().done == 6


def test_a_task_waits_for_shared_work_that_another_runner_is_at(lab, cluster, monkeypatch):
    """Its other cells come first; the one that waits is tried again when the claim is given up."""
    lease, begun, run_cell = acquire(lab.store.claim_folder, "tuning-x"), [], work.run_cell

    def run_unless_shared(cell, *others):
        begun.append(cell.key)
        if len(begun) == 1:
            raise InWork("tuning", "tuning-x", None)
        if len(begun) == 4:
            lease.release()
        return run_cell(cell, *others)

    monkeypatch.setattr(work, "run_cell", run_unless_shared)
    assert cluster().done == 8
    assert begun[0] == begun[4]
    assert len(begun) == 9


def test_threads_are_those_of_the_task_not_of_the_submitting_host(lab, monkeypatch):
    """By sbatch(1): the variable is there when a number was asked for; else torch looks."""
    seen, checked = [], lab.plan().checked
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(work, "Worker", lambda order: seen.append(order.threads))

    def begin(threads):
        chosen = engine("slurm", jobs=20, threads=threads).threads
        order = Order(checked.spec, checked.backbone, lab.store.root, fake_parts, chosen)
        slurm.work_through(order, [], lab.store.root)

    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    begin(None)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    begin(None)
    begin(2)
    assert seen == [None, 6, 2]


def test_no_slurm_is_told(lab):
    with pytest.raises(UserError, match="--engine slurm"):
        lab.run(engine=engine("slurm"))


@pytest.mark.parametrize("extra", [{"partitoin": "gpu"}, {"timeout_min": "soon"}])
def test_wrong_settings_are_told(lab, extra):
    with mocked_slurm(), pytest.raises(UserError, match="--engine slurm"):
        lab.run(engine=engine("slurm", extra=extra))


def test_shares_are_whole_and_even():
    for cells in (0, 1, 5, 8):
        for tasks in (1, 2, 3):
            shares = slurm.deal(list(range(cells)), tasks)
            assert [cell for share in shares for cell in share] == list(range(cells))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert slurm.settings({"a": "1", "b": "x"}) == {"a": 1, "b": "x"}
