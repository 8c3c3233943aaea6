"""Where the face of a portrait is, by whoever knows, and the masks that options make of it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from crossframe.errors import NotAvailable, UserError
from methods.hallo.landmarks import MediaPipeLandmarks, load_landmarker
from methods.hallo.masks import FACE_POINTS, LIP_POINTS, mask_pyramid, region_images
from methods.hallo.options import Regions
from methods.hallo.regions import find_boxes, make_locator, make_masks

FACE, LIP = (16, 48, 8, 56), (24, 40, 36, 46)
SIZE, SIDE = (64, 64), 8
PICTURE = torch.zeros(3, 64, 64)
PLAIN = Regions(face_ratio=1, lip_ratio=1)


def box_of(box: tuple[int, int, int, int]) -> torch.Tensor:
    x0, x1, y0, y1 = box
    region = torch.zeros(2, 64, 64, dtype=torch.bool)
    region[1, y0:y1, x0:x1] = True
    return region


def test_boxes_come_from_options_then_the_clip_then_landmarks() -> None:
    truth = {"face": box_of(FACE), "lip": box_of(LIP)}
    points = np.full((478, 2), 20.0)
    points[list(FACE_POINTS[:2])] = [[10, 5], [50, 60]]
    points[list(LIP_POINTS[:2])] = [[22, 30], [44, 40]]

    def landmarks(picture: torch.Tensor) -> np.ndarray:
        return points

    given = Regions(face=(0.25, 0.75, 0.125, 0.875), lip=(0.375, 0.625, 0.5625, 0.71875))
    assert find_boxes(PICTURE, 1, given, {}, None) == (FACE, (24, 40, 36, 46))
    assert find_boxes(PICTURE, 1, PLAIN, truth, landmarks) == (FACE, LIP)
    found = find_boxes(PICTURE, 1, PLAIN, {}, landmarks)
    assert found == ((10, 50, 5, 60), (20, 44, 20, 40))


def test_who_knows_nothing_is_told_what_to_give() -> None:
    with pytest.raises(
        UserError, match=r"regions\.face.*backbone\.landmarks.*crossframe\[portraits\]"
    ):
        find_boxes(PICTURE, 0, PLAIN, {}, None)
    truth = {"face": box_of(FACE), "lip": box_of(LIP)}
    with pytest.raises(UserError, match="does not show the face"):
        find_boxes(PICTURE, 0, PLAIN, truth, None)


def test_released_masks_are_the_default() -> None:
    expected = mask_pyramid(region_images((13, 51, 4, 60), (16, 48, 31, 51), 64, 64), SIDE)
    found = make_masks(FACE, LIP, SIZE, Regions(), SIDE)
    assert all(map(torch.equal, found, expected))


def test_masks_without_steps_are_near_those_with_steps() -> None:
    steps = make_masks(FACE, LIP, SIZE, Regions(), SIDE)
    smooth = make_masks(FACE, LIP, SIZE, Regions(levels_8bit=False), SIDE)
    assert [m.shape for m in smooth] == [(1, 1, 3, s, s) for s in (8, 4, 2, 1)]
    apart = max((a - b).abs().max().item() for a, b in zip(steps, smooth, strict=True))
    assert 0 < apart < 4 / 255
    on_grid = smooth[0] * 255
    assert (on_grid - on_grid.round()).abs().max() > 0.01


def test_hard_masks_share_the_picture_out() -> None:
    finest = make_masks(FACE, LIP, SIZE, PLAIN.model_copy(update={"soft": False}), 64)[0][0, 0]
    assert set(finest.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(finest.sum(0), torch.ones(64, 64))
    assert torch.equal(finest[2].bool(), box_of(LIP)[1])


def test_the_locator_sees_the_hard_box() -> None:
    found = make_locator(FACE, SIZE, PLAIN, SIDE)
    assert torch.equal(found, box_of(FACE)[1].float().expand(1, 3, 64, 64))


def faces(*points: tuple[float, float]) -> Any:
    return [SimpleNamespace(x=x, y=y) for x, y in points]


def test_landmarks_are_pixels_of_the_one_face() -> None:
    seen = []

    def detect(pixels: np.ndarray) -> Any:
        seen.append(pixels)
        return SimpleNamespace(face_landmarks=[faces((0.5, 0.25))])

    found = MediaPipeLandmarks(detect)(torch.full((3, 8, 4), 0.5))
    assert found.tolist() == [[2.0, 2.0]]
    assert seen[0].shape == (8, 4, 3)
    assert seen[0].dtype == np.uint8
    assert set(seen[0].ravel()) == {128}


@pytest.mark.parametrize("count", [0, 2])
def test_other_than_one_face_is_refused(count: int) -> None:
    def detect(pixels: np.ndarray) -> Any:
        return SimpleNamespace(face_landmarks=[faces((0.5, 0.5))] * count)

    with pytest.raises(UserError, match=f"finds {count} faces"):
        MediaPipeLandmarks(detect)(PICTURE)


def test_mediapipe_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(NotAvailable, match=r"mediapipe.*crossframe\[portraits\]"):
        load_landmarker(Path("face.task"))


def test_mediapipe_reads_the_file_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own interface, as far as it is used, stood in for by recorders."""
    asked = {}

    class Landmarker:
        @staticmethod
        def create_from_options(options: Any) -> Any:
            asked.update(options)
            return SimpleNamespace(
                detect=lambda image: SimpleNamespace(face_landmarks=[faces((1.0, 0.5))])
            )

    names = ("mediapipe", "mediapipe.tasks", "mediapipe.tasks.python")
    modules = {name: ModuleType(name) for name in (*names, "mediapipe.tasks.python.vision")}
    vision: Any = modules["mediapipe.tasks.python.vision"]
    vision.FaceLandmarkerOptions, vision.FaceLandmarker = dict, Landmarker
    tasks: Any = modules["mediapipe.tasks.python"]
    tasks.BaseOptions = dict
    whole: Any = modules["mediapipe"]
    whole.Image, whole.ImageFormat = dict, SimpleNamespace(SRGB="srgb")
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    found = load_landmarker(Path("there/face.task"))(PICTURE)
    assert found.tolist() == [[64.0, 32.0]]
    assert asked["base_options"] == {"model_asset_path": "there/face.task"}
