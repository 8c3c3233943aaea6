"""Runs that are killed: at a named point of what they write, or at some moment.

A run happens in a process forked from a server that has loaded torch, so that a hundred of them
take seconds. It is killed by SIGKILL, from inside at a point or from outside at a moment; nothing
is mocked.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from lab import Lab, engine, spec_text

from ablations.health import examine, jobs
from reports.load import load_run, registered_infos
from reports.tables import summarise, to_csv, to_latex, to_markdown

SPEC = spec_text(
    base={"steps": 1},
    clips=["world:tiny/0"],
    clip={"frames": 2, "size": 16},
    metrics=["psnr/mean_error", "brightness"],
)
CALLS = ("replace", "link", "fsync", "unlink", "mkdir", "write", "rmdir")
"""The calls of `os` through which a run changes what lies on disk."""


@dataclass(frozen=True)
class Point:
    """Before or after the n-th call of a function of `os`; a write can stop halfway."""

    call: str
    number: int
    when: str

    def __str__(self) -> str:
        return f"{self.when}-{self.call}-{self.number}"


class Watched:
    """Counts the calls of a function, and dies at a point."""

    def __init__(self, name: str, counts: Counter[str], point: Point | None) -> None:
        self.name, self.counts, self.point = name, counts, point
        self.call = getattr(os, name)

    def __call__(self, *arguments, **options):
        self.counts[self.name] += 1
        point = self.point
        if point is None or (point.call, point.number) != (self.name, self.counts[self.name]):
            return self.call(*arguments, **options)
        if point.when == "halfway":
            handle, data = arguments
            self.call(handle, data[: len(data) // 2])
        elif point.when == "after":
            self.call(*arguments, **options)
        return os.kill(os.getpid(), signal.SIGKILL)


def _run(folder: Path, point: Point | None, name: str) -> None:
    counts: Counter[str] = Counter()
    for call in CALLS:
        setattr(os, call, Watched(call, counts, point))
    Lab(folder, SPEC).run(engine=engine(name))
    (folder / "counts.json").write_text(json.dumps(counts))


def start(folder: Path, point: Point | None = None, name: str = "inline"):
    """Start a run in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ablations.work", "killing"])
    process = context.Process(target=_run, args=(folder, point, name))
    process.start()
    return process


def run(folder: Path, point: Point | None = None) -> int:
    """Run to the end, or to a point; returns the exit code, -9 when killed."""
    process = start(folder, point)
    process.join(600)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def run_for(folder: Path, seconds: float) -> int:
    """Run for some seconds at most."""
    process = start(folder)
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
            ways = ("before", "after", "halfway") if call == "write" else ("before", "after")
            found.append(Point(call, number, ways[place % len(ways)]))
    return found


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
    """A run that nobody kills, and what must come out of every other."""

    def __init__(self, folder: Path) -> None:
        run(folder / "first")  # starts the server that the others are forked from
        began = time.monotonic()
        assert run(folder) == 0
        self.seconds = time.monotonic() - began
        self.counts = json.loads((folder / "counts.json").read_text())
        self.table = table(folder)
        self.cells = set(results(folder))


def survives(folder: Path, undisturbed: Undisturbed, kill) -> int:
    """Kill a run, resume it, and compare; returns the exit code of the killed run.

    What was done before the kill is kept as it was. Damage is what no kill may leave behind.
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
    shutil.rmtree(folder)
    return code
