"""The picture of proponents and opponents: images in rows a method, and the shares beneath."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink.pixels import show
from analysis.ink.style import BLACK, BLUE, FOOT, GREY, ORANGE, PAGE
from analysis.numbers import proponents
from analysis.numbers.proponents import CONTROL, CORRECT, QUANTITY, ROLES
from analysis.numbers.statistics import over_seeds
from analysis.numbers.table import Row, curve, records, tabulated, written
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

SIDE, PITCH = 0.43, 0.52  # inches: an image, and from one to the next
LEFT = {"query": 0.08, "method": 0.92, "proponent": 1.74, "opponent": 4.42}
LINE = 0.1  # of text under an image
HEAD, ROOM = 0.36, 0.12  # above a display, and below it
PANEL = 0.17  # a method in the panels of shares


def draw(table: pd.DataFrame, classes: Sequence[str], stratum: str = CORRECT) -> Figure:
    """Draw the displays of a table of analysis.proponents, and the shares of a stratum."""
    images = records(table[table["kind"] == "image"])
    shares = table[(table["kind"] == "curve") & (table["stratum"] == stratum)]
    displays = list(dict.fromkeys(int(row["display"]) for row in images))
    methods = list(dict.fromkeys(row["method"] for row in images if row["method"]))
    under = LINE * (1 if max(map(len, classes)) <= 2 else 2)
    block = HEAD + len(methods) * (SIDE + under + 0.07) + ROOM
    bars = PANEL * shares["method"].nunique()
    height = len(displays) * block + bars + 0.68 + FOOT
    figure = Figure(figsize=(PAGE, height))
    top = height
    for display in displays:
        mine = [row for row in images if int(row["display"]) == display]
        _draw_display(figure, mine, methods, classes, top, under)
        top -= block
    if displays:
        _draw_key(figure, top)
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
    """What the frames mean, under the images."""
    key = ((BLUE, "the query's class"), (ORANGE, "the confusable class"), (GREY, "another class"))
    x = LEFT["proponent"]
    for colour, meaning in key:
        _write(figure, x, top, "□", color=colour, fontsize=9, va="center", weight="bold")
        _write(figure, x + 0.14, top, meaning, fontsize=6.5, va="center")
        x += 1.3
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
    axes.set_yticks(range(len(labels)), labels if named else [""] * len(labels), fontsize=6.5)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlim(0, 102)
    axes.set_xlabel(f"{QUANTITY[role].capitalize()}, %", labelpad=2)


def _short(name: str) -> str:
    """A variant's name, in the room there is."""
    return name.replace("Influence functions, ", "Influence, ")


def _folded(name: str) -> str:
    name = _short(name)
    return name.replace(", ", ",\n") if ", " in name else name.replace(" ", "\n", 1)


def _write(figure: Figure, x: float, y: float, text: str, **more: Any) -> None:
    style: dict[str, Any] = {"fontsize": 7.5, "va": "bottom", **more}
    figure.text(x / PAGE, y / figure.get_figheight(), text, **style)


# What Figures 5 and 6 of 001 share: retrieval on CIFAR-10, and what the scores of TracIn cost.


CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
DIGITS = tuple("0123456789")  # what the smoke tier shows instead
COST = "cost of scores"
DEVIATIONS = (
    *proponents.DEVIATIONS,
    "The network, the recipe and the checkpoints of the paper's Sec. 4.1 are outside the text at"
    " hand. The standard recipe for residual networks on CIFAR-10 (He et al., 2016) is used, with"
    " batch normalisation, crops and flips, and five checkpoints at the ends of epochs.",
    "TracIn weighs a checkpoint by the learning rate there, which the recipe lowers tenfold twice:"
    " of five checkpoints the first two have 94% of the weight. A row without learning rates shows"
    " what that decides. Classes predicted, and the other methods, are of the final network.",
    "Influence functions invert the Hessian on its dominant eigenvectors (Arnoldi on fresh random"
    " minibatches, damping 0.01, negative eigenvalues kept) and leave out the rest, where the paper"
    " sketches the inverse (Sec. A.1), which is an artifact of its own. A row with half of the"
    " eigenvectors shows what their number decides.",
    "Batch normalisation is in evaluation mode, each checkpoint with its own running statistics;"
    " gradients do not flow into the statistics, and candidates are scored without augmentation.",
)
TIER_NOTES = {
    "smoke": "The bundled digits as grey RGB images: a 3 in place of a cat, a 1 of an automobile.",
    "small": (
        "JPEG-recompressed CIFAR-10, not the original pixels: 10,000 random training images and"
        " 2,000 of the test split; ResNet-8 for 25 epochs, learning rate 0.1 divided by 10 after"
        " half and three quarters of them, weight decay 5e-4. Influence functions: 30 eigenvectors"
        " of 60 products with 256 examples each."
    ),
    "paper": (
        "ResNet-56 on all 50,000 images. Influence functions: 50 eigenvectors of 200 products with"
        " 512 examples each."
    ),
}
CAUSE_NOTE = (
    "Where TracIn is less consistent than the other methods on CIFAR-10, its weights are a likely"
    " cause: with the recipe's learning rates it is mostly of the first two checkpoints, whose"
    " network classifies otherwise than the final one that chose the queries and their confusable"
    " classes; without learning rates both shares are higher. On the last layer alone a score is a"
    " product of errors in the logits and of features, which sorts by class nearly by itself."
)
SPEED_NOTE = (
    "The cost of TracIn's scores, finding the top included, is in passes a checkpoint: one batched"
    " forward and backward over the same queries and candidates, timed before and after in the same"
    " run, in processor seconds. It must be above one: scoring m queries multiplies rows of p"
    " numbers, 2 m p operations a candidate, and a pass costs 6 p T, where T is the number of"
    " positions a weight acts on, averaged over weights: m / (3 T) of a pass (T = 163 in ResNet-8,"
    " 147 in ResNet-56), beside the pass itself and the weight gradient of each example alone."
)


def tabulate(found: list[Run], stratum: str, display: int) -> pd.DataFrame:
    """Make the rows of one figure: the shares, its stratum's claims, its images, and the cost."""
    table = proponents.tabulate(found, (stratum,), (display,))
    timed = [run for run in found if "ratio" in run.metrics]
    ratio = over_seeds([run.metrics["ratio"] for run in timed])
    facts = ("accuracy_train", "accuracy_eval")
    rows = [curve(proponents.OURS, COST, "passes", ratio)]
    for name, what in zip(facts, ("train", "test"), strict=True):
        ours = over_seeds([100 * run.metrics[name] for run in timed if name in run.metrics])
        rows.append(curve("network", f"{what} accuracy", "%", ours))
    return pd.concat([table, tabulated(rows)], ignore_index=True)


def draw_cifar(table: pd.DataFrame, stratum: str) -> Figure:
    """Draw the figure's images and the shares of its stratum."""
    classes = DIGITS if str(table["tier"].iloc[0]) == "smoke" else CLASSES
    return draw(table, classes, stratum)


def page(table: pd.DataFrame) -> pd.DataFrame:
    """The methods side by side, and what the scores of TracIn cost."""
    wide = proponents.page(table)
    cost = {r["method"]: written(r, ".2f") for r in records(table[table["quantity"] == COST])}
    return wide.assign(**{f"{COST}, passes a checkpoint": wide["method"].map(cost).fillna("")})


def figure(number: int, stratum: str, display: int, title: str, claim: str) -> Artifact:
    """One of the two figures: of a stratum of the queries, and one of it displayed."""
    return Artifact(
        id=f"tracin_fig{number}",
        experiment="cifar_proponents",
        tabulate=partial(tabulate, stratum=stratum, display=display),
        draw=partial(draw_cifar, stratum=stratum),
        rule=proponents.RULE,
        title=title,
        claim=claim,
        paper=f"TracIn (arXiv:2002.08484), appendix, Figure {number} and Sec. B",
        deviations=DEVIATIONS,
        tier_notes=TIER_NOTES,
        remarks=(CAUSE_NOTE, SPEED_NOTE),
        page=page,
    )
