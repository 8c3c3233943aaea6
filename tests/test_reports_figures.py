from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from PIL import Image
from reports_store import CONSISTENCY, INFOS, MOTION, SENTINELS, WARP, Shape, write_store

from crossframe.video import read_frames
from reports import plots, strips
from reports.load import Run, load_run
from reports.style import PALETTE, looks, save

SMALL = Shape(clips=2, seeds=1, frames=3, side=8)


def run_of(root: Path, shape: Shape = SMALL) -> Run:
    return load_run(write_store(root, shape), INFOS)


def test_rows_look_the_same_everywhere_and_sentinels_are_grey(tmp_path: Path) -> None:
    found = looks(run_of(tmp_path).rows)
    assert [found[r].colour for r in ("individual", "first+previous", "full")] == list(PALETTE[:3])
    for label in SENTINELS:
        red, green, blue = (found[label].colour[i : i + 2] for i in (1, 3, 5))
        assert red == green == blue


def test_bars_stand_at_the_means_in_row_order(tmp_path: Path) -> None:
    made = plots.bars(run_of(tmp_path))
    assert made is not None
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
    assert [t.get_text() for t in ax.get_yticklabels()][:2] == ["individual", "first+previous"]
    clouds = [found for found in ax.collections if isinstance(found, PathCollection)]
    assert [len(cloud.get_offsets()) for cloud in clouds] == [2] * 5


def test_scatter_needs_motion(tmp_path: Path) -> None:
    assert plots.scatter(run_of(tmp_path / "with")) is not None
    assert plots.scatter(run_of(tmp_path / "without", replace(SMALL, metrics=(WARP,)))) is None


def test_scatter_puts_the_better_end_on_top(tmp_path: Path) -> None:
    made = plots.scatter(run_of(tmp_path))
    assert made is not None
    assert [ax.yaxis_inverted() for ax in made.axes] == [False, True]


def test_curves_average_over_clips(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    first, second = (cell.metrics[WARP]["series"] for cell in run.cells_of("full"))
    found = plots._series(run, WARP)["full"]
    assert found == pytest.approx((np.array(first) + np.array(second)) / 2)


def test_differences_stand_on_their_side_of_zero(tmp_path: Path) -> None:
    made = plots.difference_plot(run_of(tmp_path))
    assert made is not None
    assert made.axes[1].get_title("left") == f"{WARP} ↓   minus individual"
    low, high = made.axes[1].get_xlim()
    assert low < -0.04 < high


def test_equal_data_give_equal_files(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", replace(SMALL, metrics=(WARP,)))
    for name in ("a", "b"):
        made = plots.bars(run)
        assert made is not None
        save(made, tmp_path / name)
    for kind in ("png", "pdf"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_nothing_done_gives_no_figures(tmp_path: Path) -> None:
    everything = [(r, c, 0) for r in SMALL.rows for c in range(2)]
    run = run_of(tmp_path, replace(SMALL, skip=everything))
    assert plots.measured(run) == ()
    assert (
        plots.bars(run)
        is plots.curves(run)
        is plots.difference_plot(run)
        is plots.scatter(run)
        is None
    )
    assert strips.frame_strips(run, strips.shown_clips(run, 1)) is None


def test_strips_show_the_lossless_frames_source_on_top(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    clip = "world:heldout/0"
    block = strips.strands(run, clip)
    assert [s.label for s in block] == ["source", "individual", "first+previous", "full", "frozen"]
    picture = strips.frame_strips(run, [clip])
    assert picture is not None
    source = read_frames(tmp_path / "clips/world-heldout-0/frames")
    enlarged = np.kron(source[1], np.ones((18, 18, 1), np.uint8))  # 8 px -> 144 px
    assert contains(picture, enlarged)


def test_a_missing_cell_is_told_in_its_place(tmp_path: Path) -> None:
    run = run_of(tmp_path, replace(SMALL, fail={("full", 0, 0): "boom"}))
    strand = strips.strands(run, "world:heldout/0")[3]
    assert (strand.label, strand.frames, strand.note) == ("full", None, "failed")
    assert strips.frame_strips(run, ["world:heldout/0"]) is not None


def test_x_t_takes_the_middle_row_of_every_frame() -> None:
    frames = np.arange(2 * 5 * 4 * 3, dtype=np.uint8).reshape(2, 5, 4, 3)
    assert np.array_equal(strips.x_t(frames), np.stack([frames[0, 2], frames[1, 2]]))


def test_the_slice_of_a_frozen_clip_has_straight_columns(tmp_path: Path) -> None:
    frozen = strips.strands(run_of(tmp_path), "world:heldout/0")[-1]
    assert frozen.frames is not None
    slab = strips.x_t(frozen.frames)
    assert np.array_equal(slab, np.broadcast_to(slab[0], slab.shape))


@pytest.mark.parametrize(
    ("size", "fitted"), [((8, 8), (144, 144)), ((128, 128), (128, 128)), ((512, 256), (144, 72))]
)
def test_frames_grow_by_whole_numbers_and_shrink_to_the_side(
    size: tuple[int, int], fitted: tuple[int, int]
) -> None:
    assert strips._fit(*size, 144) == fitted


def contains(picture: Image.Image, patch: np.ndarray) -> bool:
    """Whether `patch` occurs in the picture, pixel by pixel."""
    whole = np.asarray(picture)
    height, width = patch.shape[:2]
    corners = np.argwhere((whole == patch[0, 0]).all(axis=-1))
    return any(np.array_equal(whole[y : y + height, x : x + width], patch) for y, x in corners)
