"""How many models tell p from q: known answers, brute force, simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom

from methods.ensembles.plan import (
    false_share,
    models_for,
    null_iou,
    null_passes,
    null_rate,
    resolved,
    standard_error,
)
from methods.ensembles.power import (
    Count,
    arms,
    one_arm,
    paper_count,
    passes,
    two_arms,
    two_arms_normal,
)
from methods.errors import MethodError

GRID = [0, 0.01, *(round(0.05 * i, 2) for i in range(1, 20)), 0.99, 1]


@pytest.mark.parametrize(
    ("p", "q", "delta", "first", "sustained"),
    [
        (0.6, 0.4, 0.05, 67, 75),
        (0.6, 0.4, 0.02, 103, 113),
        (0.9, 0.5, 0.05, 13, 16),
        (0.45, 0.5, 0.05, 1092, 1104),
        (0.5, 1, 0.05, 5, 5),  # 2^-5 < 0.05
        (0, 0.5, 0.05, 5, 5),
        (0.99, 1, 0.05, 299, 299),
        (0, 1, 0.05, 1, 1),
        (0.3, 0.3, 0.05, math.inf, math.inf),
    ],
)
def test_known_counts(p, q, delta, first, sustained):
    assert one_arm(p, q, delta) == one_arm(q, p, delta) == Count(first, sustained)
    assert one_arm(1 - p, 1 - q, delta).first == first


def errors(p, q, n):
    """The two probabilities of error of each cut, for p < q, (n + 1,) each."""
    k = np.arange(-1, n)
    return 1 - binom.cdf(k, n, p), binom.cdf(k, n, q)


@pytest.mark.parametrize(("p", "q"), [(0.4, 0.6), (0.5, 0.9), (0.1, 0.35), (0, 0.2), (0.8, 1)])
def test_the_first_number_that_does_is_the_first_under_any_cut(p, q):
    can = [bool((np.maximum(*errors(p, q, n)) <= 0.05).any()) for n in range(1, 120)]
    assert one_arm(p, q).first == 1 + can.index(True)


def test_the_counts_hold_and_the_number_before_the_sustained_one_does_not():
    for p, q in itertools.combinations(GRID, 2):
        count = one_arm(p, q)
        assert 1 <= count.first <= count.sustained < 2_000
        if p > 0 and q < 1:
            share = math.log((1 - p) / (1 - q)) / math.log(q * (1 - p) / (p * (1 - q)))
            n = np.arange(1, 2_500)
            cut = np.floor(n * share + 1e-9)
            enough = (binom.cdf(cut, n, p) >= 0.95) & (binom.cdf(cut, n, q) <= 0.05)
            assert 1 + enough.argmax() == count.first
            assert max(n[~enough], default=0) + 1 == count.sustained


def test_the_paper_s_code_is_ours_where_it_answers():
    pairs = list(itertools.combinations(GRID, 2))
    answers = {pair: paper_count(*pair) for pair in pairs}
    for pair, answer in answers.items():
        known = pair[1] < 1 and one_arm(*pair).first < 1_000
        assert answer == (one_arm(*pair).first if known else math.inf)
    again = [one_arm(*pair) for pair in pairs]
    assert len(pairs) == 253
    assert sum(count.first < count.sustained for count in again) == 121
    assert paper_count(0.5, 0.5) == math.inf


def test_two_unknown_arms_are_near_the_normal_answer_in_the_middle():
    count = two_arms(0.6, 0.4)
    assert two_arms_normal(0.6, 0.4) == pytest.approx(2 * 130, abs=1)
    assert count.first == pytest.approx(2 * 130, rel=0.06)
    assert two_arms(0.6, 0.4, inside=0.7).first > count.first
    assert two_arms(0, 1) == Count(2, 2)
    assert two_arms(0.5, 0.5).first == math.inf


@pytest.mark.parametrize(("p", "q", "inside"), [(0.9, 0.5, 0.5), (0.8, 0.3, 0.7), (1, 0.6, 0.6)])
def test_two_arms_are_those_of_brute_force(p, q, inside):
    def decided(n):
        n_in, n_out = arms(n, inside)
        if not 0 < n_in < n:
            return False
        gap = np.arange(n_in + 1)[:, None] / n_in - np.arange(n_out + 1) / n_out
        influential = gap >= (p - q) / 2 - 1e-9

        def chance(one, other):
            mass = binom.pmf(np.arange(n_in + 1), n_in, one)[:, None]
            return float((influential * mass * binom.pmf(np.arange(n_out + 1), n_out, other)).sum())

        return chance(p, q) >= 0.95 and max(chance(p, p), chance(q, q)) <= 0.05

    enough = np.array([decided(n) for n in range(1, 250)])
    count = two_arms(p, q, inside=inside)
    assert count.first == 1 + enough.argmax()
    assert count.sustained == 1 + np.flatnonzero(~enough)[-1] + 1


@pytest.mark.parametrize(("p", "q", "threshold"), [(0.5, 0.5, 0.15), (0.9, 0.7, 0.1), (1, 0, 0.5)])
def test_the_chance_of_a_difference_is_that_of_simulation(p, q, threshold):
    draw = np.random.default_rng(0)
    gap = draw.binomial(70, p, 200_000) / 70 - draw.binomial(30, q, 200_000) / 30
    simulated = (gap >= threshold - 1e-9).mean()
    assert passes(70, 30, p, q, threshold) == pytest.approx(simulated, abs=0.004)


@pytest.mark.parametrize(
    ("n", "error", "rate"), [(50, 0.1543, 0.166), (200, 0.0772, 0.026), (400, 0.0546, 0.003)]
)
def test_the_error_of_subsets_and_how_often_nothing_passes(n, error, rate):
    assert standard_error(n, 0.5, 0.5) == pytest.approx(error, abs=5e-5)
    of_average = passes(*arms(n, 0.7), 0.5, 0.5, 0.15)
    assert of_average == pytest.approx(rate, rel=0.04)  # which is by the normal law
    any_example = null_rate(n, 0.15)
    assert any_example == pytest.approx(of_average, rel=0.1)
    assert null_iou(n, 0.15) == pytest.approx(any_example / (2 - any_example))


def test_the_rate_of_any_example_is_that_of_drawn_masks():
    draw = np.random.default_rng(3)
    inside = draw.random((400_000, 20)) < 0.7
    right = draw.random(inside.shape) < 0.6
    n_in = inside.sum(1)
    some = (n_in > 0) & (n_in < 20)
    gap = (inside & right).sum(1)[some] / n_in[some]
    gap -= (~inside & right).sum(1)[some] / (20 - n_in[some])
    assert null_rate(20, 0.4, p=0.6) == pytest.approx((gap >= 0.4 - 1e-9).mean(), abs=0.002)


def test_nothing_passes_nothing_overlaps():
    assert math.isnan(null_iou(20, 1.0, p=1.0))


def test_a_limits_is_as_quiet_and_as_sure_as_it_says():
    for n, p in [(100, 0.5), (400, 0.9)]:
        limits = resolved(n, p)
        n_in, n_out = arms(n, 0.7)
        assert passes(n_in, n_out, p, p, limits.threshold) <= 0.05
        assert passes(n_in, n_out, p, p, limits.threshold - 1e-6) > 0.05
        assert passes(n_in, n_out, p, p - limits.influence, limits.threshold) == pytest.approx(0.95)
    assert math.isnan(resolved(20, 0.3).influence)


def test_the_models_for_a_threshold_are_quiet_from_there_on():
    count = models_for(0.15)
    enough = [passes(*arms(n, 0.7), 0.5, 0.5, 0.15) <= 0.05 for n in range(5, 600)]
    assert count.first == 5 + enough.index(True)
    assert count.sustained == 5 + len(enough) - enough[::-1].index(False)


def test_given_how_many_are_right_the_rate_is_fisher_s():
    draw = np.random.default_rng(1)
    right = draw.permuted(np.tile(np.arange(100) < 60, (20_000, 1)), axis=1)
    gap = right[:, :70].mean(1) - right[:, 70:].mean(1)
    rates = null_passes(np.array([60, 0, 60]), 100, 70, 0.15)
    assert rates[0] == rates[2] == pytest.approx((gap >= 0.15 - 1e-9).mean(), abs=0.005)
    assert rates[1] == 0


def test_the_false_share_is_the_expected_number_over_what_was_found():
    total = np.random.default_rng(2).binomial(200, 0.5, 2_000)
    inside = np.array([140, 150, 140, 0, 200])  # the last two have no estimate
    rates = [null_passes(total, 200, n_in, 0.2).sum() for n_in in (140, 150, 140)]
    expected = false_share(int(10 * sum(rates)), total, inside, 200, 0.2)
    assert expected == pytest.approx(0.1, rel=0.01)
    assert false_share(1, total, inside, 200, 0.2) == 1
    assert math.isnan(false_share(0, total, inside, 200, 0.2))


MISTAKES = {
    "p is 1.2: give a probability": lambda: one_arm(1.2, 0.5),
    "delta is 0.5": lambda: one_arm(0.6, 0.4, 0.5),
    "inside is 1": lambda: two_arms(0.6, 0.4, inside=1),
    "move p and q apart": lambda: one_arm(0.5, 0.50001),
    "threshold is 0": lambda: models_for(0),
    "leave 0 of one kind": lambda: resolved(1),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_what_cannot_be_counted_is_named(message):
    with pytest.raises(MethodError) as caught:
        MISTAKES[message]()
    assert message in str(caught.value)
