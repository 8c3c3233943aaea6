"""What a run shows while it works: one bar with the time that remains, and failures at once.

Plain lines where the output is not a terminal. Torch-free.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import Progress

from ablations.engines.base import Ended, Progressed, Started, Told
from ablations.listing import show_seconds
from ablations.plan import Cell
from crossframe.progress import progress_bars


class Display(Protocol):
    """Is told what happens to cells."""

    def started(self, cell: Cell, event: Started) -> None:
        """A worker began a cell."""

    def progressed(self, cell: Cell, event: Progressed) -> None:
        """A cell is some steps further."""

    def ended(self, cell: Cell, event: Ended) -> None:
        """A worker is through with a cell."""

    def tells(self, event: Told) -> None:
        """The engine has something to say."""

    def waits(self, whom: str, cells: int) -> None:
        """Nothing is left but cells that other runners are at; told at every look."""


@contextmanager
def display(console: Console, total: int) -> Iterator[Display]:
    """Show `total` cells on a console."""
    if not console.is_terminal:
        yield Lines(console, total)
        return
    with progress_bars(console) as bars:
        yield Bar(bars, total)


class Bar:
    """A rich bar; running cells count by the steps they have done."""

    def __init__(self, bars: Progress, total: int) -> None:
        self.bars = bars
        self.task = bars.add_task("starting", total=total)
        self.running: dict[str, float] = {}
        self.over = 0

    def started(self, cell: Cell, event: Started) -> None:
        """Name the cell that began last."""
        self.running[cell.key] = 0.0
        self._show(title(cell))

    def progressed(self, cell: Cell, event: Progressed) -> None:
        """Move the bar by a part of a cell."""
        self.running[cell.key] = event.step / max(event.steps, 1)
        self._show(title(cell))

    def ended(self, cell: Cell, event: Ended) -> None:
        """Count the cell, and tell a failure without waiting for the end of the run."""
        self.running.pop(cell.key, None)
        if event.status != "busy":
            self.over += 1
        line = failure_line(cell, event)
        if line:
            self.bars.console.print(line, markup=False, style="red")
        self._show(waiting_line(cell, event) or title(cell))

    def tells(self, event: Told) -> None:
        """Print it above the bar."""
        self.bars.console.print(event.text, markup=False)

    def waits(self, whom: str, cells: int) -> None:
        """Name the runners instead of a cell."""
        self._show(idle_line(whom, cells))

    def _show(self, description: str) -> None:
        done = self.over + sum(self.running.values())
        self.bars.update(self.task, description=description, completed=done)


class Lines:
    """A line per finished cell."""

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total = console, total
        self.began = time.perf_counter()
        self.over = 0
        self.told = ""

    def started(self, cell: Cell, event: Started) -> None:
        """Say nothing yet."""

    def progressed(self, cell: Cell, event: Progressed) -> None:
        """Say nothing yet."""

    def ended(self, cell: Cell, event: Ended) -> None:
        """Print what became of the cell and the time that remains."""
        if event.status == "busy":
            if line := waiting_line(cell, event):
                self.console.print(line, markup=False, soft_wrap=True)
            return
        self.over += 1
        elapsed = time.perf_counter() - self.began
        left = show_seconds(elapsed / self.over * (self.total - self.over))
        line = f"[{self.over}/{self.total}] {title(cell)}: {event.status} (left: {left})"
        self.console.print(failure_line(cell, event) or line, markup=False, soft_wrap=True)

    def tells(self, event: Told) -> None:
        """Print it."""
        self.console.print(event.text, markup=False, soft_wrap=True)

    def waits(self, whom: str, cells: int) -> None:
        """Say so, once for the same runners."""
        if whom != self.told:
            self.console.print(idle_line(whom, cells), markup=False, soft_wrap=True)
        self.told = whom


def title(cell: Cell) -> str:
    """A cell in a few words."""
    return f"{cell.row.label} · {cell.clip.id} · seed {cell.seed_index}"


def waiting_line(cell: Cell, event: Ended) -> str:
    """A cell that waits for work that it shares, and who is at it, in one line, or ""."""
    return f"waits: {title(cell)}: {event.reason}" if event.waits else ""


def idle_line(whom: str, cells: int) -> str:
    """Who is at the cells that are left, in one line."""
    return f"waits for {whom} to end {cells} {'cell' if cells == 1 else 'cells'}"


def failure_line(cell: Cell, event: Ended) -> str:
    """A failed cell with its reason in one line, or ""."""
    if event.status in ("done", "cached", "busy"):
        return ""
    return f"{event.status}: {title(cell)}: {event.reason.splitlines()[0]}"
