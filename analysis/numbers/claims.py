"""What an artifact claims: whose sentence it is, what measures it, and what a null would give.

The rows of kind `claim` in a table are the evidence: each names the claim that it belongs to.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from analysis.numbers.bounds import (
    CONTRADICTS,
    FAILS,
    HOLDS,
    LEANS,
    MOST_SEEDS,
    NOT_RUN,
    OPEN,
    SEVERITY,
    UNDECIDED,
    Bound,
    judge,
    seeds_needed,
)
from analysis.numbers.statistics import NONE, Interval, average, geometric_average


@dataclass(frozen=True)
class Paper:
    """The paper's own sentence, literally, and where it stands: section, page, table or figure."""

    quote: str
    where: str

    def __post_init__(self) -> None:
        if not self.quote.strip() or not self.where.strip():
            raise ValueError("a claim of a paper needs its sentence and the place where it stands")


@dataclass(frozen=True)
class Ours:
    """No paper says it: why we measure it."""

    why: str


class Evidence(NamedTuple):
    """A row: what was measured, and the bound that it is held to."""

    ours: Interval
    bound: Bound


@dataclass(frozen=True)
class Rule:
    """How the rows of one claim are put together to the interval that is judged."""

    words: str
    together: Callable[[Sequence[Evidence]], Evidence]


def _decisive(rows: Sequence[Evidence]) -> Evidence:
    """The row that is furthest from holding: on it rests a claim about every row."""

    def key(row: Evidence) -> tuple[int, float]:
        away = row.bound.distance(row.ours.mean)
        return SEVERITY[judge(*row)], -away if row.bound.contains(row.ours.mean) else away

    return max(rows, key=key)


def _averaged(mean: Callable[[Sequence[Interval]], Interval]) -> Callable[..., Evidence]:
    def together(rows: Sequence[Evidence]) -> Evidence:
        bounds = {row.bound for row in rows}
        if len(bounds) > 1:
            raise ValueError("rows are averaged, but have several bounds")
        return Evidence(mean([row.ours for row in rows]), bounds.pop())

    return together


EVERY = Rule("every row", _decisive)
MEAN = Rule("the mean of the rows", _averaged(average))
GEOMETRIC = Rule("the geometric mean of the rows", _averaged(geometric_average))


@dataclass(frozen=True)
class Claim:
    """One sentence and its test.

    name      what is claimed, in a few words; rows of kind `claim` name it in column `claim`
    measured  what the rows are, and how the words of the sentence are read
    null      what a row would be if there were nothing to find (H = I, chance, a flat line). A
              bound that it meets tests nothing and is refused. Rows may bring a measured one in a
              column `null`: where that meets the bound, the claim stays open
    """

    name: str
    owner: Paper | Ours
    measured: str
    null: float
    rule: Rule = EVERY
    contradicted: str = ""
    """Where the paper itself says otherwise. If our numbers do so too, that is the verdict."""
    over: str = "seeds"
    """What its intervals are over: that many of these would decide what is not decided."""

    @property
    def papers(self) -> bool:
        """Whether it is the paper's, and so decides what is reproduced."""
        return isinstance(self.owner, Paper)


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict: `ours` is the interval that was judged, of the rows `of`.

    seeds  how many would decide, by the spread of ours; 0 if it is decided, or not known
    """

    claim: Claim
    word: str
    ours: Interval = NONE
    bound: str = ""
    of: str = ""
    seeds: int = 0
    note: str = ""

    def __str__(self) -> str:
        """The claim and what it was judged by: `name: 3.1 [2, 4.2], required > 5; a − b, AUC`."""
        if self.word == NOT_RUN:
            return self.claim.name
        interval = "" if math.isnan(self.ours.low) else f" [{self.ours.low:.3g},"
        interval += "" if math.isnan(self.ours.high) else f" {self.ours.high:.3g}]"
        rest = "".join(f"; {one}" for one in (self.of, self.would_decide, self.note) if one)
        return f"{self.claim.name}: {self.ours.mean:.3g}{interval}, required {self.bound}{rest}"

    @property
    def would_decide(self) -> str:
        """How many would decide: `3 seeds run; about 9 would decide`; "" if that is not known."""
        if not self.seeds:
            return ""
        many = f"over {MOST_SEEDS:,}" if self.seeds >= MOST_SEEDS else f"about {self.seeds:,}"
        return f"{self.ours.n:,} {self.claim.over} run; {many} would decide"

    def about(self) -> dict[str, Any]:
        """What the artifact's JSON file keeps of it, for the report and the docs."""
        ends = {name: getattr(self.ours, name) for name in ("mean", "low", "high")}
        return {
            "claim": self.claim.name,
            "papers": self.claim.papers,
            **vars(self.claim.owner),
            "measured": self.claim.measured,
            "judged": self.claim.rule.words,
            "of": self.of,
            "required": self.bound,
            **{name: float(f"{x:.6g}") if math.isfinite(x) else None for name, x in ends.items()},
            "n": self.ours.n,
            "verdict": self.word,
            "would_decide": self.would_decide,
            "note": self.note,
        }


def judge_claims(table: pd.DataFrame, claims: Sequence[Claim]) -> list[Judged]:
    """Each claim by its rows; a row of a claim that was not declared is a ValueError."""
    rows = table[table["kind"] == "claim"].to_dict("records")
    unknown = {row["claim"] for row in rows} - {claim.name for claim in claims}
    if unknown:
        raise ValueError(f"rows of claims that are not declared: {', '.join(sorted(unknown))}")
    return [_judged(claim, [row for row in rows if row["claim"] == claim.name]) for claim in claims]


def _judged(claim: Claim, rows: Sequence[Any]) -> Judged:
    evidence = [Evidence(_interval(row), Bound.of(row["at_least"], row["at_most"])) for row in rows]
    for _, bound in evidence:
        if bound.contains(claim.null):
            raise ValueError(f"{claim.name}: vacuous, as the null, {claim.null:g}, is {bound} too")
    if not any(ours.n for ours, _ in evidence):
        return Judged(claim, NOT_RUN)
    decisive = claim.rule.together(evidence)
    ours, bound = decisive
    word, found = judge(ours, bound), (ours, str(bound), _of(rows, evidence, decisive))
    nulls = [float(row["null"]) for row in rows if not pd.isna(row.get("null"))]
    if word in (HOLDS, LEANS) and any(bound.contains(null) for null in nulls):
        return Judged(claim, OPEN, *found, note="the measured null meets the bound too")
    if word in (OPEN, FAILS) and claim.contradicted:
        return Judged(claim, CONTRADICTS, *found, note=claim.contradicted)
    return Judged(claim, word, *found, seeds_needed(ours, bound) if word in UNDECIDED else 0)


def _interval(row: Any) -> Interval:
    return Interval(row["ours"], row["low"], row["high"], int(row["n"]))


def _of(rows: Sequence[Any], evidence: Sequence[Evidence], decisive: Evidence) -> str:
    """Name the row that decides, of how many."""
    if decisive not in evidence:
        return f"{len(rows)} rows"
    row = rows[evidence.index(decisive)]
    return f"{row['method']}, {row['quantity']}" + (f" (of {len(rows)} rows)" if rows[1:] else "")
