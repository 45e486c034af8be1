"""Tiers and kept lists of one artifact side by side: every row once, with what each measured."""

import collections
import math
from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.numbers.bounds import Bound
from analysis.numbers.table import Row, records
from analysis.page.tables import (
    Table,
    distinguishing,
    interval_text,
    number_text,
    own_text,
    quantity_text,
)

KINDS = ("claim", "number", "aside", "curve")
NONE = "–"


def side_by_side(tables: Mapping[str, pd.DataFrame], verdicts: Mapping[str, str]) -> Table:
    """One table of several: a row's name, the paper's number or the bound, then ours by tier.

    Rows are the same if kind, method, quantity and those columns are that tell them apart within a
    tier. The last line has the verdicts of the whole.
    """
    rows = {
        tier: [row for row in records(table) if row["kind"] in KINDS]
        for tier, table in tables.items()
    }
    own = list(dict.fromkeys(name for each in rows.values() for name in distinguishing(each)))
    by_name: dict[str, dict[str, Row]] = {}
    for tier, each in rows.items():
        seen: collections.Counter[str] = collections.Counter()
        for row in each:
            name = _name(row, own)
            seen[name] += 1
            again = f" ({seen[name]})" if seen[name] > 1 else ""
            by_name.setdefault(name + again, {})[tier] = row
    lines = [
        [name, _required(list(found.values())), *(_ours(found.get(tier)) for tier in tables)]
        for name, found in by_name.items()
    ]
    lines.append(["verdict", NONE, *(verdicts[tier] for tier in tables)])
    return Table("Tiers side by side", ["row", "paper or bound", *tables], lines)


def _name(row: Row, own: Sequence[str]) -> str:
    claim = "claim: " if row["kind"] == "claim" else ""
    texts = [(name.replace("_", " "), own_text(row.get(name))) for name in own]
    more = "".join(f", {name} {text}" for name, text in texts if text)
    return f"{claim}{row['method']}, {quantity_text(row)}{more}"


def _required(rows: Sequence[Row]) -> str:
    """The number that the paper prints, else the bound of a claim."""
    printed = [row["paper"] for row in rows if not math.isnan(row["paper"])]
    if printed:
        return number_text(printed[0])
    if rows[0]["kind"] == "claim":
        return str(Bound.of(rows[0]["at_least"], rows[0]["at_most"]))
    return NONE


def _ours(row: Row | None) -> str:
    """What a tier measured, with its interval and its verdict."""
    if row is None or not row["n"]:
        return NONE
    interval = interval_text(row)
    interval = "" if interval == NONE else f" ({interval})"
    verdict = f" {row['verdict']}" if row["verdict"] else ""
    return f"{number_text(row['ours'])}{interval}{verdict}"
