"""Verdicts by rules that are written down before the runs: what counts as reproduced."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.numbers.statistics import Interval

WORDS = ("reproduced", "direction", "not reproduced", "not run")
TIERS = ("smoke", "small", "paper")
FULL_TIER = TIERS[-1]

RULE = (
    "reproduced: at tier paper, with all runs finished, the 95% interval over seeds of each claim"
    " lies within its bounds and each judged number is within its tolerance;"
    " direction: the mean of each claim that could be tested is within its bounds;"
    " not reproduced: at least one claim fails; not run: no claim could be tested. At tier smoke,"
    " printed numbers are shown and not judged."
)
TOLERANCE_RULE = (
    "A number is within tolerance if the printed value is no further than the tolerance from our"
    " 95% interval over seeds; of the interval, at most one tolerance on either side of the mean"
    " counts."
)


@dataclass(frozen=True)
class Verdict:
    """One of WORDS, the rule that it follows from, and the counts that the rule was applied to."""

    word: str
    rule: str
    evidence: str

    def __post_init__(self) -> None:
        if self.word not in WORDS:
            raise ValueError(f"verdict {self.word!r} is not one of {', '.join(WORDS)}")


def within(paper: float, ours: Interval, tolerance: float) -> bool:
    """Whether the printed value is within `tolerance` of our interval.

    At most one tolerance of the interval counts on either side, so that a wide one excuses nothing.
    """
    below = 0.0 if math.isnan(ours.low) else min(ours.mean - ours.low, tolerance)
    above = 0.0 if math.isnan(ours.high) else min(ours.high - ours.mean, tolerance)
    return ours.mean - below - tolerance <= paper <= ours.mean + above + tolerance


def judge_number(paper: float, ours: Interval, tolerance: float) -> str:
    """The verdict on one printed number; "" where the paper prints none.

    One seed has no interval, so it is `direction` at best.
    """
    if ours.n == 0:
        return "not run"
    if math.isnan(paper):
        return ""
    if not within(paper, ours, tolerance):
        return "not reproduced"
    return "reproduced" if ours.n > 1 else "direction"


def judge_factor(paper: float, ours: Interval, factor: float) -> str:
    """The verdict on one printed ratio: `judge_number` on logarithms."""
    if ours.n == 0 or math.isnan(paper):
        return judge_number(paper, ours, factor)
    if ours.mean <= 0:
        return "not reproduced"
    low = -math.inf if ours.low <= 0 else math.log(ours.low)
    logs = Interval(math.log(ours.mean), low, math.log(ours.high), ours.n)
    return judge_number(math.log(paper), logs, math.log(factor))


def judge_claim(ours: Interval, at_least: float = math.nan, at_most: float = math.nan) -> str:
    """The verdict on one claim `at_least < quantity < at_most`; nan is no bound.

    `reproduced` if the whole interval is inside, `direction` if only the mean is.
    """
    if ours.n == 0:
        return "not run"
    low = -math.inf if math.isnan(at_least) else at_least
    high = math.inf if math.isnan(at_most) else at_most
    if not low < ours.mean < high:
        return "not reproduced"
    return "reproduced" if low < ours.low and ours.high < high else "direction"


def cap(word: str, tier: str, missing: int = 0) -> str:
    """The word, lowered to `direction` below the paper tier or where runs are missing."""
    complete = tier == FULL_TIER and not missing
    return "direction" if word == "reproduced" and not complete else word


def conclude(table: pd.DataFrame, rule: str) -> Verdict:
    """The artifact's verdict from its rows of kind `claim` and `number`, by RULE.

    `rule` says what the claims are and which tolerances apply.
    """
    claims = table[table["kind"] == "claim"]
    numbers = table[(table["kind"] == "number") & (table["verdict"] != "")]
    tested = claims[claims["verdict"] != "not run"]
    words = set(tested["verdict"])
    if tested.empty:
        word = "not run"
    elif set(claims["verdict"]) | set(numbers["verdict"]) == {"reproduced"}:
        word = "reproduced"
    else:
        word = "direction" if words <= {"reproduced", "direction"} else "not reproduced"
    first = table.to_dict("records")[0]
    tier, missing = str(first["tier"]), int(first["missing"])
    evidence = [_count("claim", claims)]
    if len(numbers):
        evidence.append(_count("printed number", numbers))
    if missing:
        evidence.append(f"partial: {missing} runs are missing.")
    return Verdict(cap(word, tier, missing), f"{rule} {RULE}", " ".join(evidence))


def _count(what: str, rows: pd.DataFrame, at_most: int = 8) -> str:
    wrong = rows[rows["verdict"] == "not reproduced"]
    named = "; ".join(_state(row) for row in wrong.head(at_most).to_dict("records"))
    more = f"; and {len(wrong) - at_most} more" if len(wrong) > at_most else ""
    why = {"not reproduced": f" ({named}{more})"}
    counts = rows["verdict"].value_counts()
    parts = [f"{counts[word]} {word}{why.get(word, '')}" for word in WORDS if word in counts]
    return f"{len(rows)} {what}{'' if len(rows) == 1 else 's'}: {', '.join(parts)}."


def _state(row: Mapping[Hashable, Any]) -> str:
    interval = "" if math.isnan(row["low"]) else f" [{row['low']:.3g}, {row['high']:.3g}]"
    bounds = ""
    if row["kind"] == "claim":
        bounds = f", claimed {claim_bounds(row['at_least'], row['at_most'])}"
    elif not math.isnan(row["paper"]):
        bounds = f", printed {row['paper']:.4g}"
    return f"{row['method']} {row['quantity']} {row['ours']:.3g}{interval}{bounds}"


def claim_bounds(at_least: float, at_most: float) -> str:
    """Write the bounds of a claim as a person would: `> 0`, `within 1`, `< 0.1`."""
    if not math.isnan(at_least) and not math.isnan(at_most):
        if math.isclose(at_least, -at_most):
            return f"within ±{at_most:.3g}"
        return f"between {at_least:.3g} and {at_most:.3g}"
    return f"> {at_least:.3g}" if not math.isnan(at_least) else f"< {at_most:.3g}"
