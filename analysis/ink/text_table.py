"""A table of texts drawn to be read: wrapped, with rules between its groups."""

from typing import Any

import pandas as pd
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path

from analysis.ink.style import BLACK, BLUE, FOOT, GREY, PAGE, VERMILLION
from analysis.numbers.table import records

LINES = 4  # shown of each text
NOTE_SIZE = 6.5  # points
LINE, GAP, TOP = 0.135, 0.12, 0.42  # inches
COLUMNS = (0.012, 0.11, 0.32)  # where columns start, as shares of the width
COLOURS = {"example": BLACK, "proponent": BLUE, "opponent": VERMILLION}
COLOURS |= {"lowest": BLUE, "highest": VERMILLION}
HEADS = (("Class", "(predicted)"), ("Title and content",))


def draw(table: pd.DataFrame, notes: str, heads: tuple[tuple[str, ...], ...] = HEADS) -> Figure:
    """The rows of kind `text` as a table with two `heads`, and `notes` under it."""
    rows = records(table[table["kind"] == "text"])
    wide, whole = ((0.99 - COLUMNS[column]) * PAGE for column in (2, 0))  # inches
    bodies = [
        [*(wrapped(row["title"], wide, 1, weight="bold") or [""]),
         *wrapped(row["content"], wide, LINES)]
        for row in rows
    ]  # fmt: skip
    below = wrapped(notes, whole, size=NOTE_SIZE)
    lengths = [max(2, len(body)) * LINE + GAP for body in bodies]
    height = TOP + sum(lengths) + (len(below) + 1) * LINE + FOOT
    figure = Figure(figsize=(PAGE, height))

    def write(column: int, inches: float, lines: list[str], **style: Any) -> None:
        for place, line in enumerate(lines):
            y = 1 - (inches + (place + 1) * LINE) / height  # every line has its own baseline
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
        predicted = row.get("prediction", "")
        weight = "normal" if row["label"] == predicted else "bold"
        write(1, at + LINE, [f"({predicted})"] if predicted else [], weight=weight)
        write(2, at, body[:1], weight="bold")
        write(2, at + LINE, body[1:])
        at += length
    rule(at - GAP / 2 + 0.02, 1.0)
    write(0, at, below, color=GREY, fontsize=NOTE_SIZE)
    return figure


def wrapped(
    text: str, inches: float, lines: int | None = None, size: float | None = None, **font: Any
) -> list[str]:
    """Text in lines no wider than `inches`, set in the figure's font at `size` points.

    With `lines`, at most that many lines, and an ellipsis where the text is cut.
    """

    def fits(line: str) -> bool:
        return width(line, size, **font) <= inches

    out: list[str] = []
    for word in text.split():
        if out and fits(f"{out[-1]} {word}"):
            out[-1] += f" {word}"
        elif lines is not None and len(out) == lines:
            while " " in out[-1] and not fits(f"{out[-1]} …"):
                out[-1] = out[-1].rpartition(" ")[0]
            out[-1] += " …"
            break
        else:
            out.append(word)
    return out


def width(line: str, size: float | None = None, **font: Any) -> float:
    """The width of a line in inches, set in the figure's font at `size` points."""
    properties = FontProperties(size=size or rcParams["font.size"], **font)
    wide, _, _ = text_to_path.get_text_width_height_descent(line, properties, ismath=False)
    return float(wide) / 72
