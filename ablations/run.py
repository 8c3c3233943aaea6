"""Run a plan through an engine: failures kept apart, several runners on one store, resumable.

Torch-free: workers load torch, a run whose cells are all cached starts and ends without it.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from ablations.check import CheckedSpec
from ablations.clips import restore_clips
from ablations.display import Display, display
from ablations.engines.base import Ended, Engine, Event, Order, Started, Told
from ablations.failures import record_failure
from ablations.leases import Owner
from ablations.parts import Parts
from ablations.plan import TO_RUN, Cell, Plan
from ablations.store import SCHEMA, Store
from crossframe.keys import file_sha256

POLL = 0.2
"""Seconds between two looks at cells that another runner is at."""


@dataclass
class Outcome:
    """What became of a plan's cells.

    elsewhere: done meanwhile by another runner. left: not reached because of `--limit`. earlier:
    failed in an earlier run and left alone.
    """

    done: int = 0
    cached: int = 0
    elsewhere: int = 0
    left: int = 0
    failed: list[tuple[Cell, str]] = field(default_factory=list)
    earlier: list[tuple[Cell, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 when every cell is done, 1 when some failed."""
        return 1 if self.failed or self.earlier else 0


def run_plan(
    plan: Plan,
    store: Store,
    parts: Callable[[], Parts],
    engine: Engine,
    *,
    console: Console,
    limit: int | None = None,
) -> Outcome:
    """Run what a plan says is to run; cells that cannot be run are recorded as skipped.

    parts: a function at the top level of a module, called again in every worker.

    Raises `UserError` before anything is written when the backbone cannot be had. On
    `KeyboardInterrupt` the engine is stopped, cells that were being computed are recorded as
    interrupted, and the interrupt is passed on. A disk that takes no more stops the run in the same
    way, with an OSError. Everything finished until then stays.
    """
    if plan.obstacle is not None:
        raise plan.obstacle
    began = time.perf_counter()
    outcome = _begin(plan, store)
    shown = [cell.clip for cell in plan.with_state("cached", "failed")]
    restore_clips(shown, plan.checked.spec, store, parts)
    waiting = plan.with_state(*TO_RUN)
    chosen = waiting[:limit]
    outcome.left = len(waiting) - len(chosen)
    if chosen:
        order = _order(plan, store, parts, engine.threads)
        with display(console, len(chosen)) as show:
            _Watch(store, outcome, show).run(chosen, engine, order)
    outcome.seconds = time.perf_counter() - began
    store.journal("run-end", done=outcome.done, failed=len(outcome.failed), seconds=outcome.seconds)
    return outcome


def _begin(plan: Plan, store: Store) -> Outcome:
    """Write down what is to be run, and account for the cells that nothing is to be done about."""
    store.sweep()
    _write_head(plan, store)
    _relabel(plan, store)
    judged = list(zip(plan.cells, plan.states, plan.reasons, strict=True))
    earlier = [(cell, reason) for cell, state, reason in judged if state == "failed"]
    skipped = [(cell, reason) for cell, state, reason in judged if state == "skipped"]
    for cell, reason in skipped:
        record_failure(cell, store, "skipped", reason)
    return Outcome(cached=plan.counts()["cached"], failed=skipped, earlier=earlier)


def _order(plan: Plan, store: Store, parts: Callable[[], Parts], threads: int | None) -> Order:
    checked = plan.checked
    root = store.root.resolve()
    return Order(checked.spec, checked.backbone, root, parts, threads, time.time())


class _Watch:
    """Follows cells through an engine."""

    def __init__(self, store: Store, outcome: Outcome, show: Display) -> None:
        self.store, self.outcome, self.show = store, outcome, show
        self.open: dict[str, Cell] = {}
        self.running: set[str] = set()
        self.waits: dict[str, str] = {}  # claims on shared work, by the cell that waits for it
        self.unheard: set[str] = set()  # cells whose worker died, perhaps after finishing them

    def run(self, cells: list[Cell], engine: Engine, order: Order) -> None:
        """Compute cells; those that other runners are at are waited for, and taken if they die."""
        self.open = {cell.key: cell for cell in cells}
        try:
            engine.start(order)
            while self.open:
                free = [cell for cell in self.open.values() if self._owner(cell) is None]
                for event in engine.run(free) if free else ():
                    self._hear(event)
                if self.open:
                    self._wait()
        except KeyboardInterrupt:
            engine.stop()
            self._interrupted()
            raise
        finally:
            engine.stop()

    def _wait(self) -> None:
        owners = [owner for cell in self.open.values() if (owner := self._owner(cell))]
        if len(owners) == len(self.open):
            self.show.waits(" and ".join(sorted({str(owner) for owner in owners})), len(owners))
        time.sleep(POLL)

    def _owner(self, cell: Cell) -> Owner | None:
        """Who else is at a cell, or at the shared work that it waits for."""
        shared = self.waits.get(cell.key)
        return (self.store.claimant(shared) if shared else None) or self.store.holder(cell.key)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Told):
            self.show.tells(event)
            return
        cell = self.open[event.key]
        if isinstance(event, Started):
            self.running.add(event.key)
            self.show.started(cell, event)
        elif isinstance(event, Ended):
            self.running.discard(event.key)
            self._ended(cell, event)
            self.show.ended(cell, event)
        else:
            self.show.progressed(cell, event)

    def _ended(self, cell: Cell, event: Ended) -> None:
        if event.status == "busy":
            self.waits[cell.key] = event.waits
            self.unheard |= {cell.key} if event.lost else set()
            return
        if event.status == "full":
            raise OSError(errno.ENOSPC, event.reason, str(self.store.root))
        del self.open[cell.key]
        if event.status == "done" or (event.status == "cached" and cell.key in self.unheard):
            self.outcome.done += 1
        elif event.status == "cached":
            self.outcome.elsewhere += 1
        else:
            if event.lost:
                record_failure(cell, self.store, event.status, event.reason, event.log)
            self.outcome.failed.append((cell, event.reason))

    def _interrupted(self) -> None:
        for key in self.running:
            if self.store.result(key) is None:
                record_failure(self.open[key], self.store, "interrupted", "interrupted")
        self.store.journal("interrupted", done=self.outcome.done)


def spec_record(checked: CheckedSpec) -> dict[str, Any]:
    """The resolved spec as stored: every default filled in, rows listed, origin named."""
    rows = [
        {
            "label": row.label,
            "axes": dict(row.axes),
            "method": row.method,
            "sentinel": row.sentinel,
            "config": dict(row.config),
        }
        for row in checked.rows
    ]
    origin = {
        "file": checked.path.name,
        "sha256": file_sha256(checked.path),
        "overrides": list(checked.overrides),
    }
    return {
        "schema": SCHEMA,
        **checked.spec.model_dump(mode="json"),
        "rows": rows,
        "clip_refs": list(checked.clips),
        "origin": origin,
    }


def _write_head(plan: Plan, store: Store) -> None:
    store.write_spec(spec_record(plan.checked))
    store.write_plan([cell.summary() for cell in plan.cells])
    store.journal("run-start", **plan.counts())


def _relabel(plan: Plan, store: Store) -> None:
    """Bring the labels of finished cells up to date when the grid around them has changed."""
    for cell in plan.with_state("cached"):
        record = store.result(cell.key)
        label = {"row": cell.row.label, "axes": dict(cell.row.axes)}
        if record is not None and {name: record.get(name) for name in label} != label:
            store.write_result(cell.key, {**record, **label})
