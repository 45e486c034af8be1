"""Table 2 of 003: retrieval of shuffled translations by self-influence in a Transformer."""

import math
import sys

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.ink.retrieval import draw_row
from analysis.ink.style import BLACK, GREY, new_panels
from analysis.numbers.statistics import Interval, difference, over_seeds, per_seed
from analysis.numbers.table import Row, aside, claim, curve, number, records, tabulated, written
from analysis.numbers.verdict import TOLERANCE_RULE
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

# The panels of Table 2 of 003: each method's AUC and AP on shuffled translations.


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


METRICS = {"AUC": "auc", "AP": "ap"}
PAPER = {  # AUC, AP as printed
    "RandSelect 10": (67.0, 12.2),
    "RandSelect 100": (79.3, 19.7),
    "RandProj 10": (85.6, 31.3),
    "RandProj 20": (85.2, 28.0),
    "Arnoldi 10": (92.0, 47.8),
    "Arnoldi 20": (93.8, 54.4),
    "RandSelect 100, last": (80.2, 20.1),
    "RandSelect 1000, last": (81.3, 22.2),
    "RandProj 10, last": (80.6, 23.5),
    "RandProj 20, last": (83.0, 25.8),
    "Arnoldi 10, last": (82.0, 28.1),
    "Arnoldi 20, last": (83.7, 28.5),
}
SPREAD = {"AUC": 0.9, "AP": 1.0}  # printed bounds of the std over draws of a projection
PAPER_BLEU, PAPER_TEST = 36.0, "newstest2016"
TOLERANCE = {"AUC": 2.0, "AP": 5.0}
BLEU_FACTOR = 1.05
FACTOR = 2.0
Values = dict[str, dict[str, pd.Series]]  # by method, then metric: a value a fold, draws averaged

RULE = (
    "Claims, on AUC and AP, paired over folds of one model: Arnoldi is above RandProj at the same"
    " p, on all layers and on the last; RandSelect is the worst: RandProj is above it at the"
    " smallest p of both, and Arnoldi, at its largest, above it at its largest; all layers are"
    " above the last ones for Arnoldi and RandProj at the largest p. Tolerances:"
    f" {TOLERANCE['AUC']:g} points of AUC, {TOLERANCE['AP']:g} of AP."
    f" The spread over draws is compared to a factor of {FACTOR:g} and decides nothing; neither do"
    f" the loss and TracIn, which are ours. {TOLERANCE_RULE}"
)


def tabulate(found: list[Run]) -> pd.DataFrame:
    ranked = [run for run in found if run.metrics["method"] != "BLEU"]
    if not ranked:
        return tabulated([])
    values = _values(ranked)
    chance = {"AP": 100 * float(ranked[0].metrics["chance_ap"]), "AUC": 50.0}
    others = [name for name in values if name not in PAPER]
    shown = [*PAPER, *others] if set(PAPER) & set(values) else others
    rows: list[Row] = []
    for name in shown:
        for place, metric in enumerate(METRICS):
            ours = over_seeds(values[name][metric]) if name in values else over_seeds([])
            printed = PAPER[name][place] if name in PAPER else math.nan
            chances = {"chance": chance[metric]}
            rows.append(number(name, metric, "x100", ours, printed, TOLERANCE[metric], **chances))
    rows += [row for name in values for row in _spreads(ranked, values, name)]
    rows += _claims(values) + _controls(values, ranked)
    return tabulated(rows + _bleu([run for run in found if run.metrics["method"] == "BLEU"]))


def _fold(run: Run) -> int:
    return int(run.config["fold"]["index"])


def _names(run: Run) -> list[str]:
    """One name a number of directions, as `RandProj 10, last`."""
    tail = ", last" if run.metrics["layers"] == "last" else ""
    return [f"{run.metrics['method']}{f' {dim}' if dim else ''}{tail}" for dim in run.array("dims")]


def _draws(found: list[Run], metric: str) -> dict[str, dict[int, list[float]]]:
    """By method and fold, the values of its draws, in the paper's unit."""
    out: dict[str, dict[int, list[float]]] = {}
    for run in found:
        for name, value in zip(_names(run), run.array(METRICS[metric]), strict=True):
            out.setdefault(name, {}).setdefault(_fold(run), []).append(100 * float(value))
    return out


def _values(found: list[Run]) -> Values:
    out: Values = {}
    for metric in METRICS:
        for name, folds in _draws(found, metric).items():
            pairs = [(value, fold) for fold, values in folds.items() for value in values]
            series = per_seed([value for value, _ in pairs], [fold for _, fold in pairs])
            out.setdefault(name, {})[metric] = series
    return out


def _spreads(found: list[Run], values: Values, name: str) -> list[Row]:
    """Standard deviations: over folds, and over draws within the folds that have several."""
    rows = []
    for metric in METRICS:
        folds = values[name][metric]
        if len(folds) > 1:
            spread = Interval(float(folds.std(ddof=1)), math.nan, math.nan, 1)
            rows.append(curve(name, f"{metric}, std over folds", "x100", spread))
        several = [v for v in _draws(found, metric)[name].values() if len(v) > 1]
        if several:
            draws = over_seeds([float(np.std(v, ddof=1)) for v in several])
            quantity = f"{metric}, std over draws"
            rows.append(aside(name, quantity, "x100", draws, SPREAD[metric], FACTOR))
    return rows


def _dims(values: Values, family: str, tail: str) -> list[int]:
    names = [name.removesuffix(tail) for name in values if name.endswith(tail)]
    found = [name.split() for name in names if name.startswith(f"{family} ") and "," not in name]
    return sorted(int(dim) for _, dim in found)


def _claims(values: Values) -> list[Row]:
    pairs: list[tuple[str, str]] = []
    for tail in ("", ", last"):
        arnoldi, randproj = (_dims(values, one, tail) for one in ("Arnoldi", "RandProj"))
        select = _dims(values, "RandSelect", tail)
        both = [dim for dim in arnoldi if dim in randproj]
        pairs += [(f"Arnoldi {p}{tail}", f"RandProj {p}{tail}") for p in both]
        if select and randproj:
            pairs.append((f"RandProj {randproj[0]}{tail}", f"RandSelect {select[0]}{tail}"))
        if select and arnoldi:
            pairs.append((f"Arnoldi {arnoldi[-1]}{tail}", f"RandSelect {select[-1]}{tail}"))
    for family in ("Arnoldi", "RandProj"):
        last = [dim for dim in _dims(values, family, "") if dim in _dims(values, family, ", last")]
        if last:
            pairs.append((f"{family} {last[-1]}", f"{family} {last[-1]}, last"))
    return [row for pair in pairs for row in _compared(values, *pair, claimed=True)]


def _controls(values: Values, found: list[Run]) -> list[Row]:
    """Beyond the paper: the best of each family beside the loss, and what hangs on length."""
    rows = []
    for family in ("Arnoldi", "RandProj"):
        for dim in _dims(values, family, "")[-1:]:
            for control in ("Loss", "TracIn"):
                if control in values:
                    rows += _compared(values, f"{family} {dim}", control, claimed=False)
    if {"TracIn", "TracIn, last"} <= set(values):
        rows += _compared(values, "TracIn", "TracIn, last", claimed=False)
    seen = {_fold(run): 100 * float(run.metrics["auc_length"]) for run in found}
    rows.append(curve("Length", "AUC of length", "x100", over_seeds(list(seen.values()))))
    negative = [
        100 * float(run.metrics["negative_share"])
        for run in found
        if run.metrics["method"] == "Arnoldi" and run.metrics["layers"] == "all"
    ]
    if negative:
        what = "self-influence below 0"
        rows.append(curve("Arnoldi", what, "% of pairs", over_seeds(negative)))
    return rows


def _compared(values: Values, one: str, other: str, claimed: bool) -> list[Row]:
    rows = []
    for place, metric in enumerate(METRICS):
        ours = over_seeds(difference(values[one][metric], values[other][metric]))
        name = f"{one} − {other}"
        if not claimed:
            rows.append(curve(name, metric, "points", ours))
            continue
        printed = [PAPER[m][place] if m in PAPER else math.nan for m in (one, other)]
        paper = printed[0] - printed[1]
        rows.append(claim(name, metric, "points", ours, paper=paper, at_least=0.0))
    return rows


def _bleu(found: list[Run]) -> list[Row]:
    rows = []
    for run in found:
        test = str(run.metrics["test"])
        printed = PAPER_BLEU if test == PAPER_TEST else math.nan
        ours = Interval(float(run.metrics["bleu"]), math.nan, math.nan, 1)
        more = {"signature": str(run.metrics["signature"])}
        rows.append(aside("Model", f"BLEU, {test}", "", ours, printed, BLEU_FACTOR, **more))
    return rows


def findings(table: pd.DataFrame) -> list[str]:
    rows = {(r["method"], r["quantity"]): r for r in records(table)}
    said = []
    for (method, quantity), row in rows.items():
        if quantity in METRICS and method.endswith("− Loss") and row["n"]:
            said.append(
                f"{quantity}: {method.removesuffix(' − Loss')} minus the plain loss, which needs"
                f" no gradient and is in no table of the paper: {written(row, '.1f')} points."
            )
        if quantity in METRICS and method == "TracIn − TracIn, last" and row["n"]:
            said.append(
                f"{quantity}: TracIn, of whole gradients at its checkpoints, on all layers minus on"
                f" the last: {written(row, '.1f')} points. It chooses no directions, so this"
                " difference is of the layers themselves."
            )
    said += [
        f"{quantity} of the model: {row['ours']:.1f} ({row['signature']})."
        for (method, quantity), row in rows.items()
        if method == "Model"
    ]
    return said


ARTIFACT = Artifact(
    id="arnoldi_table2",
    experiment="wmt_retrieval",
    tabulate=tabulate,
    draw=draw,
    rule=RULE,
    title="Retrieval of shuffled translations, Transformer",
    claim=(
        "Arnoldi retrieves shuffled sentence pairs better than RandProj, and both better than"
        " RandSelect; the last decoder layers alone retrieve worse than all layers."
    ),
    headline=("Arnoldi 20 − RandProj 20", "AUC"),
    paper="Scaling Up Influence Functions (arXiv:2112.03052), Table 2 and Sec. 5.2",
    deviations=(
        "The loss of a pair is the mean over its subwords, label smoothing included, in training"
        " and for influence; the paper does not say whether it sums.",
        "Each of the shuffled targets goes to another source: a random permutation would leave one"
        " at its place on average.",
        "Layers are normalised before each block, as in the Flax example that the paper names, and"
        " one matrix embeds both languages and is the output layer.",
        "Beyond the paper's rows: the loss alone, and TracIn over checkpoints without learning"
        " rates, on all layers and on the last. Intervals are over folds of one model, as the"
        " paper's averages are: they say nothing of other trainings.",
    ),
    remarks=(
        "The paper says that the last layers alone degrade every algorithm; its own rows for"
        " RandSelect 100 have 79.3 on all layers and 80.2 on the last. The claim is tested for"
        " Arnoldi and RandProj.",
    ),
    findings=findings,
    tier_notes={
        "smoke": (
            "Smoke tier: generated sentences of a small grammar and a network of 50 thousand"
            " parameters; numbers are not comparable. It shows that the protocol runs."
        ),
        "small": (
            "Small tier: a Transformer of 1.4 million parameters, two layers a side, trained for 6"
            " epochs on 39,000 pairs (Multi30k and a sample of WMT); the last of two decoder layers"
            " for the last three of six; 60 Arnoldi iterations on 128 pairs for 200 on 512. It can"
            " show the order of methods on a model that is far from having seen enough; it cannot"
            " show it at the paper's quality of translation, nor its numbers."
        ),
    },
)


if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
