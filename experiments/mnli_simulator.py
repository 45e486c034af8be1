"""Whether influential pairs explain a prediction: a simulator takes a gradient step on one of them.

Reproduces Figures 5 and 9 of FastIF (Guo et al., 2021) by the protocol of its Sec. B.1. A simulator
is trained on the task model's predictions. After one gradient step on the true label of a training
pair, its loss on the task model's prediction for a point is measured, for many learning rates.
Controls are pairs chosen without an inverse Hessian, by features, and at random.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.func import grad

from experiments.laboratory import attribution, counting
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.runs import Run
from experiments.laboratory.work import Step, Work
from experiments.pairs import models, rankings
from experiments.pairs.influence import RELEASED, Plan, balanced, examples, predicted
from experiments.training.loop import Saved
from methods.examples import Examples, take
from methods.precision import full_precision
from methods.progress import track
from methods.randomness import numpy_generator
from methods.task import Task


def after_steps(
    task: Task, train: Examples, query: Examples, index: np.ndarray, lrs: np.ndarray, scratch: Path
) -> np.ndarray:
    """Loss of each point after params - lr gradient of one pair, (points, types, examples, lrs).

    index (points, types, examples) are training pairs. Each pair's gradient, and the parameters
    after each step, are computed once for all points that use them. `scratch` keeps the state.
    """
    places_of: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for place, pair in np.ndenumerate(index):
        places_of[int(pair)].append(place)
    saved, loss = Saved(scratch, "losses"), np.full((*index.shape, len(lrs)), np.nan, np.float32)
    if state := saved.read(torch.device("cpu")):
        loss = state["loss"].numpy()
    for pair, places in track(list(places_of.items()), "pairs to step on"):
        if not np.isnan(loss[places[0]]).any():
            continue  # done before a restart
        points = sorted({place[0] for place in places})
        example, queries = take(train, torch.tensor([pair])), take(query, torch.tensor(points))
        after = _after_step(task, example, queries, lrs)
        if not np.isfinite(after).all():
            first = lrs[~np.isfinite(after).all(0)][0]
            raise UserError(
                f"the loss after a step of {first:.2g} on training pair {pair} is not finite: "
                f"lower the highest learning rate below {first:.2g}"
            )
        for place in places:
            loss[place] = after[points.index(place[0])]
        if saved.due:
            saved.write({"loss": torch.from_numpy(loss)})
    return loss


@torch.no_grad()
@full_precision()
def _after_step(task: Task, pair: Examples, query: Examples, lrs: np.ndarray) -> np.ndarray:
    """Loss of each query after one step on a pair, (n_query, lrs)."""
    pair, query, start = task.move(pair), task.move(query), task.flatten(task.params)
    gradient = task.flatten(grad(lambda params: task.loss(params, pair).sum())(task.params))
    moved = torch.empty_like(start)
    params = task.unflatten(moved)  # views
    losses = []
    for lr in lrs:
        torch.add(start, gradient, alpha=-float(lr), out=moved)
        losses.append(task.loss(params, query))
    return torch.stack(losses, dim=1).cpu().numpy()


@dataclass(frozen=True)
class Config:
    """`points` of a sample, half of them rightly predicted; `num_examples` pairs of each type.

    low, high, num_lrs  the learning rates, evenly spaced on a logarithmic axis
    """

    model: models.Model = models.Model()
    plan: Plan = Plan(repeats=2)
    sample: models.Sample = models.Sample("mnli dev")
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
            f"{config.num_examples} pairs of each type: give 0 < low < high, and 1 or more of both"
        )
    simulator = models.Simulator(config.model, config.simulator_seed)
    task_model, simulating = models.trained(config.model), models.trained(simulator)
    points = balanced(config.model, config.sample, config.points)
    classes, right = (values[points] for values in predicted(config.model, config.sample))
    chosen = _chosen(config, task_model)
    lrs = np.geomspace(config.low, config.high, config.num_lrs)
    labelled = examples(config.model, config.sample, points)
    query = {**labelled, "label": torch.from_numpy(classes)}
    index = np.stack(list(chosen.values()), axis=1)
    loss = after_steps(simulating.task, task_model.train, query, index, lrs, scratch)
    return {
        **_metrics(config, simulator),
        "loss": loss,
        "before": attribution.losses(simulating.task, query).numpy(),
        "lrs": lrs,
        "right": right,
        "predicted": classes,
        "label": labelled["label"].numpy(),
        "types": np.array(list(chosen), np.str_),
        "classes": np.array(task_model.pairs.classes, np.str_),
        "example": index,
        "example_label": task_model.train["label"].numpy()[index],
        **_texts(config, task_model, points, index),
    }


def _chosen(config: Config, classifier: models.Trained) -> dict[str, np.ndarray]:
    """Training pairs to step on by type, each (points, num_examples)."""
    systems: dict[str, rankings.System] = {
        "FastIF": config.plan,
        "H = I": rankings.SameGradient(config.plan.k),
        "features": rankings.SameFeatures(),
    }
    chosen: dict[str, np.ndarray] = {}
    for name, system in systems.items():
        ranking = _ranked(config, system)
        chosen |= {f"{name}, {end}": ranking.array(end) for end in ("helpful", "harmful")}
    labels, n = classifier.train["label"].numpy(), config.num_examples
    for label, name in enumerate(classifier.pairs.classes):
        draws = []
        for point in range(config.points):
            draw = numpy_generator(config.model.seed, "random pairs to step on", label, point)
            draws.append(rankings.random_of_label(labels, label, n, draw))
        chosen[f"random, {name}"] = np.stack(draws)
    return chosen


def _ranked(config: Config, system: rankings.System) -> Run:
    return rankings.ranked(
        rankings.Ranking(config.model, config.sample, config.points, system, config.num_examples)
    )


def _metrics(config: Config, simulator: models.Simulator) -> dict[str, Any]:
    """Accuracies of both models, their agreement, and FastIF's settings."""
    classes, right = predicted(config.model, config.sample)
    simulated, simulated_right = predicted(simulator, config.sample)
    return {
        "accuracy": float(right.mean()),
        "accuracy_simulator": float(simulated_right.mean()),
        "agreement": float((classes == simulated).mean()),
        "accuracy_train": models.passed(config.model, config.model.train).metrics["accuracy"],
        **_ranked(config, config.plan).metrics,
    }


def _texts(
    config: Config, classifier: models.Trained, points: np.ndarray, index: np.ndarray
) -> dict[str, np.ndarray]:
    """The sentences of the points, and of the first pair of each type."""
    _, pairs = models.load(config.model, config.sample)
    texts = {}
    for name, positions, source in (
        ("point", points, pairs),
        ("example", index[:, :, 0], classifier.pairs),
    ):
        for side in ("premise", "hypothesis"):
            sentences = getattr(source.take(positions.ravel()), side)
            texts[f"{name}_{side}"] = np.array(sentences, np.str_).reshape(positions.shape)
    return texts


def work(config: Config) -> Work:
    """What a cell takes: two models, rankings, and steps of every rate on their pairs."""
    model, (points, each) = config.model, (config.points, config.num_examples)
    simulator = models.Simulator(model, config.simulator_seed)
    of = models.unit(model.network, model.labels)
    systems = config.plan, rankings.SameGradient(config.plan.k), rankings.SameFeatures()
    parts = tuple(
        rankings.work(rankings.Ranking(model, config.sample, points, one, each)) for one in systems
    )
    parts += models.work(simulator), models.pass_work(simulator, config.sample)
    pairs = (2 * len(systems) + model.labels) * points * each
    after = Step(of.forward, of.kernels / 3, pairs * config.num_lrs)
    return Work("steps on a pair", (counting.gradients(of, pairs), after), parts)


PRESETS: dict[str, list[Config]] = {
    "smoke": [
        Config(
            models.SMOKE,
            Plan(k=100),
            models.Sample("mnli dev", "generated", 200),
            points=8,
            num_examples=4,
            num_lrs=12,
        )
    ],
    "small": [Config(models.small())],
    "paper": [
        Config(models.PAPER, replace(RELEASED, repeats=1), models.Sample("mnli dev", "whole"))
    ],
}

EXPERIMENT = Experiment(
    "mnli_simulator",
    run,
    PRESETS,
    summary="a simulator's loss after one step on influential, similar and random pairs",
    columns=("accuracy", "agreement", "accuracy_simulator"),
    seconds={"smoke": 20, "small": 766},
    gpu=True,
    work=work,
)


if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
