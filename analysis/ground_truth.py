"""Attributions of single networks against ensembles: a table and a figure of our own."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink.marks import name_lines
from analysis.ink.style import BLACK, GREY, look, new_lattice
from analysis.numbers.claims import Claim, Ours
from analysis.numbers.frame import FORMER_DRAWS, method_of
from analysis.numbers.overlap import ensemble_name
from analysis.numbers.statistics import NONE, Interval, bootstrap, exact, over_seeds, single
from analysis.numbers.table import Row, claim, curve, records, tabulated, written
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

ENSEMBLE, RANDOM = "Ensemble", "Random"
TESTED = ("Influence", "TracIn")
MEASURES = {  # arrays of a run and what they are called
    "lds": "LDS",
    "pairs": "rank correlation of a query's scores with the ensemble's",
}
SELF = {"own": "rank correlation of self-influence and memorization", "ap": "AP of memorized"}
COUNTS = {"memorized": "memorized examples", "strong_pairs": "influential pairs"}
TITLES = (
    "LDS against networks trained",
    "a query's scores against\nthe ensemble's, Spearman",
    "self-influence against\nmemorization, Spearman",
)

GOAL = Ours("No paper compares the methods of all four.")
HESSIAN = Claim(
    "influence functions predict better than gradients", GOAL,
    "The LDS of influence functions of one network minus that of plain gradient products.",
    null=0.0,
)  # fmt: skip
AVERAGED = Claim(
    "averaging over networks helps", GOAL,
    "The LDS of TracIn, and of influence functions, averaged over all networks minus that of one.",
    null=0.0,
)  # fmt: skip
CHEAPER = Claim(
    "attributions are better than an ensemble of as many trainings", GOAL,
    "The LDS of TracIn, and of influence functions, of all networks minus that of the ensemble's"
    " own estimate from as many.",
    null=0.0,
)  # fmt: skip
WHOLE = Claim(
    "the whole ensemble is better than every attribution", GOAL,
    "The LDS of the ensemble's estimate from all models that are not held out minus that of each"
    " attribution of all networks.",
    null=0.0,
)  # fmt: skip
MEMORIZED = Claim(
    "self-influence finds what is memorized", GOAL,
    "The rank correlation of self-influence with memorization, of TracIn and influence functions.",
    null=0.0,
)  # fmt: skip
NOTES = "For each set; differences are paired over queries, correlations are over networks."


def tabulate(runs: list[Run]) -> pd.DataFrame:
    sets: dict[str, list[Run]] = {}
    for run in runs:
        sets.setdefault(ensemble_name(run.config["division"]["ensemble"]), []).append(run)
    return tabulated([row for name, members in sets.items() for row in _set(name, members)])


def _set(name: str, runs: list[Run]) -> Iterable[Row]:
    estimates = [run for run in runs if run.config["type"] == "Estimate"]
    contested = np.asarray(estimates[0].array("contested")) if estimates else None
    methods = {str(run.metrics["method"]): run for run in runs if run not in estimates}
    yield from _claims(name, methods, estimates)
    for run in estimates:
        yield from _estimate(name, run, contested)
    for method, run in methods.items():
        yield from _method(name, method, run, contested)


def _claims(name: str, methods: dict[str, Run], estimates: list[Run]) -> Iterable[Row]:
    def above(
        of: Claim, left: str, one: np.ndarray | None, right: str, other: np.ndarray | None
    ) -> Row:
        gap = NONE if one is None or other is None else over_queries(one - other)
        quantity = f"{name}: LDS, paired"
        about: dict[str, Any] = {"of": of, "at_least": 0.0, "data": name}
        return claim(f"{left} − {right}", quantity, "", gap, **about)

    of_one = {method: _of_one_network(run) for method, run in methods.items()}
    of_all = {method: _of_all_networks(run) for method, run in methods.items()}
    gradients = of_one.get("Gradients")
    influence, plain = of_one.get("Influence"), "Gradients, of one network"
    yield above(HESSIAN, "Influence", influence, plain, gradients)
    for method in TESTED:
        run, many, label = methods.get(method), of_all.get(method), f"{method} of all networks"
        yield above(AVERAGED, label, many, "of one", of_one.get(method))
        count = 0 if run is None else int(run.array("counts")[-1])
        as_many = _of_ensemble(estimates, count)
        yield above(CHEAPER, label, many, f"{ENSEMBLE} of as many models", as_many)
        ours = NONE if run is None else over_seeds(run.array("own_each"))
        about: dict[str, Any] = {"of": MEMORIZED, "at_least": 0.0, "data": name}
        yield claim(method, f"{name}: {SELF['own']}", "correlation", ours, **about)
    for method, many in of_all.items():
        if method != RANDOM and many is not None:
            most = _of_ensemble(estimates, None)
            label = f"{ENSEMBLE} of all models"
            yield above(WHOLE, label, most, f"{method} of all networks", many)


def _of_one_network(run: Run) -> np.ndarray:
    """The LDS of each query, the mean over attributions of one network each."""
    return np.asarray(run.array("lds_each")).mean(0)


def _of_all_networks(run: Run) -> np.ndarray | None:
    """The same of the attribution averaged over all networks, if there are several."""
    return np.asarray(run.array("lds_mean"))[-1] if len(run.array("counts")) > 1 else None


def _of_ensemble(estimates: list[Run], size: int | None) -> np.ndarray | None:
    """The LDS of the ensemble's estimate of so many models; of the most, if it is None."""
    for run in estimates:
        sizes = [int(each) for each in run.array("sizes")]
        wanted = max(sizes) if size is None else size
        if wanted in sizes:
            return np.asarray(run.array("lds_mean"))[sizes.index(wanted)]
    return None


def _estimate(name: str, run: Run, contested: np.ndarray | None) -> Iterable[Row]:
    rho = over_queries(run.array("reliability"))
    mean, low, high = (
        x if math.isnan(x) else math.sqrt(max(0.0, x)) for x in (rho.mean, rho.low, rho.high)
    )
    ceiling = Interval(mean, low, high, rho.n)
    yield curve("Trained twice", "rank correlation of outcomes", "", rho, data=name)
    yield curve("Ceiling", "LDS", "", ceiling, data=name, measure="ceiling")
    for metric, label in COUNTS.items():
        yield curve(ENSEMBLE, label, "", exact(float(run.metrics[metric])), data=name)
    for place, size in enumerate(run.array("sizes")):
        for row in _measured(run, ENSEMBLE, place, contested):
            yield row | {"trainings": int(size), "data": name}
        if "of_noise" in run.meta["arrays"]:
            left = exact(float(run.array("of_noise")[place]))
            about = {"trainings": int(size), "data": name, "measure": "of_noise"}
            yield curve(ENSEMBLE, "LDS that sampling noise leaves", "", left, **about)


def _method(name: str, method: str, run: Run, contested: np.ndarray | None) -> Iterable[Row]:
    about: dict[str, Any] = {"data": name}
    known = method_of(run.config["method"])
    if str(known) == method:  # not a variant with a name of its own
        about["proj_dim"] = known.directions
    if "damping" in run.metrics:
        yield curve(method, "damping", "", exact(float(run.metrics["damping"])), **about)
    chosen_by = int(run.metrics.get("choosing_trainings", 0))
    for place, count in enumerate(run.array("counts")):
        about["trainings"] = int(count) + chosen_by
        for row in _measured(run, method, None if count == 1 else place, contested):
            yield row | about
        for key, label in SELF.items():
            if f"{key}_each" in run.meta["arrays"]:
                mean = float(run.array(f"{key}_mean")[place])
                ours = over_seeds(run.array(f"{key}_each")) if count == 1 else exact(mean)
                yield curve(method, label, "", ours, **about, measure=key)
    if method == RANDOM:
        share = exact(float(run.metrics["ap_chance"]))
        yield curve(method, "share of memorized examples", "", share, data=name)


def _measured(
    run: Run, method: str, place: int | None, contested: np.ndarray | None
) -> Iterable[Row]:
    """Quality averaged over queries, of averaged scores or of single networks (their mean)."""
    for key, label in MEASURES.items():
        if place is None:
            values = np.asarray(run.array(f"{key}_each")).mean(0)
        else:
            values = np.asarray(run.array(f"{key}_mean"))[place]
        if (ours := over_queries(values)).n:
            yield curve(method, label, "", ours, measure=key)
        if key == "lds" and contested is not None and (some := over_queries(values[contested])).n:
            yield curve(method, f"{label} of contested queries", "", some, measure="lds_contested")


def over_queries(values: Any) -> Interval:
    """The mean over queries that have a value, with its bootstrap interval."""
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    return single(known[0]) if known.size == 1 else bootstrap(known)


def draw(table: pd.DataFrame) -> Figure:
    """LDS against trainings, and other measures of quality, one line of panels per data set."""
    names = list(dict.fromkeys(table["data"]))
    shape: dict[str, Any] = {"share_x": False, "share_y": False, "widths": (1.5, 1, 1)}
    figure, grid = new_lattice(len(names), 3, height=0.75 + 2.35 * len(names), **shape)
    for (lds, pairs, own), name in zip(grid, names, strict=True):
        rows = table[(table["data"] == name) & (table["kind"] == "curve")]
        _draw_lds(lds, rows)
        lds.set_ylabel(f"{name}\nLDS")
        methods = list(dict.fromkeys(rows[rows["measure"] == "lds"]["method"]))
        _draw_ends(pairs, rows[rows["measure"] == "pairs"], methods, chance=0.0)
        _draw_ends(own, rows[rows["measure"] == "own"], methods, chance=0.0)
        own.set_yticklabels([])
    for axes, title in zip(grid[0], TITLES, strict=True):
        axes.set_title(title)
    labels = ("networks trained", "open: fewest networks trained", "filled: most")
    for axes, label in zip(grid[-1], labels, strict=True):
        axes.set_xlabel(label)
    return figure


def _draw_lds(axes: Axes, rows: pd.DataFrame) -> None:
    lds = rows[rows["measure"] == "lds"]
    # Inverses by themselves, such as "Influence, CG", are of one network: in the table.
    methods = [method for method in dict.fromkeys(lds["method"]) if ", " not in method]
    for place, method in enumerate(methods):
        style, line = look(method), lds[lds["method"] == method].sort_values("trainings")
        shift = 1 + 0.03 * (place - len(methods) // 2)  # intervals side by side
        x = line["trainings"].to_numpy(dtype=float) * shift
        axes.vlines(x, line["low"], line["high"], color=style.colour, alpha=0.4, linewidth=1.4)
        axes.plot(x, line["ours"], color=style.colour, marker=style.marker, linewidth=1)
    for row in records(rows[rows["measure"] == "ceiling"]):
        axes.axhline(row["ours"], color=GREY, linewidth=0.8, linestyle=":")
        axes.annotate(
            "ceiling by noise", (0.99, row["ours"]), xycoords=("axes fraction", "data"),
            ha="right", va="bottom", color=GREY, fontsize=6.5,
        )  # fmt: skip
    noise = rows[rows["measure"] == "of_noise"].sort_values("trainings")
    axes.plot(noise["trainings"], noise["ours"], color=GREY, linewidth=0.9, linestyle="--")
    axes.axhline(0, color=BLACK, linewidth=0.6)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _draw_ends(axes: Axes, rows: pd.DataFrame, methods: list[str], chance: float) -> None:
    """Draw each method at the fewest trainings, open, and at the most, filled."""
    axes.axvline(chance, color=GREY, linewidth=0.8, linestyle=":")
    for place, method in enumerate(methods):
        ordered = records(rows[rows["method"] == method].sort_values("trainings"))
        if len(ordered) > 1:
            _draw_end(axes, ordered[0], method, place + 0.14, fill="none")
        if ordered:
            _draw_end(axes, ordered[-1], method, place - 0.14, fill="full")
    name_lines(axes, methods)


def _draw_end(axes: Axes, row: Row, method: str, y: float, fill: str) -> None:
    style = look(method)
    if not math.isnan(row["low"]):
        axes.plot([row["low"], row["high"]], [y, y], color=style.colour, linewidth=1.6, alpha=0.5)
    axes.plot(row["ours"], y, style.marker, color=style.colour, fillstyle=fill)


def page(table: pd.DataFrame) -> pd.DataFrame:
    """A line a method and number of trainings."""
    labels = {"lds": "LDS", "lds_contested": "LDS, contested", "pairs": "pairs", "own": "own"}
    labels["of_noise"] = "LDS left by noise"
    lines, by = [], ["data", "method", "trainings"]
    measured = table[(table["kind"] == "curve") & table["trainings"].notna()]
    for (data, method, count), rows in measured.groupby(by, sort=False):
        shown = {row["measure"]: _shown(row) for row in records(rows)}
        line = {"data": data, "method, networks": f"{method}, {count:g}"}
        lines.append(line | {label: shown.get(key, "") for key, label in labels.items()})
    return pd.DataFrame(lines).fillna("")


def _shown(row: Row) -> str:
    """A value with its interval, if it was measured more than once."""
    return f"{row['ours']:.2f}" if row["low"] == row["high"] else written(row, ".2f")


def findings(table: pd.DataFrame) -> list[str]:
    """Say how near the best attribution comes to the ceiling, in each set."""
    sentences = []
    for name, rows in table.groupby("data", sort=False):
        lds = rows[(rows["measure"] == "lds") & ~rows["method"].isin([ENSEMBLE, RANDOM])]
        top = rows[rows["measure"] == "ceiling"]
        if lds.empty or top.empty:
            continue
        best, ceiling = records(lds.sort_values("ours"))[-1], records(top)[0]
        counted = f"LDS is of {best['n']:g} queries, the others give half of the networks a tie"
        sentences.append(
            f"{name}: {counted}; the highest LDS of an attribution is {written(best, '.3f')}, of"
            f" {best['method']} over {best['trainings']:g} networks; noise limits every prediction"
            f" to about {ceiling['ours']:.2f}."
        )
    return sentences


ARTIFACT = Artifact(
    id="ground_truth",
    experiment="ground_truth",
    tabulate=tabulate,
    draw=draw,
    claims=(HESSIAN, AVERAGED, CHEAPER, WHOLE, MEMORIZED),
    notes=NOTES,
    title="Attributions against what training on subsets does",
    claim=(
        "Influence functions predict networks trained on subsets better than gradients alone,"
        " averaging over networks helps every method, and self-influence finds what is memorized;"
        " an ensemble's own estimate is better only with many more trainings."
    ),
    headline=("Ensemble of all models − Influence of all networks", "MNIST, MLP: LDS, paired"),
    paper="no paper: methods of all four, by the LDS of Park et al. (2023, arXiv:2303.14186)",
    deviations=(
        "LDS: for networks trained on held-out masks, Spearman's correlation over masks of summed"
        " scores with the probability of the query's right class (log-odds have the same ranks)."
        " It is undefined for a query to which half of the other networks give the same"
        " probability, to a 255th.",
        "The ensemble's estimate is Feldman and Zhang's, of that probability; an example that is"
        " in all of few masks has no estimate and counts as 0. Pairs and memorization are judged"
        " by it, excluding the models that chose dampings: influential pairs as in Subsets, of"
        " right answers, are above 0.15 and of a memorized example.",
        "Attributions explain networks trained on the whole set, without augmentation, and the"
        " query's log-odds; self-influence is of the training loss. 'One network' is the mean over"
        " networks of each one's result, not the result of a mean.",
        "Gradients, Cosine and RandProj are products of gradients at the end of training: plain,"
        " of length 1, projected. Features: the cosine of the last layer's inputs. Random: random"
        " scores.",
        "Influence functions invert the dominant eigenvectors, and the damping outside of them; the"
        " damping is the best of seven on masks that are neither held out nor among the truth.",
        "Trainings count those on whose masks a damping was chosen. Grey dashes: the LDS that"
        " sampling noise leaves to the ensemble's estimate, sqrt(R²) / sqrt(1 + n / (T R²)) of T"
        " trainings and n examples, R² being the agreement of two trainings on one mask.",
        "The ceiling is the root of the rank correlation of two trainings on the same masks, the"
        " most that a function of the mask can reach with one training a mask.",
        "Intervals are over queries, for the same held-out masks and networks: other masks would"
        " move all rows together. Of self-influence they are over networks.",
        FORMER_DRAWS,
    ),
    tier_notes={
        "smoke": "Smoke tier: 200 MLPs on 150 of scikit-learn's digits, 50 held out.",
        "small": (
            "Small tier: 2,000 MLPs on 2,000 MNIST digits and 800 small CNNs on 4,000 images of"
            " JPEG-recompressed CIFAR-10; 200 and 160 of them held out. These numbers have not been"
            " made again since Arnoldi keeps half as many eigenvectors as iterations: the rows"
            " Arnoldi here invert eigenvalues that had not converged, and do not count."
        ),
    },
    findings=findings,
    needs=lambda config: config["type"] != "Train",
    page=page,
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
