"""The most suspicious digits: a picture to check by eye, and the methods side by side."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink.pixels import show
from analysis.ink.style import BLACK, GREY, PAGE, VERMILLION, new_grid
from analysis.numbers import mislabel
from analysis.numbers.cells import packed
from analysis.numbers.claims import Claim, Ours
from analysis.numbers.frame import FORMER_DRAWS, Observation, tidy
from analysis.numbers.mislabel import RETRIEVAL
from analysis.numbers.statistics import over_seeds, single
from analysis.numbers.table import Row, claim, curve, records, tabulated, written
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

NETWORK = "LargeCNN"  # the smoke tier has a stand-in
IN_A_ROW, SHOWN = 10, 30
FACTS = ("given", "true", "corrupted")

CORRUPTED = Claim(
    "suspicious digits are mislabelled",
    Ours("A picture to check by eye, which no paper prints."),
    f"The share of the {SHOWN} most suspicious digits that are corrupted minus that of all, over"
    " seeds.",
    null=0.0,
)
NOTES = (
    "The picture is of one seed, the lowest, and of the method declared beforehand, TracIn over all"
    " checkpoints; not of the best one."
)


def tabulate(runs: list[Run]) -> pd.DataFrame:
    observations = mislabel.observe(runs, NETWORK)
    frame = tidy(observations)
    units = dict.fromkeys(RETRIEVAL, "x100") | {"seconds": "s"}
    rows = [
        curve(method, name, unit, frame.estimate(RETRIEVAL.get(name, name), method))
        for method in frame.methods()
        for name, unit in units.items()
    ]
    declared = _declared(observations)
    if not declared:
        return tabulated(rows)
    rows.append(curve("chance", "AP", "x100", frame.estimate("chance_ap")))
    first, excess = declared[0], over_seeds([_excess(run) for run in declared])
    label = f"{first.metrics['method']}, top {SHOWN} − all"
    rows.append(claim(label, "corrupted", "points", excess, of=CORRUPTED, at_least=0.0))
    return tabulated([*rows, *_images(first, first.array("top"))])


def _excess(run: Run) -> float:
    """Percent of the most suspicious digits that are corrupted minus that of all."""
    corrupted = np.asarray(run.array("corrupted"), dtype=bool)
    return 100 * float(corrupted[run.array("top")].mean() - corrupted.mean())


def _declared(observations: list[Observation]) -> list[Run]:
    """The runs of TracIn over most checkpoints by seed, whatever their AUC."""
    traced = [one for one in observations if one.method.family == "TracIn"]
    most = max((one.method.dim for one in traced), default=0)
    chosen = [one for one in traced if one.method.dim == most]
    return [one.run for one in sorted(chosen, key=lambda one: one.seed)]


def _images(run: Run, position: np.ndarray) -> list[Row]:
    images = np.asarray(run.array("top_images"), dtype=np.uint8)
    facts = {name: run.array(name) for name in FACTS}
    method, scores = str(run.metrics["method"]), run.array("self_influence")
    rows = []
    for rank, (place, image) in enumerate(zip(position, images, strict=True), start=1):
        shown = {name: int(values[place]) for name, values in facts.items()}
        shown |= {"rank": rank, "height": len(image)}
        row = curve(method, "self-influence", "", single(scores[place]), **shown)
        rows.append(row | {"kind": "image", "pixels": packed(image)})
    return rows


def draw(table: pd.DataFrame) -> Figure:
    images = records(table[table["kind"] == "image"])
    lines = max(1, math.ceil(len(images) / IN_A_ROW))
    figure, grid = new_grid(lines, IN_A_ROW, width=PAGE, height=0.5 + 0.92 * lines)
    for axes, row in zip(grid, images, strict=False):
        _draw_image(axes, row)
    wrong = sum(int(row["corrupted"]) for row in images)
    what = f"by {images[0]['method']}: {wrong} have a wrong label (framed)" if images else ""
    figure.suptitle(f"The {len(images)} most suspicious digits {what}", fontsize=9, y=0.985)
    return figure


def _draw_image(axes: Axes, row: Row) -> None:
    wrong, given, true = bool(row["corrupted"]), int(row["given"]), int(row["true"])
    axes.set_axis_on()
    show(axes, row, VERMILLION if wrong else GREY, 2.2 if wrong else 0.7)
    label = f"given {given}, is {true}" if wrong else f"given {given}"
    axes.set_xlabel(label, color=VERMILLION if wrong else BLACK, fontsize=7, labelpad=2)


def page(table: pd.DataFrame) -> pd.DataFrame:
    """The methods side by side, the way a person compares them."""
    wide: dict[str, Row] = {}
    for row in records(table[table["kind"] == "curve"]):
        line = wide.setdefault(row["method"], {"method": row["method"]})
        suffix, form = (" ×100", ".1f") if row["unit"] == "x100" else ("", ".3g")
        line |= {f"{row['quantity']}{suffix}": written(row, form), "seeds": str(row["n"])}
    columns = ["method", *(f"{name} ×100" for name in RETRIEVAL), "seconds", "seeds"]
    return pd.DataFrame(list(wide.values()), columns=pd.Index(columns)).fillna("")


ARTIFACT = Artifact(
    id="digits_suspicious",
    experiment="mnist_mislabel",
    tabulate=tabulate,
    draw=draw,
    claims=(CORRUPTED,),
    notes=NOTES,
    needs=mislabel.needs(NETWORK),
    title="The most suspicious digits",
    claim="Digits of the highest self-influence are mostly those whose label was changed.",
    paper="no paper: a check by eye",
    tier_notes=mislabel.TIER_NOTES,
    page=page,
    deviations=(FORMER_DRAWS,),
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
