"""Figures of tuning: its loss, and what its length trades for what."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reports_store import CONSISTENCY, INFOS, WARP, Shape, write_store

from reports import figures
from reports.canvas import NotDrawn
from reports.load import Run, load_run
from reports.losses import row_losses, running_mean
from reports.statistics import clip_means

SMALL = Shape(clips=2, seeds=2, frames=3, side=8)
STEPS = {"individual": 0, "first+previous": 100, "full": 300}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A run whose rows differ in the number of tuning steps."""
    found = load_run(write_store(tmp_path_factory.mktemp("run"), SMALL), INFOS)
    rows = tuple(
        row if row.sentinel else replace(row, axes={"tuning.steps": STEPS[row.label]})
        for row in found.rows
    )
    return replace(found, rows=rows)


def noted(run: Run, losses) -> Run:
    """The run with losses(row, clip, seed) in the notes of its cells, where it gives any."""
    cells = []
    for cell in run.cells:
        values = losses(cell.row, cell.clip, cell.seed_index)
        notes = {"tuning": {"losses": values}} if values else {}
        cells.append(replace(cell, record={**cell.record, "notes": notes}))
    return replace(run, cells=tuple(cells))


def drawn(run: Run, kind: str, **settings):
    return figures.draw(run, {"name": kind, "kind": kind, **settings})[0]


def test_losses_average_over_seeds_and_then_clips(run: Run) -> None:
    level = {("world:heldout/0", 0): 1.0, ("world:heldout/0", 1): 3.0, ("world:heldout/1", 0): 5.0}
    tuned = noted(
        run,
        lambda row, clip, seed: (
            [level[clip, seed], 2 * level[clip, seed]]
            if row == "full" and (clip, seed) in level
            else []
        ),
    )
    assert row_losses(tuned).keys() == {"full"}
    assert row_losses(tuned)["full"].tolist() == [(2 + 5) / 2, (4 + 10) / 2]


def test_a_running_mean_is_told_at_the_end_of_its_window() -> None:
    values = np.arange(60, dtype=float)
    steps, means = running_mean(values)
    assert steps.tolist() == list(range(3, 61))
    assert means == pytest.approx([values[step - 3 : step].mean() for step in steps])
    steps, means = running_mean(np.array([4.0, 2.0]))
    assert (steps.tolist(), means.tolist()) == ([1, 2], [4.0, 2.0])


def test_rows_tuned_alike_share_a_line_and_a_shorter_tuning_lies_on_the_longer(run: Run) -> None:
    curve = [1.0, 0.5, 0.25, 0.125]
    given = {"individual": curve, "first+previous": curve[:2], "full": [1.0, 0.9]}
    made = drawn(noted(run, lambda row, clip, seed: given.get(row, [])), "losses")
    lines = {line.get_label(): line.get_ydata().tolist() for line in made.axes[0].lines}
    assert lines == {"individual, first+previous": curve, "full": [1.0, 0.9]}


def test_a_run_that_tunes_gets_the_figure_and_another_does_not(run: Run) -> None:
    assert "losses" not in figures.catalogue(run)
    with pytest.raises(NotDrawn, match="no cell was tuned"):
        drawn(run, "losses")
    assert "losses" in figures.catalogue(noted(run, lambda *_: [1.0]))


def test_a_tradeoff_goes_through_the_means_in_the_order_of_the_axis(run: Run) -> None:
    made = drawn(run, "tradeoff", metrics=(WARP, CONSISTENCY), axes=("tuning.steps",))
    (ax,) = made.axes
    assert ax.get_xlabel().startswith(WARP)
    assert ax.get_ylabel().startswith(CONSISTENCY)
    line = next(line for line in ax.lines if line.get_label() == "grid")
    means = [clip_means(run.scores, metric) for metric in (WARP, CONSISTENCY)]
    expected = [[each[label].mean() for label in STEPS] for each in means]
    assert line.get_xdata() == pytest.approx(expected[0])
    assert line.get_ydata() == pytest.approx(expected[1])
    assert [text.get_text() for text in ax.texts] == ["0", "100", "300"]
    assert {"source", "frozen"} <= {line.get_label() for line in ax.lines}


@pytest.mark.parametrize("metrics", [(WARP,), ()])
def test_a_tradeoff_needs_two_metrics(run: Run, metrics: tuple[str, ...]) -> None:
    with pytest.raises(NotDrawn, match="two metrics"):
        drawn(run, "tradeoff", metrics=metrics, axes=("tuning.steps",))


def test_both_are_saved(run: Run, tmp_path: Path) -> None:
    from reports.style import save

    tuned = noted(run, lambda *_: [1.0, 0.5])
    save(drawn(tuned, "losses"), tmp_path / "losses")
    save(drawn(run, "tradeoff", metrics=(WARP, CONSISTENCY)), tmp_path / "tradeoff")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "losses.pdf",
        "losses.png",
        "tradeoff.pdf",
        "tradeoff.png",
    ]
