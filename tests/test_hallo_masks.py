"""Hallo's region masks against the released code's own, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hallo_golden import Case

from methods.hallo import masks
from methods.hallo.calls import REGIONS

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
        ("face", masks.FACE_POINTS, masks.FACE_RATIO),
        ("lip", masks.LIP_POINTS, masks.LIP_RATIO),
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
