"""What a run and an engine say to each other.

An engine is told the `Order` once, then given cells; it answers with events as they happen. All
that is computed lies in the store: an engine that loses a message loses no result. Torch-free.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ablations.parts import Parts
from ablations.plan import Cell
from ablations.spec import Spec
from crossframe.errors import Problem, UserError

FLAGS: Mapping[str, str] = {
    "jobs": "--jobs",
    "address": "--address",
    "extra": "--engine-option",
}
"""Options that mean something to some engines only: field of `EngineOptions` -> its flag."""


@dataclass(frozen=True)
class Order:
    """What every worker of a run has to know; it is sent to other processes.

    parts: a function at the top level of a module. backbone: the parsed configuration. root: the
    run folder, absolute. threads: CPU threads of a worker, None = torch's choice. began: seconds
    since the epoch; failures recorded later than this are of this run or of one beside it.
    """

    spec: Spec
    backbone: Any
    root: Path
    parts: Callable[[], Parts]
    threads: int | None = None
    began: float = 0.0


@dataclass(frozen=True)
class EngineOptions:
    """What the user asks of an engine.

    jobs: cells computed at once. threads: CPU threads of a worker, None = what the engine thinks
    fit. address: of a cluster to join, None = start what is needed. extra: settings of one engine,
    `{"partition": "gpu"}`.
    """

    jobs: int = 1
    threads: int | None = None
    address: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Started:
    """A worker began a cell."""

    key: str
    where: str = ""


@dataclass(frozen=True)
class Progressed:
    """A cell is `step` of `steps` further."""

    key: str
    step: int
    steps: int


@dataclass(frozen=True)
class Ended:
    """A worker is through with a cell.

    status: one of the store's, or `cached` (it was there already), `busy` (another runner is at
    it), `full` (the disk takes no more: the cell is not to blame, and nothing is recorded of it).
    lost: the worker is gone, or could not write, so nobody has recorded the failure yet; it may
        have finished a busy cell without telling.
    waits: name of the claim that a busy cell waits for, "" for the claim on the cell itself.
    """

    key: str
    status: str
    reason: str = ""
    log: str = ""
    lost: bool = False
    waits: str = ""


@dataclass(frozen=True)
class Told:
    """Something about the workers that users should know, in one line."""

    text: str


Event = Started | Progressed | Ended | Told


class Engine(ABC):
    """Computes cells somewhere. `stop` may be called at any time, also after an interrupt.

    name: as in `ENGINES`. takes: the options of `FLAGS` that it heeds; others raise UserError.
    """

    name: ClassVar[str]
    takes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, options: EngineOptions) -> None:
        problems = [
            Problem(FLAGS[given], f"means nothing to --engine {self.name}", fix="leave it out")
            for given in foreign(options, self.takes)
        ]
        if problems:
            raise UserError(problems)
        self.options = options

    @property
    def threads(self) -> int | None:
        """CPU threads of each worker; None leaves them to the worker."""
        return self.options.threads

    @abstractmethod
    def start(self, order: Order) -> None:
        """Get ready; raises UserError when the engine cannot be had."""

    @abstractmethod
    def run(self, cells: Sequence[Cell]) -> Iterator[Event]:
        """Compute cells, first ones first; every cell ends with exactly one `Ended`."""

    @abstractmethod
    def stop(self) -> None:
        """Let workers go at once; what they were doing is abandoned."""


def foreign(options: EngineOptions, takes: frozenset[str]) -> list[str]:
    """The options of `FLAGS` that were given and are not among those that an engine takes."""
    usual = EngineOptions()
    given = [name for name in FLAGS if getattr(options, name) != getattr(usual, name)]
    return [name for name in given if name not in takes]


def share_of_cores(jobs: int) -> int:
    """CPU threads per job of this machine, so that jobs do not fight over its cores."""
    return max(1, len(os.sched_getaffinity(0)) // jobs)


def last_words(cells: Sequence[Cell], status: str, reason: str, log: str = "") -> list[Ended]:
    """What becomes of the cells of a worker that died, in the order in which they were begun.

    The last one is to blame; those before it, whose frames are stored, are tried again.
    """
    *others, blamed = cells
    spared = [Ended(cell.key, "busy", lost=True) for cell in others]
    return [*spared, Ended(blamed.key, status, reason, log, lost=True)]
