"""Edges between training pairs and wrong predictions: what Tables 4 and 5 and Figure 6 share.

An edge is a wrong prediction and one of its k nearest training pairs; the paper's sign is the
opposite of ours: its influence is the change of the loss, so that harmful is positive.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analysis.numbers.claims import Claim, Paper
from analysis.numbers.statistics import over_seeds
from analysis.numbers.table import Row, curve
from experiments.laboratory.runs import Run

SLICES = {"lexical_overlap": "H (L)", "subsequence": "H (S)", "constituent": "H (C)", "mnli": "M"}
HANS = tuple(SLICES.values())[:3]
MODELS = {"mnli train": "MultiNLI", "hans train": "HANS"}
KINDS = {"influence": "scores", "H = I": "similarity"}
RESAMPLES = 300
ASKED, THERE_ARE = "wrong predictions examined", "wrong predictions in all"
HELPFUL = Paper(
    "we observe that while there are more MultiNLI training data-points that are harmful to"
    " HANS/MultiNLI evaluation data-points, their (harmful) influences are in general much lower"
    " than the helpful counterparts.",
    "Sec. 6.2, left hand side, of Table 4 and Figure 6",
)
MORE_HARMFUL = Claim(
    "more edges are harmful",
    HELPFUL,
    "Of the model of MultiNLI: the share of the edges to wrong predictions that are helpful.",
    null=0.5,
)
HELPFUL_STRONGER = Claim(
    "helpful edges are stronger",
    HELPFUL,
    "Of the model of MultiNLI: the mean |influence| of helpful edges over that of harmful ones.",
    null=1.0,
)
DEVIATIONS = (
    "Where the released files of HANS are missing, HANS is regenerated: pairs are drawn from the"
    " published templates.",
    "An edge is a wrong prediction and one of its k nearest training pairs, of any strength."
    " Influence has the paper's sign here (harmful is positive). It is the effect of one training"
    " pair's weight on the mean loss under our damping, so sizes are comparable only within a"
    " row.",
    "The same with H = I, gradients alone, is our control.",
)
TIER_NOTES = {
    "smoke": (
        "Smoke tier: generated pairs with traps like those of HANS, 15 wrong predictions a slice,"
        " 30 candidates, a network of random weights, and a shortened recursion; the numbers mean"
        " nothing."
    ),
    "small": (
        "Small tier: a 6-layer encoder of width 384, whose own pretraining included MultiNLI, is"
        " fine-tuned once with its lower 3 layers frozen. Its last layer is then retrained for"
        " every seed and only it is differentiated, so that models of one data set share the"
        " layers below. Candidates are the 33 nearest of 12,808 pairs of MultiNLI, or the 300"
        " nearest of 9,000 of HANS: the shares that the paper's 1,000 are of 392,702 and 30,000."
        " The model of HANS is trained for 2,000 steps, as the released one. Wrong predictions of"
        " HANS are drawn from 9,000 evaluation pairs. LiSSA takes 32 pairs a step; damping, scale"
        " and depth follow from each model's curvature."
    ),
}


@dataclass(frozen=True, eq=False)
class Edges:
    """The edges of one slice of one model: all (n_queries, k), influence in the paper's sign."""

    candidates: np.ndarray
    influence: np.ndarray
    n_train: int

    @property
    def n_queries(self) -> int:
        return len(self.candidates)

    def resampled(self, generator: np.random.Generator) -> "Edges":
        """The edges of as many queries, drawn with repetitions."""
        index = generator.integers(self.n_queries, size=self.n_queries)
        return Edges(self.candidates[index], self.influence[index], self.n_train)


Graph = dict[str, Edges]  # by slice


def runs_by_seed(runs: list[Run], model: str) -> dict[int, dict[str, Run]]:
    """The runs of the models trained on a data set, by seed and slice."""
    by_seed: dict[int, dict[str, Run]] = {}
    for run in runs:
        if MODELS[run.config["model"]["train"]["which"]] == model:
            part = SLICES[run.config["part"]]
            by_seed.setdefault(int(run.config["model"]["seed"]), {})[part] = run
    return by_seed


def count_rows(name: str, by_seed: dict[int, dict[str, Run]]) -> list[Row]:
    """How many wrong predictions of each slice there are, and were asked about."""
    rows = []
    for part in SLICES.values():
        runs = [own[part] for own in by_seed.values() if part in own]
        for metric, quantity in (("n_queries", ASKED), ("n_wrong", THERE_ARE)):
            count = over_seeds([run.metrics[metric] for run in runs])
            rows.append(curve(name, quantity, "", count, part=part))
    return rows


def graph(runs: dict[str, Run], kind: str = "influence") -> Graph:
    """The edges of one model by slice; slices without a wrong prediction are left out."""
    edges = {}
    for part in SLICES.values():
        if part in runs and runs[part].metrics["n_queries"]:
            run = runs[part]
            influence = -run.array(KINDS[kind]).astype(float)
            edges[part] = Edges(run.array("candidates"), influence, len(run.array("train_part")))
    return edges


def helpful_share(edges: Edges) -> float:
    """Share of the edges that are helpful."""
    return float((edges.influence < 0).mean())


def strength(edges: Edges, sign: int) -> float:
    """Mean |influence| of the helpful edges (-1) or the harmful ones (1); nan without any."""
    chosen = edges.influence[np.sign(edges.influence) == sign]
    return float(np.abs(chosen).mean()) if chosen.size else float("nan")


def ratio(edges: Edges) -> float:
    """How many times stronger helpful edges are than harmful ones."""
    return strength(edges, -1) / strength(edges, 1)


def means(edges: Edges) -> tuple[np.ndarray, np.ndarray]:
    """Mean signed influence of every training pair on a slice (n_train,), and its edges (n_train,).

    The mean is over the pair's own edges (B.2); nan without any.
    """
    at = edges.candidates.ravel()
    count = np.bincount(at, minlength=edges.n_train)
    total = np.bincount(at, weights=edges.influence.ravel(), minlength=edges.n_train)
    with np.errstate(invalid="ignore"):
        return total / count, count


def shared(one: Edges, other: Edges) -> tuple[np.ndarray, np.ndarray]:
    """Mean influences on two slices of the training pairs that have edges to both."""
    (first, n_first), (second, n_second) = means(one), means(other)
    both = (n_first > 0) & (n_second > 0)
    return first[both], second[both]


def over_queries(
    graphs: list[Graph], parts: tuple[str, ...], statistic: Callable[..., float]
) -> dict[str, float]:
    """The 95% bootstrap interval over queries of a statistic's mean over models.

    statistic(*edges of the parts); every slice of every model is resampled by itself. Models stay
    fixed: the interval over seeds says how much they differ.
    """
    complete = [graph for graph in graphs if all(part in graph for part in parts)]
    if not complete:
        return {"query_low": float("nan"), "query_high": float("nan")}
    generator = np.random.default_rng(np.random.SeedSequence([0, len(parts)]))
    means = []
    for _ in range(RESAMPLES):
        values = []
        for graph in complete:
            drawn = {part: graph[part].resampled(generator) for part in dict.fromkeys(parts)}
            values.append(statistic(*(drawn[part] for part in parts)))
        means.append(np.mean(values))
    known = np.array(means)[np.isfinite(means)]
    low, high = np.quantile(known, [0.025, 0.975]) if known.size else (np.nan, np.nan)
    return {"query_low": float(low), "query_high": float(high)}
