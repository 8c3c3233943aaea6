"""Cost of the harness: `make bench`.

Cells are of the grid `demo` on the miniature, in one process with one thread. Ratios compare two
ways within one run of this file:
    bare      networks loaded once, then sampler and metrics called in a loop; nothing is stored
    harness   the same cells through plan, engine, claims, store and journal
    apart     the same cells, a process for each
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ablations.cards import clip_request
from ablations.check import CheckedSpec, load_spec
from ablations.engines import ENGINES
from ablations.engines.base import EngineOptions
from ablations.plan import Plan, make_plan
from ablations.run import run_plan
from ablations.shipped import shipped_parts
from ablations.store import Store
from crossframe.verbs.common import find_spec
from methods.families import family_of

ONE_CLIP = ["clips=[world:heldout/0]", "sentinels=[]", "claims=[]", "report={}"]
LONG = [*ONE_CLIP, "grid={}", "seeds.count=4"]
"""Four cells of two seconds or more."""
TRIVIAL = ["method=frozen", "base={}", "grid={}", "sentinels=[]", "clips=[world:heldout/0..39]"]
TRIVIAL += ["clip.size=32", "clip.frames=2", "metrics=[motion/ratio]", "seeds.count=1", "claims=[]"]
TRIVIAL += ["report={}"]
DEMO = [*ONE_CLIP, "seeds.count=2"]
"""Ten cells of the demonstration as they stand."""
TURNS = 3


def planned(folder: Path, overrides: list[str]) -> tuple[CheckedSpec, Plan]:
    """The demonstration with overrides, planned for an empty store."""
    parts = shipped_parts()
    checked = load_spec(find_spec("demo"), overrides, parts)
    return checked, make_plan(checked, Store(folder), parts)


def drawn_by_networks(plan: Plan) -> int:
    """How many cells of a plan have networks draw them."""
    entries = [shipped_parts().methods.entry(cell.row.method) for cell in plan.cells]
    return sum(family_of(entry.extra) is not None for entry in entries)


def through_harness(
    folder: Path, overrides: list[str], engine: str, limit: int | None = None
) -> None:
    """Plan and run cells as `crossframe run` does, without a report."""
    _, plan = planned(folder, overrides)
    chosen = ENGINES.load(engine)(EngineOptions(threads=1))
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(file=nowhere)
        outcome = run_plan(plan, Store(folder), shipped_parts, chosen, console=console, limit=limit)
    assert outcome.exit_code == 0, outcome.failed
    assert outcome.done == min(len(plan.cells), limit or len(plan.cells))


def bare_loop(checked: CheckedSpec, plan: Plan, limit: int | None = None) -> None:
    """What a careful script without a harness would do with the same cells."""
    import torch

    from ablations.bench import to_tensor
    from methods.base import SampleRequest
    from metrics.base import MetricInputs
    from metrics.score import measure_all

    torch.set_num_threads(1)
    parts, spec = shipped_parts(), checked.spec
    backbone = parts.load_backbone(checked.backbone, "image")
    encoder = parts.load_encoder(
        parts.encoder_folder(spec.encoder, checked.backbone), spec.geometry
    )

    @lru_cache(maxsize=1)
    def prepared(ref: str) -> tuple[Any, Any, Any, Any]:
        """A clip with what its cells share."""
        clip = parts.load_clip(clip_request(ref, spec))
        flow = parts.flow(clip, lambda stage, what, make: make(), spec.flow)
        return clip, to_tensor(clip.frames), parts.control("edges", clip, "correct"), flow

    for cell in plan.cells[:limit]:
        clip, frames, edges, flow = prepared(cell.clip.ref)
        method = cell.row.method
        config = parts.method_config(method).model_validate(dict(cell.row.config))
        request = SampleRequest(frames, cell.prompt, controls={"edges": edges}, seed=cell.seed)
        with torch.inference_mode():
            video = parts.methods.load(method)(backbone, request, config, lambda step, steps: None)
        inputs = MetricInputs(video, frames, cell.prompt, source_prompt=clip.caption)
        names = list(cell.metric_keys)
        measure_all(names, inputs, flow=lambda found=flow: found, encoder=lambda: encoder)


def seconds(work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of a function, by the clock on the wall unless another is given."""
    began = clock()
    work()
    return clock() - began


def both_times(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the wall and of the processor: the latter bear machines that others use too."""
    processor = 0.0

    def timed() -> None:
        nonlocal processor
        processor = seconds(work, time.process_time)

    return seconds(timed), processor


def show(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Print a line in spite of pytest."""
    with capsys.disabled():
        print(f"\n{text}")


@pytest.mark.bench
def test_overhead_of_long_cells(tmp_path, capsys) -> None:
    """Of each further cell, in one process, so that both ways have the same modules loaded."""
    checked, plan = planned(tmp_path / "plan", LONG)
    folders = (tmp_path / f"run-{number}" for number in itertools.count())
    further = len(plan.cells) - 1

    def each(work: Callable[[int | None], None]) -> tuple[float, float]:
        one, all_of_them = both_times(lambda: work(1)), both_times(lambda: work(None))
        return (all_of_them[0] - one[0]) / further, (all_of_them[1] - one[1]) / further

    bare_loop(checked, plan, 1)  # whatever is imported late is there now
    turns = [
        (
            each(lambda limit: bare_loop(checked, plan, limit)),
            each(lambda limit: through_harness(next(folders), LONG, "inline", limit)),
        )
        for _ in range(TURNS)
    ]
    wall, processor = (
        statistics.median(harness[clock] / bare[clock] for bare, harness in turns)
        for clock in (0, 1)
    )
    took = statistics.median(bare[0] for bare, _ in turns)
    shown = f"{wall:.3f}x (processor time {processor:.3f}x)"
    show(capsys, f"harness / bare loop, each further cell, of {took:.1f} s: {shown}")


@pytest.mark.bench
@pytest.mark.parametrize("engine", ["inline", "local"])
def test_cells_per_second(engine, tmp_path, capsys) -> None:
    """From the first result of 40 trivial cells to the last, by the times of their files."""
    took = seconds(lambda: through_harness(tmp_path, TRIVIAL, engine))
    times = sorted(path.stat().st_mtime for path in tmp_path.glob("cells/*/result.json"))
    rate = (len(times) - 1) / (times[-1] - times[0])
    start = took - (times[-1] - times[0])
    show(capsys, f"{engine}: {rate:.0f} trivial cells a second, {start:.1f} s around them")


@pytest.mark.bench
@pytest.mark.parametrize("words", [["--help"], ["plan", "demo"]], ids=" ".join)
def test_start_up(words, tmp_path, capsys) -> None:
    """Beside an idle interpreter; a first start has written bytecode and hashes."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-m", "crossframe", *words]
    command += ["--out", str(tmp_path / "run")] if words[0] == "plan" else []

    def start(what: list[str]) -> float:
        return seconds(
            lambda: subprocess.run(what, check=True, capture_output=True, env=environment)
        )

    start(command)
    turns = [(start(command), start([sys.executable, "-c", "pass"])) for _ in range(9)]
    took, idle = (statistics.median(column) for column in zip(*turns, strict=True))
    best = min(turn[0] for turn in turns)
    ratio = f"{took / idle:.0f}x an idle interpreter"
    show(capsys, f"crossframe {' '.join(words)}: {took:.2f} s (best {best:.2f} s), {ratio}")


@pytest.mark.bench
def test_a_grid_against_separate_processes(tmp_path, capsys) -> None:
    """Ten cells in one run, and three of them in a process each, which stand for all."""
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from benchmarks.bench_harness import DEMO, through_harness\n"
        "through_harness(Path(sys.argv[1]), DEMO, 'inline', int(sys.argv[2]) or None)"
    )

    def process(folder: str, limit: int) -> float:
        command = [sys.executable, "-c", script, str(tmp_path / folder), str(limit)]
        root = Path(__file__).parents[1]
        return seconds(lambda: subprocess.run(command, check=True, cwd=root))

    count = len(planned(tmp_path / "plan", DEMO)[1].cells)
    process("warm", 1)  # files that are read from now on are in memory
    alone = statistics.median(process(f"alone-{turn}", 1) for turn in range(TURNS))
    together = process("together", 0)
    more = (together - alone) / (count - 1)
    facts = f"alone {alone:.1f} s, each further cell of a grid {more:.2f} s"
    show(capsys, f"{count} cells apart / together: {count * alone / together:.1f}x ({facts})")
    drawn = drawn_by_networks(planned(tmp_path / "plan", [])[1])
    whole = drawn * alone / (alone + (drawn - 1) * more)
    show(capsys, f"the {drawn} cells of the demonstration, at these rates: {whole:.1f}x")
