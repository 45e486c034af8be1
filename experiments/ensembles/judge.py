"""`python -m experiments judge MODULE:CLASS`: where a method of your own lands among the others.

It is scored on the networks that `lds_published` has trained, and held against the finished rows of
a preset. Nothing is trained, and nothing is kept.
"""

import argparse
import importlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from experiments.ensembles import benchmark, benchmark_scores
from experiments.ensembles.benchmark_scores import Plan, Truth
from experiments.laboratory import registry, runs
from experiments.laboratory.device import on_device
from experiments.laboratory.errors import Parser, UserError, nearest
from experiments.laboratory.table import aligned
from methods.attributor import Attributor
from methods.ensembles.resampling import interval, pearson_draws, spearman_draws
from methods.examples import take

EXPERIMENT = "lds_published"
NETWORKS = {"lr": "Logistic regression", "mlp": "MLP"}
APART = 1  # place of what was chosen without the evaluation, in arrays of a row's run
DRAWS = 1_000


@dataclass(frozen=True)
class Standing:
    """A method's score with the draws of its bootstrap, which are paired with all others'."""

    name: str
    score: float
    draws: np.ndarray
    trainings: int
    seconds: float


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(list(argv))
    if options.data:
        os.environ["RETRACE_DATA"] = options.data
    method, name = named(options.method)
    rows = _rows(options.preset, NETWORKS[options.network])
    plan: Plan = rows[0].plan
    _all_trained(plan, options.preset)
    mine = judged(method, name, plan, options.networks, options.measure)
    others = [_standing(row, options.measure) for row in rows]
    print(report(mine, [one for one in others if one is not None], options.measure.upper()))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m experiments judge", description=__doc__)
    parser.add_argument("method", help="MODULE:NAME, an Attributor or a class of one")
    parser.add_argument("--preset", default="smoke", help=f"of {EXPERIMENT} (default: smoke)")
    parser.add_argument("--network", default="lr", choices=sorted(NETWORKS), help="default: lr")
    parser.add_argument(
        "--networks", type=int, default=1, help="explain so many, and add their scores (default: 1)"
    )
    parser.add_argument("--measure", default="lds", choices=("lds", "loo"), help="default: lds")
    parser.add_argument("--data", metavar="DIR", help="the folder of data sets")
    return parser


def named(place: str) -> tuple[Attributor, str]:
    """The method at MODULE:NAME, made with its default settings if it is a class."""
    module, _, name = place.partition(":")
    if not module or not name:
        raise UserError(f"{place!r} names no method: give MODULE:CLASS, as methods.gradcos:GradCos")
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"no module {error.name!r}: run where it can be imported, or set PYTHONPATH"
        ) from error
    found = getattr(loaded, name, None)
    if found is None:
        known = [each for each in vars(loaded) if not each.startswith("_")]
        raise UserError(f"{module} has no {name!r}: {nearest(name, known)}")
    try:
        method = found() if isinstance(found, type) else found
    except TypeError as error:
        raise UserError(
            f"{place} needs settings ({error}): give each a default, or name an instance"
        ) from error
    if not isinstance(method, Attributor):
        kind = type(method).__name__
        raise UserError(f"{place} is a {kind}, not an Attributor: derive from methods.Attributor")
    return method, name


def _rows(preset: str, network: str) -> list[Any]:
    """The cells of a preset that score a network by a method."""
    cells = registry.named(EXPERIMENT).cells(preset)
    return [c for c in cells if hasattr(c, "tried") and c.plan.setting.name == network]


def _all_trained(plan: Plan, preset: str) -> None:
    missing = [one for one in plan.parts if runs.find("benchmark_part", one) is None]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(plan.parts)} parts of the ensemble are not trained here:"
            f" `python -m experiments.{EXPERIMENT} --preset {preset}` trains them and scores the"
            " methods to compare with"
        )


def judged(method: Attributor, name: str, plan: Plan, networks: int, measure: str) -> Standing:
    """A method's standing, of the summed scores of some networks of the whole set."""
    if not 1 <= networks <= plan.n_whole:
        raise UserError(f"--networks {networks}: give 1 to {plan.n_whole}")
    params = benchmark.gathered(plan.wholes, "params")[:networks]
    train, query = map(on_device, benchmark.load(plan.setting))
    query = take(query, slice(0, plan.n_query))
    began = time.perf_counter()
    total = torch.zeros(plan.n_query, plan.setting.n_train, dtype=torch.float64)
    for row in params:
        task = benchmark.task_of(plan.setting, row[None], benchmark_scores.LR)
        total += method.scores(task, train, query)
    seconds = time.perf_counter() - began
    truth = benchmark_scores.truth(plan)
    values = getattr(truth.quality(total), measure)
    draws = _draws(truth, total, measure)
    return Standing(name, float(np.nanmean(values)), draws, networks, seconds)


def _draws(truth: Truth, scores: Any, measure: str) -> np.ndarray:
    if measure == "lds":
        judging = truth.losses[: truth.plan.n_held]
        return spearman_draws(truth.sums(scores), -judging, DRAWS)
    return pearson_draws(truth.scored_without(scores), truth.without, DRAWS)


def _standing(row: Any, measure: str) -> Standing | None:
    """The finished run of a row; None if it has not run."""
    run = runs.find(EXPERIMENT, row)
    if run is None:
        return None
    score = float(np.nanmean(run.array(measure)[APART]))
    trainings, seconds = int(run.metrics["trainings"]), float(run.metrics["seconds"])
    return Standing(row.name, score, run.array(f"{measure}_draws")[APART], trainings, seconds)


def report(mine: Standing, others: Sequence[Standing], measure: str) -> str:
    """All methods from the best, each with its distance to yours, and where yours lands."""
    ranked = sorted([mine, *others], key=lambda one: -one.score)
    lines = []
    for place, one in enumerate(ranked, 1):
        low, high = interval(one.draws)
        apart = "" if one is mine else _difference(one, mine)
        cost = [f"{one.trainings}", f"{one.seconds:.1f}"]
        name = f"> {one.name}" if one is mine else f"  {one.name}"
        lines.append([f"{place}", name, f"{one.score:.3f} [{low:.3f}, {high:.3f}]", *cost, apart])
    header = ["", "method", measure, "trainings", "seconds", f"minus {mine.name}"]
    here = ranked.index(mine)
    said = [f"{mine.name} lands at place {here + 1} of {len(ranked)} by {measure}."]
    for step, words in ((-1, "behind"), (1, "ahead of")):
        if 0 <= here + step < len(ranked):
            other = ranked[here + step]
            low, high = interval(mine.draws - other.draws)
            tie = ", a tie: the interval contains 0" if low <= 0 <= high else ""
            gap = mine.score - other.score
            said.append(f"It is {words} {other.name}: {gap:+.3f} [{low:+.3f}, {high:+.3f}]{tie}.")
    return "\n".join([aligned(header, lines), "", *said])


def _difference(one: Standing, mine: Standing) -> str:
    low, high = interval(one.draws - mine.draws)
    return f"{one.score - mine.score:+.3f} [{low:+.3f}, {high:+.3f}]"
