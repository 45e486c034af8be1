"""The panels of Figure 6 of FastIF: circular graphs of helpful and of harmful edges."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from analysis import circle
from analysis.circle import INNER, Links
from analysis.influence_graph import HANS, MODELS, SLICES
from analysis.style import BLACK, BLUE, GREEN, GREY, ORANGE, PAGE, PURPLE, VERMILLION, new_grid
from analysis.table import records

COLOURS = {"H (L)": BLUE, "H (S)": ORANGE, "H (C)": PURPLE, "M": BLACK}
NAMES = {
    "H (L)": "lexical\noverlap",
    "H (S)": "subsequence",
    "H (C)": "constituent",
    "M": "MultiNLI",
}
LABEL_BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
RADII = {"lexical_overlap": 1.0, "subsequence": 1.1, "constituent": 1.2, "mnli": 1.0}
SIGNS = {-1: "helpful", 1: "harmful"}


def draw(table: pd.DataFrame) -> Figure:
    figure, panels = new_grid(2, 2, width=PAGE, height=PAGE + 0.3)
    figure.subplots_adjust(top=0.96, bottom=0.06, hspace=0.06, wspace=0.02)
    counts = table[table["quantity"] == "wrong predictions asked about"]
    edges = table[table["kind"] == "edge"]
    for line, model in enumerate(MODELS.values()):
        asked = counts[(counts["method"] == model) & (counts["n"] > 0)]
        sizes = {row["part"]: round(row["ours"]) for row in records(asked) if row["ours"] > 0}
        mine = edges[edges["method"] == model]
        groups, number = _named(sizes)
        groups = circle.ordered(groups, _links(mine, number))
        for column, word in enumerate(SIGNS.values()):
            axes, some = panels[2 * line + column], mine[mine["quantity"] == f"edge, {word}"]
            _panel(axes, some, groups, number, GREEN if word == "helpful" else VERMILLION)
            axes.set_title(f"model of {model}: {word}, {len(some)} edges", y=0.985)
    _legend(figure)
    return figure


def _named(sizes: dict[str, int]) -> tuple[dict[str, list[int]], dict[tuple[str, int], int]]:
    """Number the wrong predictions of all slices: members of each, and the number of each."""
    keys = [(part, query) for part, size in sizes.items() for query in range(size)]
    number = {key: place for place, key in enumerate(keys)}
    return {p: [number[p, q] for q in range(size)] for p, size in sizes.items()}, number


def _links(edges: pd.DataFrame, number: dict[tuple[str, int], int]) -> Links:
    """Edges with weights that compare within a slice, as the influences themselves do."""
    rows = records(edges)
    inner = np.array([number[row["part"], int(row["query"])] for row in rows], dtype=int)
    outer = np.array([int(row["train"]) for row in rows], dtype=int)
    size = edges["ours"].abs()
    weight = size / size.groupby([edges["part"], edges["quantity"]]).transform("max")
    return Links(inner, outer, weight.to_numpy(dtype=float))


def _panel(
    axes: Axes,
    edges: pd.DataFrame,
    groups: dict[str, list[int]],
    number: dict[tuple[str, int], int],
    colour: str,
) -> None:
    inner = circle.arcs(groups)
    for part, members in groups.items():
        x, y = _points([inner[node] for node in members], INNER)
        axes.plot(x, y, "o", color=COLOURS[part], markersize=2.2, markeredgewidth=0, zorder=3)
        if members:
            middle = INNER - 0.24
            at = float(np.mean([inner[node] for node in members]))
            label = f"{NAMES[part]}\n{len(members)} wrong"
            (x,), (y,) = _points([at], middle)
            axes.text(
                x,
                y,
                label,
                color=COLOURS[part],
                bbox=LABEL_BOX,
                ha="center",
                va="center",
                fontsize=6,
                zorder=5,
            )
    axes.set_aspect("equal")
    edge = 0.05 + max([RADII[part] for part in edges["train_part"]], default=1.0)
    axes.set_xlim(-edge, edge)
    axes.set_ylim(-edge, edge)
    if edges.empty:
        return
    links = _links(edges, number)
    outer = circle.spread(circle.facing(links, inner))
    part_of = dict(zip(edges["train"].astype(int), edges["train_part"], strict=True))
    curves = []
    for node, other in zip(links.inner.tolist(), links.outer.tolist(), strict=True):
        one = INNER * np.exp(1j * inner[node])
        end = RADII[part_of[other]] * np.exp(1j * outer[other])
        bent = 0.8 * np.exp(1j * np.angle(one + end)) * abs(one + end) / 2
        t = np.linspace(0, 1, 16)
        path = (1 - t) ** 2 * one + 2 * t * (1 - t) * bent + t**2 * end
        curves.append(np.column_stack([path.real, path.imag]))
    strength = links.weight
    widths, alpha = 0.2 + 1.1 * strength, 0.15 + 0.5 * strength
    drawn = LineCollection(curves, colors=colour, linewidths=widths, alpha=alpha, zorder=2)
    axes.add_collection(drawn)
    for part, radius in RADII.items():
        names = [name for name in outer if part_of[name] == part]
        x, y = _points([outer[name] for name in names], radius)
        shade = GREY if part == "mnli" else COLOURS[SLICES[part]]
        axes.plot(x, y, "s", color=shade, markersize=2, markeredgewidth=0, zorder=3)


def _points(angles: list[float], radius: float) -> tuple[np.ndarray, np.ndarray]:
    return radius * np.cos(angles), radius * np.sin(angles)


def _legend(figure: Figure) -> None:
    """What the squares are; the predictions are named where they are."""
    axes = figure.axes[0]
    shades = {"MultiNLI": GREY} | {f"HANS, {NAMES[p]}": COLOURS[p] for p in HANS}
    marks = [axes.plot([], [], "s", color=shade, markersize=4)[0] for shade in shades.values()]
    labels = [f"training pairs: {name}".replace("\n", " ") for name in shades]
    labels[1:] = [label.removeprefix("training pairs: ") for label in labels[1:]]
    figure.legend(marks, labels, loc="lower center", ncols=4, bbox_to_anchor=(0.5, 0.025))
