"""Distances between sets of clips in reports, against SciPy's matrix root."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reports_store import INFOS, WARP, Shape, write_store
from scipy.linalg import sqrtm

from crossframe.files import read_json, write_json
from reports import write_report
from reports.load import MetricInfo, Run, load_run
from reports.sets import set_scores
from reports.tables import summarise, to_csv, to_markdown

SMALL = Shape(clips=5, seeds=2, frames=2, side=8, metrics=(WARP,))
FVD = MetricInfo("fvd", "lower", "A distance between two sets.", (0, None), least_clips=5)
SHIFTS = {"individual": 3.0, "first+previous": 2.0, "full": 1.0, "source": 0.0, "frozen": 5.0}


def features(row: str, count: int) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=(10, 3))[:count]
    return (SHIFTS[row] + (1 + SHIFTS[row]) * noise).round(4)


def stored(root: Path, shape: Shape = SMALL) -> Path:
    """A run whose cells keep features of a metric over sets beside their scores."""
    write_store(root, shape)
    spec = read_json(root / "spec.json")
    write_json(root / "spec.json", {**spec, "metrics": [*spec["metrics"], "fvd"]})
    given: dict[str, int] = {}
    for entry in read_json(root / "plan.json"):
        path, row = root / "cells" / entry["key"][:16] / "result.json", entry["row"]
        place = given[row] = given.get(row, -1) + 1
        if path.is_file():
            result = read_json(path)
            result["metrics"]["fvd"] = {"features": features(row, 10)[place].tolist()}
            write_json(path, result)
    return root


def loaded(root: Path, least: int = 5) -> Run:
    return load_run(root, {**INFOS, "fvd": replace(FVD, least_clips=least)})


def expected(made: np.ndarray, real: np.ndarray) -> float:
    first, second = np.cov(made.T), np.cov(real.T)
    shift = np.square(made.mean(0) - real.mean(0)).sum()
    return float(shift + np.trace(first + second - 2 * sqrtm(first @ second).real))


def test_rows_are_compared_with_the_source_over_all_their_samples(tmp_path: Path) -> None:
    run = loaded(stored(tmp_path))
    scores, real = set_scores(run, run.metrics[-1]), features("source", 10)[:5]
    assert set(scores) == set(SHIFTS) - {"source"}
    for row, score in scores.items():
        count = 5 if row == "frozen" else 10
        assert score.n == count
        assert score.value == pytest.approx(expected(features(row, 10)[:count], real), rel=1e-6)
    assert scores["full"].value < scores["individual"].value


def test_the_table_ranks_them_and_tells_their_number(tmp_path: Path) -> None:
    table = summarise(loaded(stored(tmp_path)))
    ranks = {line.row.label: line.values["fvd"].rank for line in table.lines}
    assert ranks == {"full": 1, "first+previous": 2, "individual": 0, "source": 0, "frozen": 0}
    full = next(line for line in to_markdown(table).splitlines() if line.startswith("| full"))
    assert "n=10" in full
    heads, *lines = to_csv(table).splitlines()
    found = dict(zip(heads.split(","), lines[0].split(","), strict=True))
    assert (found["fvd:low"], found["fvd:high"], found["fvd:n"]) == ("", "", "10")
    assert "fvd is one value per row, over all its samples: no interval, no test." in table.notes


def test_small_sets_are_refused_by_row_with_their_size(tmp_path: Path) -> None:
    skip = [("full", clip, seed) for clip in range(4) for seed in (0, 1)]
    table = summarise(loaded(stored(tmp_path, replace(SMALL, skip=skip))))
    note = "fvd is refused for full: it needs 5 clips in each set, not 2 and 5."
    assert note in table.notes
    full = next(line for line in table.lines if line.row.label == "full")
    assert full.values["fvd"].interval.n == 0
    many = summarise(loaded(tmp_path, least=1000))
    rows = "individual, first+previous"
    note = f"fvd is refused for {rows}, frozen: it needs 1,000 clips in each set, not 10 and 5."
    assert note.replace(", frozen", "") in many.notes


def test_without_the_source_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    rows = [row for row in SHIFTS if row != "source"]
    notes = summarise(loaded(stored(tmp_path, replace(SMALL, rows=rows)))).notes
    assert any("it compares with the sentinel source, which is not among" in note for note in notes)


def test_the_whole_report_lives_with_a_metric_without_values_per_clip(tmp_path: Path) -> None:
    root = stored(tmp_path)
    spec = read_json(root / "spec.json")
    claims = [{"text": "full < individual on fvd", "source": "a paper"}]
    write_json(root / "spec.json", {**spec, "claims": claims})
    page = write_report(root, {**INFOS, "fvd": FVD}).read_text()
    assert "fvd is one value per row" in page
    assert "undecided" in page
    assert "unavailable for" not in page
