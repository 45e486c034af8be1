"""Images of the fine-tuned ViT: the most self-influential ones, and who is against a prediction."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink.pixels import show
from analysis.ink.style import BLACK, FOOT, GREY, PAGE, VERMILLION
from analysis.numbers import vit_retrieval
from analysis.numbers.cells import packed
from analysis.numbers.cifar_proponents import classes_of
from analysis.numbers.claims import Claim, Ours, Paper
from analysis.numbers.frame import FORMER_DRAWS, Observation
from analysis.numbers.statistics import over_seeds, single
from analysis.numbers.table import Row, claim, curve, records, tabulated, written
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

ACROSS, LINES = 10, 3  # of self-influential images
SIDE, PITCH, LINE = 0.5, 0.69, 0.8  # inches: an image, from one to the next, and down
ROLES = ("opponents", "proponents")
KINDS = {"mislabelled": "mislabelled", "hard": "rightly labelled ones that are hard"}

OPPOSED = Claim(
    "images of negative influence are ambiguous or mislabelled",
    Paper(
        "In §B.1, we show that images with I(x, z) < 0 do appear ambiguous to humans"
        " or are incorrectly labeled.",
        "Sec. 5.1, of the network on MNIST",
    ),
    "Of the ten training images of most negative influence on a query: the share of mislabelled"
    " ones minus that of all; and, of those rightly labelled, the share of hard ones, whose label"
    " the model gives a probability below one half though it was trained on it, minus that of all.",
    null=0.0,
)
OUTLIERS = Claim(
    "the most self-influential images are mislabelled",
    Ours("An assumption of the paper (Sec. 3), tested by arnoldi_vit."),
    "The share of mislabelled ones among the 30 most self-influential training images minus that of"
    " all.",
    null=0.0,
)
NOTES = (
    "By Arnoldi on positive eigenvalues, the largest number of directions, all parameters. The"
    " pictures are of the lowest seed and decide nothing."
)


def tabulate(runs: list[Run]) -> pd.DataFrame:
    trained = vit_retrieval.observe(runs).get("train", [])
    group = [one for one in trained if one.share == 1 and "chance_hard" in one.values]
    declared = _declared(group)
    if not declared:
        return tabulated([])
    shares = {
        f"{role}_{kind}": f"{role}: {what}" for role in ROLES for kind, what in KINDS.items()
    } | {"opponents_negative": "opponents of negative influence"}
    rows: list[Row] = []
    for method in dict.fromkeys(one.method for one in group):
        mine = [one.values for one in group if one.method == method]
        for metric, quantity in shares.items():
            ours = over_seeds([100 * values[metric] for values in mine])
            rows.append(curve(method, quantity, "%", ours))
    for kind, what in KINDS.items():
        chance = over_seeds([100 * one.values[f"chance_{kind}"] for one in declared])
        rows.append(curve("all training images", what, "%", chance))
    return tabulated([*rows, *_claims(declared), *_images(declared[0].run)])


def _declared(group: list[Observation]) -> list[Observation]:
    """Arnoldi on positive eigenvalues with most directions, by seed."""
    mine = [one for one in group if one.method.family == "Arnoldi positive"]
    most = max((one.method.dim for one in mine), default=0)
    return sorted((one for one in mine if one.method.dim == most), key=lambda one: one.seed)


def _claims(declared: list[Observation]) -> list[Row]:
    method, rows = declared[0].method, []
    values = [one.values for one in declared]
    for kind, what in KINDS.items():
        excess = [100 * (each[f"opponents_{kind}"] - each[f"chance_{kind}"]) for each in values]
        label = f"{method}, opponents − all"
        rows.append(claim(label, what, "points", over_seeds(excess), of=OPPOSED, at_least=0.0))
    top = over_seeds([100 * (_top(one) - one.values["chance_mislabelled"]) for one in declared])
    label = f"{method}, most self-influential − all"
    about: dict[str, Any] = {"of": OUTLIERS, "at_least": 0.0}
    return [*rows, claim(label, KINDS["mislabelled"], "points", top, **about)]


def _top(one: Observation) -> float:
    """The mislabelled share of the most self-influential training images."""
    return float(one.run.array("corrupted")[one.run.array("top")].mean())


def _images(run: Run) -> list[Row]:
    facts = {name: run.array(name) for name in ("given", "true", "corrupted")}
    probability, scores = run.array("given_probability"), run.array("self_influence")

    def image(pixels: np.ndarray, score: float, **more: Any) -> Row:
        more |= {"kind": "image", "height": pixels.shape[0], "channels": pixels.shape[2]}
        method, value = str(run.metrics["method"]), single(score)
        return curve(method, "image", "", value, **more, pixels=packed(pixels))

    def labelled(index: int) -> dict[str, Any]:
        known = {name: int(values[index]) for name, values in facts.items()}
        return known | {"probability": float(probability[index])}

    rows = []
    for rank, index in enumerate(run.array("top")):
        place = {"role": "self", "line": rank // ACROSS, "rank": rank % ACROSS}
        pixels = run.array("top_images")[rank]
        rows.append(image(pixels, float(scores[index]), **place, **labelled(index)))
    for line, query in enumerate(run.array("shown")):
        label, opponents = int(run.array("shown_labels")[line]), run.array("opponents")[query]
        about = {"given": label, "true": label, "corrupted": 0, "probability": math.nan}
        shown = run.array("shown_images")[line]
        rows.append(image(shown, math.nan, role="query", line=line, rank=0, **about))
        for rank, pixels in enumerate(run.array("opponent_images")[line]):
            place = {"role": "opponent", "line": line, "rank": rank}
            rows.append(image(pixels, math.nan, **place, **labelled(opponents[rank])))
    return rows


def draw(table: pd.DataFrame) -> Figure:
    images = records(table[table["kind"] == "image"])
    classes = classes_of(table)
    queries = sum(row["role"] == "query" for row in images)
    height = 0.72 + (LINES + queries) * LINE + FOOT
    figure = Figure(figsize=(PAGE, height))
    suspicious = [row for row in images if row["role"] == "self"]
    wrong = sum(int(row["corrupted"]) for row in suspicious)
    method = images[0]["method"] if images else ""
    share = f"{wrong} of {len(suspicious)} are mislabelled (framed)"
    title = f"Most self-influential training images by {method}: {share}"
    _write(figure, 0.08, height - 0.25, title)
    below = height - 0.4 - LINES * LINE - 0.12
    _write(figure, 0.08, below - 0.06, "A test image, and the training images most against it")
    for row in images:
        top, left = height - 0.4 - int(row["line"]) * LINE, 0.08 + int(row["rank"]) * PITCH
        if row["role"] != "self":
            top = below - 0.2 - int(row["line"]) * LINE
        if row["role"] == "opponent":
            left += 1.4 * PITCH
        _draw_image(figure, row, classes, left, top)
    note = (
        "Given label, true label where it differs; under opponents the probability the model gives"
        " to the given label"
    )
    _write(figure, 0.08, 0.05, note, fontsize=6, color=GREY)
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
    lines = [
        {name: row[name] for name in ("method", "quantity")} | {row["unit"]: written(row, ".1f")}
        for row in records(table[table["kind"] != "image"])
    ]
    return pd.DataFrame(lines).fillna("")


ARTIFACT = Artifact(
    id="arnoldi_vit_images",
    experiment="vit_mislabel",
    tabulate=tabulate,
    draw=draw,
    claims=(OPPOSED, OUTLIERS),
    notes=NOTES,
    title="Most self-influential images of a fine-tuned ViT, and opponents of its predictions",
    claim="Training images of negative influence on a prediction are mislabelled or hard.",
    paper="Arnoldi (arXiv:2112.03052), Sec. 5.3 and D.3",
    deviations=(
        *vit_retrieval.DEVIATIONS,
        "The paper's pictures are of ImageNet and ResNet50, in an appendix outside the text. Here"
        " 10% of the labels are wrong in fine-tuning, so that it is known which images are"
        " mislabelled.",
        "Mislabelled and hard images have large gradients, and so a large influence of either"
        " sign: proponents are counted as well as opponents.",
        FORMER_DRAWS,
    ),
    page=page,
    tier_notes=vit_retrieval.TIER_NOTES,
    needs=lambda config: config["model"]["data"]["where"] == "train",
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
