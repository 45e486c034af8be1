"""The tables of an artifact as text, for the report page, the docs and LaTeX."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.numbers.table import COLUMNS, Row, records
from analysis.numbers.verdict import claim_bounds

KNOWN_TABLES = {
    "Printed numbers": ("number", "aside"),
    "Claims": ("claim",),
    "Quantities without a printed number": ("curve",),
}
SHARED = (*COLUMNS, "tier", "missing", "of_tier", "experiment")  # columns of every artifact
LONGEST = 40  # letters of a cell; a column of longer ones (pixels) is not shown
NUMBER = re.compile(r"[−+\-–\d.,e ]*(?: to [−+\-\d.,einf]+)?(?: \[.*\])?")  # or nothing
OPEN_UP_TO = 24  # rows; longer tables of curves start folded
LATEX = {  # by character
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": "$<$", ">": "$>$", "|": r"\textbar{}", "−": "$-$", "–": "--", "×": r"$\times$",
    "÷": r"$\div$", "≥": r"$\geq$", "≤": r"$\leq$", "±": r"$\pm$", "·": r"$\cdot$",
    "∞": r"$\infty$", "→": r"$\to$", "²": "$^2$", "√": r"$\surd$", "Δ": r"$\Delta$",
    "λ": r"$\lambda$", "μ": r"$\mu$", "σ": r"$\sigma$", "⁻": "$^-$", "¹": "$^1$",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table as text, ready to be laid out."""

    title: str
    header: list[str]
    rows: list[list[str]]
    folded: bool = False

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers, to be set flush right."""
        if not self.rows:
            return [False] * len(self.header)
        return [all(map(NUMBER.fullmatch, column)) for column in zip(*self.rows, strict=True)]


def headline(table: pd.DataFrame, declared: tuple[str, str] = ("", "")) -> dict[str, str]:
    """The one line that stands for an artifact: the row it declares (method, quantity).

    Where that is missing, its first printed number, else its first claim. `what`, `paper` (or
    what the claim requires), `ours`, `interval`; {} if it has neither.
    """
    rows = [row for row in records(table) if row["n"] > 0 and row["kind"] in ("number", "claim")]
    printed = [row for row in rows if row["kind"] == "number" and not math.isnan(row["paper"])]
    claims = [row for row in rows if row["kind"] == "claim"]
    chosen = [row for row in rows if (row["method"], row["quantity"]) == declared]
    return next((_headline(row) for row in [*chosen, *printed, *claims]), {})


def tally(table: pd.DataFrame) -> str:
    """How many of the claims that could be tested hold, at least in direction: `5 of 8 claims`."""
    words = [row["verdict"] for row in records(table) if row["kind"] == "claim"]
    tested = [word for word in words if word != "not run"]
    holding = sum(word in ("reproduced", "direction") for word in tested)
    what = "claim holds" if len(tested) == 1 else "claims hold"
    return f"{holding} of {len(tested)} {what}" if tested else ""


def _headline(row: Row) -> dict[str, str]:
    printed = not math.isnan(row["paper"])
    bounds = f"claimed {claim_bounds(row['at_least'], row['at_most'])}"
    return {
        "what": f"{row['method']}, {_quantity(row)}",
        "paper": f"printed {_number(row['paper'])}" if printed else bounds,
        "ours": _number(row["ours"]),
        "interval": _interval(row),
    }


def tables_of(
    table: pd.DataFrame, page: Callable[[pd.DataFrame], pd.DataFrame] | None
) -> list[Table]:
    """The artifact's own table of methods, if it has one, then its numbers and its claims."""
    rows = records(table)
    tables = []
    if page is not None:
        wide = page(table)
        cells = [[str(value) for value in row.values()] for row in records(wide)]
        tables.append(Table("Methods", [str(name) for name in wide.columns], cells))
    for title, kinds in KNOWN_TABLES.items():
        chosen = [row for row in rows if row["kind"] in kinds]
        if not chosen or (page is not None and "curve" in kinds):
            continue
        header, lines = _laid_out(chosen, distinguishing(chosen))
        if title == "Printed numbers" and all(math.isnan(row["paper"]) for row in chosen):
            title = "Numbers"
        folded = "curve" in kinds and len(chosen) > OPEN_UP_TO
        tables.append(Table(title, header, lines, folded))
    return tables


def distinguishing(rows: Sequence[Row]) -> list[str]:
    """The artifact's own columns in which rows of the same method and quantity differ."""
    alike: dict[tuple[str, str], Row] = {}
    own: dict[str, None] = {}
    for row in rows:
        first = alike.setdefault((row["method"], row["quantity"]), row)
        for name, value in row.items():
            if name not in SHARED and _text(value) != _text(first[name]):
                own[name] = None
    return [name for name in own if max(len(_text(row[name])) for row in rows) <= LONGEST]


def _laid_out(rows: list[Row], own: list[str]) -> tuple[list[str], list[list[str]]]:
    """The header and the lines of a table of claims or of numbers, with an artifact's own columns.

    Numbers have no paper, difference and verdict where none is printed.
    """
    claims = rows[0]["kind"] == "claim"
    judged = claims or any(not math.isnan(row["paper"]) for row in rows)
    compared = ["paper", "ours", *([] if claims else ["difference"])] if judged else ["ours"]
    lines = []
    for row in rows:
        cells = {"claim" if claims else "method": row["method"], "quantity": _quantity(row)}
        cells |= {name.replace("_", " "): _text(row[name]) for name in own}
        if claims:
            cells["required"] = claim_bounds(row["at_least"], row["at_most"])
        cells |= {name: _number(row[name]) for name in compared}
        cells |= {"95% interval": _interval(row), "n": str(row["n"])}
        if judged:
            cells["verdict"] = row["verdict"]
        lines.append(cells)
    return [*lines[0]], [[*cells.values()] for cells in lines]


def _quantity(row: Row) -> str:
    return f"{row['quantity']} ({row['unit']})" if row["unit"] else row["quantity"]


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    written = f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return written.replace("-", "−")


def _interval(row: Row) -> str:
    return "–" if math.isnan(row["low"]) else f"{_number(row['low'])} to {_number(row['high'])}"


def _text(value: Any) -> str:
    """A cell that may be a number, text, or nothing at all."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def latex(about: Mapping[str, Any], tables: Sequence[Table]) -> str:
    """Each table as a LaTeX `table`, which needs booktabs; `about` is the artifact's JSON file."""
    heading = (
        f"% {about['command']}\n% {about['id']}, {about['tier']} tier: {about['verdict']['word']}"
        "\n% \\usepackage{booktabs}"
    )
    return "\n\n".join([heading, *(_environment(about, table) for table in tables)]) + "\n"


def _environment(about: Mapping[str, Any], table: Table) -> str:
    columns = "".join("r" if numeric else "l" for numeric in table.numeric)
    caption = f"{about['title']} ({about['tier']} tier): {table.title.lower()}."
    label = f"tab:{about['id']}-{table.title.lower().replace(' ', '-')}"
    rows = "\n".join(map(_line, table.rows))
    return rf"""\begin{{table}}
\centering
\caption{{{escaped(caption)}}}
\label{{{label}}}
\begin{{tabular}}{{{columns}}}
\toprule
{_line(table.header)}
\midrule
{rows}
\bottomrule
\end{{tabular}}
\end{{table}}"""


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"


def escaped(text: str) -> str:
    """The text as LaTeX sets it."""
    return "".join(LATEX.get(character, character) for character in text)
