"""The engine of a Ray cluster: an actor per slot, in which networks stay loaded.

All nodes must see the run folder under the same path and have crossframe installed. Actors are
never restarted or retried by Ray: a cell that kills its worker is recorded and the slot renewed.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError

from ablations.engines.base import (
    Ended,
    Engine,
    EngineOptions,
    Event,
    Order,
    Started,
    Told,
    last_words,
    share_of_cores,
)
from ablations.plan import Cell
from crossframe.errors import Problem, UserError

PATIENCE = 20.0
"""Seconds after which it is told that actors still wait for room; they import torch first."""


class Slot:
    """A `Worker` inside a Ray actor; it is made in the actor's own process."""

    def __init__(self, order: Order) -> None:
        from ablations.work import Worker

        self.worker = Worker(order)
        self.ends: deque[Ended] = deque()

    def where(self) -> str:
        """Return the process, its host and the GPU that it sees: an answer means it is placed."""
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
        return f"process {os.getpid()} on {socket.gethostname()}" + (f", GPU {gpu}" if gpu else "")

    def begin(self, cell: Cell) -> list[Ended]:
        """Compute a cell; return what ended meanwhile, in most cases the one before it."""
        self.worker.begin(cell, self.ends.append)
        return self._told()

    def join(self) -> list[Ended]:
        """Finish what was begun."""
        self.worker.join()
        return self._told()

    def _told(self) -> list[Ended]:
        return [self.ends.popleft() for _ in range(len(self.ends))]


@dataclass(eq=False)
class Seat:
    """An actor, what it is asked, and the cells that it has begun and not ended.

    where: "" until it is placed. since: when it was asked for, by the monotonic clock.
    """

    actor: Any
    call: Any
    since: float
    where: str = ""
    cells: dict[str, Cell] = field(default_factory=dict)


class RayEngine(Engine):
    """`jobs` actors on a cluster, with a GPU each where the cluster has GPUs.

    An actor reserves as many CPUs as it has threads. Cells are given to actors that are placed;
    those for which there is no room get none.
    """

    name = "ray"
    takes = frozenset({"jobs", "address"})

    def __init__(self, options: EngineOptions) -> None:
        super().__init__(options)
        self.seats: list[Seat] = []
        self.told = False

    @property
    def threads(self) -> int:
        """A share of the cores of this machine, or one on a cluster that is joined."""
        share = 1 if self.options.address else share_of_cores(self.options.jobs)
        return self.options.threads or share

    def start(self, order: Order) -> None:
        """Join the cluster at `address`, or start one here, and ask for the actors."""
        self.order = order
        connect(self.options.address, self.options.jobs * self.threads)
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        self.needs = {"CPU": self.threads, "GPU": gpus}
        require_room(ray.nodes(), self.needs)
        once = ray.remote(num_cpus=self.threads, num_gpus=gpus, max_restarts=0, max_task_retries=0)
        self.actor = once(Slot)
        self.seats = [self._place() for _ in range(self.options.jobs)]

    def _place(self) -> Seat:
        actor: Any = self.actor.remote(self.order)
        return Seat(actor, actor.where.remote(), time.monotonic())

    def run(self, cells: Sequence[Cell]) -> Iterator[Event]:
        """Keep every placed actor busy until all cells have ended."""
        waiting = deque(cells)
        while waiting or any(seat.cells for seat in self.seats):
            for seat in self.seats:
                yield from hand_out(seat, waiting)
            calls = {seat.call: seat for seat in self.seats if seat.call is not None}
            for call in ray.wait(list(calls), timeout=PATIENCE)[0]:
                yield from self._hear(calls[call], waiting)
            yield from self._tell_unplaced()

    def _hear(self, seat: Seat, waiting: deque[Cell]) -> Iterator[Ended]:
        """Take an actor's answer: where it is, or what ended."""
        call, seat.call = seat.call, None
        try:
            answer: str | list[Ended] = ray.get(call)
        except RayError as error:
            yield from self._gone(seat, error, waiting)
            return
        if isinstance(answer, str):
            seat.where = answer
            return
        for ended in answer:
            del seat.cells[ended.key]
            yield ended
        if not seat.cells and any(ended.status == "oom" for ended in answer):
            self._replace(seat)

    def _gone(self, seat: Seat, error: RayError, waiting: deque[Cell]) -> Iterator[Ended]:
        """Blame a cell for the end of an actor, the next one where it ended before its first."""
        self._replace(seat)
        cells = [*seat.cells.values()] or [waiting.popleft() for _ in range(bool(waiting))]
        yield from last_words(cells, *cause(error)) if cells else ()

    def _replace(self, seat: Seat) -> None:
        ray.kill(seat.actor)
        self.seats[self.seats.index(seat)] = self._place()

    def _tell_unplaced(self) -> Iterator[Told]:
        """Say once that there is no room for some actors."""
        late = time.monotonic() - PATIENCE
        placed = sum(bool(seat.where) for seat in self.seats)
        if not self.told and any(not seat.where and seat.since <= late for seat in self.seats):
            self.told = True
            some = f"{placed} of {self.options.jobs} workers"
            yield Told(f"Ray has placed {some}; the others wait for {amounts(self.needs)} each")

    def stop(self) -> None:
        """End the actors and leave the cluster."""
        for seat in self.seats:
            ray.kill(seat.actor)
        self.seats = []
        ray.shutdown()


def hand_out(seat: Seat, waiting: deque[Cell]) -> Iterator[Started]:
    """Ask an idle actor for the next cell, or to finish what it has begun."""
    if seat.call is not None:
        return
    if waiting:
        cell = waiting.popleft()
        seat.cells[cell.key] = cell
        seat.call = seat.actor.begin.remote(cell)
        yield Started(cell.key, seat.where)
    elif seat.cells:
        seat.call = seat.actor.join.remote()


def require_room(nodes: Sequence[Mapping[str, Any]], needs: Mapping[str, int]) -> None:
    """Raise UserError unless a node, as `ray.nodes` lists it, could hold an actor when idle."""

    def holds(node: Mapping[str, Any]) -> bool:
        """Whether there is enough of everything."""
        return all(node["Resources"].get(name, 0) >= count for name, count in needs.items())

    if not any(node["Alive"] and holds(node) for node in nodes):
        what = f"no node of the cluster has {amounts(needs)}, which a worker needs"
        raise UserError(Problem("--engine ray", what, fix="choose fewer --threads"))


def amounts(needs: Mapping[str, int]) -> str:
    """`{"CPU": 2, "GPU": 1}` -> "2 CPUs and 1 GPU"; what is not needed is not named."""
    return " and ".join(f"{n} {name}{'s' * (n > 1)}" for name, n in needs.items() if n)


def connect(address: str | None, cpus: int) -> None:
    """Join a cluster, or start one of `cpus` CPUs; raises UserError when there is none to be had.

    Ray raises a plain Exception when its processes are slow to start. It also puts a handler of its
    own on SIGTERM, which would end the run without its last words.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    here: dict[str, Any] = {"num_cpus": cpus, "include_dashboard": False}
    arguments = {"address": address} if address else here
    kept = signal.getsignal(signal.SIGTERM)
    try:
        _require_answer(address)
        ray.init(**arguments, log_to_driver=False, configure_logging=False)
    except Exception as error:
        where = f"--address {address}" if address else "--engine ray"
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


def cause(error: RayError) -> tuple[str, str, str]:
    """Status, reason and log of the cell that a worker was at when Ray lost it."""
    status = "oom" if isinstance(error, OutOfMemoryError) else "failed"
    first = str(error).partition("\n")[0]
    reason = f"its Ray worker is gone: {type(error).__name__}: {first}"
    return status, reason, str(error)
