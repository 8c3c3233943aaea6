"""Run a plan in this process: one cell after another, failures kept apart, always resumable.

Torch is imported when there is a cell to run; a run whose cells are all cached starts and ends
without it.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ablations.check import CheckedSpec
from ablations.parts import Parts
from ablations.plan import Cell, Plan
from ablations.store import SCHEMA, Store
from crossframe.errors import UserError
from crossframe.keys import file_sha256


@dataclass
class Outcome:
    """What became of a plan's cells. `left` were not reached because of `--limit`."""

    done: int = 0
    cached: int = 0
    left: int = 0
    failed: list[tuple[Cell, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 when every cell is done, 1 when some failed."""
        return 1 if self.failed else 0


def run_plan(
    plan: Plan,
    store: Store,
    parts: Parts,
    *,
    console: Console,
    limit: int | None = None,
    threads: int | None = None,
) -> Outcome:
    """Run what a plan says is to run; cells that cannot be run are recorded as failed.

    Raises `UserError` before anything is written when the backbone cannot be had.
    `KeyboardInterrupt` is journalled and passed on. Everything finished until then stays.
    """
    if plan.obstacle is not None:
        raise plan.obstacle
    began = time.perf_counter()
    with store.lock():
        _write_head(plan, store)
        outcome = Outcome(cached=plan.counts()["cached"])
        _relabel(plan, store)
        for cell in plan.with_state("skipped"):
            _record_failure(cell, store, cell.problem, "", outcome)
        waiting = plan.with_state("score", "run", "retry")
        chosen = waiting[:limit]
        outcome.left = len(waiting) - len(chosen)
        if chosen:
            try:
                _run_cells(chosen, plan.checked, store, parts, console, threads, outcome)
            except KeyboardInterrupt:
                store.journal("interrupted", done=outcome.done)
                raise
        outcome.seconds = time.perf_counter() - began
        store.journal(
            "run-end", done=outcome.done, failed=len(outcome.failed), seconds=outcome.seconds
        )
    return outcome


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


def _run_cells(
    cells: list[Cell],
    checked: CheckedSpec,
    store: Store,
    parts: Parts,
    console: Console,
    threads: int | None,
    outcome: Outcome,
) -> None:
    import torch
    from transformers.utils.logging import disable_progress_bar

    from ablations.cell import Bench, run_cell

    if threads is not None:
        torch.set_num_threads(threads)
    disable_progress_bar()  # loading weights takes a moment; the run has a bar of its own
    bench = Bench(checked, parts)
    with _display(console, len(cells)) as show:
        for cell in cells:
            store.journal("cell-start", key=cell.key)
            tick = show(cell)
            try:
                run_cell(cell, bench, store, tick)
            except UserError as error:
                _record_failure(cell, store, str(error), "", outcome)
            except Exception as error:  # one cell's failure must not cost the others
                reason = f"{type(error).__name__}: {error}"
                _record_failure(cell, store, reason, traceback.format_exc(), outcome)
            else:
                outcome.done += 1
                store.journal("cell-done", key=cell.key)
            tick(1, 1)


def _record_failure(cell: Cell, store: Store, reason: str, trace: str, outcome: Outcome) -> None:
    outcome.failed.append((cell, reason))
    summary = {**cell.summary(), "status": "failed", "reason": reason, "traceback": trace}
    store.write_failure(cell.key, {"schema": SCHEMA, **summary})
    store.journal("cell-failed", key=cell.key, reason=reason)


Tick = Callable[[int, int], None]


@contextmanager
def _display(console: Console, total: int) -> Iterator[Callable[[Cell], Tick]]:
    """Show a bar with the time that remains; plain lines where the output is not a terminal."""
    if not console.is_terminal:
        yield _lines(console, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield _bar(bars, total)


def _bar(bars: Progress, total: int) -> Callable[[Cell], Tick]:
    task = bars.add_task("starting", total=total)
    position = -1

    def show(cell: Cell) -> Tick:
        nonlocal position
        position += 1
        start = position
        bars.update(task, description=_title(cell), completed=start)

        def tick(step: int, steps: int) -> None:
            bars.update(task, completed=start + step / max(steps, 1))

        return tick

    return show


def _lines(console: Console, total: int) -> Callable[[Cell], Tick]:
    began = time.perf_counter()
    count = 0

    def show(cell: Cell) -> Tick:
        nonlocal count
        count += 1
        elapsed = time.perf_counter() - began
        left = show_seconds(elapsed / (count - 1) * (total - count + 1)) if count > 1 else "unknown"
        console.print(f"[{count}/{total}] {_title(cell)} (left: {left})", markup=False)
        return lambda step, steps: None

    return show


def _title(cell: Cell) -> str:
    return f"{cell.row.label} · {cell.clip.id} · seed {cell.seed_index}"


def show_seconds(seconds: float) -> str:
    """Seconds as people say them: `42 s`, `3 min 10 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
