"""Sec. 5.3 of 003: mislabelled CIFAR-10 images in a fine-tuned ViT, by parameters from the top."""

import re
import sys

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from analysis.ink.style import (
    BLACK,
    GREY,
    PAGE,
    SKY,
    Look,
    draw_curve,
    fit_values,
    look,
    new_lattice,
)
from analysis.numbers import mislabel, vit_retrieval
from analysis.numbers.mislabel import RETRIEVAL, Observation
from analysis.numbers.statistics import NONE, Interval
from analysis.numbers.table import Row, aside, claim, curve, number, records, tabulated, written
from analysis.numbers.verdict import TOLERANCE_RULE
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

NEGATIVE, ACCURACY = 7.0, 98.6  # % of the mass of 100 eigenvalues (footnote 8); % of test images
TOLERANCE, FACTOR = 5.0, 1.1
GAP = {"AUC": 3.0, "AP": 10.0}  # points within which a gap counts as small
ALL = Look(SKY, "o", "Arnoldi, all eigenvalues", "--")

RULE = (
    "Claims on test images with wrong labels, on AUC and AP, paired over seeds, at each number of"
    " directions and each part of the parameters: (1) Arnoldi on positive eigenvalues is above"
    f" RandProj, (2) by less than {GAP['AUC']:g} points of AUC and {GAP['AP']:g} of AP either way;"
    " (3) of Arnoldi and of RandProj, at each number of directions: the top tenth of the parameters"
    " retrieves better than all of them. Printed number: the negative share of the mass of the"
    f" leading eigenvalues, all parameters, tolerance {TOLERANCE:g} points. Accuracy is compared to"
    f" a factor of {FACTOR:g} and decides nothing. {TOLERANCE_RULE}"
)


def tabulate(found: list[Run]) -> pd.DataFrame:
    seen = vit_retrieval.observe(found)
    if not seen:
        return tabulated([])
    rows: list[Row] = []
    for (where, share), group in sorted(seen.items(), key=lambda one: one[0]):
        part = mislabel.of_models([one for one in group if one.method != "Loss"], "share")
        about = {"where": where, "asked": share, "share": part.mean}
        for method in mislabel.names(group):
            for name, metric in RETRIEVAL.items():
                ours = mislabel.measured(group, method, metric)
                rows.append(curve(method, name, "x100", ours, **about))
        rows += [_mass(group, f"{share:.0%} of the parameters", about)]
    test = {share: group for (where, share), group in seen.items() if where == "test"}
    rows += _printed(seen.get(("test", 1.0), []), test)
    return tabulated([*rows, *_claims(test)])


def _mass(group: list[Observation], what: str, about: dict) -> Row:
    ours = _percent(mislabel.of_models(group, "negative_share"))
    return curve(what, "negative mass of the leading eigenvalues", "%", ours, **about)


def _printed(whole: list[Observation], test: dict[float, list[Observation]]) -> list[Row]:
    mass = _percent(mislabel.of_models(whole, "negative_share"))
    everyone = [one for group in test.values() for one in group]
    accuracy = _percent(mislabel.of_models(everyone, "accuracy_test"))
    return [
        number(
            "Hessian", "negative mass of the leading eigenvalues", "%", mass, NEGATIVE, TOLERANCE
        ),
        aside("fine-tuned ViT", "accuracy on true test labels", "%", accuracy, ACCURACY, FACTOR),
    ]


def _percent(ours: Interval) -> Interval:
    return Interval(100 * ours.mean, 100 * ours.low, 100 * ours.high, ours.n)


def dimensions(methods: list[str]) -> list[int]:
    """The numbers of directions there are, in order."""
    found = (re.fullmatch(r"RandProj (\d+)", method) for method in methods)
    return sorted({int(match.group(1)) for match in found if match})


def _claims(test: dict[float, list[Observation]]) -> list[Row]:
    rows: list[Row] = []
    dims = dimensions([name for group in test.values() for name in mislabel.names(group)])
    for share, group in sorted(test.items()):
        for dim in dims:
            ours, other = f"Arnoldi {dim} positive", f"RandProj {dim}"
            for name, metric in RETRIEVAL.items():
                gap = mislabel.compared(group, ours, other, metric)
                where = f"{ours} − {other}, {share:.0%} of parameters"
                small = {"at_least": -GAP[name], "at_most": GAP[name]}
                rows.append(claim(where, name, "points", gap, at_least=0.0))
                rows.append(claim(where, f"{name}, a small gap", "points", gap, **small))
    least = min(test, default=1.0)
    for dim in dims:
        for method in (f"Arnoldi {dim} positive", f"RandProj {dim}"):
            for name, metric in RETRIEVAL.items():
                gap = NONE if least == 1.0 else _between(test, least, method, metric)
                where = f"{method}, {least:.0%} − all of the parameters"
                rows.append(claim(where, name, "points", gap, at_least=0.0))
    return rows


def _between(
    test: dict[float, list[Observation]], least: float, method: str, metric: str
) -> Interval:
    """The retrieval of one method on the least part minus that on all, on the same models."""
    few = [Observation(o.seed, "few", o.run) for o in test[least] if o.method == method]
    whole = [Observation(o.seed, "all", o.run) for o in test.get(1.0, []) if o.method == method]
    return mislabel.compared([*few, *whole], "few", "all", metric)


def draw(table: pd.DataFrame) -> Figure:
    shown = table[(table["where"] == "test") & table["quantity"].isin(list(RETRIEVAL))]
    dims = dimensions(list(shown["method"])) or [0]
    figure, lattice = new_lattice(2, len(dims), width=PAGE, height=4.3, share_y=False)
    for line, name in zip(lattice, RETRIEVAL, strict=True):
        for axes, dim in zip(line, dims, strict=True):
            rows = shown[shown["quantity"] == name].assign(part=lambda one: 100 * one["share"])
            drawn: list[float] = []
            for method, style in _curves(dim):
                mine = rows[rows["method"] == method]
                if method == "Loss":
                    axes.axhline(*mine["ours"][:1], color=GREY, linestyle=":", label="Loss")
                else:
                    draw_curve(axes, mine, "part", style)
                drawn += list(mine["ours"])
            axes.set_xscale("log")
            parts = sorted(set(rows[rows["method"] != "Loss"]["part"]))
            axes.set_xticks(parts, [f"{part:.0f}" for part in parts])
            axes.xaxis.set_minor_locator(NullLocator())
            fit_values(axes, drawn, top=100)
            if name == "AUC":
                axes.set_title(f"{dim} directions", color=BLACK)
            else:
                axes.set_xlabel("% of the parameters, from the top")
        line[0].set_ylabel(f"{name} ×100")
    handles, labels = lattice[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6)
    return figure


def _curves(dim: int) -> list[tuple[str, Look]]:
    named = Look(look("Arnoldi").colour, "o", "Arnoldi, positive")
    rest = [f"RandProj {dim}", f"RandSelect {dim}", "TracIn[1]", "Loss"]
    own = [(f"Arnoldi {dim}", ALL), (f"Arnoldi {dim} positive", named)]  # the latter above
    return [*((method, look(method)) for method in rest), *own]


def page(table: pd.DataFrame) -> pd.DataFrame:
    """AUC and AP by method, side by side for each part, then everything else."""
    wide: dict[str, Row] = {}
    rest: list[Row] = []
    for row in records(table):
        if row["kind"] == "curve" and row["quantity"] in RETRIEVAL:
            line = wide.setdefault(row["method"], {"method": row["method"]})
            label = "training labels wrong" if row["where"] == "train" else f"{row['asked']:.0%}"
            line[f"{row['quantity']}, {label}"] = written(row, ".1f")
        else:
            told = {"method": row["method"], "quantity": row["quantity"]}
            rest.append(told | {"value": written(row, ".1f"), "verdict": row["verdict"]})
    return pd.DataFrame([*wide.values(), *rest]).fillna("")


def findings(table: pd.DataFrame) -> list[str]:
    """The mass of negative eigenvalues by part, and the controls beside the methods."""
    rows = [r for r in records(table) if r["kind"] == "curve" and r["n"] > 0]
    mass = [
        f"{written(r, '.1f')}% with {r['method']}"
        for r in rows
        if r["where"] == "test" and r["quantity"].startswith("negative")
    ]
    said = [f"Negative mass of the leading eigenvalues: {'; '.join(mass)}."] if mass else []
    return said + mislabel.beside_the_loss(
        table[(table["where"] == "test") & (table["kind"] == "curve")]
    )


ARTIFACT = Artifact(
    id="arnoldi_vit",
    experiment="vit_mislabel",
    tabulate=tabulate,
    draw=draw,
    rule=RULE,
    title="Retrieval of mislabelled images in a fine-tuned vision Transformer",
    claim=(
        "On 10% mislabelled test images Arnoldi on positive eigenvalues retrieves better than"
        " RandProj by a small gap, and more parameters than the top ones decrease it slightly."
    ),
    headline=("Arnoldi 40 positive − RandProj 40, 100% of parameters", "AUC"),
    paper="Scaling Up Influence Functions (arXiv:2112.03052), Sec. 5.3",
    deviations=(
        *vit_retrieval.DEVIATIONS,
        "10% and 20% of the parameters are whole layers from the output down, as many as bring"
        " their share nearest to that; the figure has the share they are.",
        "Beyond the paper: Arnoldi on all eigenvalues by magnitude, RandSelect, TracIn on the last"
        " checkpoint and the loss as controls, and the same with 10% of the labels wrong in"
        " fine-tuning itself.",
        "The negative mass is that of as many leading eigenvalues as the basis keeps, at most 100.",
    ),
    findings=findings,
    page=page,
    tier_notes=vit_retrieval.TIER_NOTES,
)

if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
