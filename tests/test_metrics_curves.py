"""Looks over time, against closed forms."""

import colorsys

import cv2
import numpy as np
import pytest
import torch

from crossframe.errors import NotAvailable
from metrics.base import MetricInputs
from metrics.curves import (
    ContrastRatio,
    SaturationRatio,
    SharpnessRatio,
    contrast_ratio,
    saturation,
    saturation_last,
    saturation_ratio,
    sharpness,
    sharpness_last,
    sharpness_ratio,
    tone_spread,
)

METRICS = [saturation_ratio, saturation_last, contrast_ratio, sharpness_ratio, sharpness_last]


def picture(seed=0, side=12):
    generator = torch.Generator().manual_seed(seed)
    return 0.3 + 0.4 * torch.rand(1, 3, side, side, generator=generator)


def grown(image, factors):
    """Frames whose differences from grey 1/2 are those of an image, times each factor."""
    return torch.cat([0.5 + factor * (image - 0.5) for factor in factors])


def test_saturation_is_that_of_hsv_times_its_value():
    image = picture()
    pixels = image[0].permute(1, 2, 0).reshape(-1, 3).tolist()
    expected = [s * v for _, s, v in (colorsys.rgb_to_hsv(*pixel) for pixel in pixels)]
    assert saturation(image).item() == pytest.approx(np.mean(expected), abs=1e-6)
    assert saturation(torch.rand(1, 1, 4, 4).expand(-1, 3, -1, -1)).item() == 0


def test_contrast_is_the_spread_of_luma():
    halves = torch.full((1, 3, 4, 4), 0.2)
    halves[..., 2:] = 0.6
    assert tone_spread(halves).item() == pytest.approx(0.2, abs=1e-6)


def test_sharpness_is_the_variance_of_opencvs_laplacian():
    grey = np.random.default_rng(0).random((10, 14))
    edges = cv2.Laplacian(grey, cv2.CV_64F)[1:-1, 1:-1]
    frames = torch.from_numpy(grey).expand(1, 3, -1, -1)
    assert sharpness(frames).item() == pytest.approx(edges.var(), rel=1e-6)
    ramp = torch.linspace(0, 1, 8, dtype=torch.float64).expand(1, 3, 8, 8)
    assert sharpness(ramp).item() == pytest.approx(0, abs=1e-20)


def test_factors_of_the_picture_come_back():
    """Colours twice as far from grey: saturation and contrast twofold, sharpness fourfold."""
    image = picture()
    inputs = MetricInputs(grown(image, [1, 0.5, 2]), image.expand(3, -1, -1, -1))
    assert saturation_ratio(inputs).series == pytest.approx((1, 0.5, 2), rel=1e-5)
    assert contrast_ratio(inputs).series == pytest.approx((1, 0.5, 2), rel=1e-5)
    assert sharpness_ratio(inputs).series == pytest.approx((1, 0.25, 4), rel=1e-5)
    assert saturation_ratio(inputs).value == pytest.approx(3.5 / 3, rel=1e-5)


def test_the_last_frame_has_a_value_of_its_own():
    image = picture()
    inputs = MetricInputs(grown(image, [1, 2, 0.5]), image.expand(3, -1, -1, -1))
    assert saturation_last(inputs).value == pytest.approx(0.5, rel=1e-5)
    assert sharpness_last(inputs).value == pytest.approx(0.25, rel=1e-5)
    assert sharpness_last(inputs).series == pytest.approx((1, 4, 0.25), rel=1e-5)


def test_what_the_source_does_later_plays_no_part():
    image = picture()
    source = torch.cat([image, picture(1), picture(2)])
    frames = image.expand(3, -1, -1, -1)
    for metric in METRICS:
        assert metric(MetricInputs(frames, source)).value == pytest.approx(1)


@pytest.mark.parametrize("metric", METRICS)
def test_a_flat_grey_picture_is_no_measure(metric):
    flat = torch.full((2, 3, 8, 8), 0.5)
    with pytest.raises(NotAvailable, match="first source frame"):
        metric(MetricInputs(flat, flat))
    with pytest.raises(NotAvailable, match="source"):
        metric(MetricInputs(flat))


def test_accumulators_average_clips():
    image = picture()
    for accumulator, ratios in (
        (SaturationRatio(), (1, 2)),
        (ContrastRatio(), (1, 2)),
        (SharpnessRatio(), (1, 4)),
    ):
        accumulator.update(image, image)
        accumulator.update(grown(image, [2]), image)
        assert accumulator.compute() == pytest.approx(sum(ratios) / 2, rel=1e-4)
