"""Figure 6 of FastIF: circular bipartite graphs of influence on wrong predictions."""

import sys
from functools import partial

import numpy as np
import pandas as pd

from analysis import influence_graph
from analysis.artifact import Artifact
from analysis.circle_panels import SIGNS, draw
from analysis.influence_graph import HANS, MODELS, SLICES, Edges, graph, helpful_share, runs_of
from analysis.statistics import NONE, Interval, geometric, over_seeds
from analysis.table import Row, claim, curve, records, tabulated
from analysis.verdict import conclude
from experiments.runs import Run

DRAWN = 60  # edges of each slice and sign
STRONGEST = 0.01  # share of the edges of a sign whose share of its influence is told
RULE = (
    "Claims: of the model of MultiNLI, fewer than half of the edges to all wrong predictions are"
    " helpful, and helpful edges are stronger in the mean over slices; of the model of HANS,"
    " training pairs of lexical overlap have more influence, summed over their edges and per pair,"
    " than those of the other subsets on the wrong predictions of each slice of HANS. The graphs"
    " decide nothing."
)


def tabulate(found: list[Run]) -> pd.DataFrame:
    rows: list[Row] = []
    for model in MODELS.values():
        by_seed = runs_of(found, model)
        if not by_seed:
            continue
        graphs = [graph(by_seed[seed]) for seed in sorted(by_seed)]
        for part in SLICES.values():
            for name, quantity in (("n_queries", "wrong predictions asked about"),
                                   ("n_wrong", "wrong predictions there are")):  # fmt: skip
                values = [float(of[part].metrics[name]) for of in by_seed.values() if part in of]
                rows.append(curve(model, quantity, "", over_seeds(values), part=part))
        for sign, word in SIGNS.items():
            held = [
                _held(np.concatenate([e.influence.ravel() for e in one.values()]), sign)
                for one in graphs
                if one
            ]
            quantity = f"share of {word} influence that the strongest {STRONGEST:.0%} of it holds"
            rows.append(curve(model, quantity, "", over_seeds(held)))
        rows += _claims(graphs) if model == "MultiNLI" else _subsets(by_seed)
        first = by_seed[min(by_seed)]
        for part, edges in graphs[0].items():
            rows += _edges(model, part, edges, first[part].array("train_part"))
    return tabulated(rows)


def _held(influence: np.ndarray, sign: int) -> float:
    sizes = np.sort(np.abs(influence[np.sign(influence) == sign]))[::-1]
    few = max(1, round(STRONGEST * len(sizes)))
    return float(sizes[:few].sum() / sizes.sum()) if len(sizes) else float("nan")


def _claims(graphs: list[dict[str, Edges]]) -> list[Row]:
    shares = [np.mean([helpful_share(e) for e in one.values()]) for one in graphs if one]
    stronger = [
        float(np.exp(np.mean([np.log(influence_graph.ratio(e)) for e in one.values()])))
        for one in graphs
        if one
    ]
    kept = [value for value in stronger if 0 < value < np.inf]
    times = geometric(kept) if kept else NONE
    return [
        claim("MultiNLI", "share of edges, helpful", "", over_seeds(shares), at_most=0.5),
        claim("MultiNLI", "mean |I|, helpful ÷ harmful", "x", times, at_least=1.0),
    ]


def _subsets(by_seed: dict[int, dict[str, Run]]) -> list[Row]:
    """Whether training pairs of lexical overlap have more influence than others, by slice."""
    rows = []
    for part in HANS:
        values = [
            _per_pair(graph(of)[part], of[part].array("train_part"))
            for of in by_seed.values()
            if part in of and of[part].metrics["n_queries"]
        ]
        times: Interval = geometric(values) if values else NONE
        name = "HANS: pairs of lexical overlap ÷ others"
        rows.append(claim(name, f"|I| on {part}", "x", times, at_least=1.0))
    return rows


def _per_pair(edges: Edges, train_part: np.ndarray) -> float:
    total = np.bincount(
        edges.candidates.ravel(), np.abs(edges.influence).ravel(), minlength=edges.n_train
    )
    own = np.asarray(train_part) == "lexical_overlap"
    return float(total[own].mean() / total[~own].mean())


def _edges(model: str, part: str, edges: Edges, train_part: np.ndarray) -> list[Row]:
    """The strongest edges of either sign of one slice; queries by their place in it."""
    rows = []
    for sign, word in SIGNS.items():
        flat = (sign * edges.influence).ravel()
        for at in np.argsort(-flat, kind="stable")[:DRAWN]:
            if flat[at] > 0:
                query, column = divmod(int(at), edges.candidates.shape[1])
                train = int(edges.candidates[query, column])
                one = Interval(float(edges.influence[query, column]), np.nan, np.nan, 1)
                where = {"part": part, "query": query, "train": train}
                row = curve(model, f"edge, {word}", "", one, **where)
                rows.append(row | {"kind": "edge", "train_part": str(train_part[train])})
    return rows


def found(table: pd.DataFrame) -> list[str]:
    """Sentences on slices with few wrong predictions, and on how much few edges hold."""
    said = []
    for row in records(table):
        if row["quantity"] == "wrong predictions asked about" and row["ours"] < 100:
            said.append(
                f"The model of {row['method']}: {row['ours']:.0f} wrong predictions of"
                f" {row['part']} were asked about, all of them where there were no more."
            )
        elif row["quantity"].startswith("share of ") and row["kind"] == "curve":
            said.append(f"The model of {row['method']}: {row['quantity']}: {row['ours']:.2f}.")
    return said


ARTIFACT = Artifact(
    id="fastif_fig6",
    experiment="mnli_effects",
    tabulate=tabulate,
    draw=draw,
    judge=partial(conclude, rule=RULE),
    title="Influence of training pairs on wrong predictions, as circular graphs",
    claim=(
        "A few training pairs are strongly helpful to wrong predictions and many weakly harmful;"
        " of a model of HANS, pairs of lexical overlap are the most influential on every slice."
    ),
    paper="FastIF (arXiv:2012.15781), Figure 6, Sec. 6.2 and B.2",
    deviations=(
        *influence_graph.DEVIATIONS,
        f"Only the {DRAWN} strongest edges of each slice and sign are drawn, of the lowest seed;"
        " width and darkness compare within a slice. Wrong predictions are on the inner circle,"
        " training pairs on the outer: in the direction of the weighted mean of the predictions"
        " that they are tied to, then moved apart; those of HANS on three radii by subset.",
        "Wrong predictions of a slice are so ordered that edges cross little, the same in both"
        " graphs of a model.",
    ),
    found=found,
    tier_notes=influence_graph.TIER_NOTES,
)

if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
