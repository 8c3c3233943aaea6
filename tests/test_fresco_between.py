"""Frames between key frames: carried along exact motion, blended, or painted by a program."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from methods.base import SampleRequest
from methods.fresco.between import fill_between, ways
from methods.fresco.options import Correspondence
from methods.keyframe_config import Between

F, SIDE = 5, 12
EXACT = Correspondence(flow="exact", occlusion="exact", photometric=None)
LINEAR = Between(colours="linear", poisson=False)


def rolling(step: int) -> tuple[Tensor, SampleRequest]:
    """A smooth picture that moves `step` pixels to the right per frame, with its exact flow."""
    x = torch.arange(-F * step, SIDE).float()[None] / 40
    y = torch.arange(SIDE).float()[:, None] / 40
    wide = torch.stack([0.4 + x + 0 * y, 0.3 + y + 0 * x, 0.5 - x / 2 + y / 2])
    starts = [(F - i) * step for i in range(F)]
    frames = torch.stack([wide[:, :, start : start + SIDE] for start in starts])
    flow = torch.zeros(F - 1, 2, SIDE, SIDE)
    flow[:, 0] = step
    hidden = torch.zeros(F - 1, SIDE, SIDE).bool()
    truth = {
        "flow_forward": flow,
        "flow_backward": -flow,
        "occluded_forward": hidden,
        "occluded_backward": hidden,
    }
    return frames, SampleRequest(frames, "", truth=truth)


def test_ways_lead_to_both_neighbours():
    _, request = rolling(1)
    before, after = ways(request, (0, 4), 1, EXACT)
    assert (before.key, after.key) == (0, 4)
    assert torch.equal(before.flow[0], torch.full((SIDE, SIDE), -1.0))
    assert torch.equal(after.flow[0], torch.full((SIDE, SIDE), 3.0))
    assert not before.visible[:, 0].any()
    assert before.visible[:, 1:].all()
    assert not after.visible[:, -3:].any()
    (only,) = ways(request, (0, 2), 4, EXACT)
    assert only.key == 2


@pytest.mark.parametrize("options", [LINEAR, Between(poisson=False), Between()])
def test_moving_pictures_are_found_again(options):
    """The source as its own key frames: frames between follow from the motion alone."""
    frames, request = rolling(1)
    filled = fill_between(request, (0, 4), frames[[0, 4]], EXACT, options)
    assert torch.equal(filled[[0, 4]], frames[[0, 4]])
    tolerance = 1e-5 if options is LINEAR else 0.05
    torch.testing.assert_close(filled, frames, rtol=0, atol=tolerance)


def test_frames_after_the_last_key_follow_it():
    frames, request = rolling(1)
    filled = fill_between(request, (0, 2), frames[[0, 2]], EXACT, LINEAR)
    torch.testing.assert_close(filled[4, :, :, 2:], frames[4, :, :, 2:], rtol=0, atol=1e-5)


def test_still_pictures_fade_in_time():
    _, request = rolling(0)
    ends = torch.stack([torch.zeros(3, SIDE, SIDE), torch.ones(3, SIDE, SIDE)])
    filled = fill_between(request, (0, 4), ends, EXACT, LINEAR)
    assert filled.mean((1, 2, 3)).tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_all_key_frames_need_no_flow():
    frames, request = rolling(1)
    filled = fill_between(SampleRequest(frames, ""), range(F), frames, Correspondence(), Between())
    assert torch.equal(filled, frames)
    assert request.truth


def test_a_program_paints(tmp_path: Path):
    """A stand-in that answers white: the frames between are white, key frames stay."""
    path = tmp_path / "ebsynth"
    path.write_text(
        f"#!{sys.executable}\n"
        "import sys, cv2, numpy as np\n"
        "words = sys.argv[1:]\n"
        "style = cv2.imread(words[words.index('-style') + 1])\n"
        "cv2.imwrite(words[words.index('-output') + 1], np.full_like(style, 255))\n"
    )
    path.chmod(0o755)
    frames, request = rolling(1)
    options = Between(by="ebsynth", ebsynth=str(path), colours="linear", poisson=False)
    filled = fill_between(request, (0, 2, 4), frames[[0, 2, 4]], EXACT, options)
    assert torch.equal(filled[[0, 2, 4]], frames[[0, 2, 4]])
    assert torch.equal(filled[[1, 3]], torch.ones(2, 3, SIDE, SIDE))


def test_flow_is_estimated_between_neighbours_only(monkeypatch):
    """From a frame to its two key frames, forth and back, and not between these."""
    asked: list[int] = []

    class Still:
        def forward(self, frames):
            asked.append(len(frames))
            return torch.zeros(len(frames) - 1, 2, SIDE, SIDE)

    monkeypatch.setattr("methods.fresco.correspondence.load_estimator", lambda *a: Still())
    frames, request = rolling(1)
    fill_between(request, (0, 2), frames[[0, 2]], Correspondence(flow="dis"), LINEAR)
    assert asked == [3, 3, 2, 2, 2, 2]  # frame 1 lies between two, frames 3 and 4 follow one
