"""Index lists of ControlVideo against those traced from the released code."""

from __future__ import annotations

from typing import Any

import pytest

from methods.controlvideo.layout import (
    cut_video,
    middle_frames,
    replaced_frames,
    smoothed_steps,
    window_of,
)
from methods.controlvideo.options import Hierarchical
from methods.controlvideo.passes import pass_problems
from methods.ddim import make_schedule
from tests.controlvideo_golden import lists

ALPHA_BAR = 1e-6
"""The tolerance that the case states for its alpha-bars."""
SMOOTHER, VIDEOS = lists("smoother_indices"), lists("hierarchical_frames")


@pytest.mark.parametrize("frames", SMOOTHER["frame_triples"])
def test_replaced_frames_are_those_of_the_released_code(frames: str) -> None:
    expected = SMOOTHER["frame_triples"][frames]
    for index, name in enumerate(("even_loop_index", "odd_loop_index")):
        replaced = replaced_frames(index, 50, "repo")
        found = middle_frames(int(frames), replaced, "pull")
        assert [list(triple) for triple in found] == expected[name]


@pytest.mark.parametrize("case", SMOOTHER["active_steps"], ids=lambda c: str(c["smooth_steps"]))
def test_smoothed_steps_are_those_of_the_released_code(case: dict[str, Any]) -> None:
    steps = case["num_inference_steps"]
    found = smoothed_steps(steps, 1.0, 1, case["smooth_steps"])
    assert list(found) == [entry["loop_index"] for entry in case["smoothed"]]
    schedule = make_schedule(SMOOTHER["config"]["scheduler"], steps)
    for entry in case["smoothed"]:
        index = entry["loop_index"]
        assert schedule.timesteps[index] == entry["timestep"]
        assert abs(schedule.alpha_bar[index] - entry["alpha_bar_t"]) <= ALPHA_BAR
        assert abs(schedule.alpha_bar_next[index] - entry["alpha_bar_prev"]) <= ALPHA_BAR
        assert replaced_frames(entry["loop_index"], steps, "repo") == entry["frames_replaced"]


@pytest.mark.parametrize("case", VIDEOS["entries"], ids=lambda c: str(c["video_length"]))
def test_long_videos_are_cut_as_by_the_released_code(case: dict[str, Any]) -> None:
    frames, window = case["video_length"], case["window_size"]
    if case["window_from"] == "cli":
        assert window_of(frames, "sqrt") == window
    layout = cut_video(frames, window)
    assert list(layout.keys) == case["key_frames"]
    assert [list(clip.batch) for clip in layout.clips] == [c["batch"] for c in case["clips"]]
    assert [list(c.interior) for c in layout.clips] == [c["used_outputs"] for c in case["clips"]]
    assert layout.evaluations == case["frame_evals_per_step"]
    for clip, expected in zip(layout.clips, case["clips"], strict=True):
        assert [clip.left, clip.right] == expected["kv_frames_intended"]
        assert [clip.batch[0], clip.batch[-1]] == expected["kv_frames_repo"]


@pytest.mark.parametrize("case", VIDEOS["errors"], ids=lambda c: str(c["video_length"]))
def test_windows_that_the_released_code_rejects(case: dict[str, Any]) -> None:
    window = window_of(case["video_length"], "sqrt")
    assert window == case["window_size"]
    with pytest.raises(ValueError, match="no interior"):
        cut_video(case["video_length"], window)


@pytest.mark.parametrize("frames", range(1, 40))
@pytest.mark.parametrize("window", [3, 4, 9])
def test_every_frame_is_a_key_or_inside_one_clip(frames: int, window: int) -> None:
    layout = cut_video(frames, window)
    inside = [frame for clip in layout.clips for frame in clip.interior]
    assert sorted([*layout.keys, *inside]) == list(range(frames))
    assert all(len(clip.batch) <= window for clip in layout.clips)


def test_the_share_of_steps_that_remain_is_the_released_choice_at_50_steps() -> None:
    assert smoothed_steps(50, 0.4, 2) == smoothed_steps(50, 1.0, 1, [20, 19]) == (30, 31)
    # The paper's {30, 31}, by the count that Algorithm 1's parity takes: what remains.
    assert smoothed_steps(50, 0.62, 2) == (50 - 31, 50 - 30)
    assert [replaced_frames(50 - left, 50, "paper") for left in (31, 30)] == ["odd", "even"]
    # Its appendix C, read as counting 49 .. 0, names steps that are one earlier.
    assert smoothed_steps(50, 0.64, 2) == (49 - 31, 49 - 30)
    assert smoothed_steps(12, 0.4, 2) == (7, 8)
    # {0, 1} of figure 8 are the last steps, {48, 49} the first, however many there are.
    assert smoothed_steps(12, 0.04, 2) == (10, 11)
    assert smoothed_steps(12, 1.0, 2) == (0, 1)


def test_the_papers_parity_is_the_opposite_for_even_numbers_of_steps() -> None:
    for index in range(6):
        repo, paper = (replaced_frames(index, 50, parity) for parity in ("repo", "paper"))
        assert repo != paper
        assert replaced_frames(index, 51, "paper") == repo


@pytest.mark.parametrize("frames", range(1, 9))
def test_kept_ends_are_the_frames_that_have_one_neighbour(frames: int) -> None:
    pulled = middle_frames(frames, "even", "pull")
    kept = middle_frames(frames, "even", "keep")
    assert set(pulled) - set(kept) == {t for t in pulled if t[2] in (t[0], t[1])}
    assert {frame for *_, frame in kept} == set(range(2, frames - 1, 2))


LONG = {"on": True, "window": 6}


@pytest.mark.parametrize(
    ("frames", "unet", "controlnet", "chosen", "where", "said"),
    [
        (8, "full", "individual", {"on": True}, "hierarchical.window", "8 frames is a window of 2"),
        (24, "keyframes[0,8]", "individual", LONG, "attention.pattern", "over the 6 key frames"),
        (24, "full", "keyframes[5]", LONG, "controlnet_attention.pattern", "smallest over 4 of"),
        (
            24,
            "full",
            "keyframes[3]",
            {**LONG, "reuse_keys": True},
            "controlnet_attention.pattern",
            "smallest over 2 of",
        ),
        (4, "keyframes[4]", "individual", {}, "attention.pattern", "outside a clip of 4 frames"),
        (4, "full", "keyframes[4]", {}, "controlnet_attention.pattern", "key frame 4"),
    ],
)
def test_frames_that_a_pass_lacks_are_told(
    frames: int, unet: str, controlnet: str, chosen: dict[str, Any], where: str, said: str
) -> None:
    (problem,) = pass_problems(frames, unet, controlnet, Hierarchical(**chosen))
    assert problem.where == where
    assert said in problem.what


def test_passes_that_have_all_their_frames() -> None:
    for chosen in ({}, LONG, {**LONG, "reuse_keys": True}):
        found = pass_problems(24, "keyframes[0,5]", "keyframes[1]", Hierarchical(**chosen))
        assert found == []
    assert pass_problems(2, "full", "individual", Hierarchical(**LONG)) == []
