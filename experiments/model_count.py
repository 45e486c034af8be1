"""How many models distinguish an influence from none: exact counts, and what a budget resolves.

Reproduces the left and the middle of Figure 3 of Subsets (Doubov et al., 2022) and answers two
questions it leaves open: what two unknown probabilities need, and what a subset ensemble of a given
size can resolve. It is a tool as well:

    python -m experiments.model_count --cell 0 --p .6 --q .4 --delta .05
    python -m experiments.model_count --cell 1 --models 400
    python -m experiments.model_count --cell 2 --threshold .15
"""

import math
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom

from experiments.laboratory.experiment import Experiment, sweep
from experiments.laboratory.runs import Run
from methods.ensembles import plan, power
from methods.ensembles.masks import draw_masks
from methods.ensembles.overlap import iou
from methods.ensembles.subset import Sums
from methods.randomness import numpy_generator

ENOUGH = 50  # pairs above the threshold, below which a share of them says nothing
THRESHOLDS = tuple(round(0.025 * i, 3) for i in range(1, 25))
ENDS = (0.01, 0.99)  # added to the grid, whose steps of 0.05 are too wide there
SHARES = {"half": 0.5, "subset": 0.7}


@dataclass(frozen=True)
class Coins:
    """Both probabilities of error at the counted number of models, simulated `n_draws` times."""

    values: tuple[float, ...] = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
    delta: float = 0.05
    n_draws: int = 20_000
    seed: int = 0

    def answer(self) -> dict[str, Any]:
        """Errors (n_pairs, 2), simulated and calculated, at the first number that suffices."""
        draw = numpy_generator(self.seed, "coins")
        pairs = list(combinations(self.values, 2))
        simulated, exact = np.zeros((2, len(pairs), 2))
        for place, (p, q) in enumerate(pairs):
            n = int(power.one_arm(p, q, self.delta).first)
            cut = np.floor(n * power.equal_share(p, q) + 1e-9)
            simulated[place] = [
                (draw.binomial(n, p, self.n_draws) > cut).mean(),
                (draw.binomial(n, q, self.n_draws) <= cut).mean(),
            ]
            exact[place] = binom.sf(cut, n, p), binom.cdf(cut, n, q)
        return {
            "difference": float((simulated - exact).mean()),
            "worst": float(simulated.max()),
            "pairs": np.array(pairs),
            "simulated": simulated,
            "exact": exact,
        }


@dataclass(frozen=True)
class Ensembles:
    """Pairs of ensembles whose models are right at random, estimated like trained ones.

    For each number of `models`: queries without any influence, right with each of the probabilities
    `p`; and queries that one example each influences by `influence`.
    """

    models: tuple[int, ...] = (25, 50, 100, 200, 400, 1000, 2000)
    p: tuple[float, ...] = (0.5, 0.9)
    inside: float = 0.7
    influence: float = 0.3
    n_train: int = 200
    n_query: int = 400
    seed: int = 0

    def answer(self) -> dict[str, Any]:
        """Arrays over models, probabilities and THRESHOLDS, simulated and by theory (`planned`)."""
        each = [self._null(n_models) | self._planted(n_models) for n_models in self.models]
        arrays = {name: np.array([one[name] for one in each]) for name in each[0]}
        return {
            "error_ratio": float((arrays["error"] / arrays["error_planned"]).mean()),
            **arrays,
            "models": np.array(self.models),
            "p": np.array(self.p),
            "thresholds": np.array(THRESHOLDS),
        }

    def _masks(self, n_models: int, which: int) -> np.ndarray:
        size = round(self.inside * self.n_train)
        # Ensembles of one seed share no mask: each starts where the previous one ended.
        first = 3 * sum(n for n in self.models if n < n_models) + which * n_models
        return draw_masks(n_models, self.n_train, size, self.seed, first)

    def _null(self, n_models: int) -> dict[str, Any]:
        """The estimates of two ensembles where there is no influence."""
        each = []
        for place, p in enumerate(self.p):
            estimates = []
            for which in range(2):
                draw = numpy_generator(self.seed, "right", n_models, place, which)
                right = draw.random((n_models, self.n_query)) < p
                estimates.append(Sums.of(self._masks(n_models, which), right).influence())
            passed = [[float((e >= t).double().mean()) for t in THRESHOLDS] for e in estimates]
            planned = [(n_models, t, p, self.inside) for t in THRESHOLDS]
            measures = {
                "error": float(np.mean([float(e.double().std()) for e in estimates])),
                "error_planned": plan.standard_error(n_models, p, p, self.inside),
                "rate": np.mean(passed, axis=0),
                "rate_planned": [plan.null_rate(*one) for one in planned],
                "iou": iou(estimates[0], estimates[1], THRESHOLDS).numpy(),
                "iou_planned": [plan.null_iou(*one) for one in planned],
            }
            each.append(measures)
        return {name: [one[name] for one in each] for name in each[0]}

    def _planted(self, n_models: int) -> dict[str, Any]:
        """The share of false pairs above each threshold, measured and expected."""
        draw = numpy_generator(self.seed, "planted", n_models)
        masks = self._masks(n_models, 2)
        cause = draw.integers(self.n_train, size=self.n_query)
        base = draw.uniform(0.2, 1 - self.influence, self.n_query)
        right = draw.random((n_models, self.n_query)) < base + self.influence * masks[:, cause]
        sums = Sums.of(masks, right)
        estimate = sums.influence().numpy()
        true = np.arange(self.n_train) == cause[:, None]
        total, inside = sums.total.numpy(), sums.inside.numpy()
        shares, expected, seen = [], [], []
        for threshold in THRESHOLDS:
            above = estimate >= threshold
            n_above = int(above.sum())
            shares.append((above & ~true).sum() / n_above if n_above >= ENOUGH else np.nan)
            expected.append(plan.false_share(n_above, total, inside, n_models, threshold))
            seen.append((above & true).sum() / self.n_query)
        return {"false": shares, "false_planned": expected, "seen": seen}


@dataclass(frozen=True)
class Pair:
    """Models that distinguish p from q: one arm if both are known, two arms if neither is."""

    p: float = 0.6
    q: float = 0.4
    delta: float = 0.05

    def answer(self) -> dict[str, Any]:
        """Numbers of models, where they exist."""
        p, q, delta = self.p, self.q, self.delta
        counts = {
            **_numbers("one", power.one_arm(p, q, delta)),
            "paper": power.paper_count(p, q, delta),
        }
        for name, share in SHARES.items():
            counts |= _numbers(name, power.two_arms(p, q, delta, share))
        for name, share in SHARES.items():
            counts[f"normal_{name}"] = power.two_arms_normal(p, q, delta, share)
        return _finite(counts)


@dataclass(frozen=True)
class Budget:
    """The influence that `models` resolve on a query that is right with probability p."""

    models: int = 400
    p: float = 0.5
    inside: float = 0.7
    delta: float = 0.05

    def answer(self) -> dict[str, Any]:
        """The standard error, the threshold, and the influence that passes it reliably."""
        limits = plan.resolved(self.models, self.p, self.inside, self.delta)
        return _finite(
            {
                "standard_error": plan.standard_error(self.models, self.p, self.p, self.inside),
                "threshold": limits.threshold,
                "influence": limits.influence,
                "null_iou": plan.null_iou(self.models, limits.threshold, self.p, self.inside),
            }
        )


@dataclass(frozen=True)
class Threshold:
    """Models for which pairs without influence pass a threshold with probability at most delta."""

    threshold: float = 0.15
    p: float = 0.5
    inside: float = 0.7
    delta: float = 0.05

    def answer(self) -> dict[str, Any]:
        """That number, and the number that detects an influence as high as the threshold."""
        quiet = plan.models_for(self.threshold, self.p, self.inside, self.delta)
        setting = int(quiet.sustained), self.threshold, self.p, self.inside
        counts = {
            **_numbers("quiet", quiet),
            "null_iou": plan.null_iou(*setting),
            "rate": plan.null_rate(*setting),
        }
        if self.threshold <= self.p:
            low = self.p - self.threshold
            counts |= _numbers("found", power.two_arms(self.p, low, self.delta, self.inside))
        return _finite(counts)


@dataclass(frozen=True)
class Grid:
    """All pairs of the multiples of `step` and ENDS: the left of Figure 3."""

    step: float = 0.05
    delta: float = 0.05

    def answer(self) -> dict[str, Any]:
        """Arrays over pairs, q < p; inf where no number of models distinguishes them."""
        values = sorted({*ENDS, *_multiples(self.step, 1.0)})
        return _counted([(p, q) for q, p in combinations(values, 2)], self.delta)


@dataclass(frozen=True)
class Line:
    """One p with every q below it: the middle of Figure 3."""

    p: float = 0.9
    step: float = 0.01
    delta: float = 0.05

    def answer(self) -> dict[str, Any]:
        """Arrays over q, ascending."""
        below = [q for q in _multiples(self.step, 1.0) if q < self.p]
        return _counted([(self.p, q) for q in below], self.delta)


Config = Pair | Budget | Threshold | Grid | Line | Coins | Ensembles


def run(config: Config, scratch: Path) -> dict[str, Any]:
    return config.answer()


def _finite(numbers: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _numbers(name: str, count: power.Count) -> dict[str, float]:
    return {f"{name}_first": count.first, f"{name}_sustained": count.sustained}


def _multiples(step: float, last: float) -> list[float]:
    return [round(step * i, 6) for i in range(round(last / step) + 1)]


def _counted(pairs: list[tuple[float, float]], delta: float) -> dict[str, Any]:
    counts = [power.one_arm(*pair, delta) for pair in pairs]
    return {
        "p": np.array([p for p, _ in pairs]),
        "q": np.array([q for _, q in pairs]),
        "first": np.array([count.first for count in counts]),
        "sustained": np.array([count.sustained for count in counts]),
        "paper": np.array([power.paper_count(*pair, delta) for pair in pairs]),
    }


ANSWERS = {
    "one_first": "models, p and q known: first number that suffices",
    "one_sustained": "models, p and q known: every number from here on suffices",
    "paper": "models, by the paper's code (the first, up to 999)",
    "half_first": "models, neither known, half with the example: first",
    "half_sustained": "models, neither known, half with the example: from here on",
    "normal_half": "models, neither known, half with: by the normal law",
    "subset_first": "models, neither known, 0.7 with the example: first",
    "subset_sustained": "models, neither known, 0.7 with the example: from here on",
    "normal_subset": "models, neither known, 0.7 with: by the normal law",
    "standard_error": "standard error of an estimated influence that is 0",
    "threshold": "threshold that an influence of 0 passes with at most delta",
    "influence": "influence that then passes with 1 - delta",
    "quiet_first": "models for which an influence of 0 passes with at most delta: first",
    "quiet_sustained": "models for which an influence of 0 passes so: from here on",
    "found_first": "models that detect an influence of the threshold: first",
    "found_sustained": "models that detect an influence of the threshold: from here on",
    "rate": "probability of passing then",
    "null_iou": "IOU of two such ensembles at the threshold by chance alone",
    "difference": "simulated less calculated probability of error, mean",
    "worst": "highest simulated probability of error",
    "error_ratio": "standard error, simulated over calculated",
    "pairs": "pairs counted",
}


def table(runs: list[Run]) -> tuple[list[str], list[list[str]]]:
    """One line per answer; figures have a line with their number of pairs."""
    rows = []
    for run_ in runs:
        config = dict(run_.config)
        kind = config.pop("type")
        question = ", ".join(f"{k} {v:g}" for k, v in config.items() if isinstance(v, int | float))
        counted = run_.arrays().get("first")
        numbers = run_.metrics if counted is None else {"pairs": len(counted)}
        if not numbers:
            rows.append([f"{kind.lower()}: {question}", "models: no number suffices for p = q", ""])
        for name, value in numbers.items():
            rows.append([f"{kind.lower()}: {question}", ANSWERS.get(name, name), f"{value:.4g}"])
    return ["question", "answer", "value"], rows


MODELS = (25, 50, 100, 200, 400, 1000, 2000)
ACCURACY = (0.5, 0.9, 0.99)
TOOL = (Pair(), Budget(), Threshold())  # cells 0 to 2 of every preset: questions to be changed
PRESETS: dict[str, list[Config]] = {
    "smoke": [
        *TOOL,
        Pair(delta=0.02),
        Grid(0.1),
        *sweep(Line(step=0.05), p=(0.5, 0.9, 0.95, 1.0)),
        *sweep(Budget(), models=(25, 100), p=(0.5, 0.9)),
        *sweep(Coins(n_draws=2_000), seed=range(3)),
        *sweep(Ensembles((25, 100), n_train=60, n_query=100), seed=range(3)),
    ],
    "small": [
        *TOOL,
        Pair(delta=0.02),
        Grid(),
        *sweep(Line(step=0.05), p=(0.5, 0.7, 0.9, 0.95, 1.0)),
        *sweep(Budget(), models=MODELS[:4], p=ACCURACY),
        *sweep(Coins(), seed=range(3)),
        *sweep(Ensembles(MODELS[:4]), seed=range(3)),
    ],
    "paper": [
        *TOOL,
        Pair(delta=0.02),
        Grid(),
        *sweep(Line(), p=(0.5, 0.7, 0.9, 0.95, 1.0)),
        *[one for one in sweep(Budget(), models=MODELS, p=ACCURACY) if one not in TOOL],
        *[
            one
            for one in sweep(Threshold(), threshold=(0.05, 0.1, 0.15, 0.25), p=ACCURACY)
            if one not in TOOL
        ],
        *sweep(Coins(), seed=range(5)),
        *sweep(Ensembles(), seed=range(5)),
    ],
}

EXPERIMENT = Experiment(
    "model_count",
    run,
    PRESETS,
    summary="how many models distinguish an influence from none, and what a budget resolves",
    table=table,
    seconds={"smoke": 5, "small": 11, "paper": 75},
)


if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
