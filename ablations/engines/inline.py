"""The engine without processes: what a worker does, done here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ablations.engines.base import Engine, Event, Order, Started
from ablations.plan import Cell
from ablations.work import Worker


class InlineEngine(Engine):
    """One cell after another in this process; a crash takes the run with it."""

    def start(self, order: Order) -> None:
        """Load what all cells share."""
        self.worker = Worker(order)

    def run(self, cells: Sequence[Cell]) -> Iterator[Event]:
        """Compute cells in order; progress within a cell is not told."""
        for cell in cells:
            yield Started(cell.key)
            yield self.worker.run(cell)

    def stop(self) -> None:
        """Nothing runs when nobody waits."""
