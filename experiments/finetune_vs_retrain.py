"""Whether fine-tuning without a training example can replace training again without it.

Reproduces Table 1 of Subsets (Doubov et al., 2022, Sec. 4.2): 10 random examples, 3 seeds,
fine-tuning for 6% of the epochs. A retrained network has the same seeds, but the order of one
example fewer. Deviations: the paper does not say at which learning rate it fine-tunes; here the
last 6% of the training are repeated without the example, at the same rates. At the small tier,
small networks on MNIST and JPEG-recompressed CIFAR-10. We add agreement between seeds, as a scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.ensembles import classifiers, rate_sweep
from experiments.ensembles.classifiers import Recipe, built, classify, everything, learn, load
from experiments.ensembles.rate_sweep import Trial
from experiments.laboratory import counting, runs
from experiments.laboratory.device import device
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.runs import Run
from experiments.laboratory.table import estimated
from experiments.laboratory.work import Work
from experiments.training.loop import flat_buffers, flat_params
from experiments.training.models import restore
from experiments.training.plans import ending
from experiments.training.stacked import Members, together
from methods.ensembles.agreement import agreement
from methods.randomness import numpy_generator, stream


@dataclass(frozen=True)
class Full:
    """Networks trained on all examples, whose parameters are stored."""

    recipe: Recipe
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Without:
    """A network, and the position in the training set of the example left out for it."""

    seed: int
    example: int


@dataclass(frozen=True)
class Retrained:
    """Networks trained from the start, each without one example."""

    recipe: Recipe
    networks: tuple[Without, ...]


@dataclass(frozen=True)
class Tuned:
    """Networks of `full` trained on for a `share` of the epochs, each without one example."""

    recipe: Recipe
    networks: tuple[Without, ...]
    full: tuple[Full, ...]
    share: float = 0.06


def trained(part: Full | Retrained | Tuned) -> Run:
    """The run of a stack with the classes (K, n_query) int16 it predicts for the queries."""
    trainers = {Full: _full, Retrained: _retrained, Tuned: _tuned}
    train: Any = trainers[type(part)]
    return runs.once("classifiers_without", part, lambda scratch: train(part, scratch))


def _full(part: Full, scratch: Path) -> dict[str, Any]:
    recipe, seeds = part.recipe, part.seeds
    stack, plan = built(recipe, seeds), rate_sweep.planned(recipe)
    learn(stack, recipe, plan, seeds, everything(recipe, len(seeds)), scratch)
    members = [stack.at(member) for member in range(len(seeds))]
    return {
        **_answers(stack, recipe),
        "params": np.stack([flat_params(one) for one in members]),
        "buffers": np.stack([flat_buffers(one) for one in members]),
    }


def _retrained(part: Retrained, scratch: Path) -> dict[str, Any]:
    recipe, seeds = part.recipe, [one.seed for one in part.networks]
    stack, plan = built(recipe, seeds), rate_sweep.planned(recipe)
    learn(stack, recipe, plan, seeds, _masks(recipe, part.networks), scratch)
    return _answers(stack, recipe)


def _tuned(part: Tuned, scratch: Path) -> dict[str, Any]:
    recipe, plan = part.recipe, ending(rate_sweep.planned(part.recipe), part.share)
    start = {}
    for one in part.full:
        run = trained(one)
        for place, seed in enumerate(one.seeds):
            start[seed] = run.array("params")[place], run.array("buffers")[place]
    networks = [recipe.network.build(one.seed) for one in part.networks]
    for network, left in zip(networks, part.networks, strict=True):
        restore(network, *start[left.seed])
    stack = together(networks, device())
    # A new order: that of the training would start again with its first epochs.
    orders = [int(stream(left.seed, "tuning").generate_state(1)[0]) for left in part.networks]
    learn(stack, recipe, plan, orders, _masks(recipe, part.networks), scratch)
    return _answers(stack, recipe) | {"epochs": plan.epochs, "lr": plan.rate(0)}


def _masks(recipe: Recipe, networks: Sequence[Without]) -> np.ndarray:
    masks = everything(recipe, len(networks))
    masks[np.arange(len(networks)), [one.example for one in networks]] = False
    return masks


def _answers(stack: Members, recipe: Recipe) -> dict[str, Any]:
    query = load(recipe.data).query
    plain = classify(stack, recipe, query)
    return {"accuracy": float((plain == query.label).mean()), "plain": plain}


@dataclass(frozen=True)
class Compared:
    """Fine-tuned against retrained networks, and networks of different seeds."""

    recipe: Recipe = Recipe()
    n_seeds: int = 3
    n_dropped: int = 10
    share: float = 0.06
    stack: int = 30
    seed: int = 0
    """Draws the examples that are dropped."""


Config = Trial | Full | Retrained | Tuned | Compared


def run(config: Config, scratch: Path) -> dict[str, Any]:
    if isinstance(config, Trial):
        return dict(rate_sweep.result(config).metrics)
    if isinstance(config, Compared):
        return _compare(config)
    return {"accuracy": trained(config).metrics["accuracy"]}


def dropped(config: Compared) -> list[int]:
    """The examples to leave out, the same for every seed."""
    n = config.recipe.data.n_train
    if not 0 < config.n_dropped <= n:
        raise UserError(f"{config.n_dropped} of {n} examples dropped: give n_dropped of 1 to {n}")
    draw = numpy_generator(config.seed, "dropped")
    return [int(i) for i in draw.choice(n, config.n_dropped, replace=False)]


def parts(config: Compared) -> tuple[list[Full], list[Retrained], list[Tuned]]:
    """The stacks that are compared, seed by seed, example by example."""
    recipe, size = config.recipe, config.stack
    if config.n_seeds < 1 or size < 1:
        raise UserError(f"n_seeds is {config.n_seeds} and stack {size}: give 1 or more of each")
    seeds = range(config.n_seeds)
    full = [Full(recipe, tuple(some)) for some in _cut(list(seeds), size)]
    wanted = [Without(seed, example) for seed in seeds for example in dropped(config)]
    stacks = [tuple(some) for some in _cut(wanted, size)]
    tuned = []
    for some in stacks:
        needed = {one.seed for one in some}
        start = tuple(one for one in full if needed & set(one.seeds))
        tuned.append(Tuned(recipe, some, start, config.share))
    return full, [Retrained(recipe, some) for some in stacks], tuned


def _cut(items: list[Any], size: int) -> list[list[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _compare(config: Compared) -> dict[str, Any]:
    """Agreement of networks, and accuracy: S seeds, D examples; (S, S) are means over examples.

    tuned_retrained     (S, D) fine-tuned and retrained with one seed, without the same example
    tuned_others        (S, S) fine-tuned with one seed, retrained with another
    tuned_full          (S, D) fine-tuned, and the network it started from
    retrained_full      (S, D) with one seed, without the example and with it
    between_full        (S, S) seeds, with all examples
    between_retrained   (S, S) seeds, without the same example
    accuracy_*          (S,) or (S, D)
    """
    label = load(config.recipe.data).query.label
    s, d = config.n_seeds, config.n_dropped
    full, again, tuned = (
        np.concatenate([trained(one).array("plain") for one in kind]) for kind in parts(config)
    )
    again, tuned = (kind.reshape(s, d, -1) for kind in (again, tuned))
    between = np.mean([agreement(again[:, i]) for i in range(d)], axis=0)
    others = np.mean([agreement(tuned[:, i], again[:, i]) for i in range(d)], axis=0)
    return {
        "dropped": np.array(dropped(config)),
        "tuned_retrained": (tuned == again).mean(2),
        "tuned_others": others,
        "tuned_full": (tuned == full[:, None]).mean(2),
        "retrained_full": (again == full[:, None]).mean(2),
        "between_full": agreement(full),
        "between_retrained": between,
        "accuracy_full": (full == label).mean(1),
        "accuracy_retrained": (again == label).mean(2),
        "accuracy_tuned": (tuned == label).mean(2),
    }


def table(results: list[Run]) -> tuple[list[str], list[list[str]]]:
    """One line per comparison."""
    rows = []
    for run_ in results:
        recipe, config = run_.config["recipe"], run_.config
        if config["type"] != "Compared":
            continue
        off = ~np.eye(config["n_seeds"], dtype=bool)
        between = np.asarray(run_.array("between_retrained"))[off]
        numbers = [
            estimated(list(np.asarray(run_.array(name)).mean(1)), name)
            for name in ("tuned_retrained", "tuned_full", "accuracy_retrained", "accuracy_tuned")
        ]
        seeds = f"{between.mean():.4f}" if len(between) else ""
        rows.append([recipe["data"]["source"], recipe["network"]["type"], seeds, *numbers])
    header = ["data", "network", "between seeds", "tuned = retrained", "tuned = start"]
    return [*header, "retrained right", "tuned right"], rows


def work(config: Config) -> Work:
    """What a cell takes, with the networks that it compares and the trials of their rate."""
    if isinstance(config, Trial):
        trial = classifiers.work("classifier_trial", config, config.recipe, 1, kept=False)
        return Work("trial", parts=(trial,))
    if not isinstance(config, Compared):
        return Work("networks", parts=(_part_work(config),))
    needed = tuple(_part_work(part) for kind in parts(config) for part in kind)
    square = counting.dot(len(needed), config.recipe.data.n_query, len(needed))
    return Work("comparison", (square,), needed, gpu=False)


def _part_work(part: Full | Retrained | Tuned) -> Work:
    recipe, needed = part.recipe, rate_sweep.works(part.recipe)
    count = len(part.seeds) if isinstance(part, Full) else len(part.networks)
    about: dict[str, Any] = {"kept": isinstance(part, Full)}
    if isinstance(part, Tuned):
        fit = recipe.fit.plan if isinstance(recipe.fit, classifiers.Sweep) else recipe.fit
        needed = (*needed, *map(_part_work, part.full))
        label = f"{type(recipe.network).__name__} on {recipe.data.source}, tuned"
        about |= {"plan": ending(fit, part.share), "label": label}
    return classifiers.work("classifiers_without", part, recipe, count, parts=needed, **about)


def cells(config: Compared) -> list[Config]:
    """Trials, then stacks, then comparisons: an array trains networks before it compares them."""
    full, again, tuned = parts(config)
    return [*rate_sweep.trials(config.recipe), *full, *again, *tuned, config]


SMALL = (classifiers.MNIST_MLP, classifiers.JPEG_CNN)
PAPER = (
    classifiers.CIFAR_100_INCEPTION,
    classifiers.CIFAR_100_RESNET,
    classifiers.FLOWERS_INCEPTION,
    classifiers.FLOWERS_RESNET,
)
PRESETS: dict[str, list[Config]] = {
    "smoke": cells(Compared(classifiers.SMOKE_MLP, n_seeds=3, n_dropped=4, share=0.1, stack=12)),
    "small": [cell for recipe in SMALL for cell in cells(Compared(recipe))],
    "paper": [cell for recipe in PAPER for cell in cells(Compared(recipe, stack=1))],
}

EXPERIMENT = Experiment(
    "finetune_vs_retrain",
    run,
    PRESETS,
    summary="networks fine-tuned without an example against networks trained again without it",
    table=table,
    seconds={"smoke": 6, "small": 1_170},
    work=work,
    gpu=True,
)


if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
