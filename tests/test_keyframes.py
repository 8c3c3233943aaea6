"""Key frames against the released code of FRESCO, and what holds for any list of changes."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.numpy import load_file

from methods.keyframe_config import Between, KeyFrames
from methods.keyframes import choose_keyframes, frame_changes, greedy_keyframes, plain_changes

GOLDEN = Path(__file__).parent / "golden" / "fresco"
CASE = load_file(GOLDEN / "keyframes.safetensors")
KEYS = sorted(name for name in CASE if name.startswith("output/keys"))


def test_changes_are_those_of_the_released_code():
    changes = np.array(frame_changes(CASE["input/frames"]))
    assert np.abs(changes - CASE["output/err"]).max() <= 2e-7


@pytest.mark.parametrize("name", KEYS)
def test_keys_are_those_of_the_released_code(name):
    shortest, longest = map(int, name.split("_")[1:])
    if shortest == longest:
        options = KeyFrames(min=shortest, max=longest, last=False)
        keys = choose_keyframes(CASE["input/frames"], options)
    else:
        keys = greedy_keyframes(CASE["output/err"].tolist(), shortest, longest)
    assert list(keys) == CASE[name].tolist()


def test_the_papers_distance_is_that_of_the_frames_as_they_are():
    """Frame 2 differs in one pixel's red by 255 levels and its green by 102, frame 1 in none."""
    frames = np.zeros((3, 4, 6, 3), np.uint8)
    frames[2, 1, 3] = (255, 102, 0)
    assert plain_changes(frames) == pytest.approx([0, 0, np.hypot(1, 0.4)])


def test_what_is_blurred_away_decides_by_the_distance_that_was_chosen():
    """Fine grain of mean 30 and norm 42 comes at frame 2, a flat change of 40 at frame 4."""
    frames = np.full((7, 512, 512, 3), 100, np.uint8)
    frames[2:] += (np.indices((512, 512)).sum(0) % 2 * 60).astype(np.uint8)[..., None]
    frames[4:] += 40
    found = {
        change: choose_keyframes(frames, KeyFrames(min=2, max=4, change=change))
        for change in ("blurred", "plain")
    }
    assert found == {"blurred": (0, 4, 6), "plain": (0, 2, 6)}


def test_keys_of_the_published_example():
    case = load_file(GOLDEN / "keyframes_dog.safetensors")
    keys = greedy_keyframes(case["output/err"].tolist(), 10, 30)
    assert list(keys) == case["output/keys_10_30"].tolist()


@pytest.mark.skipif(
    "FRESCO_DOG" not in os.environ, reason="FRESCO_DOG names no copy of FRESCO's data/dog.mp4"
)
def test_keys_of_the_published_clip():
    with safe_open(GOLDEN / "keyframes_dog.safetensors", "np") as file:
        config = json.loads(file.metadata()["config"])
    path = Path(os.environ["FRESCO_DOG"])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == config["sha256"]
    import cv2

    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    keys = choose_keyframes(np.stack(frames), KeyFrames(min=10, max=30))
    case = load_file(GOLDEN / "keyframes_dog.safetensors")
    assert list(keys) == case["output/keys_10_30"].tolist()


@pytest.mark.parametrize("count", [1, 2, 3, 9, 40])
def test_every_frame_and_every_nth(count):
    frames = np.zeros((count, 16, 16, 3), np.uint8)
    assert choose_keyframes(frames, KeyFrames()) == tuple(range(count))
    keys = choose_keyframes(frames, KeyFrames(min=4, max=4))
    assert keys[-1] == count - 1
    assert set(range(0, count, 4)) <= set(keys)


@pytest.mark.parametrize("seed", range(5))
def test_gaps_are_neither_too_long_nor_too_short(seed):
    changes = np.random.default_rng(seed).random(70).tolist()
    keys = greedy_keyframes(changes, 3, 12)
    gaps = np.diff(keys)
    assert (keys[0], keys[-1]) == (0, 69)
    assert gaps.min() >= 3
    assert gaps.max() <= 12


def test_a_cut_becomes_a_key_frame():
    frames = np.zeros((20, 16, 16, 3), np.uint8)
    frames[9:] = 255
    assert 9 in choose_keyframes(frames, KeyFrames(min=2, max=12))


def test_short_clips_have_their_ends():
    assert greedy_keyframes([0.0], 3, 5) == (0,)
    assert greedy_keyframes([0.0, 0.1, 0.2], 3, 5) == (0, 2)


def test_impossible_options_are_told():
    with pytest.raises(ValidationError, match="min 5 is more than max 3"):
        KeyFrames(min=5, max=3)
    with pytest.raises(ValidationError, match="path of the program"):
        Between(by="ebsynth")
