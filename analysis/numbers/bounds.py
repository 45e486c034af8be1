"""One interval against one bound, or against one printed number: what happened, in one word.

How many seeds would decide what is not decided yet is said here too.
"""

import math
from dataclasses import dataclass

from scipy import stats

from analysis.numbers.statistics import LEVEL, Interval

HOLDS, LEANS, OPEN, FAILS = "holds", "leans", "open", "fails"
CONTRADICTS, NOT_RUN = "paper contradicts itself", "not run"
OUTCOMES = (HOLDS, LEANS, OPEN, FAILS, CONTRADICTS, NOT_RUN)
UNDECIDED = (LEANS, OPEN)
SEVERITY = {word: rank for rank, word in enumerate((HOLDS, LEANS, OPEN, NOT_RUN, FAILS))}
MOST_SEEDS = 1_000  # more are not counted

MEANING = {
    HOLDS: "the whole 95% interval is within the bound, or the printed number within tolerance",
    LEANS: "the interval lies across the bound, with the mean inside",
    OPEN: "the interval lies across the bound, with the mean outside",
    FAILS: "the whole interval is outside, or the printed number out of tolerance",
    CONTRADICTS: "we find otherwise, and so does the paper in another place",
    NOT_RUN: "no run measured it",
}
TOLERANCE_RULE = (
    "A number is within tolerance if the printed value is no further than the tolerance from our"
    " 95% interval; of the interval, at most one tolerance on either side of the mean counts."
)


@dataclass(frozen=True)
class Bound:
    """`at_least < value < at_most`."""

    at_least: float = -math.inf
    at_most: float = math.inf

    @classmethod
    def of(cls, at_least: float, at_most: float) -> "Bound":
        """The bound of a table's row, where nan is no bound."""
        low = -math.inf if math.isnan(at_least) else at_least
        return cls(low, math.inf if math.isnan(at_most) else at_most)

    def contains(self, value: float) -> bool:
        """Whether a value is within the bound; the ends are not."""
        return self.at_least < value < self.at_most

    def excludes(self, ours: Interval) -> bool:
        """Whether the whole interval is outside."""
        return ours.high <= self.at_least or ours.low >= self.at_most

    def distance(self, value: float) -> float:
        """How far a value is from the nearer end of the bound."""
        return min(abs(value - self.at_least), abs(value - self.at_most))

    def __str__(self) -> str:
        """Write it as a person would: `> 0`, `within ±1`, `between 0.8 and 1.2`."""
        low, high = self.at_least, self.at_most
        if math.isinf(low) or math.isinf(high):
            return f"< {high:.3g}" if math.isinf(low) else f"> {low:.3g}"
        if math.isclose(low, -high):
            return f"within ±{high:.3g}"
        return f"between {low:.3g} and {high:.3g}"


def judge(ours: Interval, bound: Bound) -> str:
    """The verdict on one interval; a single value, which has none, leans or is open."""
    if ours.n == 0 or math.isnan(ours.mean):
        return NOT_RUN
    if bound.contains(ours.mean):
        return HOLDS if bound.contains(ours.low) and bound.contains(ours.high) else LEANS
    return FAILS if bound.excludes(ours) else OPEN


def seeds_needed(ours: Interval, bound: Bound) -> int:
    """How many seeds (or points) would decide, if mean and spread stay as they are.

    The least n at which Student's half-width is below the distance of the mean from the bound; 0
    where there is no spread to tell from, MOST_SEEDS where as many would not do.
    """
    distance = bound.distance(ours.mean)
    if ours.n < 2 or math.isnan(ours.low) or not math.isfinite(distance):
        return 0
    half = max(ours.mean - ours.low, ours.high - ours.mean)
    spread = half * math.sqrt(ours.n) / _quantile(ours.n)
    low, high = ours.n, max(MOST_SEEDS, ours.n)
    while low < high:  # the half-width falls with n
        middle = (low + high) // 2
        if _quantile(middle) * spread / math.sqrt(middle) < distance:
            high = middle
        else:
            low = middle + 1
    return low


def _quantile(n: int) -> float:
    return float(stats.t.ppf(0.5 + LEVEL / 2, n - 1))


def within(paper: float, ours: Interval, tolerance: float) -> bool:
    """Whether the printed value is within `tolerance` of our interval.

    At most one tolerance of the interval counts on either side, so that a wide one excuses nothing.
    """
    below = 0.0 if math.isnan(ours.low) else min(ours.mean - ours.low, tolerance)
    above = 0.0 if math.isnan(ours.high) else min(ours.high - ours.mean, tolerance)
    return ours.mean - below - tolerance <= paper <= ours.mean + above + tolerance


def judge_number(paper: float, ours: Interval, tolerance: float) -> str:
    """The verdict on one printed number; "" where the paper prints none.

    One seed has no interval, so that it leans at best.
    """
    if ours.n == 0:
        return NOT_RUN
    if math.isnan(paper):
        return ""
    if not within(paper, ours, tolerance):
        return FAILS
    return HOLDS if ours.n > 1 else LEANS


def judge_factor(paper: float, ours: Interval, factor: float) -> str:
    """The verdict on one printed ratio: `judge_number` on logarithms."""
    if ours.n == 0 or math.isnan(paper):
        return judge_number(paper, ours, factor)
    if ours.mean <= 0:
        return FAILS
    low = -math.inf if ours.low <= 0 else math.log(ours.low)
    logs = Interval(math.log(ours.mean), low, math.log(ours.high), ours.n)
    return judge_number(math.log(paper), logs, math.log(factor))
