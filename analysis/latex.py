"""Tables in LaTeX, for a paper: `python -m analysis.NAME --latex`; they need booktabs."""

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.tabular import Table

SYMBOLS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": "$<$", ">": "$>$", "|": r"\textbar{}", "−": "$-$", "–": "--", "×": r"$\times$",
    "÷": r"$\div$", "≥": r"$\geq$", "≤": r"$\leq$", "±": r"$\pm$", "·": r"$\cdot$",
    "∞": r"$\infty$", "→": r"$\to$", "²": "$^2$", "√": r"$\surd$", "Δ": r"$\Delta$",
    "λ": r"$\lambda$", "μ": r"$\mu$", "σ": r"$\sigma$", "⁻": "$^-$", "¹": "$^1$",
}  # fmt: skip


def latex(about: Mapping[str, Any], tables: Sequence[Table]) -> str:
    """One `table` environment a table; `about` is what the artifact's JSON file says."""
    heading = (
        f"% {about['command']}\n% {about['id']}, {about['tier']} tier: {about['verdict']['word']}"
        "\n% \\usepackage{booktabs}"
    )
    return "\n\n".join([heading, *(_environment(about, table) for table in tables)]) + "\n"


def _environment(about: Mapping[str, Any], table: Table) -> str:
    columns = "".join("r" if numeric else "l" for numeric in table.numeric)
    caption = f"{about['title']} ({about['tier']} tier): {table.title.lower()}."
    label = f"tab:{about['id']}-{table.title.lower().replace(' ', '-')}"
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(caption)}}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _line(table.header),
            r"\midrule",
            *map(_line, table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"


def escaped(text: str) -> str:
    """The text as LaTeX sets it."""
    return "".join(SYMBOLS.get(character, character) for character in text)
