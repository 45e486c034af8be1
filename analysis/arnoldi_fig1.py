"""Figure 1 of 003: error of the top eigenvalues, Arnoldi against a random subspace."""

import sys

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.ink.style import GREY, draw_curve, fit_values, look, new_axes, tick_values
from analysis.numbers import mislabel
from analysis.numbers.mislabel import Observation
from analysis.numbers.statistics import difference, over_seeds, per_seed, wasserstein
from analysis.numbers.table import Row, claim, curve, records, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

FAMILIES = ("Arnoldi", "GHG^T")
INVERSES = ("Exact", "Arnoldi", "Compressed")
EXACT, SPREAD = "Exact", "std of exact eigenvalues"

RULE = (
    "Claims, paired over seeds, at every p on the grid: the error of GHG^T is above Arnoldi's; the"
    " standard deviation of the exact eigenvalues is above Arnoldi's error."
)


def tabulate(found: list[Run]) -> pd.DataFrame:
    seen = mislabel.observe(found, "SmallCNN")
    exact = {one.seed: _top(one.run) for one in seen if one.method == EXACT}
    grid = {one: mislabel.by_dimension(seen, one) for one in FAMILIES}
    if not exact or not any(grid.values()):
        return tabulated([])
    errors = {
        name: _errors([one for one in seen if one.method == name and one.seed in exact], exact)
        for methods in grid.values()
        for name in methods.values()
    }
    spread = pd.Series({seed: float(np.std(values)) for seed, values in exact.items()})
    rows = [curve(n, "error", "eigenvalue", over_seeds(error)) for n, error in errors.items()]
    rows.append(curve(EXACT, SPREAD, "eigenvalue", over_seeds(spread)))
    norm = mislabel.of_models(seen, "gradient_norm")
    rows.append(curve("small CNN", "gradient norm of the objective", "", norm))
    for p, name in grid["Arnoldi"].items():
        rival = f"GHG^T {p}"
        rivals = {rival: errors.get(rival, pd.Series(dtype=float)), SPREAD: spread}
        rows += _claims(name, errors[name], rivals)
    return tabulated(rows)


def _top(run: Run) -> np.ndarray:
    values = np.asarray(run.array("eigenvalues"), dtype=float)
    return values[np.argsort(-np.abs(values), kind="stable")]


def _errors(seen: list[Observation], exact: dict[int, np.ndarray]) -> pd.Series:
    """By seed, draws averaged, the distance of a method's top p to the exact top p."""
    tops = [(one.seed, _top(one.run)) for one in seen]
    errors = [wasserstein(top, exact[seed][: len(top)]) for seed, top in tops]
    return per_seed(errors, [seed for seed, _ in tops])


def _claims(name: str, error: pd.Series, rivals: dict[str, pd.Series]) -> list[Row]:
    gaps = {other: over_seeds(difference(values, error)) for other, values in rivals.items()}
    return [
        claim(f"{other} − {name}", "error", "eigenvalue", gap, at_least=0.0)
        for other, gap in gaps.items()
    ]


def draw(table: pd.DataFrame) -> Figure:
    figure, axes = new_axes(r"Number of eigenvalues $\tilde{p}$", "Wasserstein error")
    errors = table[(table["kind"] == "curve") & (table["quantity"] == "error")]
    for one in FAMILIES:
        rows = errors[errors["method"].str.startswith(f"{one} ")]
        draw_curve(axes, rows, "proj_dim", look(one))
    spread = [r["ours"] for r in records(table) if r["quantity"] == SPREAD and r["kind"] == "curve"]
    axes.axhline(spread[0], color=GREY, linestyle=":", label=SPREAD)
    axes.set_xscale("log")
    axes.set_yscale("log")
    fit_values(axes, [*errors["ours"], *spread])
    tick_values(axes, errors["proj_dim"])
    figure.legend(loc="outside upper center", ncols=2)
    return figure


ARTIFACT = Artifact(
    id="arnoldi_fig1",
    experiment="mnist_mislabel",
    tabulate=tabulate,
    draw=draw,
    rule=RULE,
    title="Estimation error of the top eigenvalues of the Hessian, small CNN",
    claim=(
        "Arnoldi finds the top eigenvalues; a random subspace, which H does not leave invariant,"
        " needs a considerably larger p for it."
    ),
    paper="Scaling Up Influence Functions (arXiv:2112.03052), Figure 1",
    deviations=(
        "Read as: optimal transport distance, uniformly weighted, of a method's top p to the exact"
        " top p by absolute value; the line is the standard deviation of all exact eigenvalues.",
        "The eigenvalues of a random subspace are those of H restricted to it, in an orthonormal"
        " basis: with E[G^T G] = I those of G H G^T itself would be about p/dim times larger.",
        "The figure is only a picture in the paper: there are no printed numbers to compare.",
        "The paper trains for 500,000 steps of batch 500; ours end with L-BFGS instead, and how"
        " near they are to a minimum is the gradient norm in the table.",
    ),
    tier_notes=mislabel.TIER_NOTES,
    needs=mislabel.on("SmallCNN", lambda method: mislabel.inverse(method) in INVERSES),
)

if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
