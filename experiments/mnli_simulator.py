"""Do influential pairs explain a prediction: a step on one of them, taken by a simulator.

Reproduces Figures 5 and 9 of FastIF (Guo et al., 2021) by the protocol of its Sec. B.1. A simulator
is trained on the task model's predictions; after one gradient step on the true label of one
training pair its loss on what the task model predicts for a point is measured, for many learning
rates. Pairs found without an inverse Hessian, by features alone, and at random stand beside.
"""

import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad

from experiments.laboratory import disk
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.pairs.influence import Plan, balanced, examples, predicted
from experiments.pairs.models import (
    PAPER,
    SMOKE,
    Model,
    Sample,
    Simulator,
    Trained,
    load,
    passed,
    small,
    trained,
)
from experiments.pairs.rankings import (
    Ranking,
    SameFeatures,
    SameGradient,
    System,
    random_of_label,
    ranked,
)
from methods.progress import track
from methods.randomness import numpy_generator
from methods.task import Examples, Task, take

# Single gradient steps of a trained classifier, at many learning rates, and what they do.


SAVE_SECONDS = 30.0  # between two states on disk: the most that a kill can lose


def after_steps(
    task: Task,
    train: Examples,
    query: Examples,
    index: np.ndarray,
    lrs: np.ndarray,
    scratch: Path,
) -> np.ndarray:
    """Loss of each point after params - lr gradient of one pair, (points, types, examples, lrs).

    index (points, types, examples) are training pairs. Each pair's gradient is taken once, and each
    vector of parameters made once, for all points that ask for it. State goes to `scratch`.
    """
    askers: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for place, pair in np.ndenumerate(index):
        askers[int(pair)].append(place)
    state, saved_at = scratch / "losses.npy", time.monotonic()
    shape = (*index.shape, len(lrs))
    loss = np.load(state) if state.exists() else np.full(shape, np.nan, np.float32)
    for pair, places in track(list(askers.items()), "pairs to step on"):
        if not np.isnan(loss[places[0]]).any():
            continue  # done before a restart
        points = sorted({place[0] for place in places})
        one, asking = take(train, torch.tensor([pair])), take(query, torch.tensor(points))
        found = _along(task, one, asking, lrs)
        if not np.isfinite(found).all():
            first = lrs[~np.isfinite(found).all(0)][0]
            raise UserError(
                f"the loss after a step of {first:.2g} on training pair {pair} is not finite: "
                f"lower the highest learning rate below {first:.2g}"
            )
        for place in places:
            loss[place] = found[points.index(place[0])]
        if time.monotonic() - saved_at > SAVE_SECONDS:
            _save(state, loss)
            saved_at = time.monotonic()
    return loss


@torch.no_grad()
def _along(task: Task, pair: Examples, query: Examples, lrs: np.ndarray) -> np.ndarray:
    """Loss of each query after one step on a pair, (n_query, lrs): one moved copy of params."""
    start, step = task.flatten(task.params), _gradient(task, pair)
    moved = torch.empty_like(start)
    params = task.unflatten(moved)  # views
    found = []
    for lr in lrs:
        torch.add(start, step, alpha=-float(lr), out=moved)
        found.append(task.loss(params, query))
    return torch.stack(found, dim=1).numpy()


def _gradient(task: Task, pair: Examples) -> Tensor:
    """Gradient of the loss of one pair, (p,)."""
    return task.flatten(grad(lambda params: task.loss(params, pair).sum())(task.params))


def _save(path: Path, loss: np.ndarray) -> None:
    content = BytesIO()
    np.save(content, loss)
    disk.write_file(path, content.getvalue())


@dataclass(frozen=True)
class Config:
    """`points` of a sample, half of them rightly predicted; `num_examples` pairs of each type.

    low, high, num_lrs  learning rates, evenly spaced on a logarithmic axis
    """

    model: Model = Model()
    plan: Plan = Plan(repeats=2)
    sample: Sample = Sample("mnli dev")
    simulator_seed: int = 1
    points: int = 20
    num_examples: int = 10
    low: float = 1e-5
    high: float = 10**-2.5
    num_lrs: int = 50


def run(config: Config, scratch: Path) -> dict[str, Any]:
    if not 0 < config.low < config.high or min(config.num_lrs, config.num_examples) < 1:
        raise UserError(
            f"{config.num_lrs} learning rates from {config.low:g} to {config.high:g}, "
            f"{config.num_examples} pairs of a type: give 0 < low < high, and 1 or more of each"
        )
    simulator = Simulator(config.model, config.simulator_seed)
    task_model, simulating = trained(config.model), trained(simulator)
    at = balanced(config.model, config.sample, config.points)
    guessed, right = (values[at] for values in predicted(config.model, config.sample))
    chosen = _chosen(config, task_model)
    lrs = np.geomspace(config.low, config.high, config.num_lrs)
    truly = examples(config.model, config.sample, at)
    query = {**truly, "label": torch.from_numpy(guessed)}
    index = np.stack(list(chosen.values()), axis=1)
    loss = after_steps(simulating.task, task_model.train, query, index, lrs, scratch)
    with torch.no_grad():
        before = simulating.task.loss(simulating.task.params, query).numpy()
    return {
        **_about(config, simulator),
        "loss": loss,
        "before": before,
        "lrs": lrs,
        "right": right,
        "predicted": guessed,
        "label": truly["label"].numpy(),
        "types": np.array(list(chosen), np.str_),
        "classes": np.array(task_model.pairs.classes, np.str_),
        "example": index,
        "example_label": task_model.train["label"].numpy()[index],
        **_texts(config, task_model, at, index),
    }


def _chosen(config: Config, there: Trained) -> dict[str, np.ndarray]:
    """Training pairs to step on by type, each (points, num_examples)."""
    systems: dict[str, System] = {
        "FastIF": config.plan,
        "H = I": SameGradient(config.plan.k),
        "features": SameFeatures(),
    }
    chosen: dict[str, np.ndarray] = {}
    for name, system in systems.items():
        ranking = Ranking(config.model, config.sample, config.points, system, config.num_examples)
        of = ranked(ranking)
        chosen |= {f"{name}, {end}": of.array(end) for end in ("helpful", "harmful")}
    labels = there.train["label"].numpy()
    for label, name in enumerate(there.pairs.classes):
        draws = [
            random_of_label(
                labels,
                label,
                config.num_examples,
                numpy_generator(config.model.seed, "random pairs to step on", label, point),
            )
            for point in range(config.points)
        ]
        chosen[f"random, {name}"] = np.stack(draws)
    return chosen


def _about(config: Config, simulator: Simulator) -> dict[str, Any]:
    """How right both models are, how well one simulates the other, and FastIF's settings."""
    guesses = [predicted(of, config.sample) for of in (config.model, simulator)]
    ranking = Ranking(config.model, config.sample, config.points, config.plan, config.num_examples)
    return {
        "accuracy": float(guesses[0][1].mean()),
        "accuracy_simulator": float(guesses[1][1].mean()),
        "agreement": float((guesses[0][0] == guesses[1][0]).mean()),
        "accuracy_train": passed(config.model, config.model.train).metrics["accuracy"],
        **ranked(ranking).metrics,
    }


def _texts(
    config: Config, there: Trained, at: np.ndarray, index: np.ndarray
) -> dict[str, np.ndarray]:
    """The points in words, and of each type the first pair that is stepped on."""
    _, pairs = load(config.model, config.sample)
    of = {"point": pairs.take(at), "example": there.pairs.take(index[:, :, 0].ravel())}
    shapes = {"point": at.shape, "example": index.shape[:2]}
    return {
        f"{name}_{side}": np.array(getattr(some, side), np.str_).reshape(shapes[name])
        for name, some in of.items()
        for side in ("premise", "hypothesis")
    }


PRESETS: dict[str, list[Config]] = {
    "smoke": [
        Config(
            SMOKE,
            Plan(k=100),
            Sample("mnli dev", "generated", 200),
            points=8,
            num_examples=4,
            num_lrs=12,
        )
    ],
    "small": [Config(small())],
    "paper": [
        Config(
            PAPER,
            Plan(k=1_000, depth=1_000, sample=1, damping=50.0, scale=1e4),
            Sample("mnli dev", "whole"),
        )
    ],
}

EXPERIMENT = Experiment(
    "mnli_simulator",
    run,
    PRESETS,
    summary="a simulator's loss after one step on influential, similar and random pairs",
    columns=("accuracy", "agreement", "accuracy_simulator"),
    seconds={"smoke": 20, "small": 766},
)


if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
