"""The verdict on an artifact follows from its claims and printed numbers by the declared rule."""

import pytest

from analysis.numbers import table, verdict
from analysis.numbers.claims import Claim, Ours, Paper
from analysis.numbers.statistics import NONE, Interval

GOOD, WIDE, BAD = (
    Interval(mean, mean - half, mean + half, 4) for mean, half in ((1, 0.5), (1, 2), (-2, 0.5))
)
QUOTE = Paper("Arnoldi outperforms RandProj", "Sec. 5.2, of Table 2")


@pytest.mark.parametrize(
    ("outcomes", "word"),
    [
        (["holds"] * 3, "reproduced"),
        (["holds", "holds", "fails"], "partly"),
        (["holds", "holds", "leans"], "partly"),
        (["holds", "holds", "not run"], "partly"),
        (["holds", "leans", "open"], "open"),
        (["leans", "open"], "open"),
        (["leans"], "open"),
        (["holds", "fails", "fails"], "not reproduced"),
        (["leans", "fails"], "not reproduced"),  # nothing holds
        (["holds", "not run", "not run"], "incomplete"),
        (["not run"], "not run"),
        ([], "not run"),
        (["holds", "fails", "paper contradicts itself"], "paper contradicts itself"),
    ],
)
def test_outcomes_are_put_together_as_declared(outcomes, word):
    assert verdict.combined(outcomes) == word
    assert set(verdict.VERDICTS) == set(verdict.WORDS)


def concluded(papers, ours=(), printed=1.0, missing=0):
    claims = [Claim(f"p{place}", QUOTE, "AP.", null=0.0) for place, _ in enumerate(papers)]
    own = [Claim(f"o{place}", Ours("Why not."), "AP.", null=0.0) for place, _ in enumerate(ours)]
    pairs = zip([*claims, *own], [*papers, *ours], strict=True)
    rows = [table.claim("a − b", "AP", "", seen, of=one, at_least=0.0) for one, seen in pairs]
    if printed is not None:
        rows.append(table.number("a", "AP", "", GOOD, printed, 0.5))
    rows.append(table.aside("a", "T", "", GOOD, 1e6))
    whole = table.tabulated(rows).assign(tier="paper", missing=missing)
    return verdict.conclude(whole, [*claims, *own], "")


def test_only_the_papers_claims_and_printed_numbers_decide():
    assert str(concluded([GOOD, GOOD], ours=[BAD])) == "reproduced, 3 of 3"
    assert str(concluded([GOOD, BAD], ours=[GOOD])) == "partly, 2 of 3"
    assert str(concluded([GOOD, GOOD], printed=9.0)) == "partly, 2 of 3"
    assert str(concluded([BAD], printed=9.0)) == "not reproduced, 0 of 2"
    assert str(concluded([NONE], printed=None)) == "not run, 0 of 1"
    assert concluded([GOOD], missing=2).word == "incomplete"


def test_the_evidence_names_what_does_not_hold():
    said = concluded([GOOD, BAD, WIDE], printed=9.0).evidence
    assert "3 claims of the paper: 1 holds, 1 leans, 1 fails." in said
    assert "Fails: p1: -2 [-2.5, -1.5], required > 0; a − b, AP." in said
    assert "4 seeds run; about 9 would decide" in said
    assert "Out of tolerance: a AP 1, printed 9." in said


def test_a_goal_of_our_own_is_met_or_not_and_is_no_reproduction():
    assert str(concluded([], ours=[GOOD, GOOD], printed=None)) == "met, 2 of 2"
    assert str(concluded([], ours=[BAD], printed=None)) == "not met, 0 of 1"
    with pytest.raises(ValueError, match="not one of"):
        verdict.Verdict("more or less", "", "")
