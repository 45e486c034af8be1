"""Attribution methods at the settings of dattri's benchmark, whose numbers are published.

dattri (Deng et al., 2024, NeurIPS datasets and benchmarks) judges methods on the first 5,000 digits
of MNIST and 500 queries by the linear datamodelling score over 100 half subsets and by 5,000
leave-one-out trainings, for a logistic regression and an MLP. We train both anew and score by our
own methods. A method's setting is chosen twice: on the evaluation itself, as the benchmark's code
does, and by the score on 50 halves that judge nothing, whose trainings then count as its cost.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.ensembles import benchmark, benchmark_scores
from experiments.ensembles.benchmark import MLP, Setting
from experiments.ensembles.benchmark_scores import (
    AllRitzValues,
    Method,
    Plan,
    Representers,
    Truth,
    setting_of,
)
from experiments.laboratory import counting
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.runs import Run
from experiments.laboratory.work import Work
from experiments.models.benchmark_mlp import BenchmarkMLP
from experiments.training.plans import Fit
from methods.ensembles.resampling import pearson_draws, spearman_draws
from methods.gradcos import GradCos
from methods.ihvp.arnoldi import Arnoldi, Krylov
from methods.ihvp.cholesky import Cholesky
from methods.ihvp.lissa import LiSSA
from methods.ihvp.truncated import Truncated
from methods.influence import Influence
from methods.rows.projections import SJLT, Gaussian, Projection
from methods.tracin import TracIn
from methods.trak import TRAK

REGULARISATIONS = (1.0, 1e-1, 1e-2, 5e-3, 1e-3, 1e-4, 1e-5)
BATCHES = (100, 50, 10)
PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
DRAWS = 1_000  # of the bootstrap, of queries and trainings


@dataclass(frozen=True)
class Train:
    """Some networks, which one job trains."""

    part: benchmark.Part = benchmark.Part()


@dataclass(frozen=True)
class Row:
    """A method of the published figure, at each setting that the benchmark's code tries.

    models, count  the networks that it explains: of the whole set, or of the halves that choose;
                   "judging" are halves that judge as well, which tells whether that is a leak
    """

    name: str = "Grad-Dot"
    tried: tuple[Method, ...] = (TracIn(False, (-1,)),)
    plan: Plan = Plan()
    models: Literal["whole", "half", "judging"] = "whole"
    count: int = 1

    def __post_init__(self) -> None:
        most = {
            "whole": self.plan.n_whole,
            "half": self.plan.n_choosing,
            "judging": self.plan.n_held,
        }[self.models]
        if not 0 < self.count <= most or not self.tried:
            raise UserError(
                f"{self.name}: {self.count} networks of {most}, {len(self.tried)} settings: give"
                " one setting or more, and networks that the plan trains"
            )


Config = Train | Row


def run(config: Config, scratch: Path) -> dict[str, Any]:
    if isinstance(config, Train):
        return {"accuracy_query": benchmark.part(config.part).metrics["accuracy_query"]}
    return _row(config)


def _row(config: Row) -> dict[str, Any]:
    """Scores of every setting; of the one chosen on the evaluation, and of the one chosen apart.

    tried                 (n_settings, 3): LDS, LDS on the choosing halves, LOO; nan if refused
    lds, loo              (2, n_query), chosen on the evaluation by each, and by the choosing halves
    lds_draws, loo_draws  (2, DRAWS), bootstrap means over queries and trainings
    """
    plan, truth = config.plan, benchmark_scores.truth(config.plan)
    tries = list(benchmark_scores.attempts(plan, _params(config), config.tried))
    found = [None if one.scores is None else truth.quality(one.scores) for one in tries]
    table = np.array(
        [[np.nan] * 3 if one is None else [_mean(values) for values in one] for one in found]
    )
    if np.isnan(table[:, 0]).all():
        raise UserError(f"{config.name}: every setting was refused, the last: {tries[-1].refusal}")
    best = [int(np.nanargmax(table[:, column])) for column in (0, 2, 1)]
    by_lds, by_loo, apart = best
    refused = [setting_of(m) for m, one in zip(config.tried, tries, strict=True) if one.refusal]
    several = len(config.tried) > 1
    metrics = {
        "accuracy_query": _accuracy(plan),
        "seconds": tries[apart].seconds,
        "trainings": config.count + (plan.n_choosing if several else 0),
        "setting_lds": setting_of(config.tried[by_lds]),
        "setting_loo": setting_of(config.tried[by_loo]),
        "setting_apart": setting_of(config.tried[apart]),
        "refused": ", ".join(refused),
        "queries_counted": int(np.isfinite(found[apart].lds).sum()),  # type: ignore[union-attr]
    }
    chosen = {"lds": (by_lds, apart), "loo": (by_loo, apart)}
    arrays = {"tried": table}
    for name, places in chosen.items():
        arrays[name] = np.stack([getattr(found[i], name) for i in places])
        arrays[f"{name}_draws"] = np.stack([_draws(truth, tries[i].scores, name) for i in places])
    return metrics | arrays


def _params(config: Row) -> np.ndarray:
    plan = config.plan
    if config.models == "whole":
        return benchmark.gathered(plan.wholes, "params")[: config.count]
    first = 0 if config.models == "judging" else plan.n_held
    return benchmark.gathered(plan.halves, "params")[first : first + config.count]


def _accuracy(plan: Plan) -> float:
    """The mean accuracy of the networks of the whole set."""
    return float(np.mean([benchmark.part(one).metrics["accuracy_query"] for one in plan.wholes]))


def _draws(truth: Truth, scores: Any, name: str) -> np.ndarray:
    if name == "lds":
        n = truth.plan.n_held
        return spearman_draws(truth.sums(scores), -truth.losses[:n], DRAWS)
    return pearson_draws(truth.scored_without(scores), truth.without, DRAWS)


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def table(results: list[Run]) -> tuple[list[str], list[list[str]]]:
    """One line a method and network."""
    rows = []
    for one in results:
        if one.config["type"] == "Train":
            continue
        hidden = one.config["plan"]["setting"]["network"]["hidden"]
        values = [f"{_mean(row):.3f}" for name in ("lds", "loo") for row in one.array(name)]
        chosen = str(one.metrics["setting_apart"])
        rows.append(["MLP" if hidden else "LR", one.config["name"], *values, chosen])
    header = ["network", "method", "LDS, best", "LDS, apart", "LOO, best", "LOO, apart", "setting"]
    return header, rows


def work(config: Config) -> Work:
    """What a cell takes, with the trainings that it needs."""
    if isinstance(config, Train):
        return Work("networks", parts=(benchmark.work(config.part),))
    plan, method = config.plan, config.tried[-1]
    parts = tuple(benchmark.work(one) for one in plan.parts)
    counted: Any = (
        TracIn() if isinstance(method, Representers | TRAK | GradCos | AllRitzValues) else method
    )
    of, n = benchmark.unit(plan.setting), plan.setting.n_train
    one = counting.attributed(counted, of, n, parts, plan.n_query)
    times = config.count * len(config.tried)
    steps = tuple(replace(step, times=step.times * times) for step in one.steps)
    return replace(one, label=config.name, steps=steps)


def cells(plan: Plan, projection: Projection, krylov: int = 50) -> list[Config]:
    """The networks, then a cell for each method of the published figure, then explanations."""

    def by_regularisation(inverse: Any) -> tuple[Method, ...]:
        return tuple(Influence(inverse, damping) for damping in REGULARISATIONS)

    gradient, half = TracIn(False, (-1,)), plan.n_choosing
    basis = Krylov(krylov, None, 0, krylov // 2)
    lissa = tuple(Influence(LiSSA(100, batch, 50.0)) for batch in BATCHES)
    explicit = () if plan.setting.network.hidden else (by_regularisation(Cholesky()),)
    rows: list[Config] = [Row("Explicit", tried, plan) for tried in explicit]
    rows += [
        Row("CG", by_regularisation(Truncated(10)), plan),
        Row("LiSSA", lissa, plan),
        Row("Arnoldi", by_regularisation(Arnoldi(krylov // 2, basis)), plan),
        Row("TracIn", (TracIn(),), plan, count=plan.n_whole),
        Row("Grad-Dot", (gradient,), plan),
        Row("Grad-Cos", (GradCos(),), plan),
        Row("RPS", tuple(map(Representers, PENALTIES)), plan),
    ]
    ritz = tuple(AllRitzValues(damping, krylov - 1) for damping in REGULARISATIONS)
    rows.append(Row("Arnoldi, all Ritz values", ritz, plan))
    counts = sorted({1, min(10, half), min(50, half)})
    trak = (TRAK(projection),)
    rows += [Row(f"TRAK-{count}", trak, plan, "half", count) for count in counts]
    rows.append(Row(f"TRAK-{counts[-1]} of judging halves", trak, plan, "judging", counts[-1]))
    return [*map(Train, plan.parts), *rows]


def _little(network: BenchmarkMLP, fit: Fit) -> Plan:
    setting = Setting(network, "digits", 200, 60, fit, 0.305, 0.376)
    return Plan(setting, 40, 20, 40, 60, 3, 20, 20)


SHAPE = (1, 8, 8)
SMALL_MLP = Plan(MLP, n_left_out=200, n_query=200, half_stack=25, left_out_stack=25)
PRESETS: dict[str, list[Config]] = {
    "smoke": [
        *cells(_little(BenchmarkMLP((), SHAPE), Fit(5, 32, 0.05, 0.0, every=5)), Gaussian(32), 16),
        *cells(_little(BenchmarkMLP((16, 8), SHAPE), Fit(5, 32, 0.05, every=5)), SJLT(32), 16),
    ],
    "small": [*cells(Plan(n_left_out=1_000), Gaussian(512)), *cells(SMALL_MLP, SJLT(512))],
    "paper": [
        *cells(Plan(), Gaussian(512)),
        *cells(Plan(MLP, half_stack=25, left_out_stack=25), Gaussian(512)),
    ],
}

EXPERIMENT = Experiment(
    "lds_published",
    run,
    PRESETS,
    summary="our methods at the settings of dattri's benchmark, whose numbers are published",
    table=table,
    seconds={"smoke": 30},
    work=work,
    shared="plan",
    gpu=True,
)

if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
