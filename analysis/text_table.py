"""A table of texts drawn to be read: wrapped, with rules between its groups."""

import textwrap
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.style import BLACK, BLUE, FOOT, GREY, PAGE, VERMILLION
from analysis.table import records

CHARACTERS, LINES = 82, 4  # of a text that are shown
NOTE_CHARACTERS = 135
LINE, GAP, TOP = 0.135, 0.12, 0.42  # inches
COLUMNS = (0.012, 0.11, 0.32)  # where they start, as shares of the width
COLOURS = {"example": BLACK, "proponent": BLUE, "opponent": VERMILLION}
COLOURS |= {"lowest": BLUE, "highest": VERMILLION}
HEADS = (("Class", "(predicted)"), ("Title and content",))


def draw(table: pd.DataFrame, notes: str, heads: tuple[tuple[str, ...], ...] = HEADS) -> Figure:
    """The rows of kind `text` as a table with two `heads`, and `notes` under it."""
    rows = records(table[table["kind"] == "text"])
    bodies = [[*_shortened(row["title"].strip())[:1], *_shortened(row["content"])] for row in rows]
    below = textwrap.wrap(notes, NOTE_CHARACTERS)
    lengths = [max(2, len(body)) * LINE + GAP for body in bodies]
    height = TOP + sum(lengths) + (len(below) + 1) * LINE + FOOT
    figure = Figure(figsize=(PAGE, height))

    def write(column: int, inches: float, lines: list[str], **style: Any) -> None:
        for place, line in enumerate(lines):
            y = 1 - (inches + (place + 1) * LINE) / height  # each at a baseline of its own
            figure.text(COLUMNS[column], y, line, parse_math=False, **style)

    def rule(inches: float, width: float) -> None:
        y = 1 - inches / height
        figure.add_artist(Line2D([0.01, 0.99], [y, y], color=GREY, linewidth=width))

    for column, head in enumerate(heads, start=1):
        write(column, 0.03, list(head), weight="bold")
    rule(TOP - GAP / 2, 1.0)
    at, group = TOP, str(rows[0]["method"]).split()[0]
    for row, body, length in zip(rows, bodies, lengths, strict=True):
        kind = str(row["method"]).split()[0]
        if kind != group:
            rule(at - GAP / 2 + 0.02, 0.5)
            group = kind
        score = [] if kind == "example" else [f"{row['ours']:+.3g}".replace("-", "−")]
        write(0, at, [str(row["method"]).capitalize(), *score], color=COLOURS[kind])
        write(1, at, [row["label"]])
        told = row.get("prediction", "")
        wrong = row["label"] != told
        weight = "bold" if wrong else "normal"
        predicted = [f"({told})"] if told else []
        write(1, at + LINE, predicted, weight=weight)
        write(2, at, body[:1], weight="bold")
        write(2, at + LINE, body[1:])
        at += length
    rule(at - GAP / 2 + 0.02, 1.0)
    write(0, at, below, color=GREY, fontsize=6.5)
    return figure


def _shortened(content: str) -> list[str]:
    """The first LINES lines of a text, with an ellipsis where it goes on."""
    return textwrap.wrap(content, CHARACTERS, max_lines=LINES, placeholder=" …")
