"""The verdict on an artifact, by a rule that is written down before the runs.

Only the paper's own sentences and its printed numbers decide; what we add is measured beside them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.numbers.bounds import (
    CONTRADICTS,
    FAILS,
    HOLDS,
    LEANS,
    MEANING,
    NOT_RUN,
    OPEN,
    OUTCOMES,
)
from analysis.numbers.claims import Claim, Judged, judge_claims

REPRODUCED, PARTLY, NOT_REPRODUCED = "reproduced", "partly", "not reproduced"
INCOMPLETE = "incomplete"
WORDS = (REPRODUCED, PARTLY, OPEN, NOT_REPRODUCED, CONTRADICTS, INCOMPLETE, NOT_RUN)
GOALS = {REPRODUCED: "met", NOT_REPRODUCED: "not met"}  # words of what is no reproduction
MANY = {HOLDS: "hold", LEANS: "lean", FAILS: "fail"}
SIZES = {"smoke": "on toy data", "small": "at reduced size", "paper": "at the paper's size"}

VERDICTS = {
    REPRODUCED: "everything holds",
    PARTLY: "some of it holds",
    OPEN: "more than half leans or is open, or that is all there is",
    NOT_REPRODUCED: "more than half fails, or something fails and nothing holds",
    CONTRADICTS: "the paper contradicts one of its sentences, and so do we",
    INCOMPLETE: "more than half was not run, or all of it holds but runs are missing",
    NOT_RUN: "nothing was run",
}
RULE = (
    "Counted are the paper's sentences, each once, and its printed numbers. One of them "
    + "; ".join(f"{word}: {meaning}" for word, meaning in MEANING.items())
    + ". All of them together are "
    + "; ".join(f"{word}: {meaning}" for word, meaning in VERDICTS.items())
    + ". At tier smoke, printed numbers are shown and not judged."
)


@dataclass(frozen=True)
class Verdict:
    """One of WORDS or of GOALS, how many of how many hold, the rule, and what it rests on."""

    word: str
    rule: str
    evidence: str
    holding: int = 0
    counted: int = 0

    def __post_init__(self) -> None:
        if self.word not in (*WORDS, *GOALS.values()):
            raise ValueError(f"verdict {self.word!r} is not one of {', '.join(WORDS)}")

    def __str__(self) -> str:
        return f"{self.word}, {self.holding} of {self.counted}" if self.counted else self.word


def conclude(table: pd.DataFrame, claims: Sequence[Claim], notes: str = "") -> Verdict:
    """The artifact's verdict, by RULE: from the paper's claims and the printed numbers.

    Where no claim is a paper's, the artifact is a goal of our own, met or not. `notes` are further
    sentences of its rule, such as tolerances.
    """
    goal = not any(claim.papers for claim in claims)
    judged = [one for one in judge_claims(table, claims) if goal or one.claim.papers]
    numbers = table[(table["kind"] == "number") & (table["verdict"] != "")]
    outcomes = [*(one.word for one in judged), *numbers["verdict"]]
    word, missing = combined(outcomes), int(table["missing"].iat[0])
    if missing and word == REPRODUCED:
        word = INCOMPLETE
    evidence = [*_said("of our own" if goal else "of the paper", judged), *_printed(numbers)]
    if missing:
        evidence.append(f"Partial: {missing} runs are missing.")
    rule = " ".join(filter(None, [*map(_in_words, judged), notes, RULE]))
    word = GOALS.get(word, word) if goal else word
    return Verdict(word, rule, " ".join(evidence), outcomes.count(HOLDS), len(outcomes))


def combined(outcomes: Sequence[str]) -> str:
    """One of WORDS from outcomes of OUTCOMES, as VERDICTS says."""
    count = {word: list(outcomes).count(word) for word in OUTCOMES}
    half, undecided = len(outcomes) / 2, count[LEANS] + count[OPEN]
    if count[NOT_RUN] == len(outcomes):
        return NOT_RUN
    if count[NOT_RUN] > half:
        return INCOMPLETE
    if count[CONTRADICTS]:
        return CONTRADICTS
    if count[HOLDS] == len(outcomes):
        return REPRODUCED
    if count[FAILS] > half or (count[FAILS] and not count[HOLDS]):
        return NOT_REPRODUCED
    return OPEN if undecided > half or not count[HOLDS] else PARTLY


def _in_words(one: Judged) -> str:
    of = "" if one.claim.rule.words == "every row" else f" of {one.claim.rule.words}"
    required = f" Required{of}: {one.bound}." if one.bound else ""
    return f"{one.claim.name}: {one.claim.measured}{required}"


def _said(whose: str, judged: Sequence[Judged]) -> Iterable[str]:
    """How many claims there are of each outcome, and those that do not hold, with their numbers."""
    if judged:
        yield f"{len(judged)} claim{'s' if judged[1:] else ''} {whose}: {tally(judged)}."
    for word in (FAILS, CONTRADICTS, OPEN, LEANS, NOT_RUN):
        named = "; ".join(str(one) for one in judged if one.word == word)
        if named:
            yield f"{word.capitalize()}: {named}."


def tally(judged: Sequence[Judged]) -> str:
    """How many claims there are of each outcome: `3 hold, 1 fails`."""
    return _counted([one.word for one in judged])


def _counted(words: Sequence[str]) -> str:
    counts = {word: words.count(word) for word in OUTCOMES if word in words}
    return ", ".join(
        f"{n} {word if n == 1 else MANY.get(word, word)}" for word, n in counts.items()
    )


def _printed(numbers: pd.DataFrame, at_most: int = 8) -> Iterable[str]:
    """How many printed numbers are within tolerance, and those that are not."""
    if not len(numbers):
        return
    yield f"{len(numbers)} printed number{'s' if len(numbers) > 1 else ''}:"
    yield f"{_counted(list(numbers['verdict']))}."
    wrong = numbers[numbers["verdict"] == FAILS].to_dict("records")
    named = [
        f"{row['method']} {row['quantity']} {row['ours']:.4g}, printed {row['paper']:.4g}"
        for row in wrong[:at_most]
    ]
    if named:
        more = f"; and {len(wrong) - at_most} more" if len(wrong) > at_most else ""
        yield f"Out of tolerance: {'; '.join(named)}{more}."
