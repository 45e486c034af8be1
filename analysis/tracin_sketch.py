"""TracIn, Sec. E and F: bias, variance and cost of randomly projected gradients."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from scipy import stats

from analysis.ink.style import BLUE, GREEN, ORANGE, PAGE, Look, fit_values, new_panels
from analysis.numbers.claims import Claim, Ours, Paper
from analysis.numbers.frame import FORMER_DRAWS, grouped
from analysis.numbers.statistics import LEVEL, Interval, geometric, over_seeds
from analysis.numbers.table import Row, claim, curve, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

LOOKS = {
    "Gaussian": Look(BLUE, "o", "Gaussian"),
    "Rademacher": Look(ORANGE, "^", "Rademacher"),
    "TwoSided": Look(GREEN, "s", "factorised"),
}
SLOPES = {"TwoSided": (0.35, 0.65), "Gaussian": (0.85, 1.15)}
Groups = dict[tuple[str, int], list[Run]]  # by method and dimension
BIAS = 0.02  # of |u||v|
NEAR = 0.1  # relative, of a variance
SIGNIFICANT = 0.01
RATIOS = {1_024: 66.0, 16_384: 258.0}  # of the variances of aligned vectors, by theory
MANY, ENOUGH = 1_000, 100  # draws a seed
LAYER = (
    "Costs at a 4,096 x 4,096 layer, for which a dense map of d = 16,384 would have 1.1 TB: too"
    " large to be measured."
)

BIASES = (
    f"the mean of <Gu, Gv> minus <u, v>, within {BIAS:g} |u||v|, at every d, by simulation and by"
    " the library's own draws. A projection that lost everything would be off by 1."
)
UNBIASED = Claim(
    "random projections are unbiased",
    Paper(
        "This method allows us to pre-compute low-memory sketches of the loss gradients of the"
        " training points which can then be used to compute randomized unbiased estimators of the"
        " influence on a given test point.",
        "appendix, Sec. E",
    ),
    f"Of Gaussian maps, {BIASES}",
    null=-1.0,
)
VARIANCE = Claim(
    "a larger d lowers their variance",
    Paper("larger d leads to lower variance in the estimators", "appendix, Sec. E"),
    f"Of Gaussian maps, the variance of <Gu, Gv> over what theory says, (|u|²|v|² + <u, v>²)/d,"
    f" within {NEAR:.0%} at every d. If it did not fall, it would be four times too large at the"
    " next d.",
    null=4.0,
)
FACTORISED = Claim(
    "factorised projections are unbiased",
    Paper("so the randomized dot-product is unbiased.", "appendix, Sec. F"),
    f"Of factorised maps, {BIASES}",
    null=-1.0,
)
COMPLEXITY = Claim(
    "factorised projections take O((m + n) √d)",
    Paper(
        "For the purpose of TracIn computations, it is possible to obtain a random projection of"
        " the gradient w.r.t. W into d dimensions with time and space complexity"
        " O((m+n) · √d)",
        "appendix, Sec. F",
    ),
    "Of the factorised map, the log-log slopes of time and peak memory against d, between"
    f" {SLOPES['TwoSided'][0]:g} and {SLOPES['TwoSided'][1]:g}; of the naive O(mnd) it would be 1.",
    null=1.0,
)
NAIVE = Claim(
    "standard projections take O(mnd)",
    Paper(
        "rather than the naive O(mnd) complexity that the standard random projection needs",
        "appendix, Sec. F",
    ),
    "Of the dense map, the log-log slope of time against d, between"
    f" {SLOPES['Gaussian'][0]:g} and {SLOPES['Gaussian'][1]:g}; a cost that does not depend on d"
    " has 0.",
    null=0.0,
)
TESTED = Claim(
    "no test rejects that projections are unbiased",
    Ours("Sharper than the bound on the bias: all draws together against theory's variance."),
    f"The p-value of a z-test, Bonferroni over pairs and d, above {SIGNIFICANT:g}.",
    null=0.0,
)
NOISY = Claim(
    "factorised projections are as noisy as theory says",
    Ours("Sec. F does not say that they are noisier at equal d."),
    f"Their variance over theory's, and for aligned vectors over the dense one's: 66 times at"
    f" d = 1,024 and 258 times at 16,384, within {NEAR:.0%}.",
    null=0.0,
)
SIGNS = Claim(
    "random signs are unbiased",
    Ours("Rademacher maps are a control."),
    f"Of maps of random signs, {BIASES}",
    null=-1.0,
)
NOTES = (
    "At each d, the pair of vectors that is furthest from theory decides, with an interval widened"
    f" for the number of pairs (Bonferroni). With fewer than {MANY:,} draws a seed the bounds are"
    f" three times as wide; with fewer than {ENOUGH} the variance is not judged."
)


def tabulate(runs: list[Run]) -> pd.DataFrame:
    simulated, library, priced = (_groups(runs, kind) for kind in ("Simulated", "Library", "Cost"))
    rows = [*_moments(simulated, "simulation"), *_moments(library, "library"), *_costs(priced)]
    claims = [*_claims(simulated, ""), *_claims(library, ", library")]
    return tabulated([*rows, *claims, *_ratio_claims(simulated), *_slopes(priced)])


def _groups(runs: list[Run], kind: str) -> Groups:
    chosen = [run for run in runs if run.config["work"]["type"] == kind]
    return grouped(chosen, lambda run: (run.metrics["method"], run.metrics["dim"]))


def _dims(groups: Groups, method: str) -> list[int]:
    return sorted(dim for name, dim in groups if name == method)


def _pairs(group: list[Run], quantity: Callable[[Run], Any]) -> pd.DataFrame:
    """A quantity with axes (seeds, pairs of vectors); columns are named by the kind of pair."""
    kinds = str(group[0].metrics["pairs"]).split(",")
    return pd.DataFrame(np.stack([quantity(run) for run in group]), columns=kinds)


def _bias(run: Run) -> np.ndarray:
    return np.asarray(run.array("mean") - run.array("exact"))


def _moments(groups: Groups, by: str) -> Iterable[Row]:
    """Yield bias and variance by kind of pair, each the mean over the pairs of a kind."""
    for (method, dim), group in groups.items():
        theory, bias, variance = (
            _pairs(group, quantity).T.groupby(level=0, sort=False).mean().T
            for quantity in (lambda r: r.array("theory"), _bias, lambda r: r.array("variance"))
        )
        for kind in theory:
            about = {"dim": dim, "pair": kind, "by": by, "draws": group[0].metrics["draws"]}
            yield curve(method, "bias", "|u||v|", over_seeds(bias[kind]), **about)
            expected, ours = over_seeds(theory[kind]).mean, geometric(variance[kind])
            yield curve(method, "variance", "(|u||v|)²", ours, theory=expected, **about)


def _claims(groups: Groups, by: str) -> Iterable[Row]:
    def excess(run: Run) -> np.ndarray:
        return run.array("variance") / run.array("theory")

    for method in dict.fromkeys(method for method, _ in groups):
        dims, p_values = _dims(groups, method), []
        for dim in dims:
            group = groups[method, dim]
            draws = min(int(run.metrics["draws"]) for run in group)
            room = 1 if draws >= MANY else 3
            about = {"dim": dim, "draws": draws}
            bias = _pairs(group, _bias)
            ours, pair = _furthest(bias)
            bounds = {"at_least": -room * BIAS, "at_most": room * BIAS}
            of = {"Gaussian": UNBIASED, "TwoSided": FACTORISED}.get(method, SIGNS)
            yield claim(method, f"bias{by}", "|u||v|", ours, of=of, **bounds, pair=pair, **about)
            p_values += _unbiased(bias, group)
            if draws >= ENOUGH:
                ours, pair = _furthest(_pairs(group, excess), 1.0)
                bounds = {"at_least": 1 - room * NEAR, "at_most": 1 + room * NEAR}
                label = f"variance ÷ theory{by}"
                of = VARIANCE if method == "Gaussian" else NOISY
                yield claim(method, label, "", ours, of=of, **bounds, pair=pair, **about)
        p = min(1.0, len(p_values) * min(p_values))
        ours = Interval(p, p, p, len(groups[method, dims[0]]))
        label = f"p, unbiased at every d{by}"
        yield claim(method, label, "", ours, of=TESTED, at_least=SIGNIFICANT)


def _furthest(values: pd.DataFrame, centre: float = 0.0) -> tuple[Interval, str]:
    """The pair whose mean over seeds is furthest from `centre`: an interval for all, its kind."""
    place = int(np.abs(values.to_numpy().mean(0) - centre).argmax())
    level = 1 - (1 - LEVEL) / values.shape[1]
    return over_seeds(values.iloc[:, place], level), str(values.columns[place])


def _unbiased(bias: pd.DataFrame, group: list[Run]) -> list[float]:
    """The p-value of each pair, all draws of all seeds together."""
    errors = _pairs(group, lambda run: run.array("theory") / run.metrics["draws"])
    z = bias.to_numpy().sum(0) / np.sqrt(errors.to_numpy().sum(0))
    return list(2 * stats.norm.sf(np.abs(z)))


def _ratio_claims(groups: Groups) -> Iterable[Row]:
    for dim, expected in RATIOS.items():
        if ("TwoSided", dim) not in groups:
            continue
        dense, factorised = (
            {r.config["seed"]: float(r.array("variance")[0]) for r in groups.get((method, dim), [])}
            for method in ("Gaussian", "TwoSided")
        )
        ours = geometric([factorised[s] / dense[s] for s in factorised if s in dense])
        bounds = {"at_least": (1 - NEAR) * expected, "at_most": (1 + NEAR) * expected}
        name = "factorised ÷ Gaussian"
        about = {"dim": dim, "theory": expected}
        yield claim(name, "variance, aligned", "", ours, of=NOISY, **bounds, **about)


def _costs(groups: Groups) -> Iterable[Row]:
    """Yield what was measured, and what follows for dense maps that are too large to measure."""
    for (method, dim), members in groups.items():
        for name, label, unit, by in [
            ("seconds", "processor time", "s", "measured"),
            ("peak_bytes", "peak memory", "bytes", "measured"),
            ("map_bytes", "size of the map", "bytes", "computed"),
        ]:
            ours = geometric([float(run.metrics[name]) for run in members])
            yield curve(method, label, unit, ours, dim=dim, by=by)
    dense = max(_dims(groups, "Gaussian"), default=0)
    for dim in [dim for dim in _dims(groups, "TwoSided") if 0 < dense < dim]:
        members = groups["Gaussian", dense]
        scaled = [run.metrics["seconds"] * dim / dense for run in members]
        more = {"dim": dim, "by": "extrapolated"}
        yield curve("Gaussian", "processor time", "s", geometric(scaled), **more)
        size = over_seeds([float(run.metrics["gradient_bytes"]) * dim for run in members])
        yield curve("Gaussian", "size of the map", "bytes", size, dim=dim, by="computed")
    for (_, dim), members in groups.items():
        for name in ("sketch", "gradient", "factors"):
            size = over_seeds([float(run.metrics[f"{name}_bytes"]) for run in members])
            yield curve(f"one {name}", "size", "bytes", size, dim=dim, by="computed")


def _slopes(groups: Groups) -> Iterable[Row]:
    """Yield the claims on log-log slopes, fitted seed by seed."""
    for method in dict.fromkeys(method for method, _ in groups):
        dims = _dims(groups, method)
        low, high = SLOPES[method]
        names = {"seconds": "time"}
        if method == "TwoSided":  # a dense map is drawn in slices of limited size
            names["peak_bytes"] = "peak memory"
        for name, label in names.items():
            whole = pd.DataFrame(
                {d: {r.config["seed"]: r.metrics[name] for r in groups[method, d]} for d in dims}
            ).dropna()
            slopes = [np.polyfit(np.log(dims), np.log(row), 1)[0] for row in whole.to_numpy()]
            ours = over_seeds(slopes)
            of = COMPLEXITY if method == "TwoSided" else NAIVE
            what = f"slope of {label} in d"
            yield claim(method, what, "", ours, of=of, at_least=low, at_most=high)


def draw(table: pd.DataFrame) -> Figure:
    figure, panels = new_panels(["Dimension d"] * 4, "Variance of ⟨Gu, Gv⟩", width=PAGE, height=2.5)
    columns = dict.fromkeys([*table.columns, "by", "pair", "theory"])  # of costs, none has all
    table = table.reindex(columns=list(columns))
    variances = table[(table["quantity"] == "variance") & (table["by"] == "simulation")]
    _draw_variances(panels[0], variances[variances["pair"] == "aligned"])
    _draw_variances(panels[1], variances[variances["pair"] == "proponents"])
    peak = table[(table["quantity"] == "peak memory") & (table["method"] == "TwoSided")]
    whole = table[(table["quantity"] == "size of the map") & (table["method"] == "Gaussian")]
    _draw_costs(panels[2], table[table["quantity"] == "processor time"])
    _draw_costs(panels[3], pd.concat([peak, whole]))
    titles = ("Aligned vectors", "Gradient, proponent", "Time (s)", "Memory (bytes)")
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title)
    panels[0].plot([], [], "o", color="black", markerfacecolor="white", label="not measured")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure


def _draw_variances(axes: Axes, rows: pd.DataFrame) -> None:
    for method, style in LOOKS.items():
        mine = rows[rows["method"] == method].sort_values("dim")
        axes.plot(mine["dim"], mine["theory"], color=style.colour, linewidth=0.9)
        axes.plot(mine["dim"], mine["ours"], style.marker, color=style.colour, label=style.name)
        axes.vlines(mine["dim"], mine["low"], mine["high"], color=style.colour)
    axes.plot([], [], color="black", linewidth=0.9, label="theory")
    _log_axes(axes, rows)


def _draw_costs(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw rows against d, hollow where nothing was measured."""
    for method, style in LOOKS.items():
        mine = rows[rows["method"] == method].sort_values("dim")
        axes.plot(mine["dim"], mine["ours"], color=style.colour, linewidth=0.9)
        measured = mine["by"] == "measured"
        for fill, some in ((style.colour, mine[measured]), ("white", mine[~measured])):
            x, y, colour = some["dim"], some["ours"], style.colour
            axes.plot(x, y, style.marker, color=colour, markerfacecolor=fill)
    _log_axes(axes, rows)


def _log_axes(axes: Axes, rows: pd.DataFrame) -> None:
    """Make both axes logarithmic and fit them to the rows, if there are any."""
    if not (rows["ours"] > 0).any():
        return
    axes.set(xscale="log", yscale="log")
    fit_values(axes, rows["ours"])
    axes.margins(x=0.1)
    axes.xaxis.set_major_locator(LogLocator(numticks=4))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())


ARTIFACT = Artifact(
    id="tracin_sketch",
    experiment="tracin_sketch",
    tabulate=tabulate,
    draw=draw,
    claims=(UNBIASED, VARIANCE, FACTORISED, COMPLEXITY, NAIVE, TESTED, NOISY, SIGNS),
    notes=NOTES,
    title="Random projections of gradients: bias, variance and cost",
    claim=(
        "Projected inner products are unbiased, less noisy with larger d; for fully-connected"
        " layers a factorised projection costs O((m + n) √d) instead of O(mnd)."
    ),
    paper="TracIn (arXiv:2002.08484), appendix, Sec. E and F",
    deviations=(
        "The paper shows no experiment: vectors, dimensions and bounds are ours. Gradients are of"
        " the last layer (10 x 256) of the network of Arnoldi's Table 1, on MNIST, all scaled to"
        " unit length; a proponent is the candidate of 1,000 with the largest inner product.",
        "Sec. F asks for E[G1 G1ᵀ] = E[G2 G2ᵀ] = I. Unbiasedness needs E[G1ᵀ G1] = E[G2ᵀ G2] = I,"
        " entries of variance 1/√d, which is what is drawn here; with the printed condition the"
        " product would be off by a factor of d/(mn) on average.",
        "Sec. F calls m the inputs and n the outputs of a layer with W of size m x n, then uses"
        " y = Wx with x of size n. Here m counts outputs and n inputs.",
        "Gaussian and factorised maps are simulated in the span of the vectors, where a Gaussian"
        " matrix is Gaussian again. The library's own maps are drawn too: the factorised one as"
        " often, the dense ones less, down to about twenty times a seed at d = 16,384.",
        "Costs are of drawing a map and applying it to one gradient of a fully-connected layer with"
        " a bias, which the factorised map takes for a matrix of one column, on"
        " one processor. Hollow markers are no measurements: the size of a dense map for large d is"
        " computed, and its time extrapolated in proportion to d. The library draws dense maps in"
        " slices of limited size.",
        FORMER_DRAWS,
    ),
    tier_notes={
        "smoke": "Gradients of a linear classifier with random weights (10 x 24) on random inputs;"
        " costs at a 2,048 x 2,048 layer.",
        "small": f"Four seeds. {LAYER}",
        "paper": f"Twenty seeds. {LAYER}",
    },
    remarks=(
        "The factorised sketch is much noisier at equal d, which Sec. F does not say: by the closed"
        " forms, 66 times the variance at d = 1,024 for aligned gradients and 258 times at 16,384."
        " For the noise of a dense sketch of length d it needs one of about 4 d².",
        "The gradient of a fully-connected layer is m + n numbers if kept as its two factors, which"
        " give exact inner products: a factorised sketch of more than m + n numbers saves neither"
        " space nor time, except that it is a vector, for a nearest-neighbour index.",
        "The sketch itself has d numbers, so that the cost is O((m + n) √d + d): the second term is"
        " the larger once √d > m + n.",
    ),
)


if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
