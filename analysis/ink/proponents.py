"""The picture of proponents and opponents: images, a line per method, and the shares below."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink.marks import name_lines
from analysis.ink.pixels import show
from analysis.ink.style import BLACK, BLUE, FOOT, GREY, ORANGE, PAGE
from analysis.numbers.cifar_proponents import classes_of
from analysis.numbers.proponents import CONTROL, CORRECT, QUANTITY, ROLES
from analysis.numbers.table import Row, records

SIDE, PITCH = 0.43, 0.52  # inches: an image, and from one to the next
LEFT = {"query": 0.08, "method": 0.92, "proponent": 1.74, "opponent": 4.42}
LINE = 0.1  # of text under an image
HEAD, ROOM = 0.36, 0.12  # above a display, and below it
PANEL = 0.17  # a method in the panels of shares


def draw_cifar(table: pd.DataFrame, stratum: str) -> Figure:
    """Draw a table of analysis.numbers.cifar_proponents and the shares of a stratum."""
    return draw(table, classes_of(table), stratum)


def draw(table: pd.DataFrame, classes: Sequence[str], stratum: str = CORRECT) -> Figure:
    """Draw the displays of a table of analysis.numbers.proponents, and the shares of a stratum."""
    images = records(table[table["kind"] == "image"])
    shares = table[(table["kind"] == "curve") & (table["stratum"] == stratum)]
    displays = list(dict.fromkeys(int(row["display"]) for row in images))
    methods = list(dict.fromkeys(row["method"] for row in images if row["method"]))
    under = LINE * (1 if max(map(len, classes)) <= 2 else 2)
    block = HEAD + len(methods) * (SIDE + under + 0.07) + ROOM
    bars = PANEL * shares["method"].nunique()
    height = len(displays) * block + bars + 0.68 + FOOT
    figure = Figure(figsize=(PAGE, height))
    for line, display in enumerate(displays):
        mine = [row for row in images if int(row["display"]) == display]
        _draw_display(figure, mine, methods, classes, height - line * block, under)
    if displays:
        _draw_key(figure, height - len(displays) * block)
    note = f"{stratum} queries: mean and 95% interval over {int(shares['n'].max())} seeds"
    _write(figure, 1.35, 0.06, note, fontsize=6, color=GREY)
    for role, left in zip(ROLES, (1.35, 4.6), strict=True):
        place = (left / PAGE, (FOOT + 0.35) / height, 2.25 / PAGE, bars / height)
        _draw_shares(figure.add_axes(place), shares[shares["role"] == role], role, role == ROLES[0])
    return figure


def _draw_display(
    figure: Figure,
    images: list[Row],
    methods: list[str],
    classes: Sequence[str],
    top: float,
    under: float,
) -> None:
    query = next(row for row in images if row["role"] == "query")
    right = query["given"] == query["predicted"]
    _write(figure, LEFT["query"], top - 0.17, "Query", weight="bold")
    _write(figure, LEFT["query"], top - 0.3, "correct" if right else "misclassified", fontsize=6)
    for role, what in zip(ROLES, ("Proponents", "Opponents"), strict=True):
        _write(figure, LEFT[role], top - 0.25, what, weight="bold")
    side = 1.5 * SIDE
    _draw_image(figure, query, classes, LEFT["query"], top - HEAD, side, BLACK)
    for line, method in enumerate(methods):
        above = top - HEAD - line * (SIDE + under + 0.07)
        _write(figure, LEFT["method"], above - SIDE / 2, _folded(method), va="center", fontsize=6.5)
        for row in images:
            if row["method"] == method:
                x = LEFT[row["role"]] + PITCH * (int(row["rank"]) - 1)
                colour = {row["rival"]: ORANGE, row["asked"]: BLUE}.get(row["given"], GREY)
                _draw_image(figure, row, classes, x, above, SIDE, colour)


def _draw_image(
    figure: Figure, row: Row, classes: Sequence[str], x: float, top: float, side: float, colour: str
) -> None:
    height = figure.get_figheight()
    axes = figure.add_axes((x / PAGE, (top - side) / height, side / PAGE, side / height))
    show(axes, row, colour, 0.7 if colour in (GREY, BLACK) else 1.8)
    given, predicted = classes[int(row["given"])], classes[int(row["predicted"])]
    gap, size = (" ", 5.5) if max(map(len, classes)) <= 2 else ("\n", 5.0)
    axes.set_xlabel(f"{given}{gap}[{predicted}]", fontsize=size, labelpad=1.8, linespacing=1.0)


def _draw_key(figure: Figure, top: float) -> None:
    """Explain the frames, below the images."""
    key = ((BLUE, "the query's class"), (ORANGE, "the confusable class"), (GREY, "another class"))
    for place, (colour, meaning) in enumerate(key):
        x = LEFT["proponent"] + 1.3 * place
        _write(figure, x, top, "□", color=colour, fontsize=9, va="center", weight="bold")
        _write(figure, x + 0.14, top, meaning, fontsize=6.5, va="center")
    _write(figure, LEFT["query"], top, "label [predicted]; frames:", fontsize=6.5, va="center")


def _draw_shares(axes: Axes, rows: pd.DataFrame, role: str, named: bool) -> None:
    colour = BLUE if role == ROLES[0] else ORANGE
    shown = records(rows[rows["method"] != CONTROL])
    for place, row in enumerate(shown):
        axes.hlines(place, row["low"], row["high"], color=colour, linewidth=1.6)
        axes.plot(row["ours"], place, "o", color=colour, markersize=4)
    for row in records(rows[rows["method"] == CONTROL]):
        axes.axvline(row["ours"], color=GREY, linestyle=":", linewidth=1)
        axes.plot(row["ours"], len(shown), "x", color=GREY, markersize=4)
    labels = [_short(row["method"]) for row in shown] + [CONTROL.lower()]
    name_lines(axes, labels if named else [""] * len(labels))
    axes.tick_params(axis="y", labelsize=6.5)
    axes.set_xlim(0, 102)
    axes.set_xlabel(f"{QUANTITY[role].capitalize()}, %", labelpad=2)


def _short(name: str) -> str:
    """A variant's name, short enough for the margin."""
    return name.replace("Influence functions, ", "Influence, ")


def _folded(name: str) -> str:
    name = _short(name)
    return name.replace(", ", ",\n") if ", " in name else name.replace(" ", "\n", 1)


def _write(figure: Figure, x: float, y: float, text: str, **more: Any) -> None:
    style: dict[str, Any] = {"fontsize": 7.5, "va": "bottom", **more}
    figure.text(x / PAGE, y / figure.get_figheight(), text, **style)
