from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from reports_store import CONSISTENCY, INFOS, MOTION, SENTINELS, WARP, Shape, write_store

from ablations.stages import StageCache
from crossframe.errors import UserError
from crossframe.files import read_json, write_json
from crossframe.keys import array_sha256
from crossframe.video import read_frames
from reports import figures, series, strips
from reports.canvas import NotDrawn, ask_for, wrap
from reports.errormaps import Flow, warp_errors
from reports.load import Run, load_run
from reports.style import COLUMN, PAGE, PALETTE, looks, looks_among, save

SMALL = Shape(clips=2, seeds=1, frames=3, side=8)


def run_of(root: Path, shape: Shape = SMALL) -> Run:
    return load_run(write_store(root, shape), INFOS)


def drawn(run: Run, kind: str, **settings: object) -> Figure:
    return figures.draw(run, {"name": kind, "kind": kind, **settings})[0]


def with_report(run: Run, **report: object) -> Run:
    return replace(run, spec={**run.spec, "report": {**run.spec["report"], **report}})


def test_rows_look_the_same_everywhere_and_sentinels_are_grey(tmp_path: Path) -> None:
    found = looks(run_of(tmp_path).rows)
    assert [found[r].colour for r in ("individual", "first+previous", "full")] == list(PALETTE[:3])
    for label in SENTINELS:
        red, green, blue = (found[label].colour[i : i + 2] for i in (1, 3, 5))
        assert red == green == blue


def test_bars_stand_at_the_means_in_row_order(tmp_path: Path) -> None:
    made = drawn(run_of(tmp_path), "bars")
    assert [ax.get_title("left") for ax in made.axes] == [
        f"{CONSISTENCY} ↑",
        f"{WARP} ↓",
        f"{MOTION} → 1",
    ]
    ax = made.axes[1]
    markers = [line for line in ax.lines if line.get_marker() in ("o", "s", "^", "h", "d")]
    places = [
        (float(np.ravel(m.get_xdata())[0]), float(np.ravel(m.get_ydata())[0])) for m in markers
    ]
    assert places == [
        (pytest.approx(x), i) for i, x in enumerate((0.092, 0.062, 0.052, 0.003, 0.122))
    ]
    labels = [t.get_text() for t in made.axes[0].get_yticklabels()]
    assert labels[:2] == ["individual", "first+previous"]
    clouds = [found for found in ax.collections if isinstance(found, PathCollection)]
    assert [len(cloud.get_offsets()) for cloud in clouds] == [2] * 5


def test_scatter_needs_motion(tmp_path: Path) -> None:
    assert len(drawn(run_of(tmp_path / "with"), "scatter").axes) == 2
    without = run_of(tmp_path / "without", replace(SMALL, metrics=(WARP,)))
    with pytest.raises(NotDrawn, match=MOTION):
        drawn(without, "scatter")


def test_scatter_puts_the_better_end_on_top(tmp_path: Path) -> None:
    made = drawn(run_of(tmp_path), "scatter")
    assert [ax.yaxis_inverted() for ax in made.axes] == [False, True]


def test_curves_average_over_clips(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    first, second = (cell.metrics[WARP]["series"] for cell in run.cells_of("full"))
    found = series.row_series(run, WARP)["full"]
    assert found == pytest.approx((np.array(first) + np.array(second)) / 2)


def test_differences_stand_on_their_side_of_zero(tmp_path: Path) -> None:
    made = drawn(run_of(tmp_path), "differences")
    assert made.axes[1].get_title("left") == f"{WARP} ↓"
    low, high = made.axes[1].get_xlim()
    assert low < -0.04 < high


def test_equal_data_give_equal_files(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", replace(SMALL, metrics=(WARP,)))
    for name in ("a", "b"):
        save(drawn(run, "bars"), tmp_path / name)
    for kind in ("png", "pdf"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_nothing_done_gives_no_figures(tmp_path: Path) -> None:
    everything = [(r, c, 0) for r in SMALL.rows for c in range(2)]
    run = run_of(tmp_path, replace(SMALL, skip=everything))
    for kind in figures.KINDS:
        with pytest.raises(NotDrawn):
            drawn(run, kind)


def test_strips_show_the_lossless_frames_source_on_top(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    clip = "world:heldout/0"
    block = strips.strands(run, clip)
    assert [s.label for s in block] == ["source", "individual", "first+previous", "full", "frozen"]
    source = read_frames(tmp_path / "clips/world-heldout-0/frames")
    shown = [
        np.asarray(image.get_array()) for ax in drawn(run, "strips").axes for image in ax.images
    ]
    assert np.array_equal(shown[5], source[1])  # second column; as many pixels as were stored


def test_a_missing_cell_is_told_in_its_place(tmp_path: Path) -> None:
    run = run_of(tmp_path, replace(SMALL, fail={("full", 0, 0): "boom"}))
    strand = strips.strands(run, "world:heldout/0")[3]
    assert (strand.label, strand.frames, strand.note) == ("full", None, "failed")
    texts = [text.get_text() for ax in drawn(run, "strips").axes for text in ax.texts]
    assert texts == ["failed"] * 3


def test_x_t_takes_the_middle_row_of_every_frame() -> None:
    frames = np.arange(2 * 5 * 4 * 3, dtype=np.uint8).reshape(2, 5, 4, 3)
    assert np.array_equal(strips.x_t(frames), np.stack([frames[0, 2], frames[1, 2]]))


def test_the_slice_of_a_frozen_clip_has_straight_columns(tmp_path: Path) -> None:
    frozen = strips.strands(run_of(tmp_path), "world:heldout/0")[-1]
    assert frozen.frames is not None
    slab = strips.x_t(frozen.frames)
    assert np.array_equal(slab, np.broadcast_to(slab[0], slab.shape))


def test_large_frames_are_reduced_by_area_and_small_ones_left_alone() -> None:
    board = np.kron(np.indices((4, 4)).sum(0) % 2 * 255, np.ones((110, 110))).astype(np.uint8)
    frame = np.repeat(board[..., None], 3, axis=-1)  # 440 px, printed at 220 px per inch
    assert np.array_equal(strips.fitted(frame, 1.0), frame[::2, ::2])
    assert strips.fitted(frame, 4.0) is frame


def test_boxes_are_parts_of_the_frame() -> None:
    assert strips.box_pixels((0.25, 0.5, 0.5, 0.25), (100, 200)) == (50, 75, 50, 150)
    assert strips.box_pixels((1.0, 1.0, 1.0, 1.0), (100, 200)) == (99, 100, 199, 200)


def test_zoomed_boxes_stand_below_their_frames(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    settings = {"zoom": [(0.0, 0.5, 0.5, 0.5)], "frames": (1,), "rows": ("full",)}
    source, _, full, inset = drawn(run, "strips", **settings).axes
    cell = next(cell for cell in run.cells_of("full") if cell.clip == "world:heldout/0")
    frames = read_frames(cell.folder / "frames")
    assert np.array_equal(inset.images[0].get_array(), frames[1, 4:, :4])
    assert inset.get_position().y1 < full.get_position().y0
    assert source.patches[0].get_bbox().bounds == (0, 4, 4, 4)


@pytest.mark.parametrize(("width", "inches"), [("column", COLUMN), ("page", PAGE)])
def test_figures_have_the_width_of_a_column_or_a_page(
    tmp_path: Path, width: str, inches: float
) -> None:
    run = run_of(tmp_path)
    for kind in ("bars", "radar", "strips"):
        assert drawn(run, kind, width=width).get_figwidth() == inches


def test_no_text_of_a_column_figure_is_cut_or_tiny(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    for kind in ("bars", "differences", "scatter", "radar", "curves"):
        made = drawn(run, kind, width="column")
        made.draw_without_rendering()
        box = made.get_tightbbox()
        assert box.x0 > -0.02, kind
        assert box.x1 < COLUMN + 0.02, kind
        sizes = [t.get_fontsize() for ax in made.axes for t in (*ax.get_xticklabels(), ax.title)]
        assert min(sizes) >= 7


def test_long_labels_break_after_joints() -> None:
    assert wrap("pattern=first+previous, alpha=0.5", 15) == "pattern=first+\nprevious,\nalpha=0.5"
    assert wrap("x" * 30, 24).split("\n") == ["x" * 24, "x" * 6]


def two_axes(run: Run) -> Run:
    """The synthetic rows as a grid of two patterns by three strengths, one place empty."""
    places = {"individual": ("a", 0.5), "first+previous": ("a", 1.0), "full": ("b", 0.5)}
    rows = tuple(
        replace(row, axes=dict(zip(("pattern", "alpha"), places[row.label], strict=True)))
        if row.label in places
        else row
        for row in run.rows
    )
    return replace(run, rows=rows)


def test_a_heat_map_shows_means_where_its_axes_say(tmp_path: Path) -> None:
    made = drawn(two_axes(run_of(tmp_path)), "heatmap", axes=("alpha", "pattern"), metrics=(WARP,))
    (ax,) = made.axes
    texts = {text.get_position(): text.get_text() for text in ax.texts}
    assert texts == {(0, 0): "0.0920", (1, 0): "0.0620", (0, 1): "0.0520", (1, 1): "×"}
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.5", "1.0"]


def test_axes_that_no_row_has_together_make_no_heat_map(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    axes = {"individual": {"a": 1}, "first+previous": {"a": 2}, "full": {"b": 1}}
    apart = replace(run, rows=tuple(replace(r, axes=axes.get(r.label, {})) for r in run.rows))
    with pytest.raises(NotDrawn, match="no row has both a and b"):
        drawn(apart, "heatmap", axes=("a", "b"), metrics=(WARP,))


def test_a_curve_runs_along_its_axis_with_one_line_per_other_setting(tmp_path: Path) -> None:
    made = drawn(two_axes(run_of(tmp_path)), "axis", axes=("alpha",), metrics=(WARP,))
    lines = {line.get_label(): line.get_xydata() for line in made.axes[0].lines}
    assert lines["pattern=a"] == pytest.approx(np.array([[0.5, 0.092], [1.0, 0.062]]))
    assert lines["pattern=b"] == pytest.approx(np.array([[0.5, 0.052]]))
    assert "source" in lines


def test_the_rim_of_a_radar_is_the_best_row(tmp_path: Path) -> None:
    lines = {
        line.get_label(): line.get_ydata()
        for line in drawn(run_of(tmp_path), "radar").axes[0].lines
    }
    assert set(lines) == {"individual", "first+previous", "full"}
    assert lines["full"] == pytest.approx([1.0] * 4)
    assert lines["individual"] == pytest.approx([0.15] * 4)


def test_warping_errors_of_a_translation_are_zero_where_visible() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    second = np.roll(first, 2, axis=1)  # what is at x goes to x + 2
    forward = np.zeros((1, 6, 8, 2), np.float32)
    forward[..., 0] = 2
    valid = np.ones((1, 6, 8), bool)
    valid[0, 3, 3] = False
    errors = warp_errors(np.stack([first, second]), Flow(forward, valid, "exact flow"))
    assert np.isnan(errors[0, :, 6:]).all()  # leaves the frame
    assert np.isnan(errors[0, 3, 3])
    assert np.nanmax(errors) < 1e-6
    frozen = warp_errors(np.stack([first, first]), Flow(forward, valid, "exact flow"))
    gap = (first[0, 0].astype(float) - first[0, 2]) / 255
    assert frozen[0, 0, 0] == pytest.approx(np.sqrt((gap**2).mean()), abs=1e-6)


def test_error_maps_need_the_flow_that_the_store_holds(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    with pytest.raises(NotDrawn, match="holds no flow of world:heldout/0"):
        drawn(run, "errors")
    folder = tmp_path / "clips" / "world-heldout-0"
    sha = array_sha256(read_frames(folder / "frames"))
    write_json(folder / "clip.json", {**read_json(folder / "clip.json"), "sha256": sha})
    flow = {"forward": np.zeros((2, 2, 8, 8), np.float32), "valid": np.ones((2, 8, 8), bool)}
    StageCache(tmp_path / "stages").get("flow", ["dis", sha], lambda: flow)
    made = drawn(load_run(tmp_path, INFOS), "errors")
    frozen = [ax for ax in made.axes if ax.images][-2]  # the last is the scale
    assert np.asarray(frozen.images[0].get_array()) == pytest.approx(0)


def test_a_figure_of_the_spec_is_drawn_by_its_name(tmp_path: Path) -> None:
    asked = {"name": "mine", "kind": "bars", "rows": ["full"], "metrics": [WARP], "width": "column"}
    run = with_report(run_of(tmp_path), figures=[asked])
    made, _ = figures.draw_named(run, "mine")
    assert [t.get_text() for t in made.axes[0].get_yticklabels()] == ["full"]
    assert figures.draw_named(run, "mine", "page")[0].get_figwidth() == PAGE
    with pytest.raises(UserError, match=r"no figure 'mime'.*did you mean 'mine'"):
        figures.draw_named(run, "mime")


def test_a_figure_that_names_what_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no 'ful'.*did you mean 'full'"):
        ask_for(run_of(tmp_path), {"name": "x", "rows": ["ful"]})


def test_narrowing_keeps_colours(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    assert ask_for(run, {"rows": ["full"]}).look["full"] == looks(run.rows)["full"]


def test_rows_of_one_figure_have_different_colours(tmp_path: Path) -> None:
    """The first and the ninth of many rows share a colour, until they stand in one figure."""
    (row, *_) = run_of(tmp_path).rows
    rows = [replace(row, label=str(number), sentinel=False) for number in range(10)]
    everywhere = looks(rows)
    assert everywhere["0"].colour == everywhere["8"].colour
    assert looks_among(rows, rows[:3]) == everywhere
    found = looks_among(rows, [rows[0], rows[8]])
    assert found["0"].colour != found["8"].colour
