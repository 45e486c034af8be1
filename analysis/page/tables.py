"""The tables of an artifact as text, for the report page, the docs and LaTeX."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.numbers.bounds import NOT_RUN, Bound
from analysis.numbers.table import COLUMNS, Row, records

PAPERS, PRINTED, OURS = "Claims of the paper", "Printed numbers", "Also measured"
EVIDENCE, CURVES = "Evidence", "Quantities without a printed number"
KNOWN_TABLES = {
    PRINTED: ("number",),
    "Printed numbers that decide nothing": ("aside",),
    EVIDENCE: ("claim",),
    CURVES: ("curve",),
}
FOLDED = (EVIDENCE, CURVES)
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
    "\u201c": "``", "\u201d": "''",
    "\u0303": r"$\tilde{\;}$", "\u2016": r"$\Vert$", "ŵ": r"$\hat{w}$", "⊤": r"$\top$",
    "§": r"\S{}",
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


def stated(verdict: Mapping[str, Any]) -> str:
    """A verdict with its count, from an artifact's JSON file: `partly, 5 of 8`."""
    count = f", {verdict['holding']} of {verdict['counted']}" if verdict["counted"] else ""
    return f"{verdict['word']}{count}"


def headline(table: pd.DataFrame, declared: tuple[str, str] = ("", "")) -> dict[str, str]:
    """The one line that stands for an artifact: the row it declares (method, quantity).

    Where that is missing, its first printed number, else its first evidence. `what`, `paper` (or
    what the claim requires), `ours`, `interval`; {} if it has neither.
    """
    rows = [row for row in records(table) if row["n"] > 0 and row["kind"] in ("number", "claim")]
    printed = [row for row in rows if row["kind"] == "number" and not math.isnan(row["paper"])]
    claims = [row for row in rows if row["kind"] == "claim"]
    chosen = [row for row in rows if (row["method"], row["quantity"]) == declared]
    return next((_headline(row) for row in [*chosen, *printed, *claims]), {})


def _headline(row: Row) -> dict[str, str]:
    printed = not math.isnan(row["paper"])
    bounds = f"required {Bound.of(row['at_least'], row['at_most'])}"
    return {
        "what": f"{row['method']}, {quantity_text(row)}",
        "paper": f"printed {number_text(row['paper'])}" if printed else bounds,
        "ours": number_text(row["ours"]),
        "interval": interval_text(row),
    }


def tables_of(
    table: pd.DataFrame,
    page: Callable[[pd.DataFrame], pd.DataFrame] | None,
    claims: Sequence[Mapping[str, Any]] = (),
) -> list[Table]:
    """The paper's claims, its printed numbers, what we add, then the rows they rest on.

    `claims` are those of the artifact's JSON file; `page` makes a table of the artifact's own,
    which stands for its rows.
    """
    rows = records(table)
    theirs = [one for one in claims if one["papers"]]
    tables = [_judged(PAPERS, theirs, "sentence")] if theirs else []
    by_title = {
        title: [row for row in rows if row["kind"] in kinds]
        for title, kinds in KNOWN_TABLES.items()
    }
    if chosen := by_title.pop(PRINTED):
        judged = any(not math.isnan(row["paper"]) for row in chosen)
        tables.append(Table(PRINTED if judged else "Numbers", *_laid_out(chosen)))
    if ours := [one for one in claims if not one["papers"]]:
        tables.append(_judged(OURS if theirs else "Our goals", ours, "why"))
    if page is not None:
        wide = page(table)
        cells = [[str(value) for value in row.values()] for row in records(wide)]
        tables.append(Table("Methods", [str(name) for name in wide.columns], cells))
        by_title.pop(CURVES)
    for title, chosen in by_title.items():
        if chosen:
            folded = title in FOLDED and (title == EVIDENCE or len(chosen) > OPEN_UP_TO)
            tables.append(Table(title, *_laid_out(chosen), folded))
    return tables


def _judged(title: str, claims: Sequence[Mapping[str, Any]], source: str) -> Table:
    """Claims with what they were judged by; `source` is the sentence of a paper, or our reason."""
    lines = []
    for one in claims:
        where = f" ({one['where']})" if "where" in one else ""
        said = f"\u201c{one['quote']}\u201d{where}" if "quote" in one else one["why"]
        numbers = {"ours": one["mean"], "low": one["low"], "high": one["high"]}
        row = {name: math.nan if x is None else x for name, x in numbers.items()}
        about = [one["would_decide"], one["note"]]
        if one["verdict"] == NOT_RUN:
            about = []
        lines.append(
            {
                "claim": one["claim"],
                source: said,
                "measured": one["measured"],
                "required": one["required"] or "–",
                "ours": number_text(row["ours"]),
                "95% interval": interval_text(row),
                "n": str(one["n"] or "–"),
                "verdict": one["verdict"],
                "of": "; ".join(filter(None, [one["of"], *about])),
            }
        )
    return Table(title, [*lines[0]], [[*cells.values()] for cells in lines])


def distinguishing(rows: Sequence[Row]) -> list[str]:
    """The artifact's own columns in which rows of the same method and quantity differ."""
    alike: dict[tuple[str, str], Row] = {}
    own: dict[str, None] = {}
    for row in rows:
        first = alike.setdefault((row["method"], row["quantity"]), row)
        for name, value in row.items():
            if name not in SHARED and own_text(value) != own_text(first[name]):
                own[name] = None
    return [name for name in own if max(len(own_text(row[name])) for row in rows) <= LONGEST]


def _laid_out(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """The header and the lines of a table of rows, with the artifact's own columns.

    Numbers have no paper, difference and verdict where none is printed.
    """
    claims, own = rows[0]["kind"] == "claim", distinguishing(rows)
    compared = ["paper", "ours", *([] if claims else ["difference"])]
    compared = compared if any(not math.isnan(row["paper"]) for row in rows) else ["ours"]
    judged = claims or any(row["verdict"] not in ("", NOT_RUN) for row in rows)
    lines = []
    for row in rows:
        cells = {"claim": row["claim"]} if claims else {}
        cells |= {"method": row["method"], "quantity": quantity_text(row)}
        cells |= {name.replace("_", " "): own_text(row[name]) for name in own}
        if claims:
            cells["required"] = str(Bound.of(row["at_least"], row["at_most"]))
        cells |= {name: number_text(row[name]) for name in compared}
        cells |= {"95% interval": interval_text(row), "n": str(row["n"])}
        if judged:
            cells["verdict"] = row["verdict"]
        lines.append(cells)
    return [*lines[0]], [[*cells.values()] for cells in lines]


def quantity_text(row: Row) -> str:
    """A quantity with its unit, if it has one."""
    return f"{row['quantity']} ({row['unit']})" if row["unit"] else row["quantity"]


def number_text(value: float) -> str:
    """A number in four digits; – for none."""
    if math.isnan(value):
        return "–"
    written = f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return written.replace("-", "−")


def interval_text(row: Row) -> str:
    """The ends of an interval; – where there is none."""
    if math.isnan(row["low"]):
        return "–"
    return f"{number_text(row['low'])} to {number_text(row['high'])}"


def own_text(value: Any) -> str:
    """A cell that may be a number, text, or nothing at all."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def plain(table: Table) -> str:
    """A table as lines of text, numbers to the right."""
    lines = [table.header, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    columns = list(zip(widths, table.numeric, strict=True))
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, (width, right) in zip(line, columns, strict=True)
        ).rstrip()
        for line in lines
    )


def latex(about: Mapping[str, Any], tables: Sequence[Table]) -> str:
    """Each table as a LaTeX `table`, which needs booktabs; `about` is the artifact's JSON file."""
    heading = (
        f"% {about['command']}\n% {about['id']}, {about['tier']} tier: {stated(about['verdict'])}"
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
