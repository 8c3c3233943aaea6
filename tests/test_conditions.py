"""Control maps: files, exact arrays, annotators, in that order; and clear refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from crossframe.errors import UserError
from methods.conditions import canny, control_map, wrapped


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
    assert torch.equal(control_map("canny[5,10]", weak)[:, 0], torch.from_numpy(canny(weak, 5, 10)))


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


def test_files_come_before_truth_and_keep_their_colours() -> None:
    frames = box_frames()
    drawn = np.zeros((2, 32, 32, 3), np.uint8)
    drawn[..., 0], drawn[..., 2] = 255, 51
    maps = control_map("pose", frames, files={"pose": drawn})
    assert torch.equal(maps[:, 0], torch.ones(2, 32, 32))
    torch.testing.assert_close(maps[:, 2], torch.full((2, 32, 32), 0.2))
    depth = np.zeros((2, 32, 32), np.float32)
    found = control_map("depth", frames, depth=depth, files={"depth": drawn})
    assert torch.equal(found, maps)


# --- What the released code shows to annotators

# Measured on its own float32 path (x = p / 127.5 - 1; mul(255).byte() on x86).
MEASURED = {0: 1, 64: 130, 126: 254, 127: 0, 128: 1, 192: 129, 255: 255}


def test_wrapped_pixels_are_those_of_the_released_path() -> None:
    pixels = np.arange(256, dtype=np.uint8)
    shown = wrapped(pixels)
    assert {p: int(shown[p]) for p in MEASURED} == MEASURED
    path = (torch.arange(256).float() / 127.5 - 1).mul(255)
    assert np.array_equal(shown, path.to(torch.int64).numpy() % 256)


def test_wrapped_pixels_are_a_sawtooth() -> None:
    """2p + 1 below mid-grey and 2p - 255 above; 64 of the dark ones one more, by float32."""
    p = np.arange(256)
    nominal = np.where(p < 128, 2 * p + 1, 2 * p - 255)
    excess = (wrapped(p.astype(np.uint8)).astype(int) - nominal) % 256
    assert set(np.unique(excess)) == {0, 1}
    assert np.array_equal(np.nonzero(excess)[0], np.arange(64, 128))


def test_the_range_reaches_annotators_only() -> None:
    frames = np.full((1, 32, 32, 3), 120, np.uint8)
    frames[:, :, 16:] = 136  # a soft step across mid-grey, which wraps to a hard one
    assert control_map("canny", frames).sum() == 0
    torn = control_map("canny", frames, annotator_range="repo_wrapped")
    assert np.array_equal(torn[:, 0].numpy(), canny(wrapped(frames)))
    assert torn.sum() > 0
    edges = np.zeros((1, 32, 32), np.float32)
    exact = control_map("edges", frames, edges=edges, annotator_range="repo_wrapped")
    assert exact.sum() == 0


# --- Refusals


def test_depth_without_maps_is_one_clear_line() -> None:
    """Neither controlnet-aux nor its weights are there, or both: the line names what is missing."""
    with pytest.raises(UserError, match="this clip has no depth maps, and the annotator") as caught:
        control_map("depth", box_frames())
    (problem,) = caught.value.problems
    assert problem.where == "controls: depth"
    assert "controls: {depth: FOLDER}" in problem.fix


def test_maps_under_a_mistyped_name_are_mentioned() -> None:
    with pytest.raises(UserError, match="names maps for dpeth") as caught:
        control_map("depth", box_frames(), files={"dpeth": box_frames()})
    assert "did you mean 'dpeth'" in caught.value.problems[0].fix


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("dept", {}, "did you mean 'depth'"),
        ("depth", {"depth": np.zeros((2, 16, 32), np.float32)}, "do not fit"),
        ("depth", {"depth": np.full((2, 32, 32), 7, np.float32)}, "allowed: 0..1"),
        ("depth", {"depth": np.full((2, 32, 32), np.nan, np.float32)}, "allowed: 0..1"),
        ("pose", {"files": {"pose": np.zeros((1, 32, 32, 3), np.uint8)}}, "do not fit"),
    ],
)
def test_wrong_maps_are_refused(kind: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        control_map(kind, box_frames(), **given)
