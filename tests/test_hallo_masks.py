"""Hallo's region masks against the released code's own, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hallo_golden import Case

from methods.hallo import masks
from methods.hallo.calls import REGIONS
from methods.hallo.options import Regions

SHAPES = {"centred": (512, 512), "top_left": (640, 480)}


@pytest.fixture(scope="module")
def case() -> Case:
    return Case("region_masks")


@pytest.fixture(params=list(SHAPES))
def run(request: pytest.FixtureRequest, case: Case) -> tuple[str, masks.Box, masks.Box]:
    """Name of the run and its expanded boxes, which must be the published ones."""
    width, height = SHAPES[request.param]
    points = case.input[f"{request.param}/landmarks_px"].double().numpy()
    found = {}
    for part, chosen, ratio in (
        ("face", masks.FACE_POINTS, Regions().face_ratio),
        ("lip", masks.LIP_POINTS, Regions().lip_ratio),
    ):
        box = masks.box_of_points(points, chosen)
        found[part] = masks.expand_box(box, width, height, ratio)
        assert list(found[part]) == case.output[f"{request.param}/{part}_box"].tolist()
    return request.param, found["face"], found["lip"]


def test_masks_are_published(case: Case, run: tuple[str, masks.Box, masks.Box]) -> None:
    name, face, lip = run
    pyramid = masks.mask_pyramid(masks.region_images(face, lip, *SHAPES[name]), 64)
    for level, mask in enumerate(pyramid):
        for index, region in enumerate(REGIONS):
            case.check(f"{name}/{region}_mask.{level}", mask[0, :, index].flatten(1))


def test_the_locator_mask_is_published(case: Case, run: tuple[str, masks.Box, masks.Box]) -> None:
    name, face, _ = run
    width, height = SHAPES[name]
    mask = masks.locator_mask(face, width, height, 512)
    assert mask.shape == (3, 512, 512)
    case.check(f"{name}/locator_mask_rows", mask[0].amax(1))
    case.check(f"{name}/locator_mask_cols", mask[2].amax(0))


def test_boxes_keep_their_size_at_the_border_and_stay_inside() -> None:
    assert masks.expand_box((10, 30, 90, 110), 200, 120, 2.0) == (0, 40, 80, 120)
    assert masks.expand_box((5, 95, 0, 100), 100, 100, 1.2) == (0, 100, 0, 100)


def test_regions_cover_the_picture_and_lips_lie_in_the_face() -> None:
    face, lip = (30, 98, 20, 108), (50, 78, 76, 96)
    images = masks.region_images(face, lip, 128, 128).astype(int)
    full, rest, lips = images
    assert np.abs(full + np.maximum(rest, 0) + lips - 255)[lips <= 255 - full].max() <= 1
    sides = [mask.shape[-1] for mask in masks.mask_pyramid(images.astype(np.uint8), 16)]
    assert sides == [16, 8, 4, 2]
    mask = masks.locator_mask(face, 128, 128, 128)
    assert torch.equal(mask[0] > 0, torch.from_numpy(masks.box_image(face, 128, 128) > 0))


def released_expansion(low: int, high: int, limit: int, ratio: float) -> np.ndarray:
    """Pixels (limit,) of one side of a box, by the steps of the released code, negative or not."""
    middle, side = (low + high) // 2, (high - low) * ratio
    low, high = middle - side // 2, middle + side // 2
    if low < 0:
        low, high = 0, high - low
    if high > limit:
        low, high = low - (high - limit), limit
    line = np.zeros(limit, bool)
    line[round(low) : round(high)] = True
    return line


@pytest.mark.parametrize("side", [(0, 100), (2, 96), (30, 60), (0, 40), (70, 100)])
@pytest.mark.parametrize("ratio", [1.0, 1.2, 2.0, 2.5])
def test_a_box_larger_than_the_picture_is_a_strip_as_released_or_the_whole(
    side: tuple[int, int], ratio: float
) -> None:
    box = (*side, 40, 60)
    parity = masks.expand_box(box, 100, 100, ratio, "parity")
    line = masks.box_image(parity, 100, 100).any(0)
    assert np.array_equal(line, released_expansion(*side, 100, ratio))
    fixed = masks.expand_box(box, 100, 100, ratio)
    times = (side[1] - side[0]) * ratio / 100
    if times > 1:
        assert fixed[:2] == (0, 100)
    if 1.1 < times < 1.9:
        assert line.mean() < 1
    if times < 1:
        assert fixed == parity


@pytest.mark.parametrize("levels_8bit", [True, False])
def test_a_face_that_fills_the_picture_has_the_whole_mask_or_none_as_released(
    levels_8bit: bool,
) -> None:
    box, lip = (0, 64, 0, 64), (24, 40, 36, 46)
    regions = {
        large: masks.mask_pyramid(
            masks.region_images(box, lip, 64, 64, levels_8bit=levels_8bit, large=large), 16
        )[0][0, 0]
        for large in ("parity", "fixed")
    }
    full, face, lips = regions["fixed"]
    assert full.max() == 0
    assert torch.allclose(face + lips, torch.ones(16, 16), atol=2 / 255)
    full, face, lips = regions["parity"]
    assert full.min() == 1
    assert face.max() == 0
    assert lips.max() > 0.9
