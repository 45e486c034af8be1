"""One interval against a bound or a printed number, and how many seeds would decide."""

import math

import numpy as np
import pytest
from scipy import stats

from analysis.numbers import bounds
from analysis.numbers.bounds import Bound
from analysis.numbers.statistics import NONE, Interval, over_seeds

INSIDE, ACROSS = Interval(1.0, 0.5, 1.5, 4), Interval(1.0, -0.5, 2.5, 4)


@pytest.mark.parametrize(
    ("ours", "word"),
    [
        (INSIDE, "holds"),
        (ACROSS, "leans"),
        (Interval(-1.0, -2.5, 0.5, 4), "open"),
        (Interval(-1.0, -1.5, -0.5, 4), "fails"),
        (Interval(1.0, math.nan, math.nan, 1), "leans"),
        (Interval(-1.0, math.nan, math.nan, 1), "open"),
        (Interval(0.0, 0.0, 0.0, 1), "fails"),  # calculated, and a bound's end is not within
        (NONE, "not run"),
    ],
)
def test_a_claim_is_judged_by_its_whole_interval(ours, word):
    assert bounds.judge(ours, Bound(at_least=0.0)) == word
    mirrored = Interval(-ours.mean, -ours.high, -ours.low, ours.n)
    assert bounds.judge(mirrored, Bound(at_most=0.0)) == word


def test_a_bound_of_two_ends_is_left_on_either_side():
    within = Bound(-1.0, 1.0)
    assert bounds.judge(Interval(0.0, -0.9, 0.9, 3), within) == "holds"
    assert bounds.judge(Interval(0.0, -2.0, 2.0, 3), within) == "leans"
    assert bounds.judge(Interval(1.5, 0.5, 2.5, 3), within) == "open"
    assert bounds.judge(Interval(1.5, 1.2, 1.8, 3), within) == "fails"


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        (Bound(at_least=0.0), "> 0"),
        (Bound(at_most=0.1), "< 0.1"),
        (Bound(-3.0, 3.0), "within ±3"),
        (Bound(0.8, 1.2), "between 0.8 and 1.2"),
    ],
)
def test_a_bound_is_written_as_a_person_would(bound, words):
    assert str(bound) == words


def test_as_many_seeds_decide_as_student_s_interval_needs():
    """With mean 1 and standard deviation 1: t(n - 1) / √n < 1 from seven seeds on."""
    for n in (2, 4):
        half = stats.t.ppf(0.975, n - 1) / math.sqrt(n)
        ours = Interval(1.0, 1 - half, 1 + half, n)
        assert bounds.seeds_needed(ours, Bound(at_least=0.0)) == 7
        assert bounds.seeds_needed(ours, Bound(at_least=0.99999)) == bounds.MOST_SEEDS
    assert stats.t.ppf(0.975, 6) / math.sqrt(7) < 1 < stats.t.ppf(0.975, 5) / math.sqrt(6)
    assert bounds.seeds_needed(Interval(1.0, math.nan, math.nan, 1), Bound(at_least=0.0)) == 0


def test_that_many_seeds_of_the_same_spread_are_decided():
    values = np.array([-1.0, 0.5, 1.0, 2.5])
    needed = bounds.seeds_needed(over_seeds(values), Bound(at_least=0.0))
    spread = values.std(ddof=1)
    for n, decided in ((needed, True), (needed - 1, False)):
        half = stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n)
        assert (values.mean() - half > 0) == decided


@pytest.mark.parametrize(
    ("paper", "ours", "word"),
    [
        (98.7, Interval(98.5, 98.3, 98.7, 5), "holds"),
        (98.7, Interval(97.3, 96.9, 97.7, 5), "holds"),  # 1.0 beyond the interval
        (98.7, Interval(97.2, 96.9, 97.5, 5), "fails"),
        (98.7, Interval(90.0, 50.0, 130.0, 2), "fails"),  # a wide interval is no excuse
        (98.7, Interval(98.5, math.nan, math.nan, 1), "leans"),
        (98.7, NONE, "not run"),
        (math.nan, Interval(98.5, 98.3, 98.7, 5), ""),
    ],
)
def test_a_printed_number_is_judged_by_its_tolerance(paper, ours, word):
    assert bounds.judge_number(paper, ours, tolerance=1.0) == word


def test_a_ratio_is_judged_by_a_factor_either_way():
    for paper in (2.0, 50.0):
        assert bounds.judge_factor(paper, Interval(10.0, 8.0, 12.5, 4), 5.0) == "holds"
    assert bounds.judge_factor(100.0, Interval(10.0, 8.0, 12.5, 4), 5.0) == "fails"
    assert bounds.judge_factor(0.1, Interval(0.2, -0.5, 0.9, 3), 3.0) == "holds"
