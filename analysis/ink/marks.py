"""Marks that several figures share: values with their intervals, named lines, matrices, keys."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.ink.style import BLACK, GREY
from analysis.numbers.table import Row

PRINTED: dict[str, Any] = {"markersize": 9, "markeredgewidth": 1.2}  # a paper's number: "|"


def draw_value(
    axes: Axes,
    row: Row,
    place: float,
    colour: str,
    marker: str = "o",
    *,
    interval: tuple[str, str] = ("low", "high"),
    size: float = 4,
) -> None:
    """Draw a row at a height: our value with the interval in two columns, and the printed value."""
    low, high = (row[name] for name in interval)
    axes.plot([low, high], [place] * 2, color=colour, linewidth=2, alpha=0.5)
    axes.plot(row["paper"], place, "|", color=BLACK, **PRINTED)
    axes.plot(row["ours"], place, marker, color=colour, markersize=size)


def name_lines(axes: Axes, labels: Sequence[str], margin: float = 0.5) -> None:
    """Name the lines of a panel from the top, `margin` lines of room beyond the last."""
    axes.set_yticks(range(len(labels)), labels)
    if labels:
        axes.set_ylim(len(labels) - margin, margin - 1)
    axes.tick_params(axis="y", length=0)


def name_block(axes: Axes, text: str, place: float) -> None:
    """Name a block of lines that begins at a height, to the right of a panel."""
    axes.annotate(
        text, (1.03, place), xycoords=("axes fraction", "data"), rotation=270, fontsize=6.5,
        va="top", color=GREY,
    )  # fmt: skip


def draw_key(figure: Figure, marks: Mapping[str, Line2D]) -> None:
    """Explain marks above all panels, side by side."""
    lines, names = list(marks.values()), list(marks)
    figure.legend(lines, names, loc="outside upper center", ncols=len(marks))


def mark(marker: str = "o", colour: str = GREY, line: str = "none", **more: Any) -> Line2D:
    """A mark for `draw_key`; "-" as `line` for a value with its interval."""
    return Line2D([], [], marker=marker, color=colour, ls=line, **more)


def printed_mark() -> Line2D:
    """The mark of a printed value for `draw_key`."""
    return mark("|", BLACK, **PRINTED)


def draw_matrix(
    axes: Axes,
    values: np.ndarray,
    labels: Mapping[int, str],
    *,
    colours: str,
    bar: Literal["neither", "max"] | None = None,
    **more: Any,
) -> None:
    """Draw a square matrix in colours, with labels at some of its lines and columns.

    With `bar`, a colour bar beside it, with an arrow tip if values exceed the range ("max").
    """
    image = axes.imshow(values, cmap=colours, **more)
    axes.set_xticks(list(labels), list(labels.values()))
    axes.set_yticks(list(labels), list(labels.values()))
    axes.grid(False)
    if bar is not None:
        assert axes.figure is not None
        axes.figure.colorbar(image, ax=axes, shrink=0.85, extend=bar)


def write_in_cell(
    axes: Axes, cell: tuple[int, int], text: str, colour: str, down: float = 0.0, size: float = 7.5
) -> None:
    """Write in a matrix's cell (line, column), `down` cells below its middle."""
    y, x = cell
    axes.text(x, y + down, text, ha="center", va="center", color=colour, fontsize=size)


def stretch_percent(axes: Axes, end: float) -> None:
    """Stretch the upper end of a percentage axis, which is logarithmic in `end` minus the value."""

    def stretched(x: np.ndarray) -> np.ndarray:
        return -np.log10(end - np.clip(x, -100, (100 + end) / 2))

    axes.set_xscale("function", functions=(stretched, lambda y: end - 10.0 ** -np.asarray(y)))
