"""The engine of one machine: a process per slot, in which networks stay loaded.

A slot that dies takes only its cell with it and is started again, as is one that ran out of memory.
With GPUs each slot sees one. A slot ends as soon as the run that owns it is gone. Torch-free: the
run itself never loads torch.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from ablations.engines.base import (
    Ended,
    Engine,
    EngineOptions,
    Event,
    Order,
    Progressed,
    Started,
    last_words,
    share_of_cores,
)
from ablations.failures import explain_exit
from ablations.plan import Cell

GRACE = 5.0
"""Seconds that a slot has to end before it is killed."""


@dataclass(frozen=True)
class Free:
    """A slot can take the next cell, while it finishes this one beside it."""

    key: str


@dataclass
class Slot:
    """One worker process, the cell that it computes, and those that it only has to finish."""

    process: BaseProcess
    commands: Connection
    lifeline: Connection
    environment: Mapping[str, str]
    cell: Cell | None = None
    finishing: dict[str, Cell] = field(default_factory=dict)

    @property
    def busy(self) -> bool:
        """Whether anything is still to be heard of it."""
        return self.cell is not None or bool(self.finishing)

    @property
    def cells(self) -> list[Cell]:
        """What it has not ended, in the order in which it was begun."""
        return [*self.finishing.values(), *([self.cell] if self.cell else [])]

    def freed(self, key: str) -> None:
        """Its cell is only to be finished, unless it is over already."""
        if self.cell is not None and self.cell.key == key:
            self.finishing[key], self.cell = self.cell, None

    def ended(self, key: str) -> None:
        """A cell is over."""
        if self.finishing.pop(key, None) is None:
            self.cell = None


class LocalEngine(Engine):
    """`jobs` processes on this machine."""

    name = "local"
    takes = frozenset({"jobs"})

    def __init__(self, options: EngineOptions) -> None:
        super().__init__(options)
        self.slots: list[Slot] = []

    @property
    def threads(self) -> int | None:
        """A share of the cores; one process alone is left to torch."""
        jobs = self.options.jobs
        return self.options.threads or (None if jobs == 1 else share_of_cores(jobs))

    def start(self, order: Order) -> None:
        """Start the slots; they load torch while the first cells are handed out."""
        self.order = order
        pins = environments(self.options.jobs, visible_gpus())
        self.slots = [launch(order, pin) for pin in pins]

    def run(self, cells: Sequence[Cell]) -> Iterator[Event]:
        """Keep every slot busy until all cells have ended."""
        waiting = deque(cells)
        while waiting or any(slot.busy for slot in self.slots):
            for slot in self.slots:
                if slot.cell is None and waiting:
                    yield from self._hand_out(slot, waiting)
            yield from self._listen()

    def _hand_out(self, slot: Slot, waiting: deque[Cell]) -> Iterator[Event]:
        if not slot.process.is_alive():
            if slot.busy:  # with what it was finishing: `_listen` tells what became of that
                return
            slot = self._renew(slot)
        slot.cell = cell = waiting.popleft()
        try:
            slot.commands.send(cell)
        except OSError:  # it died just now: `_listen` tells
            return
        yield Started(cell.key, f"process {slot.process.pid}")

    def _listen(self) -> Iterator[Event]:
        busy: dict[Any, Slot] = {
            item: slot
            for slot in self.slots
            if slot.busy
            for item in (slot.commands, slot.process.sentinel)
        }
        for slot in {id(busy[item]): busy[item] for item in wait(list(busy))}.values():
            yield from self._hear(slot)

    def _hear(self, slot: Slot) -> Iterator[Event]:
        """Pass on what a slot says; its death is heard when it has nothing more to say."""
        try:
            while slot.commands.poll():
                event: Event | Free = slot.commands.recv()
                if isinstance(event, Free):
                    slot.freed(event.key)
                    return
                yield event
                if isinstance(event, Ended):
                    slot.ended(event.key)
                    if event.status == "oom":
                        self._renew(slot)
                    return
        except (EOFError, OSError):
            slot.process.join(GRACE)
        if not slot.process.is_alive():
            yield from last_words(slot.cells, *explain_exit(slot.process.exitcode))
            self._renew(slot)

    def _renew(self, slot: Slot) -> Slot:
        end([slot])
        fresh = launch(self.order, slot.environment)
        self.slots[self.slots.index(slot)] = fresh
        return fresh

    def stop(self) -> None:
        """End all slots at once."""
        end(self.slots)
        self.slots = []


def launch(order: Order, environment: Mapping[str, str]) -> Slot:
    """Start a slot's process, forked from a server that has loaded torch and nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ablations.work"])
    commands, far_commands = context.Pipe()
    far_lifeline, lifeline = context.Pipe(duplex=False)
    process = context.Process(
        target=serve, args=(order, dict(environment), far_commands, far_lifeline), daemon=True
    )
    process.start()
    far_commands.close()
    far_lifeline.close()
    return Slot(process, commands, lifeline, environment)


def serve(
    order: Order, environment: Mapping[str, str], commands: Connection, lifeline: Connection
) -> None:
    """The life of a slot: compute what comes down the pipe until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run decides what an interrupt means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    os.environ.update(environment)
    worker: Any = None
    mouth = threading.Lock()

    def say(event: Event | Free) -> None:
        """Tell the engine; two threads do."""
        with mouth:
            commands.send(event)

    while True:
        try:
            cell: Cell = commands.recv()
        except EOFError:
            return
        if worker is None:
            from ablations.work import Worker

            worker = Worker(order)

        def tell(step: int, steps: int, key: str = cell.key) -> None:
            say(Progressed(key, step, steps))

        if worker.begin(cell, say, tell):
            say(Free(cell.key))


def _end_with(lifeline: Connection) -> None:
    """End this process when the other end of a pipe is gone, whatever happened to its owner."""
    wait([lifeline])
    os._exit(1)


def end(slots: Sequence[Slot]) -> None:
    """End slots, by force where asking does not help."""
    for slot in slots:
        slot.commands.close()
        slot.lifeline.close()
        slot.process.terminate()
    for slot in slots:
        slot.process.join(GRACE)
        if slot.process.is_alive():
            slot.process.kill()
            slot.process.join()


def environments(jobs: int, gpus: Sequence[str]) -> list[dict[str, str]]:
    """What each slot sees: one GPU each, in turn, where there are GPUs."""
    if not gpus:
        return [{} for _ in range(jobs)]
    return [{"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} for slot in range(jobs)]


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, without loading torch."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name.strip() for name in allowed.split(",") if name.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    return listed.stdout.split() if listed.returncode == 0 else []
