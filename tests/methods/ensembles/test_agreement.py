"""Agreement of classifiers: closed forms, and agreement by chance."""

import numpy as np
import pytest

from methods.ensembles.agreement import agreement, chance_agreement
from methods.errors import MethodError

DRAW = np.random.default_rng(0)


def test_identical_predictions_agree_and_opposite_ones_do_not():
    one = DRAW.integers(0, 5, 200)
    shares = agreement(np.stack([one, one, (one + 1) % 5]))
    np.testing.assert_array_equal(shares, [[1, 1, 0], [1, 1, 0], [0, 0, 1]])
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
    chance = chance_agreement(predicted)
    np.testing.assert_allclose(chance, [[6 / 16, 5 / 16], [5 / 16, 10 / 16]])


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
    ("act", "message"),
    [
        (lambda: agreement(np.zeros(3, int)), r"shape \(3,\)"),
        (lambda: agreement(np.zeros((2, 3))), "float64"),
        (lambda: agreement(np.zeros((1, 3), int), np.zeros((1, 4), int)), "3 and 4 examples"),
        (lambda: chance_agreement(np.zeros((1, 3), int), np.zeros(2)), "2 labels for 3 examples"),
    ],
)
def test_what_are_no_predictions_is_named(act, message):
    with pytest.raises(MethodError, match=message):
        act()
