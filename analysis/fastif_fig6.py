"""Figure 6 of FastIF: circular bipartite graphs of influence on wrong predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy.stats import gmean

from analysis.ink.marks import mark
from analysis.ink.style import BLACK, BLUE, GREEN, GREY, ORANGE, PAGE, PURPLE, VERMILLION, new_grid
from analysis.numbers import explored, influence_graph
from analysis.numbers.claims import Claim, Paper
from analysis.numbers.influence_graph import (
    ASKED,
    HANS,
    HELPFUL_STRONGER,
    MODELS,
    MORE_HARMFUL,
    SLICES,
    Edges,
    Graph,
    graph,
)
from analysis.numbers.statistics import geometric, over_seeds, single
from analysis.numbers.table import Row, claim, curve, records, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

DRAWN = 60  # edges of each slice and sign
STRONGEST = 0.01  # the strongest edges of a sign, whose share of its influence is stated
SIGNS = {-1: "helpful", 1: "harmful"}

OUTER = 1.0  # radius of the circle of wrong predictions
RADII = {"lexical_overlap": 0.62, "subsequence": 0.54, "constituent": 0.46, "mnli": 0.62}
NAMED = 1.36  # radius of the names of slices
FREE = 0.12  # of a full turn, left between the arcs of groups together
SWEEPS = 12
GAP = 0.03  # radians between training pairs, or less between many
FULL = 0.9  # the share of the circle that they may fill

COLOURS = {"H (L)": BLUE, "H (S)": ORANGE, "H (C)": PURPLE, "M": BLACK}
WORDS = ("lexical\noverlap", "subsequence", "constituent", "MultiNLI")
NAMES = dict(zip(SLICES.values(), WORDS, strict=True))
LABEL: dict[str, Any] = {
    "bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
    "ha": "center", "va": "center", "fontsize": 6, "zorder": 5,
}  # fmt: skip

OVERLAP = Claim(
    "pairs of lexical overlap are the most influential",
    Paper(
        'training data-points in the "Lexical Overlap" are noticeably more influential (either'
        " helpful and harmful) to all the HANS evaluation dataset subsets.",
        "Sec. 6.2, right hand side, of Figure 6",
    ),
    "Of the model of HANS: the influence per training pair of lexical overlap, summed over the"
    " pair's edges, over that of pairs of other subsets, on the wrong predictions of each slice.",
    null=1.0,
)
NOTES = "The graphs decide nothing."


def tabulate(runs: list[Run]) -> pd.DataFrame:
    rows: list[Row] = []
    for model in MODELS.values():
        by_seed = influence_graph.runs_by_seed(runs, model)
        if not by_seed:
            continue
        graphs = [graph(by_seed[seed]) for seed in sorted(by_seed)]
        rows += influence_graph.count_rows(model, by_seed)
        slices = [list(each.values()) for each in graphs if each]
        influences = [np.concatenate([e.influence.ravel() for e in each]) for each in slices]
        for sign, word in SIGNS.items():
            shares = [_strongest_share(influence, sign) for influence in influences]
            quantity = f"share of {word} influence in its strongest {STRONGEST:.0%}"
            rows.append(curve(model, quantity, "share", over_seeds(shares)))
        rows += _claims(graphs) if model == "MultiNLI" else _subsets(by_seed)
        first = by_seed[min(by_seed)]
        for part, edges in graphs[0].items():
            rows += _edges(model, part, edges, first[part].array("train_part"))
    return tabulated(rows)


def _strongest_share(influence: np.ndarray, sign: int) -> float:
    sizes = np.sort(np.abs(influence[np.sign(influence) == sign]))[::-1]
    few = max(1, round(STRONGEST * len(sizes)))
    return float(sizes[:few].sum() / sizes.sum()) if len(sizes) else float("nan")


def _claims(graphs: list[Graph]) -> list[Row]:
    slices = [list(each.values()) for each in graphs if each]
    shares = [np.mean([*map(influence_graph.helpful_share, each)]) for each in slices]
    ratios = [float(gmean([*map(influence_graph.ratio, each)])) for each in slices]
    times = geometric([ratio for ratio in ratios if 0 < ratio < np.inf])
    many: dict[str, Any] = {"of": MORE_HARMFUL, "at_most": 0.5}
    strong: dict[str, Any] = {"of": HELPFUL_STRONGER, "at_least": 1.0}
    return [
        claim("MultiNLI", "share of edges, helpful", "share", over_seeds(shares), **many),
        claim("MultiNLI", "mean |I|, helpful ÷ harmful", "x", times, **strong),
    ]


def _subsets(by_seed: dict[int, dict[str, Run]]) -> list[Row]:
    """Whether training pairs of lexical overlap have more influence than others, by slice."""
    rows = []
    for part in HANS:
        values = [
            _per_pair(graph(own)[part], own[part].array("train_part"))
            for own in by_seed.values()
            if part in own and own[part].metrics["n_queries"]
        ]
        name = "HANS: pairs of lexical overlap ÷ others"
        times = geometric(values)
        of: dict[str, Any] = {"of": OVERLAP, "at_least": 1.0}
        rows.append(claim(name, f"|I| on {part}", "x", times, **of))
    return rows


def _per_pair(edges: Edges, train_part: np.ndarray) -> float:
    sizes = np.abs(edges.influence).ravel()
    total = np.bincount(edges.candidates.ravel(), sizes, minlength=edges.n_train)
    own = np.asarray(train_part) == "lexical_overlap"
    return float(total[own].mean() / total[~own].mean())


def _edges(model: str, part: str, edges: Edges, train_part: np.ndarray) -> list[Row]:
    """The strongest edges of either sign of one slice; queries by their place in it."""
    rows = []
    for sign, word in SIGNS.items():
        signed = (sign * edges.influence).ravel()
        for at in np.argsort(-signed, kind="stable")[:DRAWN]:
            if signed[at] > 0:
                train = int(edges.candidates.ravel()[at])
                where = {"part": part, "query": int(at) // edges.candidates.shape[1]}
                where |= {"train": train, "train_part": str(train_part[train])}
                influence = single(edges.influence.ravel()[at])
                rows.append(curve(model, f"edge, {word}", "", influence, kind="edge", **where))
    return rows


@dataclass(frozen=True, eq=False)
class Links:
    """Weighted edges between wrong predictions and training pairs, by name; weight[i] > 0."""

    query: np.ndarray
    train: np.ndarray
    weight: np.ndarray


def arcs(groups: Mapping[str, Sequence[int]]) -> dict[int, float]:
    """The angle of every wrong prediction: groups in arcs of equal length, in the given order."""
    step = 2 * np.pi / max(len(groups), 1)
    angles: dict[int, float] = {}
    for place, members in enumerate(groups.values()):
        inside = (np.arange(len(members)) + 0.5) / max(len(members), 1)
        at = step * (place + FREE / 2 + (1 - FREE) * inside)
        angles |= dict(zip(members, at.tolist(), strict=True))
    return angles


def facing(links: Links, asked: Mapping[int, float]) -> dict[int, float]:
    """The angle of every training pair that is nearest, by weight, its wrong predictions.

    The sum of weight times squared distance to points of the outer circle is least on the inner
    circle in the direction of their weighted mean: B.2's optimum, in closed form.
    """
    at = np.array([asked[node] for node in links.query.tolist()])
    names, place = np.unique(links.train, return_inverse=True)
    x, y = (
        np.bincount(place, weights=links.weight * part, minlength=len(names))
        for part in (np.cos(at), np.sin(at))
    )
    return dict(zip(names.tolist(), np.arctan2(y, x).tolist(), strict=True))


def ordered(groups: Mapping[str, Sequence[int]], links: Links) -> dict[str, list[int]]:
    """Each group's members so ordered that edges cross little: barycentres, in turns."""
    lists = {name: list(members) for name, members in groups.items()}
    for _ in range(SWEEPS):
        asked = arcs(lists)
        pairs = facing(links, asked)
        pull = dict.fromkeys(asked, 0j)
        ends = zip(links.query.tolist(), links.train.tolist(), links.weight.tolist(), strict=True)
        for node, other, weight in ends:
            pull[node] += weight * np.exp(1j * pairs[other])
        for name, members in lists.items():
            centre = np.exp(1j * np.mean([asked[node] for node in members])) if members else 1
            key = {n: float(np.angle((pull[n] or centre) / centre)) for n in members}
            lists[name] = sorted(members, key=lambda node: (key[node], asked[node]))
    return lists


def spread(angles: Mapping[int, float]) -> dict[int, float]:
    """Angles moved as little as possible so that no two nodes overlap.

    The order is kept; squared moves are least on the circle cut open at its widest gap.
    """
    n = len(angles)
    if n < 2:
        return dict(angles)
    names = sorted(angles, key=lambda name: (angles[name] % (2 * np.pi), name))
    at = np.array([angles[name] % (2 * np.pi) for name in names])
    gaps = np.diff(at, append=at[0] + 2 * np.pi)
    cut = (int(gaps.argmax()) + 1) % n
    at = np.concatenate([at[cut:], at[:cut] + 2 * np.pi])
    names = names[cut:] + names[:cut]
    gap = min(GAP, FULL * 2 * np.pi / n)
    even = gap * np.arange(n)
    moved = _isotonic(at - even) + even
    if moved[-1] - moved[0] > 2 * np.pi - gap:  # pushed round to the other side of the cut
        moved = moved.mean() + 2 * np.pi / n * (np.arange(n) - (n - 1) / 2)
    return dict(zip(names, moved.tolist(), strict=True))


def _isotonic(values: np.ndarray) -> np.ndarray:
    """The non-decreasing sequence nearest in squares: neighbours that violate it are pooled."""
    pools: list[tuple[float, int]] = []
    for value in values.tolist():
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (one, n_one), (other, n_other) = pools[-2:]
            n = n_one + n_other
            pools[-2:] = [((one * n_one + other * n_other) / n, n)]
    return np.concatenate([np.full(n, mean) for mean, n in pools])


def draw(table: pd.DataFrame) -> Figure:
    figure, panels = new_grid(2, 2, width=PAGE, height=PAGE + 0.3)
    figure.subplots_adjust(top=0.96, bottom=0.06, hspace=0.06, wspace=0.02)
    counts = records(table[(table["quantity"] == ASKED) & (table["ours"] > 0)])
    for line, model in enumerate(MODELS.values()):
        sizes = {row["part"]: round(row["ours"]) for row in counts if row["method"] == model}
        edges = table[(table["kind"] == "edge") & (table["method"] == model)]
        groups, number = _numbered(sizes)
        groups = ordered(groups, _links(edges, number))
        for column, word in enumerate(SIGNS.values()):
            axes, some = panels[2 * line + column], edges[edges["quantity"] == f"edge, {word}"]
            _draw_predictions(axes, groups)
            if not some.empty:
                links = _links(some, number)
                _draw_edges(axes, links, some, arcs(groups), GREEN if column == 0 else VERMILLION)
            axes.set_aspect("equal")
            edge = OUTER + 0.15
            axes.set(xlim=(-edge, edge), ylim=(-edge, edge))
            axes.set_title(f"model of {model}: {word}, {len(some)} edges", y=0.985)
    _explain_squares(figure)
    return figure


def _numbered(sizes: dict[str, int]) -> tuple[dict[str, list[int]], dict[tuple[str, int], int]]:
    """Number the wrong predictions of all slices: members of each, and the number of each."""
    keys = [(part, query) for part, size in sizes.items() for query in range(size)]
    number = {key: place for place, key in enumerate(keys)}
    return {p: [number[p, q] for q in range(size)] for p, size in sizes.items()}, number


def _links(edges: pd.DataFrame, number: dict[tuple[str, int], int]) -> Links:
    """Edges with weights that compare within a slice, as the influences themselves do."""
    places = zip(edges["part"], edges["query"].astype(int), strict=True)
    query = np.array([number[place] for place in places], dtype=int)
    train = edges["train"].to_numpy(dtype=int)
    size = edges["ours"].abs()
    weight = size / size.groupby([edges["part"], edges["quantity"]]).transform("max")
    return Links(query, train, weight.to_numpy(dtype=float))


def _draw_predictions(axes: Axes, groups: dict[str, list[int]]) -> None:
    """Draw wrong predictions on the outer circle, with the name of their slice."""
    asked = arcs(groups)
    for part, members in groups.items():
        angles = [asked[node] for node in members]
        x, y = _points(angles, OUTER)
        axes.plot(x, y, "o", color=COLOURS[part], markersize=2.2, markeredgewidth=0, zorder=3)
        if members:
            (x,), (y,) = _points([float(np.mean(angles))], NAMED)
            label = f"{NAMES[part]}\n{len(members)} wrong"
            axes.text(x, y, label, color=COLOURS[part], **LABEL)


def _draw_edges(
    axes: Axes, links: Links, edges: pd.DataFrame, asked: dict[int, float], colour: str
) -> None:
    """Draw edges as curves through the ring, and training pairs where they end."""
    pairs = spread(facing(links, asked))
    part_of = dict(zip(edges["train"].astype(int), edges["train_part"], strict=True))
    t = np.linspace(0, 1, 16)
    curves = []
    for node, other in zip(links.query.tolist(), links.train.tolist(), strict=True):
        start = OUTER * np.exp(1j * asked[node])
        end = RADII[part_of[other]] * np.exp(1j * pairs[other])
        bend = 0.95 * np.exp(1j * np.angle(start + end)) * abs(start + end) / 2
        path = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
        curves.append(np.column_stack([path.real, path.imag]))
    widths, alpha = 0.2 + 1.1 * links.weight, 0.15 + 0.5 * links.weight
    lines = LineCollection(curves, colors=colour, linewidths=widths, alpha=alpha, zorder=2)
    axes.add_collection(lines)
    for part, radius in RADII.items():
        x, y = _points([pairs[name] for name in pairs if part_of[name] == part], radius)
        shade = GREY if part == "mnli" else COLOURS[SLICES[part]]
        axes.plot(x, y, "s", color=shade, markersize=2, markeredgewidth=0, zorder=3)


def _points(angles: list[float], radius: float) -> tuple[np.ndarray, np.ndarray]:
    return radius * np.cos(angles), radius * np.sin(angles)


def _explain_squares(figure: Figure) -> None:
    shades = {"training pairs: MultiNLI": GREY}
    shades |= {f"HANS, {NAMES[part]}".replace("\n", " "): COLOURS[part] for part in HANS}
    marks = [mark("s", shade) for shade in shades.values()]
    figure.legend(marks, list(shades), loc="lower center", ncols=4, bbox_to_anchor=(0.5, 0.025))


def findings(table: pd.DataFrame) -> list[str]:
    """Sentences on slices with few wrong predictions, and on how much few edges hold."""
    sentences = []
    for row in records(table):
        if row["quantity"] == ASKED and row["ours"] < 100:
            sentences.append(
                f"The model of {row['method']}: {row['ours']:.0f} wrong predictions of"
                f" {row['part']} were examined: all that there are."
            )
        elif row["quantity"].startswith("share of ") and row["kind"] == "curve":
            sentences.append(f"The model of {row['method']}: {row['quantity']}: {row['ours']:.2f}.")
    return sentences


ARTIFACT = Artifact(
    id="fastif_fig6",
    experiment="mnli_effects",
    tabulate=tabulate,
    draw=draw,
    claims=(MORE_HARMFUL, HELPFUL_STRONGER, OVERLAP),
    explore=lambda runs, tier: explored.pairs(runs),
    explored="wrongly predicted pairs, premise ▸ hypothesis",
    notes=NOTES,
    title="Influence of training pairs on wrong predictions, as circular graphs",
    claim=(
        "A few training pairs are strongly helpful to wrong predictions and many weakly harmful;"
        " of a model of HANS, pairs of lexical overlap are the most influential on every slice."
    ),
    paper="FastIF (arXiv:2012.15781), Figure 6, Sec. 6.2 and B.2",
    deviations=(
        *influence_graph.DEVIATIONS,
        f"Only the {DRAWN} strongest edges of each slice and sign are drawn, of the lowest seed;"
        " width and darkness compare within a slice. Wrong predictions are on the outer circle,"
        " training pairs on the inner one, as the caption of Figure 6 says; the first sentence of"
        " B.2 has them the other way round. A training pair lies in the direction of the weighted"
        " mean of the predictions that it is tied to, then moved apart; those of HANS on three"
        " radii by subset.",
        "Wrong predictions of a slice are so ordered that edges cross little, the same in both"
        " graphs of a model.",
    ),
    findings=findings,
    tier_notes=influence_graph.TIER_NOTES,
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
