"""Claims have owners, a null that their bound excludes, and a rule for several rows."""

import math

import pytest

from analysis import __main__ as everything
from analysis.numbers.claims import EVERY, GEOMETRIC, MEAN, Claim, Paper, judge_claims
from analysis.numbers.statistics import NONE, Interval
from analysis.numbers.table import claim, from_csv, tabulated, to_csv

ARTIFACTS, _ = everything.artifacts()
QUOTE = Paper("Arnoldi outperforms RandProj", "Sec. 5.2, of Table 2")
GOOD, WIDE, BAD = (
    Interval(mean, mean - half, mean + half, 4) for mean, half in ((1, 0.5), (1, 2), (-2, 0.5))
)


def better(**more):
    return Claim("better", QUOTE, "AUC.", **({"null": 0.0} | more))


def judged(one, *intervals, **more):
    rows = [
        claim(f"row {place}", "AUC", "", ours, of=one, **({"at_least": 0.0} | more))
        for place, ours in enumerate(intervals)
    ]
    (found,) = judge_claims(from_csv(to_csv(tabulated(rows))), [one])
    return found


def test_a_claim_about_every_row_rests_on_the_one_furthest_from_holding():
    assert judged(better(), GOOD, GOOD).word == "holds"
    assert judged(better(), GOOD, WIDE).word == "leans"
    assert judged(better(), GOOD, NONE).word == "not run"
    found = judged(better(), GOOD, BAD, WIDE)
    assert (found.word, found.of) == ("fails", "row 1, AUC (of 3 rows)")
    assert EVERY.words == "every row"


def test_one_sentence_over_several_rows_may_be_their_mean():
    found = judged(better(rule=MEAN), GOOD, WIDE)
    assert (found.word, found.of) == ("leans", "2 rows")
    assert (found.ours.mean, found.ours.low, found.ours.high) == (1.0, -0.25, 2.25)
    ratio = better(rule=GEOMETRIC, null=1.0)
    found = judged(ratio, Interval(2.0, 1.0, 4.0, 4), Interval(8.0, 4.0, 16.0, 4), at_least=1.0)
    assert (found.word, found.ours.mean) == ("holds", pytest.approx(4.0))
    assert found.ours.low == pytest.approx(2.0)


def test_a_bound_that_the_null_meets_is_refused():
    with pytest.raises(ValueError, match=r"vacuous, as the null, 0\.5, is > 0 too"):
        judged(better(null=0.5), GOOD)


def test_a_measured_null_that_meets_the_bound_leaves_a_claim_open():
    found = judged(better(), GOOD, null=0.9)
    assert (found.word, found.note) == ("open", "the measured null meets the bound too")
    assert judged(better(), GOOD, null=-0.1).word == "holds"


def test_a_sentence_that_the_paper_contradicts_is_said_to_be_one_if_it_fails():
    one = better(contradicted="its code returns 67")
    assert judged(one, BAD).word == "paper contradicts itself"
    assert "its code returns 67" in str(judged(one, BAD))
    assert judged(one, GOOD).word == "holds"


def test_an_undecided_claim_says_how_many_seeds_would_decide():
    assert judged(better(), WIDE).about()["would_decide"] == "4 seeds run; about 9 would decide"
    assert judged(better(), GOOD).about()["would_decide"] == ""
    of_points = judged(better(over="points"), WIDE)
    assert of_points.would_decide == "4 points run; about 9 would decide"
    one_seed = judged(better(), Interval(1.0, math.nan, math.nan, 1))
    assert (one_seed.word, one_seed.seeds) == ("leans", 0)


def test_rows_of_a_claim_that_is_not_declared_are_an_error():
    row = claim("a", "AUC", "", GOOD, of=better(), at_least=0.0)
    with pytest.raises(ValueError, match="not declared: better"):
        judge_claims(tabulated([row]), [])


def test_a_quotation_has_words_and_a_place():
    for quote, where in (("", "Sec. 5"), ("so it is", " ")):
        with pytest.raises(ValueError, match="its sentence and the place"):
            Paper(quote, where)


@pytest.mark.parametrize("artifact", ARTIFACTS, ids=lambda one: one.id)
def test_every_claim_has_an_owner_and_says_what_is_measured(artifact):
    names = [one.name for one in artifact.claims]
    assert names
    assert len(set(names)) == len(names)
    for one in artifact.claims:
        assert one.measured.endswith(".")
        assert math.isfinite(one.null)
        if one.papers:
            assert len(one.owner.quote) > 20
            assert any(word in one.owner.where for word in ("Sec.", "App.", "Figure", "Table"))
        else:
            assert one.owner.why.endswith(".")
    assert any(one.papers for one in artifact.claims) != artifact.paper.startswith("no paper")
