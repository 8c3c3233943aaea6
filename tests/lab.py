"""A small spec over the fake parts, and a folder to run it in: what tests of runs start from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_parts import fake_parts
from rich.console import Console

from ablations.check import load_spec
from ablations.engines import ENGINES
from ablations.engines.base import EngineOptions
from ablations.parts import Parts
from ablations.plan import Plan, make_plan
from ablations.run import Outcome, run_plan
from ablations.store import Store

HERE = Path(__file__).parent
SPEC = {
    "name": "tiny",
    "method": "noisy",
    "sentinels": ["source"],
    "base": {"steps": 2},
    "grid": {"attention.pattern": ["individual", "full"]},
    "clips": ["world:tiny/0..1"],
    "clip": {"frames": 2, "size": 8},
    "seeds": {"count": 2},
    "metrics": ["psnr/mean_error"],
}
"""Ten cells, two of them sentinels."""


def spec_text(**changed: Any) -> str:
    """`SPEC` with other fields, one per line; JSON is YAML too."""
    fields = (f"{name}: {json.dumps(value)}" for name, value in {**SPEC, **changed}.items())
    return "\n".join(fields) + "\n"


def engine(name: str, jobs: int = 1, threads: int | None = 1, **options: Any) -> Any:
    """An engine by name, with one thread per job."""
    return ENGINES.load(name)(EngineOptions(jobs=jobs, threads=threads, **options))


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A disk of `size` bytes, mounted at a new folder; the test is skipped where that is denied."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "crossframe-test", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


class Lab:
    """A spec in a folder of its own, and the store of its runs.

    parts: a test may replace them for what happens in its own process. far: what makes those of
    other processes.
    """

    def __init__(self, folder: Path, text: str = spec_text()) -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / "tiny.yaml"
        self.path.write_text(text, encoding="utf-8")
        self.store = Store(folder / "run")
        self.parts = fake_parts()
        self.far: Callable[[], Parts] = fake_parts

    def plan(self, *overrides: str, retry: tuple[str, ...] = ()) -> Plan:
        checked = load_spec(self.path, overrides, self.parts)
        return make_plan(checked, self.store, self.parts, retry)

    def run(
        self,
        *overrides: str,
        engine: Any = None,
        retry: tuple[str, ...] = (),
        limit: int | None = None,
    ) -> Outcome:
        """Run the spec, in this process unless another engine is given."""
        chosen = engine or ENGINES.load("inline")(EngineOptions(threads=1))
        parts = self.far if engine else lambda: self.parts
        plan = self.plan(*overrides, retry=retry)
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            console = Console(file=nowhere)
            return run_plan(plan, self.store, parts, chosen, console=console, limit=limit)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start `crossframe run` in a process of its own, with more words on its command line."""
        script = str(HERE / "fake_parts.py")
        command = [sys.executable, script, "run", str(self.path), "--out", str(self.store.root)]
        paths = os.pathsep.join([str(HERE.parent), str(HERE), *sys.path])
        return subprocess.Popen(
            [*command, *words],
            env={**os.environ, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def results(self) -> list[dict[str, Any]]:
        return [json.loads(p.read_text()) for p in self.store.root.glob("cells/*/result.json")]

    def metrics(self) -> dict[str, Any]:
        return {record["key"]: record["metrics"] for record in self.results()}

    def events(self) -> list[str]:
        return [event["event"] for event in self.store.events()]

    def starts(self) -> Counter[str]:
        """How often each cell was begun."""
        return Counter(e["key"] for e in self.store.events() if e["event"] == "cell-start")
