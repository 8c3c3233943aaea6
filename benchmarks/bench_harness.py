"""Cost of the harness: `make bench`.

Cells are those of the grid `demo` on the miniature, in one process with one thread. Ratios compare
two ways within one run:
    bare      networks loaded once, then sampler and metrics called in a loop; nothing is stored
    harness   the same cells through plan, engine, claims, store and journal
    apart     the same cells, a process for each
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablations.check import CheckedSpec, load_spec
from ablations.engines.base import EngineOptions
from ablations.engines.inline import InlineEngine
from ablations.engines.local import LocalEngine
from ablations.plan import Plan, make_plan
from ablations.run import run_plan
from ablations.shipped import shipped_parts
from ablations.store import Store
from crossframe.verbs.common import find_spec

ENGINES = {"inline": InlineEngine, "local": LocalEngine}
LONG = ["base.steps=24", "clips=[world:heldout/0]", "seeds.count=1", "sentinels=[]"]
"""Five cells of two seconds or more."""
TRIVIAL = ["method=frozen", "base={}", "grid={}", "sentinels=[]", "clips=[world:heldout/0..39]"]
TRIVIAL += ["clip.size=32", "clip.frames=2", "metrics=[motion/ratio]", "seeds.count=1", "claims=[]"]
TRIVIAL += ["report={rows: method}"]
APART = ["clips=[world:heldout/0..1]", "seeds.count=1", "sentinels=[]"]
"""Ten cells of the demonstration as they stand."""


def planned(folder: Path, overrides: list[str]) -> tuple[CheckedSpec, Plan, Store]:
    parts = shipped_parts()
    checked = load_spec(find_spec("demo"), overrides, parts)
    store = Store(folder)
    return checked, make_plan(checked, store, parts), store


def through_harness(
    folder: Path, overrides: list[str], engine: str, limit: int | None = None
) -> int:
    from rich.console import Console

    _, plan, store = planned(folder, overrides)
    chosen = ENGINES[engine](EngineOptions(threads=1))
    with open("/dev/null", "w", encoding="utf-8") as nowhere:
        outcome = run_plan(
            plan, store, shipped_parts, chosen, console=Console(file=nowhere), limit=limit
        )
    assert outcome.exit_code == 0
    return outcome.done


def bare_loop(checked: CheckedSpec, plan: Plan) -> None:
    """What a script without a harness would do with the same cells."""
    import torch

    from ablations.cell import to_tensor
    from methods.base import SampleRequest
    from metrics.base import MetricInputs
    from metrics.score import measure_all

    torch.set_num_threads(1)
    parts = shipped_parts()
    backbone = parts.load_backbone(checked.backbone)
    encoder = parts.load_encoder(parts.encoder_folder(checked.spec.encoder, checked.backbone))
    for cell in plan.cells:
        clip = _clip(cell, checked, parts)
        frames = to_tensor(clip.frames)
        controls = {"edges": parts.control("edges", clip)}
        config = parts.method_config(cell.row.method).model_validate(dict(cell.row.config))
        request = SampleRequest(frames, cell.prompt, controls=controls, seed=cell.seed)
        with torch.inference_mode():
            video = parts.methods.load(cell.row.method)(
                backbone, request, config, lambda a, b: None
            )
        inputs = MetricInputs(video, frames, cell.prompt)
        flow = parts.flow(clip, lambda stage, what, make: make())
        measure_all(list(cell.metric_keys), inputs, flow=lambda f=flow: f, encoder=lambda: encoder)


def _clip(cell: Any, checked: CheckedSpec, parts: Any) -> Any:
    from ablations.cards import clip_request

    return parts.load_clip(clip_request(cell.clip.ref, checked.spec))


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def show(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with capsys.disabled():
        print(f"\n{text}")


@pytest.mark.bench
def test_overhead_of_long_cells(tmp_path, capsys) -> None:
    """Inline, so that both ways load the same modules in the same process."""
    checked, plan, _ = planned(tmp_path / "plan", LONG)
    bare_loop(checked, plan)  # both ways after the first have everything imported
    bare, harness = [], []
    for turn in range(3):
        bare.append(seconds(lambda: bare_loop(checked, plan)))
        harness.append(
            seconds(lambda t=turn: through_harness(tmp_path / f"run-{t}", LONG, "inline"))
        )
    ratio = statistics.median(harness) / statistics.median(bare)
    each = statistics.median(bare) / len(plan.cells)
    show(capsys, f"harness / bare loop, cells of {each:.2f} s: {ratio:.3f}x")


@pytest.mark.bench
@pytest.mark.parametrize("engine", list(ENGINES))
def test_cells_per_second(engine, tmp_path, capsys) -> None:
    """The rate beyond what starting costs: 40 trivial cells against one."""
    one = seconds(lambda: through_harness(tmp_path / "one", TRIVIAL, engine, limit=1))
    took = seconds(lambda: through_harness(tmp_path / "all", TRIVIAL, engine))
    show(
        capsys, f"{engine}: {39 / max(took - one, 1e-9):.0f} trivial cells a second after the first"
    )


@pytest.mark.bench
@pytest.mark.parametrize("words", [["--help"], ["plan", "demo"]], ids=" ".join)
def test_start_up(words, tmp_path, capsys) -> None:
    """Against an interpreter that does nothing; the second start finds hashes remembered."""
    command = [sys.executable, "-m", "crossframe", *words]
    command += ["--out", str(tmp_path)] if words[0] == "plan" else []
    idle = [sys.executable, "-c", "pass"]
    subprocess.run(command, check=True, capture_output=True)
    took, nothing = (
        statistics.median(
            seconds(lambda c=c: subprocess.run(c, check=True, capture_output=True))
            for _ in range(7)
        )
        for c in (command, idle)
    )
    shown = " ".join(words)
    show(capsys, f"crossframe {shown}: {took:.3f} s, {took / nothing:.1f}x an idle interpreter")


@pytest.mark.bench
def test_a_grid_against_separate_processes(tmp_path, capsys) -> None:
    _, plan, _ = planned(tmp_path / "plan", APART)
    script = (
        "from benchmarks.bench_harness import APART, through_harness\n"
        "from pathlib import Path\nimport sys\n"
        "through_harness(Path(sys.argv[1]), APART, 'inline', int(sys.argv[2]) or None)"
    )

    def process(folder: str, limit: int) -> None:
        command = [sys.executable, "-c", script, str(tmp_path / folder), str(limit)]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[1])

    together = seconds(lambda: process("together", 0))
    apart = seconds(lambda: [process("apart", 1) for _ in plan.cells])
    count = len(plan.cells)
    ratio = f"{apart / together:.1f}x ({apart:.0f} s, {together:.0f} s)"
    show(capsys, f"{count} cells apart / together: {ratio}")
    # One start, then cells at the rate of those after the first.
    rate = (together - apart / count) / (count - 1)
    whole = 120 * (apart / count) / (apart / count + 119 * rate)
    show(capsys, f"the 120 cells of the demonstration at these rates: {whole:.1f}x")
