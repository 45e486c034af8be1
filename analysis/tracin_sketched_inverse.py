"""TracIn, Sec. A.1, Eq. 3: the inverse Hessian's sketch by two minibatches, error against steps."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.ink.style import GREY, UNNAMED, Look, draw_curve, fit_values, new_axes
from analysis.numbers.claims import Claim, Ours, Paper
from analysis.numbers.frame import FORMER_DRAWS
from analysis.numbers.statistics import geometric, ratio
from analysis.numbers.table import claim, curve, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

MOST_POINTS = 60
ACCURATE = 0.1

PRINTED = Claim(
    "the printed procedure finds the sketch of the inverse",
    Paper(
        "We compute the sketch by solving the optimization problem"
        " min_S ‖H_ŵ S − G^⊤‖_F², via a customized stochastic gradient descent"
        " procedure",
        "appendix, Sec. A.1",
    ),
    "Without damping, as printed: the relative Frobenius error of the sketch at the last step,"
    f" below {ACCURATE:g}. Before the first step it is 1.",
    null=1.0,
)
DAMPED = Claim(
    "with damping the procedure does",
    Ours(
        "The damping is ours: it bounds the ratio of the eigenvalues, on which the speed depends."
    ),
    "The same with damping added to the Hessian, of each that was run.",
    null=1.0,
)


def tabulate(runs: list[Run]) -> pd.DataFrame:
    rows, claims = [], []
    for label, members in _settings(runs).items():
        steps = np.asarray(members[0].array("steps"))
        errors = pd.DataFrame(
            {_seeds(run): run.array("error") for run in members}, steps, dtype=float
        )
        for step in _thinned(steps):
            ours = geometric(errors.loc[step])
            rows.append(curve(label, "relative error", "", ours, step=int(step)))
        last, of = errors.loc[steps[-1]], DAMPED if members[0].metrics["damping"] else PRINTED
        ours = geometric(last)
        about: dict[str, Any] = {"of": of, "at_most": ACCURATE}
        claims.append(claim(label, "error, last step", "", ours, **about))
        falls = geometric(ratio(last, errors.loc[steps[0]]))
        claims.append(curve(label, "error, last ÷ first step", "", falls, kind="change"))
    return tabulated(rows + claims)


def _settings(runs: list[Run]) -> dict[str, list[Run]]:
    """Groups of runs that differ in their seeds only, named by the fields that distinguish them."""
    configs = [dict(leaf for leaf in _leaves(r.config) if leaf[0][-1] != "seed") for r in runs]
    paths = dict.fromkeys(path for config in configs for path in config)
    varied = [path for path in paths if len({config.get(path) for config in configs}) > 1]
    groups: dict[str, list[Run]] = {}
    for run, config in zip(runs, configs, strict=True):
        label = ", ".join(f"{path[-1]} {config.get(path)}".replace("_", " ") for path in varied)
        groups.setdefault(label or "two minibatches", []).append(run)
    return groups


def _seeds(run: Run) -> str:
    return " ".join(leaf for path, leaf in _leaves(run.config) if path[-1] == "seed")


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, (*path, name))
    else:
        yield path, str(value)


def _thinned(steps: np.ndarray) -> np.ndarray:
    """At most MOST_POINTS of the steps, evenly on a log scale, with both ends."""
    if len(steps) <= MOST_POINTS:
        return steps
    picks = np.geomspace(1, len(steps), MOST_POINTS).round().astype(int) - 1
    return steps[np.unique(picks)]


def draw(table: pd.DataFrame) -> Figure:
    figure, axes = new_axes("Steps", "Relative error of H⁻¹Gᵀ")
    shown = table[table["kind"] == "curve"]
    settings = list(dict.fromkeys(shown["method"]))
    for place, label in enumerate(settings):
        style = Look(*UNNAMED[place % len(UNNAMED)], label)
        draw_curve(axes, shown[shown["method"] == label], "step", style, mark_every=0.12)
    axes.axhline(ACCURATE, color=GREY, linestyle=":", label=f"required: below {ACCURATE:g}")
    axes.set(xscale="log" if shown["step"].min() > 0 else "symlog", yscale="log")
    fit_values(axes, [*shown["ours"], ACCURATE])
    long = max(len(label) for label in settings) > 20
    figure.legend(loc="outside upper center", ncols=1 if long else 2)
    return figure


ARTIFACT = Artifact(
    id="tracin_sketched_inverse",
    experiment="mnist_sketch",
    tabulate=tabulate,
    draw=draw,
    claims=(PRINTED, DAMPED),
    title="Sketch of the inverse Hessian by two independent minibatches",
    claim=(
        "Stochastic gradient steps on two independent minibatches converge to the sketch"
        " of the exact inverse Hessian."
    ),
    paper="TracIn (arXiv:2002.08484), appendix, Sec. A.1, Eq. 3",
    deviations=(
        "The paper proposes the procedure and shows no experiment: network, sketch size, damping,"
        " learning rate and batch sizes are ours, and are in the runs' configs.",
        "The minibatches are the blocks of one random partition of some training examples, each"
        " step drawing two of them independently; H is the mean over the blocks, so that it is"
        " exactly what the steps sample from.",
        "Damping is added to the Hessian: the step size is bounded by the square of its largest"
        " eigenvalue, so that the error in an eigenvector decays with the square of the ratio.",
        "Curves are geometric means over seeds with 95% intervals.",
        FORMER_DRAWS,
    ),
    remarks=(
        "Without damping the procedure does not converge in an affordable number of steps: a step"
        " is at most 1 over the largest eigenvalue squared, so the error along an eigenvector"
        " shrinks by the square of the ratio of its eigenvalue to the largest. The runs print both"
        " ends of the spectrum. With damping of a few percent of the largest it converges.",
    ),
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
