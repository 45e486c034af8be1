"""Agreement of classifiers: closed forms, what chance gives, and intervals over pairs of seeds."""

import math

import numpy as np
import pytest

from analysis.numbers import statistics
from analysis.numbers.statistics import NONE
from methods.ensembles.agreement import agreement, chance_agreement
from methods.errors import MethodError

DRAW = np.random.default_rng(0)


def test_identical_predictions_agree_and_opposite_ones_do_not():
    one = DRAW.integers(0, 5, 200)
    found = agreement(np.stack([one, one, (one + 1) % 5]))
    np.testing.assert_array_equal(found, [[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    half = np.where(np.arange(200) < 100, one, (one + 2) % 5)
    assert agreement(one[None], half[None])[0, 0] == 0.5


def test_independent_classifiers_agree_as_often_as_chance_says():
    q = np.array([0.5, 0.3, 0.2])
    predicted = DRAW.choice(3, size=(2, 200_000), p=q)
    expected = (q**2).sum()
    assert agreement(predicted)[0, 1] == pytest.approx(expected, abs=0.005)
    np.testing.assert_allclose(chance_agreement(predicted), expected, atol=0.005)


def test_chance_is_the_sum_of_products_of_shares():
    predicted = np.array([[0, 0, 1, 2], [1, 1, 1, 0]])
    found = chance_agreement(predicted)
    np.testing.assert_allclose(found, [[6 / 16, 5 / 16], [5 / 16, 10 / 16]])


def test_within_labels_chance_knows_what_accuracy_gives():
    label = DRAW.integers(0, 10, 100_000)
    wrong = (label + DRAW.integers(1, 10, (2, len(label)))) % 10
    predicted = np.where(DRAW.random(wrong.shape) < 0.8, label, wrong)
    expected = 0.8**2 + 9 * (0.2 / 9) ** 2
    assert agreement(predicted)[0, 1] == pytest.approx(expected, abs=0.005)
    assert chance_agreement(predicted, label)[0, 1] == pytest.approx(expected, abs=0.005)
    assert chance_agreement(predicted)[0, 1] == pytest.approx(0.1, abs=0.005)
    np.testing.assert_allclose(chance_agreement(label[None], label), 1.0)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: agreement(np.zeros(3, int)), r"shape \(3,\)"),
        (lambda: agreement(np.zeros((2, 3))), "float64"),
        (lambda: agreement(np.zeros((1, 3), int), np.zeros((1, 4), int)), "3 and 4 examples"),
        (lambda: chance_agreement(np.zeros((1, 3), int), np.zeros(2)), "2 labels for 3 examples"),
    ],
)
def test_what_are_no_predictions_is_named(act, said):
    with pytest.raises(MethodError, match=said):
        act()


def matrix(k: int, draw: np.random.Generator, spread: float = 1.0) -> np.ndarray:
    """Pairs that share the effects of their seeds: mean 0, and errors of their own."""
    seeds, own = spread * draw.normal(size=k), draw.normal(size=(k, k))
    return seeds + seeds[:, None] + (own + own.T) / 2


def test_the_values_of_pairs_are_those_of_the_jackknife_over_seeds():
    pairs = matrix(6, DRAW)
    off = ~np.eye(6, dtype=bool)
    values = statistics.pair_values(pairs)
    assert values.mean() == pytest.approx(pairs[off].mean())
    for seed in range(6):
        rest = np.delete(np.delete(pairs, seed, 0), seed, 1)
        without = rest[~np.eye(5, dtype=bool)].mean()
        assert values[seed] == pytest.approx(6 * pairs[off].mean() - 5 * without)


def test_its_interval_covers_though_pairs_share_seeds_and_that_of_pairs_does_not():
    draw, hits, naive = np.random.default_rng(3), 0, 0
    for _ in range(600):
        pairs = matrix(8, draw)
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
    from scipy import stats

    found = stats.ttest_ind(one, other, equal_var=False).confidence_interval()
    ours = statistics.apart(one, other)
    assert (ours.low, ours.high, ours.n) == (
        pytest.approx(found.low), pytest.approx(found.high), 7,
    )  # fmt: skip
    assert statistics.apart([], one) == NONE
    assert math.isnan(statistics.apart([1.0], one).low)
    assert statistics.apart([1.0, 1.0], [0.5, 0.5]).high == 0.5


def test_the_bootstrap_over_seeds_knows_the_error_of_a_mean():
    sample = np.random.default_rng(5).normal(size=(30, 4))
    ours = statistics.resampled(sample, lambda some: float(some.mean()), num_resamples=800)
    error = sample.mean(1).std(ddof=1) / np.sqrt(30)
    assert ours.mean == pytest.approx(sample.mean())
    assert ours.high - ours.mean == pytest.approx(1.96 * error, rel=0.12)
    assert math.isnan(statistics.resampled(sample[:1], lambda some: float(some.mean())).low)
