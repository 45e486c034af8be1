"""The panels of Table 2 of 003: each method's AUC and AP on shuffled translations."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.mislabel_panels import draw_row
from analysis.style import BLACK, GREY, new_panels
from analysis.table import records

LABELS = {"AUC": "AUC ×100", "AP": "AP ×100"}


def draw(table: pd.DataFrame) -> Figure:
    """Rows of all layers above, of the last ones below, with the printed values."""
    shown = table[(table["kind"] != "claim") & ~table["method"].str.contains(" − ")]
    rows = [row for row in records(shown) if row["quantity"] in LABELS]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    whole = [name for name in methods if not name.endswith(", last")]
    places = {name: place for place, name in enumerate(whole)}
    places |= {
        name: place + len(whole) + 0.7
        for place, name in enumerate(name for name in methods if name.endswith(", last"))
    }
    figure, panels = new_panels(
        list(LABELS.values()), height=1.0 + 0.17 * len(methods), share_y=True
    )
    for axes, quantity in zip(panels, LABELS, strict=True):
        chance = [row["chance"] for row in rows if row["quantity"] == quantity]
        axes.axvline(max(chance), color=GREY, linewidth=0.7, linestyle=":")
        for row in (row for row in rows if row["quantity"] == quantity):
            draw_row(axes, row, places[row["method"]])
        means = [row["ours"] for row in rows if row["quantity"] == quantity]
        axes.set_xlim(min(0.9 * max(chance), *(m - 5 for m in means if m == m), 100), 101)
    panels[0].set_yticks(list(places.values()), [name.removesuffix(", last") for name in places])
    panels[0].set_ylim(max(places.values()) + 0.6, -0.6)
    for place, text in ((0, "all layers"), (len(whole) + 0.7, "last layers")):
        panels[1].annotate(
            text, (1.02, place), xycoords=("axes fraction", "data"), rotation=270, fontsize=6.5,
            va="top", color=GREY,
        )  # fmt: skip
    ours = panels[0].plot([], [], "o-", color=GREY)[0]
    paper = panels[0].plot([], [], "|", color=BLACK, markersize=9, markeredgewidth=1.2)[0]
    dotted = panels[0].plot([], [], ":", color=GREY, linewidth=0.7)[0]
    figure.legend(
        [ours, paper, dotted],
        ["ours, 95% over folds", "printed", "chance"],
        loc="outside upper center",
        ncols=3,
    )
    return figure
