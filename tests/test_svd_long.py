"""Windows of a long video: they cover it, their weights sum to 1, and noise comes again."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from methods.svd.long import (
    fusion_weights,
    over_windows,
    reschedule,
    rescheduled_frames,
    windows,
)
from methods.svd.options import LongVideo

CASES = [
    (frames, window, overlap)
    for frames in (8, 9, 21, 40)
    for window in (2, 5, 8)
    for overlap in range(0, window, 2)
]
FUSIONS = ("mean", "pyramid", "nearest")


@pytest.mark.parametrize(("frames", "window", "overlap"), CASES)
def test_windows_cover_every_frame(frames: int, window: int, overlap: int) -> None:
    parts = windows(frames, window, overlap)
    assert {i for part in parts for i in part} == set(range(frames))
    assert {len(part) for part in parts} == {window}
    shared = [left.stop - right.start for left, right in pairwise(parts)]
    assert all(count == overlap for count in shared[:-1])
    assert all(overlap <= count < window for count in shared)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(("frames", "window", "overlap"), CASES)
def test_weights_sum_to_one(frames: int, window: int, overlap: int, fusion: str) -> None:
    parts = windows(frames, window, overlap)
    weights = fusion_weights(parts, frames, fusion)
    assert weights.shape == (len(parts), frames)
    assert torch.allclose(weights.sum(0), torch.ones(frames), atol=1e-6)
    inside = torch.tensor([[i in part for i in range(frames)] for part in parts])
    assert not weights[~inside].any()


def test_one_window_when_all_frames_fit() -> None:
    assert windows(8, None) == windows(8, 8, 4) == windows(8, 20) == (range(8),)
    assert torch.equal(fusion_weights((range(8),), 8), torch.ones(1, 8))


def test_pyramid_cross_fades_linearly() -> None:
    left, right = fusion_weights(windows(13, 8, 3), 13)
    assert left[5:8].tolist() == pytest.approx([0.75, 0.5, 0.25])
    assert right[5:8].tolist() == pytest.approx([0.25, 0.5, 0.75])


def test_nearest_takes_the_most_central_window() -> None:
    weights = fusion_weights(windows(14, 8, 2), 14, "nearest")
    assert weights.argmax(0).tolist() == [0] * 7 + [1] * 7
    assert set(weights.flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("fusion", FUSIONS)
def test_fusion_of_frame_wise_predictions_is_the_prediction(fusion: str) -> None:
    latents = torch.randn(11, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    factor = torch.arange(11.0)

    def predict(part: Tensor, frames: range) -> Tensor:
        return part * factor[list(frames)].view(-1, 1, 1, 1)

    parts = windows(11, 5, 2)
    fused = over_windows(predict, latents, parts, fusion_weights(parts, 11, fusion))
    assert torch.allclose(fused, latents * factor.view(-1, 1, 1, 1), atol=1e-5)


def test_a_single_window_is_a_plain_call() -> None:
    latents = torch.randn(5, 4, 2, 2)
    made = over_windows(lambda x, part: x, latents, (range(5),), torch.ones(1, 5))
    assert made is latents


@pytest.mark.parametrize(("window", "overlap"), [(8, 4), (8, 6), (9, 5), (5, 0)])
def test_noise_comes_again_once_per_window(window: int, overlap: int) -> None:
    source = rescheduled_frames(50, window, overlap, seed=3)
    assert source[:window] == tuple(range(window))
    shorter = windows(30, window, overlap)[-2].stop
    assert source[:shorter] == rescheduled_frames(30, window, overlap, seed=3)[:shorter]
    assert source != rescheduled_frames(50, window, overlap, seed=4)


@pytest.mark.parametrize(("frames", "window", "overlap"), CASES)
def test_no_two_frames_of_a_window_share_noise(frames: int, window: int, overlap: int) -> None:
    """The last window, which is moved back to end with the video, is no exception."""
    source = rescheduled_frames(frames, window, overlap, seed=5)
    assert len(source) == frames
    for part in windows(frames, window, overlap):
        assert sorted(source[part.start : part.stop]) == list(range(window))


def test_each_stride_takes_that_one_window_back() -> None:
    source = rescheduled_frames(24, 8, 4, seed=0)
    for start in range(8, 24, 4):
        assert sorted(source[start : start + 4]) == sorted(source[start - 8 : start - 4])


def test_rescheduled_noise() -> None:
    noise = torch.randn(12, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    source = rescheduled_frames(12, 5, 2, seed=1)
    made = reschedule(noise, 5, 2, seed=1)
    assert all(torch.equal(made[i], noise[k]) for i, k in enumerate(source))
    assert torch.equal(reschedule(noise[:5], 5, 2, seed=1), noise[:5])


@pytest.mark.parametrize(
    "given", [{"overlap": 2}, {"noise": "rescheduled"}, {"window": 4, "overlap": 4}]
)
def test_options_that_make_no_sense(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LongVideo.model_validate(given)
