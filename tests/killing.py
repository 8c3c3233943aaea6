"""Runs that are killed: at a named point of what they write, or at some moment.

A run happens in a process forked from a server that has loaded torch, so that a hundred of them
take seconds. It is killed by SIGKILL, from inside at a point or from outside at a moment; nothing
is mocked. With the engine `local` a point is one of what a slot writes: the run is killed, and the
slot with it, while another slot is left to notice.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fake_parts import fake_parts
from lab import Lab, engine, spec_text

from ablations.health import examine, jobs
from ablations.parts import Parts
from reports.load import load_run, registered_infos
from reports.tables import summarise, to_csv, to_latex, to_markdown

SPEC = spec_text(
    base={"steps": 1, "tune": True},
    clips=["world:tiny/0"],
    clip={"frames": 2, "size": 16},
    metrics=["psnr/mean_error", "brightness"],
)
CALLS = ("replace", "link", "fsync", "unlink", "mkdir", "write", "rmdir")
"""The calls of `os` through which a run changes what lies on disk."""
WAYS = ("before", "after", "halfway")
SELDOM = 4
"""Of calls made less often than this, the number depends on which slot is faster."""
MARK = "CROSSFRAME_KILLED_RUN"
"""A variable that the processes which a run starts inherit, to find those that outlive it."""


@dataclass(frozen=True)
class Point:
    """Before or after the n-th call of a function of `os`; a write can stop halfway."""

    call: str
    number: int
    when: str

    def __str__(self) -> str:
        return f"{self.when}-{self.call}-{self.number}"


class Watched:
    """Writes down the calls of a function in `<folder>/calls`; kills a run and itself at a point.

    What it writes goes past `os`, so that it is not watched itself.
    """

    def __init__(self, name: str, folder: Path, point: Point | None, run_pid: int) -> None:
        self.name, self.tally, self.point, self.run_pid = name, folder / "calls", point, run_pid
        self.call, self.count = getattr(os, name), 0

    def __call__(self, *arguments, **options):
        self.count += 1
        with self.tally.open("ab", buffering=0) as tally:
            tally.write(f"{self.name}\n".encode())
        point = self.point
        if point is None or (point.call, point.number) != (self.name, self.count):
            return self.call(*arguments, **options)
        if point.when == "halfway":
            handle, data = arguments
            self.call(handle, data[: len(data) // 2])
        elif point.when == "after":
            with suppress(OSError):  # as of what is unlinked if it is there
                self.call(*arguments, **options)
        os.kill(self.run_pid, signal.SIGKILL)
        return os.kill(os.getpid(), signal.SIGKILL)


def watch(folder: Path, point: Point | None, run_pid: int) -> None:
    """Watch what this process writes from now on."""
    for call in CALLS:
        setattr(os, call, Watched(call, folder, point, run_pid))


def watched_parts(folder: Path, point: Point | None, run_pid: int) -> Parts:
    """The fake parts, for a slot that is watched."""
    watch(folder, point, run_pid)
    return fake_parts()


def _run(folder: Path, point: Point | None, name: str) -> None:
    os.environ[MARK] = str(folder)
    lab = Lab(folder, SPEC)
    if name == "inline":
        watch(folder, point, os.getpid())
        lab.run(engine=engine(name))
    else:
        lab.far = partial(watched_parts, folder, point, os.getpid())
        lab.run(engine=engine(name, jobs=2))


def start(folder: Path, point: Point | None = None, name: str = "inline"):
    """Start a run in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ablations.work", "killing"])
    process = context.Process(target=_run, args=(folder, point, name))
    process.start()
    return process


def run(folder: Path, point: Point | None = None, name: str = "inline") -> int:
    """Run to the end, or to a point; returns the exit code, -9 when killed."""
    process = start(folder, point, name)
    process.join(600)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def run_for(folder: Path, seconds: float, name: str = "inline") -> int:
    """Run for some seconds at most."""
    process = start(folder, None, name)
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode


def points(counts: dict[str, int], each: int) -> list[Point]:
    """Some points of every call: first, last and evenly between, before, after or halfway."""
    found = []
    for call, count in sorted(counts.items()):
        numbers = {1 + round(i * (count - 1) / max(1, each - 1)) for i in range(each)}
        for place, number in enumerate(sorted(numbers)):
            ways = WAYS if call == "write" else WAYS[:2]
            found.append(Point(call, number, ways[place % len(ways)]))
    return found


def slot_points(counts: dict[str, int]) -> list[Point]:
    """A point of every call that one of two slots reaches, however they share the cells.

    Calls that are seldom made are left out: another run may make none of them.
    """
    often = [(call, count) for call, count in sorted(counts.items()) if count >= SELDOM]
    return [
        Point(call, 1 + count // 4, WAYS[place % 2]) for place, (call, count) in enumerate(often)
    ]


def outliving(folder: Path) -> list[int]:
    """Processes that the run in a folder has started and that are still there."""
    mark, found = f"{MARK}={folder}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def assert_alone(folder: Path, seconds: float = 60.0) -> None:
    """Nothing that a run has started outlives it by more than some seconds."""
    deadline = time.monotonic() + seconds
    while outliving(folder):
        assert time.monotonic() < deadline, f"processes outlive their run: {outliving(folder)}"
        time.sleep(0.01)


def table(folder: Path) -> bytes:
    """The final table of a run in all its formats."""
    loaded = load_run(folder / "run", registered_infos([]))
    summary = summarise(loaded)
    return "\n".join([to_csv(summary), to_markdown(summary), to_latex(summary, "t", "t")]).encode()


def results(folder: Path) -> dict[str, bytes]:
    """The finished cells by folder name, as they are stored."""
    found = (folder / "run").glob("cells/*/result.json")
    return {path.parent.name: path.read_bytes() for path in found}


def damage(folder: Path) -> list[str]:
    """What `crossframe verify` would call damaged, but for a line of the journal cut in half."""
    store = Lab(folder, SPEC).store
    findings = [finding for job in jobs(store) for finding in examine(store, job) if finding.fix]
    return [f"{f.path}: {f.what}" for f in findings if f.path.name != "journal.jsonl"]


class Undisturbed:
    """A run that nobody kills, and what must come out of every other.

    counts: calls that were watched, of all slots where there are some.
    """

    def __init__(self, folder: Path, name: str = "inline") -> None:
        run(folder / "first")  # starts the server that the others are forked from
        began = time.monotonic()
        assert run(folder, None, name) == 0
        self.seconds = time.monotonic() - began
        self.counts = dict(Counter((folder / "calls").read_text().split()))
        self.table = table(folder)
        self.cells = set(results(folder))


def survives(folder: Path, undisturbed: Undisturbed, kill) -> int:
    """Kill a run, resume it, and compare; returns the exit code of the killed run.

    What was done before the kill is kept as it was. Neither damage nor a process is left behind.
    """
    code = kill(folder)
    kept = results(folder) if (folder / "run").exists() else {}
    assert run(folder) == 0
    assert table(folder) == undisturbed.table
    after = results(folder)
    assert set(after) == undisturbed.cells
    assert {name: after[name] for name in kept} == kept
    found = damage(folder)
    assert not found, found
    assert_alone(folder)
    shutil.rmtree(folder)
    return code
