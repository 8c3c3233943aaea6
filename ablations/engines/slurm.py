"""The engine of a Slurm cluster: one array job, each of whose tasks takes a share of the cells.

The store says what became of a cell, never Slurm's own pickles: a task that is killed has lost
nothing that it finished. All nodes must see the run folder under the same path.
"""

from __future__ import annotations

import os
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from time import sleep
from typing import Any

import submitit

from ablations.engines.base import Ended, Engine, Event, Order, Started
from ablations.plan import Cell
from ablations.store import Store
from crossframe.errors import Problem, UserError

POLL = 2.0
"""Seconds between two looks at the store."""


class SlurmEngine(Engine):
    """An array job with `jobs` tasks; `extra` goes to submitit's executor (`partition`, ...).

    With `threads` a task asks for as many CPUs; without, it has as many threads as it is given.
    """

    name = "slurm"
    takes = frozenset({"jobs", "extra"})

    def start(self, order: Order) -> None:
        """Find Slurm; raises UserError when there is none or a setting is unknown to submitit."""
        self.order = order
        self.store = Store(order.root)
        self.jobs: list[Any] = []
        self.flags: list[Path] = []
        try:
            self.executor = submitit.AutoExecutor(folder=self.store.slurm_folder, cluster="slurm")
            wanted: dict[str, Any] = {"cpus_per_task": self.threads, **settings(self.options.extra)}
            self.executor.update_parameters(name="crossframe", **wanted)
        except (RuntimeError, ValueError, TypeError, NameError, AssertionError) as error:
            fix = "see submitit's AutoExecutor.update_parameters, or choose another engine"
            raise UserError(Problem("--engine slurm", str(error), fix=fix)) from error

    def run(self, cells: Sequence[Cell]) -> Iterator[Event]:
        """Submit the cells and follow them in the store."""
        shares = [share for share in deal(cells, self.options.jobs) if share]
        orders = [self.order] * len(shares)
        self.flags = [self._flag() for _ in shares]
        self.jobs = self.executor.map_array(work_through, orders, shares, self.flags)
        flags = {id(job): flag for job, flag in zip(self.jobs, self.flags, strict=True)}
        open_cells = {
            cell.key: (cell, job)
            for share, job in zip(shares, self.jobs, strict=True)
            for cell in share
        }
        for cell, job in open_cells.values():
            yield Started(cell.key, f"job {job.job_id}")
        while open_cells:
            over = {id(job) for job in self.jobs if job.done(force_check=True)}
            for key, (cell, job) in list(open_cells.items()):
                event = self._ended(cell)
                if event is None and id(job) in over:
                    event = self._lost(cell, job, flags[id(job)])
                if event is not None:
                    del open_cells[key]
                    yield event
            if open_cells:
                sleep(POLL)

    def _ended(self, cell: Cell) -> Ended | None:
        result = self.store.result(cell.key)
        if result is not None and result.get("metric_keys") == dict(cell.metric_keys):
            return Ended(cell.key, "done")
        failure = self.store.failure(cell.key) or {}
        if failure.get("at", 0.0) <= self.order.began:
            return None
        return Ended(cell.key, failure["status"], failure["reason"])

    def _flag(self) -> Path:
        """A file that a task takes away when the disk is full: that needs no room."""
        path = self.store.slurm_folder / f"room-{uuid.uuid4().hex}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    def _lost(self, cell: Cell, job: Any, flag: Path) -> Ended:
        """A task that ended without a word on this cell, unless another runner is at it."""
        if self.store.holder(cell.key) is not None:
            return Ended(cell.key, "busy")
        if not flag.exists():
            reason = f"its Slurm job {job.job_id} met a full disk"
            return Ended(cell.key, "full", reason, lost=True)
        status = "oom" if "OUT_OF_ME" in str(job.state) else "failed"
        reason = f"its Slurm job {job.job_id} ended as {job.state}"
        return Ended(cell.key, status, reason, str(job.stderr() or ""), lost=True)

    def stop(self) -> None:
        """Cancel what is queued or runs."""
        for job in self.jobs:
            if not job.done():
                job.cancel(check=False)
        for flag in self.flags:
            flag.unlink(missing_ok=True)


def work_through(order: Order, cells: Sequence[Cell], flag: Path) -> None:
    """What a task of the array does; cells that wait for shared work come after the others.

    It gives up where nothing can be written, and takes `flag` away when the disk is full.
    """
    from ablations.work import Worker

    worker = Worker(replace(order, threads=order.threads or allotted()))
    ends = deque[Ended]()
    waiting, claims = {cell.key: cell for cell in cells}, dict[str, str]()
    while waiting:
        held = {claim for claim in claims.values() if worker.store.claimant(claim) is not None}
        free = [cell for key, cell in waiting.items() if claims.get(key) not in held]
        if not free:
            sleep(POLL)
        for cell in free:
            worker.begin(cell, ends.append)
            claims |= _cross_off(ends, waiting, flag)
        worker.join()
        claims |= _cross_off(ends, waiting, flag)


def allotted() -> int | None:
    """CPUs that Slurm gave to this task, where it was asked for a number; None leaves it to torch.

    The variable is documented in sbatch(1); torch sees the CPUs to which a task is confined.
    """
    return int(os.environ.get("SLURM_CPUS_PER_TASK", 0)) or None


def _cross_off(ends: deque[Ended], waiting: dict[str, Cell], flag: Path) -> dict[str, str]:
    """Take out the cells that ended; return the claims that others wait for, by cell.

    Raises OSError when the store could not be written.
    """
    claims = {}
    while ends:
        ended = ends.popleft()
        if ended.status == "full":
            flag.unlink(missing_ok=True)
        if ended.lost:
            raise OSError(ended.reason)
        if ended.waits:
            claims[ended.key] = ended.waits
        else:
            del waiting[ended.key]
    return claims


def deal(cells: Sequence[Cell], tasks: int) -> list[list[Cell]]:
    """Consecutive shares of nearly equal size, so that a task meets few clips and rows."""
    size, more = divmod(len(cells), tasks)
    ends = [task * size + min(task, more) for task in range(tasks + 1)]
    return [list(cells[first:last]) for first, last in pairwise(ends)]


def settings(extra: Mapping[str, str]) -> dict[str, Any]:
    """Engine settings with numbers as numbers: `{"gpus_per_node": "1"}` -> `{...: 1}`."""
    return {name: int(text) if text.isdigit() else text for name, text in extra.items()}
