"""The Frechet distance between Gaussian fits of two sets of features. Torch-free."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float64]


def frechet_distance(one: Features, two: Features) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two sets (n, d), (m, d) of two or more.

    Covariances divide by n - 1. tr (C1 C2)^(1/2) is the sum of the roots of the eigenvalues of the
    symmetric C1^(1/2) C2 C1^(1/2). Rounding is not let below 0.
    """
    shift = np.square(one.mean(0) - two.mean(0)).sum()
    first, second = (np.atleast_2d(np.cov(part, rowvar=False)) for part in (one, two))
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    mixed = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(min=0)).sum()
    return max(0.0, float(shift + first.trace() + second.trace() - 2 * mixed))
