"""The panels of Table 3 of 003: BLEU at two budgets, and how much noise each arm keeps."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.mislabel_panels import draw_row
from analysis.style import BLACK, GREY, new_panels
from analysis.table import records

LABELS = {
    "BLEU, early": "BLEU, early",
    "BLEU, late": "BLEU, late",
    "noise in what is kept": "Noise kept, %",
}


def draw(table: pd.DataFrame) -> Figure:
    """A row an arm, those of the clean pool below."""
    shown = table[(table["kind"] != "claim") & ~table["method"].str.contains(" − ")]
    rows = [row for row in records(shown) if row["quantity"] in LABELS]
    seen = {row["quantity"] for row in rows if row["pool"] == "noisy"}
    there = [name for name in LABELS if name in seen]
    arms = list(dict.fromkeys((row["pool"], row["method"]) for row in rows))
    places = {
        method: place + (0.7 if pool == "clean" else 0) for place, (pool, method) in enumerate(arms)
    }
    figure, panels = new_panels(
        [LABELS[name] for name in there], height=1.0 + 0.18 * len(arms), share_y=True
    )
    for axes, quantity in zip(panels, there, strict=True):
        for row in (row for row in rows if row["quantity"] == quantity):
            draw_row(axes, row, places[row["method"]])
        mine = [row for row in rows if row["quantity"] == quantity]
        ends = [row[name] for row in mine for name in ("ours", "high", "paper") if row[name] > 0]
        axes.set_xlim(-0.05 * max(1, *ends), 1.05 * max(1, *ends))
    names = [name.removesuffix(", clean pool") for name in places]
    panels[0].set_yticks(list(places.values()), names)
    panels[0].set_ylim(max(places.values()) + 0.6, -0.6)
    clean = [
        place for (pool, name), place in zip(arms, places.values(), strict=True) if pool == "clean"
    ]
    if clean:
        panels[-1].annotate(
            "clean pool", (1.03, min(clean)), xycoords=("axes fraction", "data"), rotation=270,
            fontsize=6.5, va="top", color=GREY,
        )  # fmt: skip
    ours = panels[0].plot([], [], "o-", color=GREY)[0]
    paper = panels[0].plot([], [], "|", color=BLACK, markersize=9, markeredgewidth=1.2)[0]
    figure.legend(
        [ours, paper], ["ours, 95% over seeds", "printed"], loc="outside upper center", ncols=2
    )
    return figure
