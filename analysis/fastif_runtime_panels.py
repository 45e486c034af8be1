"""The panels of FastIF's Table 1: speed-ups beside the printed ones, and where they come from."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.fastif_points import PAPER_N, counted
from analysis.style import BLACK, BLUE, GREEN, GREY, PAGE, new_panels
from analysis.table import Row, records


def draw(table: pd.DataFrame) -> Figure:
    rows = [row for row in records(table[table["kind"] != "claim"]) if row["n"] > 0]
    speed = [row for row in rows if row["quantity"] == "speed-up"]
    labels = list(dict.fromkeys(row["method"] for row in speed))
    chain = [row for row in rows if row["quantity"] == "time once changed"]
    titles = ["Times faster than no kNN, original s_test", f"Seconds at {PAPER_N:,} pairs"]
    height = 1.0 + 0.26 * max(len(labels), len(chain))
    figure, panels = new_panels(titles, width=PAGE, height=height)
    left, right = panels
    here = {int(row["pairs"]) for row in speed} - {PAPER_N}
    for row in speed:
        _draw_speed(left, row, labels.index(row["method"]))
    _name(left, [label.replace(" s_test", "") for label in labels])
    _draw_chain(right, chain, {r["method"]: r for r in rows if r["quantity"] == "factor"})
    _name(right, [row["method"] for row in chain])
    left.set_xscale("log")
    right.set_xscale("log")
    right.set_xlim(right.get_xlim()[0] / 1.2, right.get_xlim()[1] * 4)
    handles = [left.plot([], [], "o-", color=BLUE)[0], left.plot([], [], "o", mfc="white")[0]]
    handles[1].set_color(GREY)
    handles.append(left.plot([], [], "|", color=BLACK, markersize=9, markeredgewidth=1.2)[0])
    sizes = ", ".join(counted(n) for n in here) or "as many"
    names = [f"at {PAPER_N:,} pairs", f"at {sizes} pairs", "printed"]
    figure.legend(handles, names, loc="outside upper center", ncols=3)
    return figure


def _draw_speed(axes: Axes, row: Row, place: int) -> None:
    if row["pairs"] != PAPER_N:
        axes.plot(row["ours"], place, "o", color=GREY, markerfacecolor="white")
        return
    axes.plot([row["low"], row["high"]], [place] * 2, color=BLUE, linewidth=2, alpha=0.5)
    axes.plot(row["ours"], place, "o", color=BLUE)
    axes.plot(row["paper"], place, "|", color=BLACK, markersize=9, markeredgewidth=1.2)


def _draw_chain(axes: Axes, chain: list[Row], factors: dict[str, Row]) -> None:
    for place, row in enumerate(chain):
        axes.barh(place, row["ours"], color=GREEN, alpha=0.6, height=0.6)
        factor = factors.get(row["method"])
        seconds = f"{row['ours']:,.0f}" if row["ours"] >= 10 else f"{row['ours']:.2g}"
        said = f"{seconds} s" + (f", {factor['ours']:.3g} ×" if factor else "")
        axes.annotate(said, (row["ours"], place), (3, 0), textcoords="offset points", va="center")


def _name(axes: Axes, labels: list[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
