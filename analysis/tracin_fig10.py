"""TracIn, Figure 10: influential houses on the map, and two statements about them in numbers."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from analysis.ink.style import BLACK, BLUE, FOOT, GREY, PAGE, VERMILLION
from analysis.numbers.cells import packed, unpacked
from analysis.numbers.claims import Claim, Ours, Paper
from analysis.numbers.frame import grouped
from analysis.numbers.statistics import Interval, geometric, over_seeds, single
from analysis.numbers.table import Row, claim, curve, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

STEP = 0.01  # degrees: what the census rounds places to
EVERYWHERE = "#F0E442"  # the yellow of Okabe and Ito's palette: the paper's colour for all data
INSET_DEGREES = 0.55  # half the height of the map's detail, around the queries
SHOWN = {
    "training and test": ("all block groups", EVERYWHERE, "o", 1.5),
    "proponents": ("proponents", BLUE, "^", 9.0),
    "opponents": ("opponents", VERMILLION, "v", 9.0),
    "queries": ("queries", BLACK, "x", 11.0),
    "high": ("highest 3%", VERMILLION, "o", 3.0),
    "low": ("lowest 3%", BLUE, "o", 3.0),
}
QUERIES = {"query": "random queries", "city": "11 queries of Palo Alto"}
MEMORIZING = "TracIn, wider network trained for longer"
HIDDEN = 64  # units of a layer of the network that decides
R = "correlation"
SHARE = 0.03  # of the training examples, drawn as high and as low self-influence
Measure = Callable[[Run], float]

QUOTE = Paper(
    "Training examples with high and low self influences showing dense areas which model memorizes,"
    " and sparsely populated areas where model learns from examples away from the area.",
    "appendix, Figure 10, caption of (b)",
)
MEMORIZED = Claim(
    "dense areas are memorized",
    QUOTE,
    "Spearman's correlation, over training rows, of self-influence with the number of training rows"
    " within 10 km.",
    null=0.0,
)
AWAY = Claim(
    "in sparse areas the model learns from examples away from the area",
    QUOTE,
    "Spearman's correlation, over random test queries, of the share of training rows that are"
    " nearer than the top proponents with the number of training rows within 10 km.",
    null=0.0,
)
LOCAL = Claim(
    "influence is local",
    Ours("Panel (a) shows influential rows of 11 queries and states nothing of them."),
    "The median over queries of the median distance of the top proponents over that of all training"
    " rows.",
    null=1.0,
)
NOTES = (
    "Each seed has its own split of the same rows, its own model and its own random test queries."
    " The correlation of the proponents' distance in km is shown next to that of the share, and"
    " that of the distance of all rows, which are far away in sparse areas too. The 11 queries of"
    " Palo Alto are shown and decide nothing."
)


def tabulate(runs: list[Run]) -> pd.DataFrame:
    groups = grouped(runs, _name)
    rows: list[Row] = []
    for method, members in groups.items():
        for which, label in QUERIES.items():
            rows += _locality(method, members, which, label)
        explained = _estimate(members, lambda run: float(run.metrics["r2_test"]))
        rows.append(curve(method, "R² of test rows", "", explained))
        learned = _estimate(members, lambda run: float(run.metrics["r2_train"]))
        rows.append(curve(method, "R² of training rows", "", learned))
    for method in ("TracIn", "TracIn, no coordinates", MEMORIZING):
        rows += _self_influence(method, groups[method]) if method in groups else []
    traced = groups.get("TracIn", [])
    if not traced:
        return tabulated(rows)
    first = min(traced, key=lambda run: run.config["model"]["seed"])
    return tabulated([*rows, *_claims(traced), *_maps(first)])


def _name(run: Run) -> str:
    """The name of a method in tables."""
    if run.config["method"]["type"] != "TracIn":
        return "Nearest inputs"
    model = run.config["model"]
    if model["network"]["hidden"][0] > HIDDEN:
        return MEMORIZING
    return "TracIn" if model["coordinates"] else "TracIn, no coordinates"


def _estimate(members: list[Run], measure: Measure) -> Interval:
    return over_seeds([measure(run) for run in members])


def _median(name: str) -> Measure:
    return lambda run: float(np.median(run.array(name)))


def _relative(which: str, what: str) -> Measure:
    """The median ratio of a distance to that of all training rows."""
    names = (f"{which}_{what}_km", f"{which}_random_km")
    return lambda run: float(np.median(np.divide(*map(run.array, names))))


def _locality(method: str, members: list[Run], which: str, label: str) -> list[Row]:
    rows = []
    if method == "TracIn":
        everywhere = _estimate(members, _median(f"{which}_random_km"))
        rows.append(curve("all training", f"distance, {label}", "km", everywhere))
    kinds = ("proponent",) if method == "Nearest inputs" else ("proponent", "opponent")
    for kind in kinds:
        name = f"{method}, {kind}s"
        km = _estimate(members, _median(f"{which}_{kind}_km"))
        share = _estimate(members, _median(f"{which}_{kind}_nearer"))
        ratio = geometric([_relative(which, kind)(run) for run in members])
        rows.append(curve(name, f"distance, {label}", "km", km))
        rows.append(curve(name, f"distance ÷ all training, {label}", "", ratio))
        rows.append(curve(name, f"share of training rows nearer, {label}", "share", share))
    return rows


def _self_influence(method: str, members: list[Run]) -> list[Row]:
    measures: dict[str, Measure] = {
        "with density (10 km)": lambda run: _rank(run, "train_density"),
        "with nearness of the 10th neighbour": lambda run: -_rank(run, "train_neighbour_km"),
        "with training loss": lambda run: _rank(run, "train_loss"),
        "with density, training loss removed": lambda run: _partial(run, "train_density"),
        "with nearness, training loss removed": lambda run: -_partial(run, "train_neighbour_km"),
    }
    name = f"{method}, self-influence"
    rows = [curve(name, f"Spearman {k}", R, _estimate(members, m)) for k, m in measures.items()]
    loss = _estimate(members, lambda run: _rank(run, "train_density", "train_loss"))
    return [*rows, curve(f"{method}, training loss", "Spearman with density (10 km)", R, loss)]


def _rank(run: Run, name: str, other: str = "self_influence") -> float:
    return float(stats.spearmanr(run.array(other), run.array(name)).statistic)


def _partial(run: Run, name: str) -> float:
    return partial_rank(*(run.array(n) for n in ("self_influence", name, "train_loss")))


def partial_rank(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> float:
    """Spearman's correlation of x and y with the effect of a third quantity removed."""
    ranks = np.stack([stats.rankdata(values) for values in (x, y, given)])
    (_, xy, xz), (_, _, yz), _ = np.corrcoef(ranks)
    return float((xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2)))


def _claims(traced: list[Run]) -> list[Row]:
    def by_query(what: str) -> Interval:
        name = f"query_{what}"
        return _estimate(traced, lambda run: _rank(run, "query_density", name))

    local = geometric([_relative("query", "proponent")(run) for run in traced])
    dense = _estimate(traced, lambda run: _rank(run, "train_density"))
    away, whole, nearer = map(by_query, ("proponent_km", "random_km", "proponent_nearer"))
    what, ratio = "Spearman, density and", "distance of proponents ÷ of all training"
    memorized: dict[str, Any] = {"of": MEMORIZED, "at_least": 0.0}
    far: dict[str, Any] = {"of": AWAY, "at_most": 0.0}
    return [
        curve("TracIn, proponents", f"{what} distance", R, away),
        curve("all training", f"{what} distance", R, whole),
        claim("TracIn", ratio, "", local, of=LOCAL, at_most=1.0),
        claim("TracIn", "Spearman, self-influence and density", R, dense, **memorized),
        claim("TracIn", f"{what} share of rows nearer than proponents", R, nearer, **far),
    ]


def _maps(run: Run) -> list[Row]:
    train, scores = run.array("train_place"), run.array("self_influence")
    order, count = np.argsort(-scores, kind="stable"), round(SHARE * len(scores))
    return [
        points("training and test", np.concatenate([train, run.array("test_place")])),
        points("proponents", train[run.array("city_proponents").ravel()]),
        points("opponents", train[run.array("city_opponents").ravel()]),
        points("queries", run.array("city_place")),
        points("high", train[order[:count]]),
        points("low", train[order[-count:]]),
    ]


def points(name: str, place: np.ndarray) -> Row:
    """The row that stores places; axes: (places, degrees north and east)."""
    once = np.unique(np.rint(place / STEP).astype("<i2"), axis=0)
    return curve(name, "points", "", single(len(place)), kind="points", points=packed(once))


def places(table: pd.DataFrame, name: str) -> np.ndarray:
    """The places of a row that `points` wrote, (n, 2)."""
    cells = table.loc[(table["kind"] == "points") & (table["method"] == name), "points"]
    if cells.empty:
        return np.empty((0, 2))
    return np.frombuffer(unpacked(str(cells.iat[0])), "<i2").reshape(-1, 2) * STEP


def draw(table: pd.DataFrame) -> Figure:
    """Three maps side by side, (b) in two; the first has a detail around the queries."""
    figure, bottom = Figure(figsize=(PAGE, 3.4)), (FOOT + 0.62) / 3.4
    figure.subplots_adjust(left=0.06, right=0.995, bottom=bottom, top=0.93, wspace=0.12)
    left, middle, right = figure.subplots(1, 3, sharex=True, sharey=True)
    influential = ("training and test", "opponents", "proponents", "queries")
    _map(left, table, influential, "(a) for 11 queries in Palo Alto")
    _map(middle, table, ("training and test", "high"), "(b) high self-influence")
    _map(right, table, ("training and test", "low"), "(b) low self-influence")
    for axes in (middle, right):
        axes.set_ylabel("")
    queries = places(table, "queries")
    if len(queries):
        _detail(left, table, influential, queries.mean(0))
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.115), "ncols": 2}
    for axes, names in ((left, influential[::-1]), (middle, ("high",)), (right, ("low",))):
        handles = [_handle(name) for name in names]
        axes.legend(handles=handles, columnspacing=1.0, handletextpad=0.3, **place)
    return figure


def _map(axes: Axes, table: pd.DataFrame, names: tuple[str, ...], title: str) -> None:
    for name in names:
        north, east = places(table, name).T
        label, colour, marker, size = SHOWN[name]
        edge = 0.9 if marker == "x" else 0.0
        axes.scatter(east, north, size, colour, marker=marker, linewidths=edge, label=label)
    everywhere = places(table, "training and test")
    axes.set_aspect(1 / math.cos(math.radians(everywhere[:, 0].mean())))
    axes.set_title(title, loc="left")
    axes.set(xlabel="Longitude (degrees east)", ylabel="Latitude (degrees north)")


def _detail(axes: Axes, table: pd.DataFrame, names: tuple[str, ...], centre: np.ndarray) -> None:
    """Enlarge the surroundings of the queries, in the corner where the map is empty."""
    wide = INSET_DEGREES / math.cos(math.radians(centre[0]))
    inset = axes.inset_axes((0.545, 0.545, 0.455, 0.455))
    _map(inset, table, names, "")
    inset.set_xlim(centre[1] - wide, centre[1] + wide)
    inset.set_ylim(centre[0] - INSET_DEGREES, centre[0] + INSET_DEGREES)
    inset.set(xticks=[], yticks=[], xlabel="", ylabel="")
    inset.spines[:].set(visible=True, color=GREY)
    axes.indicate_inset_zoom(inset, edgecolor=GREY, alpha=1.0)


def _handle(name: str) -> Line2D:
    label, colour, marker, _ = SHOWN[name]
    return Line2D([], [], color=colour, marker=marker, linestyle="", markersize=4, label=label)


ARTIFACT = Artifact(
    id="tracin_fig10",
    experiment="housing",
    tabulate=tabulate,
    draw=draw,
    claims=(MEMORIZED, AWAY, LOCAL),
    notes=NOTES,
    title="Influential houses on the map of California",
    claim=(
        "Influential training examples are near the query; self-influence is high in dense areas,"
        " which the model memorizes, and in sparse ones it learns from examples away from them."
    ),
    paper="TracIn (arXiv:2002.08484), appendix, Figure 10",
    deviations=(
        "The paper describes neither the network, its inputs nor its training: ours has two hidden"
        " layers of 64 tanh units and 60 epochs of SGD with momentum on the squared error of the"
        " standardised logarithm of the value, with latitude and longitude among 8 inputs, counts"
        " and income as logarithms; TracIn sums over 10 checkpoints.",
        "That network explains four fifths of the variance and memorizes little; beside it, in rows"
        " of its own, is one of two layers of 512 units without weight decay, trained for 300"
        " epochs. The maps and the claims are of the first, which was declared before any run.",
        "A random fifth of the 20,640 rows is the test part, drawn anew for each seed. The census"
        " writes 500,001 for every value above 500,000 (965 rows); 207 missing bedroom counts are"
        " the median of bedrooms per room, times the rooms.",
        "The paper does not say which 11 test examples: ours are the 11 test rows nearest to"
        " 37.4419° N, 122.1430° W, the middle of Palo Alto. The maps are of the lowest seed: the"
        " 10 top proponents and opponents of each query, and the 3% of training rows of highest"
        " and of lowest self-influence.",
        "The paper shows maps and no number: all numbers, the random queries, and the controls"
        " without coordinates (a model that is not given them, and the nearest rows by the six"
        " other inputs) are ours. Rows that remove the training loss use Spearman's partial"
        " correlation given the loss averaged over the checkpoints.",
    ),
    remarks=(
        "On California's rows self-influence follows the training loss almost entirely, and neither"
        " is higher in dense areas: their rank correlations with density are at or below zero, also"
        " for self-influence with the effect of the loss removed. Many rows of the highest and of"
        " the lowest self-influence are in cities, because most rows are: a map cannot show the"
        " difference.",
        "On these rows, proponents are further from queries in sparse areas, as the caption says;"
        " but so is every row. Measured by how many rows are nearer, they are nearer in sparse"
        " areas.",
        "On these rows, proponents are near because the model is given the coordinates: those of"
        " the same network without coordinates are hardly nearer than all rows.",
    ),
    tier_notes={
        "smoke": (
            "Smoke tier: a generated country of two cities and empty land in place of California;"
            " numbers are not comparable."
        ),
        "small": "Small tier: all rows and the same network, with fewer seeds and queries.",
    },
)


if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
