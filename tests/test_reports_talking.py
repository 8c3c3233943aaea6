"""Figures of talking faces: which curves they show, and change around borders."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from reports_store import INFOS, Shape, write_store

from reports import figures
from reports.canvas import NotDrawn
from reports.load import Cell, Run, load_run
from reports.talking import CHANGE, MOUTH, REACH, SEAM, around

LOUD = [0.0, 1.0, 2.0, 1.0]
OPENING = {"individual": [1.0, 2.0, 3.0, 2.0], "full": [3.0, 3.0, 3.0, 3.0]}


def told(cell: Cell) -> Cell:
    """A cell with curves of mouth and voice, a steady change and one jump."""
    jump = {"individual": 3.0, "full": 1.0}.get(cell.row, 1.0)
    metrics = {
        CHANGE: {"value": 1.0, "series": [0.1, 0.1, 0.1 * jump, 0.1, 0.1], "detail": {}},
        SEAM: {"unavailable": "made at once"},
    }
    if cell.row in OPENING:
        detail = {"opening": OPENING[cell.row], "envelope": LOUD}
        metrics[MOUTH] = {"value": 1.0, "series": [], "detail": detail}
        metrics[SEAM] = {"value": jump, "series": [jump], "detail": {"borders": [3]}}
    return replace(cell, record={**cell.record, "metrics": metrics})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = load_run(write_store(tmp_path, Shape(clips=2, seeds=1, frames=6, side=8)), INFOS)
    return replace(made, cells=tuple(map(told, made.cells)))


def drawn(run: Run, kind: str, **settings: object) -> Figure:
    return figures.draw(run, {"name": kind, "kind": kind, **settings})[0]


def lines_of(ax: Axes) -> dict[str, np.ndarray]:
    return {str(line.get_label()): np.asarray(line.get_ydata()) for line in ax.lines}


def test_mouth_and_voice_share_a_panel_per_clip(run: Run) -> None:
    made = drawn(run, "voice", rows=("individual", "full", "source"))
    assert len(made.axes) == 2
    lines = lines_of(made.axes[0])
    assert set(lines) == {"individual", "full"}
    standard = (np.array(LOUD) - 1) / np.std(LOUD)
    assert lines["individual"] == pytest.approx(standard)
    assert lines["full"] == pytest.approx(np.zeros(4))
    assert [patch.get_label() for patch in made.axes[0].collections] == ["voice"]


def test_change_is_shown_around_borders_by_row(run: Run) -> None:
    made = drawn(run, "borders", rows=("individual", "full", "source"))
    lines = lines_of(made.axes[0])
    assert lines["individual"][REACH] == pytest.approx(3)
    assert lines["full"][REACH] == pytest.approx(1)
    assert lines["source"][REACH - 1 : REACH + 2] == pytest.approx(np.ones(3)), "others' borders"
    assert np.isnan(lines["full"][0])


def test_pairs_belong_to_the_nearest_border() -> None:
    change = np.array([1.0, 1, 4, 1, 1, 1, 6, 1])
    found = around(change, [3, 7])
    assert found[REACH] == pytest.approx(5)
    assert found[REACH + 1] == pytest.approx(1)
    assert np.isfinite(found).sum() == 5


def test_what_cannot_be_shown_is_said(tmp_path: Path) -> None:
    bare = load_run(write_store(tmp_path, Shape(clips=1, seeds=1, frames=3, side=8)), INFOS)
    with pytest.raises(NotDrawn, match="curves of sync/mouth_corr"):
        drawn(bare, "voice")
    with pytest.raises(NotDrawn, match="no cell has borders"):
        drawn(bare, "borders")
