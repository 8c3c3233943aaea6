"""Means, intervals and paired differences over clips.

Clips are the units: seeds and prompts of one clip are not independent of each other, so they are
averaged within the clip first and whole clips are resampled (a cluster bootstrap).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import pandas as pd

LEVEL = 0.95
RESAMPLES = 10_000
SEED = 0
EXACT_SIGNS = 14
FEWEST_RESAMPLED = 8
"""Resampled means of fewer clips end too soon, at worst at the extreme clips (docs/reports.md)."""


@dataclass(frozen=True)
class Interval:
    """A mean over `n` clips with its interval; low and high are NaN when n < 2."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def has_bounds(self) -> bool:
        """Whether there were enough clips for an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.has_bounds and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Difference:
    """`first - second` over the clips that both rows have.

    positive: number of clips on which the difference is above zero; negative: below.
    p_value: two-sided sign-flip test; NaN when there are no common clips.
    wins: share of clips on which the first is better, ties half; NaN where better is unknown.
    effect: mean difference over its standard deviation over clips (Cohen's d_z); NaN without one.
    """

    first: str
    second: str
    metric: str
    interval: Interval
    positive: int
    negative: int
    p_value: float
    wins: float = math.nan
    effect: float = math.nan


def clip_means(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the mean of a metric per clip (index) and row (columns); NaN where nothing is known.

    scores: as `Run.scores`. Seeds are averaged first, then prompts and configurations of a row.
    """
    chosen = scores[scores["metric"] == metric]
    cell_groups = ["row", "clip", "prompt", "variant"]
    over_seeds = chosen.groupby(cell_groups, sort=False)["value"].mean()
    return over_seeds.groupby(["clip", "row"], sort=False).mean().unstack("row")


def bootstrap_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Return the mean of per-clip values with its 95 % interval; NaN and infinity are left out.

    From eight clips on: 10,000 resamples of the clips with a fixed seed, the percentiles widened
    for small n so that, for normal values, the interval equals Student's t interval: Hesterberg,
    "What Teachers Should Know About the Bootstrap", The American Statistician 69 (2015), section
    5.3. Below eight clips: Student's t interval itself.
    """
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    n = len(known)
    if n < 2:
        return Interval(float(known.mean()) if n else math.nan, math.nan, math.nan, n)
    low, high = bounds(known[:, None])
    return Interval(float(known.mean()), float(low[0]), float(high[0]), n)


def bounds(values: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Return low and high ends, each (k,), for the means of the columns of (n, k), n >= 2."""
    n = len(values)
    if n < FEWEST_RESAMPLED:
        half = t_quantile((1 + level) / 2, n - 1) * values.std(axis=0, ddof=1) / math.sqrt(n)
        return values.mean(axis=0) - half, values.mean(axis=0) + half
    tail = tail_probability(n, level)
    low, high = np.quantile(values.T @ _resampling(n).T, [tail, 1 - tail], axis=1)
    return low, high


@lru_cache(maxsize=4)
def _resampling(n: int) -> np.ndarray:
    """(RESAMPLES, n) weights: row by row the share of each of n values in a resample of n."""
    picks = np.random.default_rng(SEED).integers(n, size=(RESAMPLES, n))
    places = picks + n * np.arange(RESAMPLES)[:, None]
    weights = np.bincount(places.ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n) / n
    weights.flags.writeable = False
    return weights


def tail_probability(n: int, level: float = LEVEL) -> float:
    """Return the probability to cut from each end of the bootstrap distribution of n values."""
    t = t_quantile((1 + level) / 2, n - 1)
    return NormalDist().cdf(-math.sqrt(n / (n - 1)) * t)


def t_quantile(probability: float, freedom: int) -> float:
    """Return Student's t with that many degrees of freedom below which `probability` lies (>= .5).

    Bisection on the finite trigonometric series for whole degrees of freedom: Abramowitz & Stegun,
    "Handbook of Mathematical Functions" (1964), 26.7.3 and 26.7.4.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        below = (1 + _central_t(angle, freedom)) / 2
        low, high = (angle, high) if below < probability else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


def _central_t(angle: float, freedom: int) -> float:
    """Probability that |t| < sqrt(freedom) * tan(angle)."""
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range(freedom // 2):
        total += term
        term *= math.cos(angle) ** 2 * (2 * k + 1 + odd) / (2 * k + 2 + odd)
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def paired_difference(
    means: pd.DataFrame,
    first: str,
    second: str,
    metric: str,
    badness: Callable[[float], float] | None = None,
) -> Difference:
    """Return `first - second` over the common clips of `means` (as `clip_means` gives them).

    badness: a number that is smaller for better values; without it `wins` is not known.
    """
    known = all(row in means.columns for row in (first, second))
    pairs = means[[first, second]].dropna().to_numpy() if known else np.empty((0, 2))
    gaps = pairs[:, 0] - pairs[:, 1]
    return Difference(
        first=first,
        second=second,
        metric=metric,
        interval=bootstrap_interval(gaps),
        positive=int((gaps > 0).sum()),
        negative=int((gaps < 0).sum()),
        p_value=sign_flip_p(gaps),
        wins=_wins(pairs, badness) if badness and len(pairs) else math.nan,
        effect=_effect(gaps),
    )


def _wins(pairs: np.ndarray, badness: Callable[[float], float]) -> float:
    ours, theirs = (np.array([badness(value) for value in column]) for column in pairs.T)
    return float(((ours < theirs) + 0.5 * (ours == theirs)).mean())


def _effect(gaps: np.ndarray) -> float:
    if len(gaps) < 2:
        return math.nan
    spread = gaps.std(ddof=1)
    return float(gaps.mean() / spread) if spread > 1e-9 * abs(gaps.mean()) else math.nan


def sign_flip_p(gaps: np.ndarray) -> float:
    """Return the two-sided p-value of the mean when each gap could as well have the other sign.

    Exact (all 2^n signs) up to 14 clips; beyond that 10,000 random signs, the observed included.
    The smallest value possible is 2 / 2^n.
    """
    n = len(gaps)
    if n == 0:
        return math.nan
    observed = abs(gaps.sum())
    exact = n <= EXACT_SIGNS
    signs = _all_signs(n) if exact else _random_signs(n)
    reached = np.abs(signs @ gaps) >= observed * (1 - 1e-9)
    return float(reached.mean()) if exact else float((reached.sum() + 1) / (len(signs) + 1))


def _all_signs(n: int) -> np.ndarray:
    return np.array(list(itertools.product((-1.0, 1.0), repeat=n)))


def _random_signs(n: int) -> np.ndarray:
    return np.random.default_rng(SEED).choice([-1.0, 1.0], size=(RESAMPLES, n))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm 1979); NaNs are not counted and stay."""
    adjusted = [math.nan] * len(p_values)
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    highest = 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[i] = highest
    return adjusted
