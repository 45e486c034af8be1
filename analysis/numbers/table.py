"""The rows every artifact is made of, and their CSV: paper, ours, difference, interval, n, verdict.

Kinds of rows: `number` is judged against the paper's printed value; `aside` is compared with it but
does not decide (times on other machines); `claim` is evidence for the claim that it names, held to
a bound; `curve` has no printed value.
"""

import io
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.numbers.bounds import NOT_RUN, Bound, judge, judge_factor, judge_number
from analysis.numbers.claims import Claim
from analysis.numbers.frame import Method
from analysis.numbers.statistics import Interval, in_range
from experiments.laboratory.ranges import UNITS

COLUMNS = [
    "kind", "method", "proj_dim", "quantity", "unit", "paper", "ours", "difference", "low", "high",
    "n", "verdict", "claim", "at_least", "at_most",
]  # fmt: skip
NUMBERS = ["proj_dim", "paper", "ours", "difference", "low", "high", "at_least", "at_most"]
Row = dict[str, Any]


def curve(method: str | Method, quantity: str, unit: str, ours: Interval, **more: Any) -> Row:
    """The row of a quantity for which the paper prints no number.

    `more` are further columns: kind, proj_dim, or this artifact's own, such as a step or a class.
    The interval stays in the range of the unit.
    """
    ours = in_range(ours, *UNITS[unit]) if unit in UNITS else ours
    row = {
        "kind": "curve",
        "method": str(method),
        "proj_dim": method.directions if isinstance(method, Method) else math.nan,
        "quantity": quantity,
        "unit": unit,
        "paper": math.nan,
        "ours": ours.mean,
        "difference": math.nan,
        "low": ours.low,
        "high": ours.high,
        "n": ours.n,
        "verdict": "" if ours.n else NOT_RUN,
        "claim": "",
        "at_least": math.nan,
        "at_most": math.nan,
    }
    return row | more


def number(
    method: str | Method,
    quantity: str,
    unit: str,
    ours: Interval,
    paper: float,
    tolerance: float = math.nan,
    factor: float = math.nan,
    **more: Any,
) -> Row:
    """The row of a printed number, judged by its tolerance, or by a factor; `paper` may be nan."""
    relative = math.isnan(tolerance)
    word = (judge_factor if relative else judge_number)(
        paper, ours, factor if relative else tolerance
    )
    judged = {"paper": paper, "difference": ours.mean - paper, "verdict": word}
    return curve(method, quantity, unit, ours, kind="number", **judged, **more)


def aside(
    method: str | Method, quantity: str, unit: str, ours: Interval, paper: float, **more: Any
) -> Row:
    """The row of a printed number that is shown beside ours and decides nothing."""
    beside = {"paper": paper, "difference": ours.mean - paper}
    return curve(method, quantity, unit, ours, kind="aside", **beside, **more)


def claim(
    method: str | Method,
    quantity: str,
    unit: str,
    ours: Interval,
    *,
    of: Claim,
    at_least: float = math.nan,
    at_most: float = math.nan,
    paper: float = math.nan,
    **more: Any,
) -> Row:
    """A row of evidence for the claim `of`: `at_least < quantity < at_most`."""
    about = {"claim": of.name, "at_least": at_least, "at_most": at_most, "paper": paper}
    row = curve(method, quantity, unit, ours, kind="claim", **about, **more)
    judged = Interval(row["ours"], row["low"], row["high"], row["n"])
    verdict = judge(judged, Bound.of(at_least, at_most))
    return row | {"difference": ours.mean - paper, "verdict": verdict}


def tabulated(rows: Sequence[Row]) -> pd.DataFrame:
    """Rows as a table with COLUMNS first, then the artifact's own."""
    own = [name for row in rows for name in row if name not in COLUMNS]
    return pd.DataFrame(rows, columns=pd.Index([*COLUMNS, *dict.fromkeys(own)]))


def records(table: pd.DataFrame) -> list[Row]:
    """The table's rows one by one, each by column name."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def written(row: Row, form: str) -> str:
    """Write a row's value and interval in a number format: `98.7 [98.5, 98.9]` in ".1f".

    What rounds to nothing is 0 and not -0.
    """
    form = f"z{form}" if form.startswith(".") else form
    if math.isnan(row["ours"]):
        return ""
    interval = "" if math.isnan(row["low"]) else f" [{row['low']:{form}}, {row['high']:{form}}]"
    return f"{row['ours']:{form}}{interval}"


def to_csv(table: pd.DataFrame) -> str:
    """The table as CSV with six significant digits and Unix line ends."""
    # A column of counts with blanks is read by pandas as floats: write 10, not 10.0.
    shaped = {
        name: table[name].map(lambda value: "" if math.isnan(value) else f"{value:.6g}")
        for name in table.select_dtypes("floating")
    }
    return table.assign(**shaped).to_csv(index=False, lineterminator="\n")


def from_csv(text: str) -> pd.DataFrame:
    """The table that `to_csv` wrote: blanks are nan in numbers and "" in text."""
    table = pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""])
    for name in table.columns:
        if name in NUMBERS:
            table[name] = table[name].astype(float)
        elif name in COLUMNS and name != "n":
            table[name] = table[name].astype(object).where(table[name].notna(), "").astype(str)
        elif not pd.api.types.is_numeric_dtype(table[name]):
            table[name] = table[name].fillna("")
    return table
