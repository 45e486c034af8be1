"""Images of the fine-tuned ViT: the most self-influential ones, and who is against a prediction."""

import math
import sys
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink.pixels import show
from analysis.ink.style import BLACK, FOOT, GREY, PAGE, VERMILLION
from analysis.numbers import mislabel, vit_retrieval
from analysis.numbers.cells import packed
from analysis.numbers.cifar_proponents import CLASSES, DIGITS
from analysis.numbers.statistics import Interval, over_seeds
from analysis.numbers.table import Row, claim, curve, records, tabulated, written
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

ACROSS, LINES = 10, 3  # of self-influential images
SIDE, PITCH, LINE = 0.5, 0.69, 0.8  # inches: an image, from one to the next, and down
ROLES = ("opponents", "proponents")
KINDS = {"mislabelled": "mislabelled", "hard": "rightly labelled ones that are hard"}

RULE = (
    "Claims, over seeds, by Arnoldi on positive eigenvalues, the largest number of directions, all"
    " parameters: (1) more of the ten training images of most negative influence on a query are"
    " mislabelled than of all; (2) of those rightly labelled, more are hard, which is a given label"
    " the model has a probability below one half for though it was trained on it; (3) of the"
    " 30 most self-influential training images more are mislabelled than of all. The pictures are"
    " of the lowest seed and decide nothing."
)


def tabulate(found: list[Run]) -> pd.DataFrame:
    group = vit_retrieval.observe(found).get(("train", 1.0), [])
    asked = [one for one in group if "chance_hard" in one.run.metrics]
    rows: list[Row] = []
    for method in mislabel.names(asked):
        mine = [one.run.metrics for one in asked if one.method == method]
        for role in ROLES:
            for kind, what in KINDS.items():
                ours = over_seeds([100 * m[f"{role}_{kind}"] for m in mine])
                rows.append(curve(method, f"{role}: {what}", "%", ours))
        negative = over_seeds([100 * m["opponents_negative"] for m in mine])
        rows.append(curve(method, "opponents of negative influence", "%", negative))
    declared = _declared(asked)
    if not declared:
        return tabulated([])
    for kind, what in KINDS.items():
        chance = over_seeds([100 * run.metrics[f"chance_{kind}"] for run in declared])
        rows.append(curve("all training images", what, "%", chance))
    rows += _claims(declared)
    return tabulated([*rows, *_images(declared[0])])


def _declared(asked: list[mislabel.Observation]) -> list[Run]:
    """Arnoldi on positive eigenvalues with most directions, by seed."""
    mine = [one for one in asked if one.method.endswith(" positive")]
    most = max((one.run.metrics["proj_dim"] for one in mine), default=0)
    chosen = [one for one in mine if one.run.metrics["proj_dim"] == most]
    return [one.run for one in sorted(chosen, key=lambda one: one.seed)]


def _claims(declared: list[Run]) -> list[Row]:
    method, rows = str(declared[0].metrics["method"]), []
    for kind, what in KINDS.items():
        metrics = [run.metrics for run in declared]
        excess = [100 * (m[f"opponents_{kind}"] - m[f"chance_{kind}"]) for m in metrics]
        label = f"{method}, opponents − all"
        rows.append(claim(label, what, "points", over_seeds(excess), at_least=0.0))
    top = [
        100
        * (np.asarray(run.array("corrupted"))[run.array("top")].mean() - m["chance_mislabelled"])
        for run in declared
        if (m := run.metrics)
    ]
    label = f"{method}, most self-influential − all"
    rows.append(claim(label, KINDS["mislabelled"], "points", over_seeds(top), at_least=0.0))
    return rows


def _images(run: Run) -> list[Row]:
    facts = {name: np.asarray(run.array(name)) for name in ("given", "true", "corrupted")}
    probability, scores = run.array("given_probability"), run.array("self_influence")

    def image(pixels: np.ndarray, score: float, **more: Any) -> Row:
        shape = {"height": pixels.shape[0], "channels": pixels.shape[2]}
        value = Interval(score, math.nan, math.nan, 1)
        shown = {**more, **shape, "pixels": packed(pixels)}
        return curve(str(run.metrics["method"]), "image", "", value, **shown) | {"kind": "image"}

    def labelled(index: int) -> dict[str, Any]:
        known = {name: int(values[index]) for name, values in facts.items()}
        return known | {"probability": float(probability[index])}

    rows = []
    for rank, (index, pixels) in enumerate(
        zip(run.array("top"), run.array("top_images"), strict=True)
    ):
        more = {"role": "self", "line": rank // ACROSS, "rank": rank % ACROSS}
        rows.append(image(pixels, float(scores[index]), **more, **labelled(index)))
    opponents = np.asarray(run.array("opponents"))
    for line, query in enumerate(run.array("shown")):
        label = int(run.array("shown_labels")[line])
        about = {"given": label, "true": label, "corrupted": 0, "probability": math.nan}
        shown = run.array("shown_images")[line]
        rows.append(image(shown, math.nan, role="query", line=line, rank=0, **about))
        for rank, pixels in enumerate(run.array("opponent_images")[line]):
            place = {"role": "opponent", "line": line, "rank": rank}
            rows.append(image(pixels, math.nan, **place, **labelled(opponents[query, rank])))
    return rows


def draw(table: pd.DataFrame) -> Figure:
    images = records(table[table["kind"] == "image"])
    classes = DIGITS if str(table["tier"].iloc[0]) == "smoke" else CLASSES
    queries = sum(row["role"] == "query" for row in images)
    height = 0.72 + (LINES + queries) * LINE + FOOT
    figure = Figure(figsize=(PAGE, height))
    suspicious = [row for row in images if row["role"] == "self"]
    wrong = sum(int(row["corrupted"]) for row in suspicious)
    method = images[0]["method"] if images else ""
    _write(
        figure, 0.08, height - 0.25,
        f"Most self-influential training images by {method}: {wrong} of {len(suspicious)} are"
        " mislabelled (framed)",
    )  # fmt: skip
    below = height - 0.4 - LINES * LINE - 0.12
    _write(figure, 0.08, below - 0.06, "A test image, and the training images most against it")
    for row in images:
        top, left = height - 0.4 - int(row["line"]) * LINE, 0.08 + int(row["rank"]) * PITCH
        if row["role"] != "self":
            top = below - 0.2 - int(row["line"]) * LINE
        if row["role"] == "opponent":
            left += 1.4 * PITCH
        _draw_image(figure, row, classes, left, top)
    _write(
        figure, 0.08, 0.05,
        "Given label, true label where it differs; under opponents the probability the model gives"
        " to the given label",
        fontsize=6, color=GREY,
    )  # fmt: skip
    return figure


def _draw_image(
    figure: Figure, row: Row, classes: tuple[str, ...], left: float, top: float
) -> None:
    height = figure.get_figheight()
    box = (left / PAGE, (top - SIDE) / height, SIDE / PAGE, SIDE / height)
    axes: Axes = figure.add_axes(box)
    wrong = bool(row["corrupted"])
    show(axes, row, VERMILLION if wrong else GREY, 1.8 if wrong else 0.6)
    label = classes[int(row["given"])]
    below = f"is {classes[int(row['true'])]}" if wrong else ""
    if row["role"] == "opponent" and not wrong:
        below = f"p = {row['probability']:.2f}"
    colour = VERMILLION if wrong else BLACK
    axes.set_xlabel(f"{label}\n{below}", fontsize=5.5, color=colour, labelpad=1.5, linespacing=1.0)


def _write(figure: Figure, x: float, y: float, text: str, **more: Any) -> None:
    style: dict[str, Any] = {"fontsize": 7.5, "va": "bottom", **more}
    figure.text(x / PAGE, y / figure.get_figheight(), text, **style)


def page(table: pd.DataFrame) -> pd.DataFrame:
    """The shares by method, and the claims."""
    rows = [row for row in records(table) if row["kind"] != "image"]
    return pd.DataFrame(
        [
            {
                "method": row["method"],
                "quantity": row["quantity"],
                f"{row['unit']}": written(row, ".1f"),
                "verdict": row["verdict"],
            }
            for row in rows
        ]
    ).fillna("")


ARTIFACT = Artifact(
    id="arnoldi_vit_images",
    experiment="vit_mislabel",
    tabulate=tabulate,
    draw=draw,
    rule=RULE,
    title="Most self-influential images of a fine-tuned ViT, and opponents of its predictions",
    claim="Training images of negative influence on a prediction are mislabelled or hard.",
    paper="Scaling Up Influence Functions (arXiv:2112.03052), Sec. 5.3 and D.3",
    deviations=(
        *vit_retrieval.DEVIATIONS,
        "The paper's pictures are of ImageNet and ResNet50, in an appendix outside the text."
        " Here 10% of the labels are wrong in fine-tuning, so that who is mislabelled is known.",
        "An image has a large influence of either sign if its gradient is large, which mislabelled"
        " and hard ones have: proponents are counted beside opponents.",
    ),
    page=page,
    tier_notes=vit_retrieval.TIER_NOTES,
    needs=lambda config: config["model"]["data"]["where"] == "train",
)

if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
