import math

import numpy as np
import pandas as pd
import pytest

from reports.load import SCORE_COLUMNS
from reports.statistics import (
    bootstrap_interval,
    bounds,
    clip_means,
    holm,
    paired_difference,
    sign_flip_p,
    t_quantile,
    tail_probability,
)


def scores(*lines: tuple[str, str, str, int, float]) -> pd.DataFrame:
    """(row, clip, prompt, seed, value) -> a table like `Run.scores`."""
    full = [
        (row, clip, prompt, "{}", seed, "m", value, "") for row, clip, prompt, seed, value in lines
    ]
    return pd.DataFrame(full, columns=list(SCORE_COLUMNS))


def test_seeds_are_averaged_within_a_clip_before_clips() -> None:
    found = clip_means(
        scores(("a", "x", "p", 0, 1.0), ("a", "x", "p", 1, 3.0), ("a", "y", "p", 0, 10.0)), "m"
    )
    assert found["a"].to_dict() == {"x": 2.0, "y": 10.0}
    assert bootstrap_interval(found["a"]).mean == 6.0  # and not (1 + 3 + 10) / 3


def test_prompts_weigh_the_same_whatever_their_number_of_seeds() -> None:
    lines = [("a", "x", "p", seed, 0.0) for seed in range(5)] + [("a", "x", "q", 0, 1.0)]
    assert clip_means(scores(*lines), "m").loc["x", "a"] == 0.5


# Student's t, 97.5 %, from the tables that every textbook prints.
@pytest.mark.parametrize(
    ("freedom", "t"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (7, 2.365), (8, 2.306), (30, 2.042)],
)
def test_t_quantiles_are_those_of_the_printed_tables(freedom: int, t: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(t, abs=6e-4)


def test_interval_of_many_values_is_mean_and_196_standard_errors() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    found = bootstrap_interval(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert found.mean == pytest.approx(values.mean())
    assert [found.low, found.high] == pytest.approx(
        [values.mean() - half, values.mean() + half], abs=0.02
    )


def test_interval_of_few_values_is_near_the_t_interval() -> None:
    values = np.array([-1.2, -0.7, -0.3, -0.1, 0.1, 0.3, 0.7, 1.2])
    found = bootstrap_interval(values)
    half = 2.365 * values.std(ddof=1) / math.sqrt(8)
    assert [found.low, found.high] == pytest.approx([-half, half], rel=0.1)


def test_interval_agrees_with_scipy_at_the_widened_level() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(3).gamma(2.0, size=12)
    found = bootstrap_interval(values)
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=10_000,
        confidence_level=1 - 2 * tail_probability(12),
        method="percentile",
        rng=np.random.default_rng(9),
    ).confidence_interval
    assert [found.low, found.high] == pytest.approx(list(theirs), abs=0.05 * values.std())


RUNS = 800
"""Simulated runs: the share that covers is known to 0.8 % (one standard error at 95 %)."""


def clustered(clips: int, seeds: int = 5) -> np.ndarray:
    """(clips, seeds, RUNS): a clip's own effect (sd 1) and a seed's within it (sd 0.5), mean 0."""
    rng = np.random.default_rng(clips)
    return rng.normal(size=(clips, 1, RUNS)) + 0.5 * rng.normal(size=(clips, seeds, RUNS))


def coverage(values: np.ndarray) -> float:
    low, high = bounds(values)
    return float(np.mean((low <= 0) & (high >= 0)))


@pytest.mark.parametrize("clips", [3, 7, 8, 12])
def test_intervals_over_clips_cover_the_truth_as_often_as_they_say(clips: int) -> None:
    assert coverage(clustered(clips).mean(axis=1)) == pytest.approx(0.95, abs=0.025)


def test_the_naive_bootstrap_over_samples_is_far_too_sure() -> None:
    samples = clustered(8).reshape(8 * 5, RUNS)
    assert coverage(samples) < 0.75


def test_plain_percentiles_of_few_clips_would_cover_too_seldom() -> None:
    means = clustered(6).mean(axis=1)
    resampled = means[np.random.default_rng(0).integers(6, size=(1000, 6))].mean(axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    assert np.mean((low <= 0) & (high >= 0)) < 0.90
    assert coverage(means) > 0.925


def test_interval_is_the_same_at_every_call() -> None:
    values = [0.3, 0.1, 0.5, 0.2]
    assert bootstrap_interval(values) == bootstrap_interval(values)


@pytest.mark.parametrize(("values", "n"), [([], 0), ([math.nan], 0), ([2.0], 1)])
def test_fewer_than_two_clips_have_no_interval(values: list[float], n: int) -> None:
    found = bootstrap_interval(values)
    assert found.n == n
    assert not found.has_bounds
    assert not found.excludes_zero


def test_paired_difference_uses_common_clips_and_keeps_its_sign() -> None:
    means = pd.DataFrame({"a": [1.0, 2.0, 9.0], "b": [3.0, 5.0, math.nan]}, index=list("xyz"))
    found = paired_difference(means, "a", "b", "m")
    assert (found.interval.mean, found.interval.n) == (-2.5, 2)
    assert (found.positive, found.negative) == (0, 2)
    assert paired_difference(means, "b", "a", "m").interval.mean == 2.5


def test_pairing_resolves_what_clip_difficulty_hides() -> None:
    hard = np.linspace(0, 1, 8)
    means = pd.DataFrame({"a": hard, "b": hard + 0.01 + 0.001 * np.cos(np.arange(8))})
    low, high = bootstrap_interval(means["a"]), bootstrap_interval(means["b"])
    assert low.high > high.low  # unpaired intervals overlap
    assert paired_difference(means, "b", "a", "m").interval.excludes_zero


def test_a_row_without_scores_has_no_difference() -> None:
    found = paired_difference(pd.DataFrame({"a": [1.0]}), "a", "b", "m")
    assert found.interval.n == 0
    assert math.isnan(found.p_value)


def test_sign_flip_p_by_hand() -> None:
    assert sign_flip_p(np.array([1.0, 2.0, 3.0])) == 2 / 8
    assert sign_flip_p(np.array([1.0, -1.0])) == 1.0
    assert sign_flip_p(np.ones(8)) == 2 / 256
    assert sign_flip_p(np.ones(30)) == pytest.approx(1 / 10_001)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    adjusted = holm([0.02, math.nan])
    assert adjusted[0] == 0.02
    assert math.isnan(adjusted[1])


def test_wins_follow_what_is_better_and_ties_count_half() -> None:
    means = pd.DataFrame({"a": [1.0, 2.0, 5.0, 4.0], "b": [2.0, 2.0, 3.0, 9.0]})
    assert paired_difference(means, "a", "b", "m", lambda value: value).wins == 0.625
    assert paired_difference(means, "a", "b", "m", lambda value: -value).wins == 0.375
    nearer = paired_difference(means, "a", "b", "m", lambda value: abs(value - 4))
    assert nearer.wins == pytest.approx((0 + 0.5 + 0.5 + 1) / 4)
    assert math.isnan(paired_difference(means, "a", "b", "m").wins)


def test_effect_is_the_mean_over_the_spread_of_the_differences() -> None:
    means = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [0.0, 0.0, 0.0]})
    assert paired_difference(means, "a", "b", "m").effect == pytest.approx(2.0)
    assert math.isnan(paired_difference(means[["a"]].assign(b=means["a"]), "a", "b", "m").effect)
