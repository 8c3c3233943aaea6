"""The engine without processes: what a worker does, done here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from ablations.engines.base import Ended, Engine, Event, Order, Started
from ablations.plan import Cell
from ablations.work import Worker


class InlineEngine(Engine):
    """One cell after another in this process; a crash takes the run with it."""

    name = "inline"

    def start(self, order: Order) -> None:
        """Load what all cells share."""
        self.worker = Worker(order)
        self.ended: deque[Ended] = deque()

    def run(self, cells: Sequence[Cell]) -> Iterator[Event]:
        """Compute cells in order; progress within a cell is not told."""
        for cell in cells:
            yield Started(cell.key)
            self.worker.begin(cell, self.ended.append)
            yield from self._told()
        self.worker.join()
        yield from self._told()

    def _told(self) -> Iterator[Event]:
        while self.ended:
            yield self.ended.popleft()

    def stop(self) -> None:
        """Finish the cell that is all but done."""
        self.worker.join()
