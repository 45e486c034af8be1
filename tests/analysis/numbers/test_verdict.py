"""Words follow from numbers by declared rules: of one number, of a claim, of an artifact."""

import math

import pytest

from analysis.numbers import table, verdict
from analysis.numbers.statistics import NONE, Interval


@pytest.mark.parametrize(
    ("paper", "ours", "word"),
    [
        (98.7, Interval(98.5, 98.3, 98.7, 5), "reproduced"),
        (98.7, Interval(97.3, 96.9, 97.7, 5), "reproduced"),  # 1.0 beyond the interval
        (98.7, Interval(97.2, 96.9, 97.5, 5), "not reproduced"),
        (98.7, Interval(90.0, 50.0, 130.0, 2), "not reproduced"),  # a wide interval is no excuse
        (98.7, Interval(98.5, math.nan, math.nan, 1), "direction"),
        (98.7, NONE, "not run"),
        (math.nan, Interval(98.5, 98.3, 98.7, 5), ""),
    ],
)
def test_a_printed_number_is_judged_by_its_tolerance(paper, ours, word):
    assert verdict.judge_number(paper, ours, tolerance=1.0) == word


def test_a_ratio_is_judged_by_a_factor_either_way():
    for paper in (2.0, 50.0):
        assert verdict.judge_factor(paper, Interval(10.0, 8.0, 12.5, 4), 5.0) == "reproduced"
    assert verdict.judge_factor(100.0, Interval(10.0, 8.0, 12.5, 4), 5.0) == "not reproduced"
    assert verdict.judge_factor(0.1, Interval(0.2, -0.5, 0.9, 3), 3.0) == "reproduced"


@pytest.mark.parametrize(
    ("ours", "word"),
    [
        (Interval(1.0, 0.5, 1.5, 4), "reproduced"),
        (Interval(1.0, -0.5, 2.5, 4), "direction"),
        (Interval(-1.0, -2.5, 0.5, 4), "not reproduced"),
        (Interval(1.0, math.nan, math.nan, 1), "direction"),
        (NONE, "not run"),
    ],
)
def test_a_claim_is_judged_by_its_whole_interval(ours, word):
    assert verdict.judge_claim(ours, at_least=0.0) == word
    mirrored = Interval(-ours.mean, -ours.high, -ours.low, ours.n)
    assert verdict.judge_claim(mirrored, at_most=0.0) == word


def test_an_artifact_is_reproduced_only_with_every_claim_and_number():
    good, bad = Interval(1.0, 0.5, 1.5, 4), Interval(-1.0, -1.5, -0.5, 4)
    wide = Interval(1.0, -0.5, 2.5, 4)

    def word(claims, paper=1.0, tier="paper", missing=0):
        rows = [table.claim("a − b", "AP", "", one, at_least=0.0) for one in claims]
        rows.append(table.number("a", "AP", "", good, paper, 0.5))
        rows.append(table.aside("a", "T", "", good, 1e6, 2.0))
        whole = table.tabulated(rows).assign(tier=tier, missing=missing)
        return verdict.conclude(whole, "").word

    assert word([good, good]) == "reproduced"
    assert word([good, good], paper=9.0) == "direction"
    assert word([good, wide]) == "direction"
    assert word([good, NONE]) == "direction"
    assert word([good, bad]) == "not reproduced"
    assert word([NONE]) == "not run"
    assert word([good], tier="small") == word([good], missing=1) == "direction"
    with pytest.raises(ValueError, match="not one of"):
        verdict.Verdict("more or less", "", "")
