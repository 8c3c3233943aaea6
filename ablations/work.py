"""What a worker does with a cell: claim it, compute it, record how that ended.

The same in every engine. A claim is taken by the process that computes, so that it dies with it.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable

import torch

from ablations.bench import Bench
from ablations.cell import run_cell
from ablations.engines.base import Ended, Order
from ablations.failures import record_failure
from ablations.plan import Cell
from ablations.store import Store
from crossframe.errors import Diverged, UserError
from crossframe.files import DISK_FULL

Progress = Callable[[int, int], None]


def silent(step: int, steps: int) -> None:
    """Tell nobody."""


class Worker:
    """One slot: networks stay loaded from cell to cell."""

    def __init__(self, order: Order) -> None:
        if order.threads is not None:
            torch.set_num_threads(order.threads)
        self.order = order
        self.store = Store(order.root)
        self.bench = Bench(order.spec, order.backbone, order.parts(), self.store)

    def run(self, cell: Cell, progress: Progress = silent) -> Ended:
        """Compute a cell unless somebody else did or does; failures are recorded, not raised.

        KeyboardInterrupt is recorded and passed on.
        """
        try:
            lease = self.store.claim(cell.key)
            if lease is None:
                return Ended(cell.key, "busy")
            with lease:
                return self._settled(cell) or self._compute(cell, progress)
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

    def _compute(self, cell: Cell, progress: Progress) -> Ended:
        self.store.journal("cell-start", key=cell.key)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("default")
                run_cell(cell, self.bench, self.store, progress)
        except (Exception, KeyboardInterrupt) as error:
            status, reason = classify(error)
            log = "\n".join([*(str(w.message) for w in caught), traceback.format_exc()])
            if status != "full":
                record_failure(cell, self.store, status, reason, log)
            if isinstance(error, KeyboardInterrupt):
                raise
            return Ended(cell.key, status, reason, log, lost=status == "full")
        self.store.journal("cell-done", key=cell.key)
        return Ended(cell.key, "done")


def classify(error: BaseException) -> tuple[str, str]:
    """Status, as in `Ended`, and reason of what a cell raised."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "interrupted"
    if isinstance(error, Diverged):
        return "diverged", str(error)
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
