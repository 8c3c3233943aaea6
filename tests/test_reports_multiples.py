"""Small multiples: which line lies in which panel."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reports_store import CONSISTENCY, INFOS, WARP, Shape, write_store

from reports import figures
from reports.canvas import NotDrawn
from reports.load import Run, load_run
from reports.series import row_series

SMALL = Shape(clips=2, seeds=1, frames=3, side=8)
PLACES = {"individual": ("a", 0.5), "first+previous": ("a", 1.0), "full": ("b", 0.5)}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = load_run(write_store(tmp_path, SMALL), INFOS)
    rows = tuple(
        replace(row, axes=dict(zip(("ramp.shape", "ramp.max"), PLACES[row.label], strict=True)))
        if row.label in PLACES
        else row
        for row in made.rows
    )
    return replace(made, rows=rows)


def drawn(run: Run, **settings: object):
    return figures.draw(run, {"name": "m", "kind": "multiples", **settings})[0]


def lines_of(ax) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_ydata() for line in ax.lines}


def test_panels_are_metrics_by_values_and_lines_keep_their_colour(run: Run) -> None:
    made = drawn(run, axes=("ramp.shape", "ramp.max"), metrics=(CONSISTENCY, WARP))
    assert len(made.axes) == 4
    assert [ax.get_title("left") for ax in made.axes[:2]] == ["max 0.5", "max 1.0"]
    assert made.axes[2].get_ylabel().startswith(WARP)
    low, high = (lines_of(ax) for ax in made.axes[2:])
    series = row_series(run, WARP)
    assert low["shape=a"] == pytest.approx(series["individual"])
    assert low["shape=b"] == pytest.approx(series["full"])
    assert high["shape=a"] == pytest.approx(series["first+previous"])
    assert len(high["shape=b"]) == 0
    assert low["source"] == pytest.approx(series["source"])
    colours = [{line.get_label(): line.get_color() for line in ax.lines} for ax in made.axes]
    assert all(each == colours[0] for each in colours)


def test_panels_of_a_metric_share_their_scale(run: Run) -> None:
    made = drawn(run, axes=("ramp.shape", "ramp.max"), metrics=(WARP,))
    assert made.axes[0].get_ylim() == made.axes[1].get_ylim()


def test_rows_that_differ_elsewhere_are_averaged(run: Run) -> None:
    made = drawn(run, axes=("ramp.shape",), metrics=(WARP,))
    series = row_series(run, WARP)
    mean = (series["individual"] + series["first+previous"]) / 2
    assert lines_of(made.axes[0])["shape=a"] == pytest.approx(mean)


def test_what_cannot_be_shown_is_said(run: Run) -> None:
    plain = replace(run, rows=tuple(replace(row, axes={}) for row in run.rows))
    with pytest.raises(NotDrawn, match="no axis"):
        drawn(plain, metrics=(WARP,))
    many = [replace(run.rows[0], label=str(n), axes={"a": 1, "b": n}) for n in range(7)]
    with pytest.raises(NotDrawn, match="7 values"):
        drawn(replace(run, rows=(*run.rows, *many)), axes=("a", "b"), metrics=(WARP,))
