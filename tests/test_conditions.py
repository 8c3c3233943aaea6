"""Control maps: exact arrays where the clip has them, Canny otherwise, and clear refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crossframe.errors import UserError
from methods.conditions import canny, control_map


def box_frames(frames: int = 2, size: int = 32) -> np.ndarray:
    """Black frames with one white square from 8 to 24."""
    made = np.zeros((frames, size, size, 3), np.uint8)
    made[:, 8:24, 8:24] = 255
    return made


def test_canny_draws_the_outline_of_a_square() -> None:
    lines = canny(box_frames())
    assert lines.dtype == np.float32
    assert set(np.unique(lines)) == {0.0, 1.0}
    ys, xs = np.nonzero(lines[0])
    distance = np.maximum(np.abs(ys - 15.5), np.abs(xs - 15.5))
    assert 50 <= len(ys) <= 70
    assert np.all((distance >= 7) & (distance <= 9))


def test_canny_thresholds_hide_weak_edges() -> None:
    weak = box_frames() // 10
    assert canny(weak).sum() == 0
    assert canny(weak, 5, 10).sum() > 0


@pytest.mark.parametrize("kind", ["edges", "canny"])
def test_edges_without_truth_are_canny_in_three_equal_channels(kind: str) -> None:
    frames = box_frames()
    maps = control_map(kind, frames)
    assert maps.shape == (2, 3, 32, 32)
    assert maps.dtype == torch.float32
    for channel in range(3):
        assert np.array_equal(maps[:, channel].numpy(), canny(frames))


def test_truth_is_used_for_edges_and_depth_but_not_for_canny() -> None:
    frames = box_frames()
    edges = np.zeros((2, 32, 32), np.float32)
    edges[:, 3] = 1
    depth = np.linspace(0, 1, 2 * 32 * 32, dtype=np.float32).reshape(2, 32, 32)
    assert np.array_equal(control_map("edges", frames, edges=edges)[:, 0].numpy(), edges)
    assert np.array_equal(control_map("depth", frames, depth=depth)[:, 2].numpy(), depth)
    assert torch.equal(control_map("canny", frames, edges=edges), control_map("canny", frames))


def test_depth_without_maps_says_how_to_supply_them() -> None:
    with pytest.raises(UserError, match="no depth estimator is built in") as caught:
        control_map("depth", box_frames())
    assert "truth" in caught.value.problems[0].fix


@pytest.mark.parametrize(
    ("kind", "depth", "said"),
    [
        ("dept", None, "did you mean 'depth'"),
        ("depth", np.zeros((2, 16, 32), np.float32), "do not fit"),
        ("depth", np.full((2, 32, 32), 7, np.float32), "allowed: 0..1"),
        ("depth", np.full((2, 32, 32), np.nan, np.float32), "allowed: 0..1"),
    ],
)
def test_wrong_maps_are_refused(kind: str, depth: np.ndarray | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        control_map(kind, box_frames(), depth=depth)
