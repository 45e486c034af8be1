"""Figure 3 of FastIF: how many of the most influential pairs are among the nearest neighbours."""

import math
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.ink.style import BLACK, BLUE, GREY, VERMILLION, Look, draw_curve, new_lattice
from analysis.numbers import fastif_points
from analysis.numbers.claims import MEAN, Claim, Paper
from analysis.numbers.fastif_points import (
    PAPER_N,
    by_prediction,
    counted,
    of_work,
    over_points,
    stated,
)
from analysis.numbers.statistics import single
from analysis.numbers.table import Row, aside, claim, curve, records, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

SELECTORS, KINDS = ("kNN", "H = I"), ("harmful", "helpful", "unsigned")
PAPER_MS = (10, 100, 1_000)
PRINTED = {50_000 / 392_702: 60.0, 5_000 / 392_702: 20.0}  # share of pairs: recall in %, Sec. 5.1
FAR = 2.0
LOOKS = {
    ("kNN", "harmful"): Look(VERMILLION, "D", "harmful"),
    ("kNN", "helpful"): Look(BLUE, "o", "helpful"),
    ("kNN", "unsigned"): Look(BLACK, "s", "unsigned"),
    ("H = I", "unsigned"): Look(GREY, "x", "unsigned, by gradients (H = I)"),
}

USEFUL = Claim(
    "kNN selects influential pairs",
    Paper(
        "Overall, the recall scores show that kNN is useful in selecting data-points that are"
        " likely to be influential.",
        "Sec. 5.1, of Figure 3",
    ),
    "Recall of the most influential pairs, unsigned, over that of a random choice, k/N, at either"
    " damping, for each m, which is the paper's share of the training set, and at the two sizes k"
    " nearest to the shares that the text names, 1.27% and 12.7%. Useful is read as over"
    f" {FAR:g} times.",
    null=1.0,
    over="points",
)
SIGNED = Claim(
    "harmful pairs are recalled better where the prediction is right, helpful ones elsewhere",
    Paper(
        "One interesting observation is that, the recall scores for the most harmful data-points"
        " tend to be higher than the most helpful ones when the predictions are correct, but lower"
        " when the predictions are incorrect.",
        "Sec. 5.1, of Figure 3",
    ),
    "At the larger k, recall of harmful minus helpful pairs where the prediction is right, and of"
    " helpful minus harmful ones where it is wrong; 'tend to' is the mean over the sizes m and"
    " both dampings.",
    null=0.0,
    over="points",
    rule=MEAN,
)
NOTES = (
    "The two recalls that the text states are shown for each m, because the text does not say which"
    f" m it means, and decide nothing. {fastif_points.POINTS_RULE}"
)


def tabulate(runs: list[Run]) -> pd.DataFrame:
    return tabulated([row for run in runs for row in _rows(run)])


def scaled(n: int) -> list[int]:
    """The paper's m as the same shares of n pairs, at least 1 each."""
    return [max(1, round(m * n / PAPER_N)) for m in PAPER_MS]


def _rows(run: Run) -> list[Row]:
    """The rows of one damping; those of the released one say so in the column `damping`."""
    released = run.config["work"]["plan"]["damping"] is not None
    own = {"damping": f"{run.metrics['damping']:.3g}, {'released' if released else 'by our rule'}"}
    rows = [row | own for row in _of_damping(run)]
    if released:
        for row in rows:
            row["method"] = f"{row['method']}, released damping"
    return rows


def _of_damping(run: Run) -> list[Row]:
    work, n = run.config["work"], int(run.metrics["n_train"])
    ks, ms, points = work["ks"], work["ms"], by_prediction(run)
    recall = 100 * np.asarray(run.array("recall"))  # (selectors, kinds, ms, ks, points)
    rows = []
    cells = list(product(*map(enumerate, (ks, SELECTORS, KINDS))))
    for (m_at, m), (predicted, mask) in product(enumerate(ms), points.items()):
        for (k_at, k), (s, selector), (i, kind) in cells:
            about = {"predicted": predicted, "influence": kind, "m": m, "k": k}
            ours = over_points(recall[s, i, m_at, k_at, mask])
            rows.append(curve(selector, f"R@{m}", "%", ours, **about))
    for m, k in product(ms, ks):
        rows.append(curve("Random", f"R@{m}", "%", single(100 * k / n), m=m, k=k))
    error = over_points(100 * np.asarray(run.array("relative_error")))
    rows.append(curve("s_test", "relative error by its repeats", "% of its length", error))
    near = {share: int(np.argmin(np.abs(np.log(np.array(ks) / (share * n))))) for share in PRINTED}
    large = max(near.values())
    judged = [m for m in ms if m in scaled(n)] or ms
    for m_at, m in enumerate(ms):
        if m in judged:
            rows += _printed(recall[:, KINDS.index("unsigned"), m_at], ks, m, near, n)
            rows += _signed(recall[0, :, m_at, large], points, m, ks[large])
    return rows


def _printed(
    recall: np.ndarray, ks: list[int], m: int, near: dict[float, int], n: int
) -> list[Row]:
    """The unsigned recall (selectors, ks, points) where the text speaks of it."""
    rows = []
    for share, at in near.items():
        k = ks[at]
        about: dict[str, Any] = {"m": m, "k": k, "influence": "unsigned", "predicted": "either"}
        label = f"k = {counted(k)} of {counted(n)}"
        times = over_points(recall[0, at] / (100 * k / n))
        far: dict[str, Any] = {"of": USEFUL, "at_least": FAR}
        rows.append(claim(f"kNN ÷ Random, {label}", f"R@{m}", "x", times, **far, **about))
        gap = over_points(recall[0, at] - recall[1, at])
        rows.append(curve(f"kNN − H = I, {label}", f"R@{m}", "points", gap, **about))
        if math.isclose(k / n, share, rel_tol=0.05):
            ours = over_points(recall[0, at])
            rows.append(aside(f"kNN, {label}", f"R@{m}", "%", ours, PRINTED[share]))
    return rows


def _signed(recall: np.ndarray, points: dict[str, np.ndarray], m: int, k: int) -> list[Row]:
    """Harmful against helpful, recall (kinds, points), by what was predicted."""
    rows = []
    gap = recall[0] - recall[1]
    for predicted, more, sign in (("right", KINDS[:2], 1), ("wrong", KINDS[1::-1], -1)):
        ours = over_points(sign * gap[points[predicted]])
        label = f"{' − '.join(more)}, predicted {predicted}, k = {counted(k)}"
        rows.append(claim(label, f"R@{m}", "points", ours, of=SIGNED, at_least=0.0, m=m, k=k))
    return rows


def draw(table: pd.DataFrame) -> Figure:
    """Recall at the m that are judged, with the truth at the damping of our rule."""
    shown = table[table["kind"] == "curve"]
    ms = sorted(table.loc[table["kind"] == "claim", "m"].unique())
    figure, grid = new_lattice(2, len(ms), height=4.0)
    for panels, predicted in zip(grid, ("right", "wrong"), strict=True):
        for axes, m in zip(panels, ms, strict=True):
            rows = shown[shown["m"] == m]
            for (method, kind), style in LOOKS.items():
                mine = rows[(rows["method"] == method) & (rows["influence"] == kind)]
                mine = mine[(mine["predicted"] == predicted) & (mine["n"] > 0)]
                draw_curve(axes, mine, "k", style)
            random = rows[rows["method"] == "Random"].sort_values("k")
            axes.plot(random["k"], random["ours"], ":", color=BLACK, lw=1, label="random, k/N")
            axes.set_xscale("log")
            axes.set_ylim(-3, 103)
        panels[0].set_ylabel(f"Recall (%), predicted {predicted}")
    for top, bottom, m in zip(*grid, ms, strict=True):
        top.set_title(f"top m = {counted(m)}")
        bottom.set_xlabel("k")
    named = grid[0][0].get_legend_handles_labels()
    figure.legend(*named, loc="outside upper center", ncols=5, columnspacing=1.2)
    return figure


def findings(table: pd.DataFrame) -> list[str]:
    """Say how kNN does compared with gradients, at the largest k that is judged."""
    gaps = records(table[table["method"].str.startswith("kNN − H = I")])
    either = table[(table["predicted"] == "either") & (table["influence"] == "unsigned")]
    recall = {(r["method"], r["m"], r["k"]): r for r in records(either)}
    largest = max((row["k"] for row in gaps), default=0)
    return [
        f"Of the {counted(row['m'])} most influential pairs, the {counted(largest)} nearest contain"
        f" {stated(recall['kNN', row['m'], largest])}%, and the {counted(largest)} of the largest"
        f" inner product of gradients (H = I) {stated(recall['H = I', row['m'], largest])}%; the"
        f" difference is {stated(row)} points."
        for row in gaps
        if row["k"] == largest
    ]


ARTIFACT = Artifact(
    id="fastif_fig3",
    experiment="mnli_speed",
    tabulate=tabulate,
    draw=draw,
    claims=(USEFUL, SIGNED),
    notes=NOTES,
    title="Recall of the most influential training pairs among nearest neighbours",
    claim=(
        "Nearest neighbours contain far more of the most influential pairs than a random choice;"
        " recall of harmful ones is higher than of helpful ones where the prediction is right,"
        " and lower where it is wrong."
    ),
    paper="FastIF (arXiv:2012.15781), Figure 3 and Sec. 5.1",
    deviations=(
        "The paper shows the figure without numbers; the text states two of them. It gives random"
        " recall as 15% and 1.5%; k/N is 12.7% and 1.27%.",
        "Error bars of the paper are standard deviations over points; bands here are 95% intervals"
        " of the mean.",
        "The truth is influence over all training pairs by LiSSA with B = 32, averaged over"
        " repeats, with the damping of our rule, which is drawn, and with the released one (see"
        " fastif_table3). The spread of its repeats is in the table; noise in the truth lowers"
        " every recall.",
        "m is scaled with the training set, as k is: 10, 100 and 1,000 of 392,702 pairs. The"
        " unscaled m are in the table and decide nothing.",
        "Neighbours are those of the pooled output that the classifier sees; the paper does not"
        " say which features it uses.",
        "Our control takes candidates by the size of the inner product of gradients, which is"
        " influence with the identity in place of the Hessian. It costs a pass over all pairs;"
        " kNN does not.",
    ),
    findings=findings,
    tier_notes=fastif_points.TIER_NOTES,
    needs=of_work("Recall"),
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
