"""What a worker does with a cell: claim it, compute it, record how that ended.

The same in every engine. A claim is taken by the process that computes, so that it dies with it.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

import torch

from ablations.bench import Bench
from ablations.cell import run_cell
from ablations.engines.base import Ended, Order
from ablations.failures import record_failure
from ablations.leases import Lease
from ablations.plan import Cell
from ablations.stages import InWork
from ablations.store import Store
from crossframe.errors import Diverged, NotAvailable, UserError
from crossframe.files import DISK_FULL

Progress = Callable[[int, int], None]
Report = Callable[[Ended], None]
Finish = Callable[[], None]
Result = TypeVar("Result")


def silent(step: int, steps: int) -> None:
    """Tell nobody."""


class Worker:
    """One slot: networks stay loaded from cell to cell.

    A second thread finishes a cell (see `run_cell`) while the first is at the next one. The claim
    on a cell is held until its result is written.
    """

    def __init__(self, order: Order) -> None:
        if order.threads is not None:
            torch.set_num_threads(order.threads)
        self.order = order
        self.store = Store(order.root)
        self.bench = Bench(order.spec, order.backbone, order.parts(), self.store)
        self._beside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="finish")
        self._unfinished: Future[None] | None = None

    def run(self, cell: Cell, progress: Progress = silent) -> Ended:
        """Compute a cell and wait until it is finished; as `begin`."""
        ends: list[Ended] = []
        self.begin(cell, ends.append, progress)
        self.join()
        return ends[0]

    def begin(self, cell: Cell, report: Report, progress: Progress = silent) -> bool:
        """Compute a cell unless somebody else did or does, and tell `report` how it ended.

        Returns whether the cell is still being finished: the worker is free for the next one, and
        `report` will be called from another thread. Cells are reported in the order in which they
        were begun. Failures are recorded, not raised; KeyboardInterrupt is recorded and passed on.
        """
        outcome = self._guarded(cell, lambda: self._claimed(cell, progress))
        self.join()
        if isinstance(outcome, Ended):
            report(outcome)
            return False
        self._unfinished = self._beside.submit(self._finish, cell, *outcome, report)
        return True

    def join(self) -> None:
        """Wait until all cells that were begun are finished and reported."""
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None:
            unfinished.result()

    def _claimed(self, cell: Cell, progress: Progress) -> Ended | tuple[Finish, Lease]:
        """How a cell ended, or how to finish it and the claim to hold until then."""
        with ExitStack() as claim:
            lease = self.store.claim(cell.key)
            if lease is None:
                return Ended(cell.key, "busy")
            claim.enter_context(lease)
            outcome = self._settled(cell) or self._compute(cell, progress)
            if isinstance(outcome, Ended):
                return outcome
            claim.pop_all()
            return outcome, lease

    def _finish(self, cell: Cell, finish: Finish, lease: Lease, report: Report) -> None:
        def conclude() -> Ended:
            """Write the result and give up the claim; a cell that another took over is its."""
            with lease:
                return self._concluded(cell, finish) if lease.held() else Ended(cell.key, "busy")

        report(self._guarded(cell, conclude))

    def _guarded(self, cell: Cell, step: Callable[[], Result]) -> Result | Ended:
        """Take a step; what the store refuses ends the cell without being recorded."""
        try:
            return step()
        except OSError as error:  # of the store: what the cell itself raises is recorded in it
            return Ended(cell.key, *classify(error), traceback.format_exc(), lost=True)

    def _settled(self, cell: Cell) -> Ended | None:
        """What another runner made of the cell since this run began."""
        result = self.store.result(cell.key)
        if result is not None and result.get("metric_keys") == dict(cell.metric_keys):
            return Ended(cell.key, "cached")
        failure = self.store.failure(cell.key) or {}
        if failure.get("at", 0.0) <= self.order.began or failure["status"] == "interrupted":
            return None
        return Ended(cell.key, failure["status"], failure["reason"])

    def _compute(self, cell: Cell, progress: Progress) -> Ended | Finish:
        self.store.journal("cell-start", key=cell.key)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("default")
                return run_cell(cell, self.bench, self.store, progress, self._beside)
        except InWork as other:
            self.store.journal("cell-waits", key=cell.key, reason=str(other))
            return Ended(cell.key, "busy", str(other), waits=other.claim)
        except (Exception, KeyboardInterrupt) as error:
            return self._failed(cell, error, [str(w.message) for w in caught])

    def _concluded(self, cell: Cell, finish: Finish) -> Ended:
        try:
            finish()
        except Exception as error:
            return self._failed(cell, error)
        self.store.journal("cell-done", key=cell.key)
        return Ended(cell.key, "done")

    def _failed(self, cell: Cell, error: BaseException, notes: Sequence[str] = ()) -> Ended:
        """Record why a cell failed, unless the disk is full; called while handling `error`."""
        status, reason = classify(error)
        log = "\n".join([*notes, traceback.format_exc()])
        if status != "full":
            record_failure(cell, self.store, status, reason, log)
        if isinstance(error, KeyboardInterrupt):
            raise error
        return Ended(cell.key, status, reason, log, lost=status == "full")


def classify(error: BaseException) -> tuple[str, str]:
    """Status, as in `Ended`, and reason of what a cell raised."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "interrupted"
    if isinstance(error, Diverged):
        return "diverged", str(error)
    if isinstance(error, NotAvailable):
        return "skipped", str(error)
    if isinstance(error, UserError):
        return "failed", str(error)
    reason = f"{type(error).__name__}: {error}".strip()
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return "full", reason
    return ("oom" if is_out_of_memory(error) else "failed"), reason


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out, on a GPU or here; torch's CPU allocator has no class for it."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "DefaultCPUAllocator: can't allocate memory" in str(error)
