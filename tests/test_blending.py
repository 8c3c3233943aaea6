"""Blending of two pictures, in closed form."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import spsolve

from methods.blending import (
    GRADIENT_WEIGHTS,
    histogram_mix,
    mix,
    poisson,
    second_share,
)

HEIGHT, WIDTH = 9, 12
ROUNDING = 0.3  # of Lab values: OpenCV interpolates the conversion in tables


def picture(seed: int, low: float = 0.3, high: float = 0.7) -> np.ndarray:
    """Muted colours, so that nothing leaves the gamut."""
    drawn = np.random.default_rng(seed).random((HEIGHT, WIDTH, 3)).astype(np.float32)
    return cv2.GaussianBlur(low + (high - low) * drawn, (3, 3), 0)


def lab(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2LAB)


def test_shares_follow_visibility_and_time():
    first = np.array([[True, True, False, False]])
    second = np.array([[True, False, True, False]])
    assert second_share(first, second, 0.25).tolist() == [[0.25, 0.0, 1.0, 0.25]]


def test_linear_mix():
    one, two = picture(0), picture(1)
    share = np.full((HEIGHT, WIDTH), 0.25, np.float32)
    np.testing.assert_allclose(mix(one, two, share), 0.75 * one + 0.25 * two, atol=1e-6)


@pytest.mark.parametrize("position", [0.0, 0.3, 1.0])
def test_contrast_is_between_that_of_the_ends(position):
    one, two = picture(0), picture(1, 0.4, 0.6)
    share = np.full((HEIGHT, WIDTH), 0.5, np.float32)
    got = lab(histogram_mix(one, two, share, (one, two), position))
    for moment in (np.mean, np.std):
        ends = [moment(lab(end), axis=(0, 1)) for end in (one, two)]
        expected = (1 - position) * ends[0] + position * ends[1]
        np.testing.assert_allclose(moment(got, axis=(0, 1)), expected, atol=ROUNDING)


def test_a_picture_keeps_its_own_contrast():
    one, share = picture(0), np.full((HEIGHT, WIDTH), 0.5, np.float32)
    np.testing.assert_allclose(histogram_mix(one, one, share, (one, one), 0.5), one, atol=2e-3)


def test_a_difference_in_tone_leaves_no_seam():
    """The same scene, paler and brighter: wherever either is taken, the result is that scene."""
    one = picture(0)
    middle = lab(one).mean((0, 1))
    tinted = 0.5 * (lab(one) - middle) + middle + np.array([5, 1, -1], np.float32)
    pale = cv2.cvtColor(tinted.astype(np.float32), cv2.COLOR_LAB2RGB)
    share = np.zeros((HEIGHT, WIDTH), np.float32)
    share[:, WIDTH // 2 :] = 1
    got = histogram_mix(one, pale, share, (one, pale), 0.0)
    np.testing.assert_allclose(lab(got), lab(one), atol=2 * ROUNDING)


def test_one_source_is_left_as_it_is():
    one = picture(0)
    share = np.zeros((HEIGHT, WIDTH), np.float32)
    np.testing.assert_allclose(poisson(one, one, picture(1), share), one, atol=2e-3)


def differences() -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Forward differences as matrices over pixels, zero rows at the border."""

    def along(n: int) -> sparse.csr_matrix:
        matrix = sparse.lil_matrix((n, n))
        for i in range(n - 1):
            matrix[i, i], matrix[i, i + 1] = -1, 1
        return matrix.tocsr()

    return (
        sparse.kron(sparse.eye(HEIGHT), along(WIDTH)).tocsr(),
        sparse.kron(along(HEIGHT), sparse.eye(WIDTH)).tocsr(),
    )


def test_gradients_solve_the_least_squares_problem():
    """Against the normal equations of the two terms, built and solved as sparse matrices."""
    one, two = picture(0), picture(1)
    share = np.zeros((HEIGHT, WIDTH), np.float32)
    share[:, WIDTH // 2 :] = 1
    mixed = mix(one, two, share)
    got = lab(poisson(mixed, one, two, share))
    across, down = differences()
    chosen = share.reshape(-1) > 0.5
    for channel, weight in enumerate(GRADIENT_WEIGHTS):
        sources = [lab(end)[..., channel].reshape(-1).astype(float) for end in (one, two)]
        gradients = [
            np.where(chosen, step @ sources[1], step @ sources[0]) for step in (across, down)
        ]
        system = sparse.eye(HEIGHT * WIDTH) + weight**2 * (across.T @ across + down.T @ down)
        right = lab(mixed)[..., channel].reshape(-1).astype(float)
        right = right + weight**2 * (across.T @ gradients[0] + down.T @ gradients[1])
        expected = spsolve(system.tocsc(), right)
        np.testing.assert_allclose(got[..., channel].reshape(-1), expected, atol=ROUNDING)


def test_a_step_between_sources_becomes_a_slope():
    """Two flat greys side by side: gradients are zero everywhere, so the edge is spread."""
    one, two = (np.full((HEIGHT, WIDTH, 3), level, np.float32) for level in (0.3, 0.6))
    share = np.zeros((HEIGHT, WIDTH), np.float32)
    share[:, WIDTH // 2 :] = 1
    mixed = mix(one, two, share)
    got = poisson(mixed, one, two, share)
    edge = WIDTH // 2
    assert abs(got[0, edge, 0] - got[0, edge - 1, 0]) < 0.5 * abs(mixed[0, edge, 0] - 0.3)
    assert got[0, 0, 0] < got[0, -1, 0]
