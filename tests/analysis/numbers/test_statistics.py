"""Intervals and tests equal closed forms and scipy's, and cover as often as they say."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.numbers import statistics
from analysis.numbers.statistics import NONE


def test_the_interval_over_seeds_is_students():
    values = np.array([1.0, 2.0, 4.0])
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    ours = statistics.over_seeds(values)
    assert (ours.mean, ours.low, ours.high, ours.n) == (
        pytest.approx(7 / 3), pytest.approx(low), pytest.approx(high), 3,
    )  # fmt: skip
    assert statistics.over_seeds([]) == NONE
    assert math.isnan(statistics.over_seeds([5.0]).low)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = [
        interval.low < 0 < interval.high
        for interval in (statistics.over_seeds(generator.normal(size=5)) for _ in range(2000))
    ]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


def test_paired_differences_use_shared_seeds_alone():
    one, other = pd.Series({0: 5.0, 1: 6.0}), pd.Series({1: 4.0, 2: 9.0})
    assert statistics.difference(one, other).to_dict() == {1: 2.0}
    assert statistics.ratio(one, other).to_dict() == {1: 1.5}


def test_the_geometric_mean_and_its_interval_are_those_of_logarithms():
    ours = statistics.geometric([1.0, 10.0, 100.0])
    assert ours.mean == pytest.approx(10)
    assert ours.low * ours.high == pytest.approx(100)


def test_the_bootstrap_agrees_with_students_interval_on_many_values():
    values = np.random.default_rng(1).normal(3, 1, size=400)
    boot, student = statistics.bootstrap(values), statistics.over_seeds(values)
    assert boot.mean == pytest.approx(student.mean)
    assert (boot.low, boot.high) == (
        pytest.approx(student.low, abs=0.02), pytest.approx(student.high, abs=0.02),
    )  # fmt: skip
    assert statistics.bootstrap(values) == boot, "seeded"


def test_the_transport_distance_has_its_closed_form():
    assert statistics.wasserstein([0, 1, 2], [5, 6, 7]) == pytest.approx(5)
    assert statistics.wasserstein([0, 4], [1, 2]) == pytest.approx(1.5)


def test_the_overlap_of_masks_is_intersection_over_union():
    assert statistics.overlap([1, 1, 0], [0, 1, 1]) == pytest.approx(1 / 3)
    assert math.isnan(statistics.overlap([0], [0]))


def test_homogeneity_is_the_exact_test_on_two_classes():
    exact = stats.fisher_exact([[8, 2], [1, 9]]).pvalue
    assert statistics.homogeneity([8, 2], [1, 9]) == pytest.approx(exact, abs=0.002)
    assert statistics.homogeneity([5, 5, 0], [5, 5, 0]) == 1.0
    assert statistics.homogeneity([0, 0], [3, 4]) == 1.0


def test_p_values_are_uniform_where_nothing_differs():
    generator = np.random.default_rng(2)
    noise = [generator.normal(size=(5, 3, 4)) for _ in range(100)]
    p_values = [statistics.exchangeable(one, num_samples=199) for one in noise]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    shifted = generator.normal(size=(5, 3, 4)) + 5 * np.eye(3, 4)
    assert statistics.exchangeable(shifted, num_samples=999) < 0.01
    assert statistics.combine([0.04, 0.04, 0.04]) < 0.04


def seed_pairs(k: int, draw: np.random.Generator, spread: float = 1.0) -> np.ndarray:
    """Pairs that share the effects of their seeds: mean 0, and errors of their own."""
    seeds, own = spread * draw.normal(size=k), draw.normal(size=(k, k))
    return seeds + seeds[:, None] + (own + own.T) / 2


def test_the_values_of_pairs_are_those_of_the_jackknife_over_seeds():
    pairs = seed_pairs(6, np.random.default_rng(0))
    off = ~np.eye(6, dtype=bool)
    values = statistics.pair_values(pairs)
    assert values.mean() == pytest.approx(pairs[off].mean())
    for seed in range(6):
        rest = np.delete(np.delete(pairs, seed, 0), seed, 1)
        without = rest[~np.eye(5, dtype=bool)].mean()
        assert values[seed] == pytest.approx(6 * pairs[off].mean() - 5 * without)


def test_the_interval_over_seeds_of_pairs_covers_and_that_over_pairs_does_not():
    draw, hits, naive = np.random.default_rng(3), 0, 0
    for _ in range(600):
        pairs = seed_pairs(8, draw)
        ours = statistics.over_seeds(statistics.pair_values(pairs))
        hits += ours.low < 0 < ours.high
        wrong = statistics.over_seeds(pairs[np.triu_indices(8, 1)])
        naive += wrong.low < 0 < wrong.high
    assert hits / 600 == pytest.approx(0.95, abs=0.03)
    assert naive / 600 < 0.8


def test_few_seeds_have_few_values():
    assert statistics.pair_values(np.ones((1, 1))).size == 0
    assert statistics.pair_values(np.array([[1, 0.7], [0.7, 1]])).tolist() == [0.7]
    assert statistics.pair_values(np.full((3, 3), 0.5)).tolist() == [0.5] * 3


def test_independent_samples_are_compared_by_welch():
    draw = np.random.default_rng(4)
    one, other = draw.normal(size=12), 3 * draw.normal(size=7)
    found = stats.ttest_ind(one, other, equal_var=False).confidence_interval()
    ours = statistics.welch(one, other)
    assert (ours.low, ours.high, ours.n) == (
        pytest.approx(found.low), pytest.approx(found.high), 7,
    )  # fmt: skip
    assert statistics.welch([], one) == NONE
    assert math.isnan(statistics.welch([1.0], one).low)
    assert statistics.welch([1.0, 1.0], [0.5, 0.5]).high == 0.5


def test_the_bootstrap_over_seeds_knows_the_error_of_a_mean():
    sample = np.random.default_rng(5).normal(size=(30, 4))
    ours = statistics.resampled(sample, lambda some: float(some.mean()), num_resamples=800)
    error = sample.mean(1).std(ddof=1) / np.sqrt(30)
    assert ours.mean == pytest.approx(sample.mean())
    assert ours.high - ours.mean == pytest.approx(1.96 * error, rel=0.12)
    assert math.isnan(statistics.resampled(sample[:1], lambda some: float(some.mean())).low)


def test_a_share_has_wilson_s_interval():
    ours = statistics.share(10, 10)
    z2 = stats.norm.ppf(0.975) ** 2
    assert (ours.mean, ours.low, ours.high) == (1.0, pytest.approx(10 / (10 + z2)), 1.0)
    assert statistics.share(0, 0) == NONE


def test_an_interval_that_leaves_its_range_becomes_wilson_s_and_others_stay():
    inside = statistics.Interval(90.0, 85.0, 95.0, 3)
    assert statistics.in_range(inside, 0, 100) == inside
    n, p, z = 20, 0.9, 2.0
    half = z * math.sqrt(p * (1 - p) / n)  # as many independent cases would have it
    ours = statistics.in_range(statistics.Interval(p, p - half, p + half, 3), 0, 1)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    spread = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert p + half > 1 > ours.high
    assert (ours.low, ours.high) == (pytest.approx(centre - spread), pytest.approx(centre + spread))
    scaled = statistics.Interval(100 * p, 100 * (p - half), 100 * (p + half), 3)
    assert statistics.in_range(scaled, 0, 100).low == pytest.approx(100 * ours.low)
    assert statistics.in_range(ours, 0, 1) == ours


def test_the_mean_of_means_on_the_same_seeds_is_covered():
    draw, hits = np.random.default_rng(6), 0
    for _ in range(300):
        rows = draw.normal(size=(5, 1)) + 0.3 * draw.normal(size=(5, 4))  # they share their seeds
        ours = statistics.average([statistics.over_seeds(row) for row in rows.T])
        exact = statistics.over_seeds(rows.mean(1))
        assert ours.mean == pytest.approx(exact.mean)
        assert ours.high - ours.low >= exact.high - exact.low - 1e-9
        hits += ours.low < 0 < ours.high
    assert 0.93 < hits / 300 < 0.99
    assert statistics.average([statistics.over_seeds([1.0, 2.0]), NONE]) == NONE


def test_a_quotient_has_the_error_of_both():
    one, other = statistics.Interval(4.0, 3.6, 4.4, 5), statistics.Interval(2.0, 1.9, 2.1, 8)
    ours = statistics.quotient(one, other)
    relative = math.hypot(0.1, 0.05)
    assert (ours.mean, ours.n) == (2.0, 5)
    assert (ours.low, ours.high) == (
        pytest.approx(2 * math.exp(-relative)), pytest.approx(2 * math.exp(relative)),
    )  # fmt: skip
