"""The engine of a Ray cluster: an actor per slot, in which networks stay loaded.

All nodes must see the run folder under the same path and have crossframe installed. Actors are
never restarted or retried by Ray: a cell that kills its worker is recorded and the slot renewed.
"""

from __future__ import annotations

import os
import signal
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from ablations.engines.base import Ended, Engine, EngineOptions, Event, Order, Started
from ablations.plan import Cell
from crossframe.errors import Problem, UserError


class Slot:
    """A `Worker` inside a Ray actor; it is made in the actor's own process."""

    def __init__(self, order: Order) -> None:
        from ablations.work import Worker

        self.worker = Worker(order)

    def run(self, cell: Cell) -> Ended:
        """Compute one cell."""
        return self.worker.run(cell)


class RayEngine(Engine):
    """`jobs` actors on a cluster, with a GPU each where the cluster has GPUs."""

    def __init__(self, options: EngineOptions) -> None:
        super().__init__(options)
        self.slots: list[Any] = []
        self.busy: dict[Any, tuple[Any, Cell]] = {}

    def start(self, order: Order) -> None:
        """Join the cluster at `address`, or start one here, and place the actors."""
        self.order = order
        connect(self.options)
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        self.actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0, max_task_retries=0)(Slot)
        self.slots = [self._place() for _ in range(self.options.jobs)]

    def _place(self) -> Any:
        return self.actor.remote(self.order)

    def run(self, cells: Sequence[Cell]) -> Iterator[Event]:
        """Keep every actor busy until all cells have ended."""
        waiting, free = deque(cells), deque(self.slots)
        while waiting or self.busy:
            while waiting and free:
                slot, cell = free.popleft(), waiting.popleft()
                self.busy[slot.run.remote(cell)] = (slot, cell)
                yield Started(cell.key, "ray")
            ready, _ = ray.wait(list(self.busy), num_returns=1)
            slot, cell = self.busy.pop(ready[0])
            event = outcome(ready[0], cell)
            if event.lost or event.status == "oom":
                slot = self._replace(slot)
            free.append(slot)
            yield event

    def _replace(self, slot: Any) -> Any:
        ray.kill(slot)
        fresh = self._place()
        self.slots[self.slots.index(slot)] = fresh
        return fresh

    def stop(self) -> None:
        """End the actors and leave the cluster."""
        for slot in self.slots:
            ray.kill(slot)
        self.slots, self.busy = [], {}
        ray.shutdown()


def connect(options: EngineOptions) -> None:
    """Join or start a cluster; raises UserError when there is none to be had.

    Ray raises a plain Exception when its processes are slow to start. It also puts a handler of its
    own on SIGTERM, which would end the run without its last words.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    here: dict[str, Any] = {"num_cpus": options.jobs, "include_dashboard": False}
    arguments = {"address": options.address} if options.address else here
    kept = signal.getsignal(signal.SIGTERM)
    try:
        _require_answer(options.address)
        ray.init(**arguments, log_to_driver=False, configure_logging=False)
    except Exception as error:
        where = f"--address {options.address}" if options.address else "--engine ray"
        fix = "start one with `ray start --head`, or leave --address out"
        raise UserError(Problem(where, f"no Ray cluster: {error}", fix=fix)) from error
    finally:
        signal.signal(signal.SIGTERM, kept)


def _require_answer(address: str | None) -> None:
    """Raise OSError or ValueError unless something listens there; Ray itself waits for minutes."""
    if address is None or address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host, int(port)), timeout=5).close()


def outcome(future: Any, cell: Cell) -> Ended:
    """What an actor answered, or what its death means."""
    try:
        ended: Ended = ray.get(future)
    except OutOfMemoryError as error:
        return Ended(cell.key, "oom", _first_line(error), lost=True)
    except (RayActorError, RayTaskError) as error:
        return Ended(cell.key, "failed", _first_line(error), str(error), lost=True)
    return ended


def _first_line(error: Exception) -> str:
    return f"its Ray worker is gone: {type(error).__name__}: {str(error).splitlines()[0]}"
