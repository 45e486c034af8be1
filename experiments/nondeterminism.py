"""How much networks trained on the same data disagree, by source of randomness and by views.

Reproduces Figures 2, 3 (right) and 4 and Tables 2 and 3 of Subsets (Doubov et al., 2022, Sec. 4.1
and App. A to C); recipes and their deviations are in experiments/ensembles/classifiers.py.
Deviations: at the small tier, small networks on MNIST and JPEG-recompressed CIFAR-10, with learning
rates fixed beforehand but for one explained there; 20 seeds where the paper's tables have 3. The
paper does not say how large its test-time crops are: ours have the size of the training images, cut
out of the image with training's margin, or out of the photograph with a shorter side of 256
(Inception v3: 342). Digits are not mirrored.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.ensembles import classifiers, rate_sweep
from experiments.ensembles.rate_sweep import Trial
from experiments.laboratory import counting, runs
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.runs import Run
from experiments.laboratory.table import estimated
from experiments.laboratory.work import Work
from methods.ensembles.agreement import agreement, chance_agreement

Vary = Literal["both", "init", "order"]


@dataclass(frozen=True)
class Seeds:
    """Seeds of a network: of its initial parameters; of the order and the moves of images."""

    init: int
    order: int


@dataclass(frozen=True)
class Networks:
    """Networks of one recipe that one job trains in one stack."""

    recipe: classifiers.Recipe
    seeds: tuple[Seeds, ...]


@dataclass(frozen=True)
class Compared:
    """Networks that differ in their initial parameters, in their order, or in both."""

    recipe: classifiers.Recipe = classifiers.Recipe()
    vary: Vary = "both"
    n_seeds: int = 20
    stack: int = 20


Config = Trial | Networks | Compared


def run(config: Config, scratch: Path) -> dict[str, Any]:
    if isinstance(config, Trial):
        return dict(rate_sweep.result(config).metrics)
    if isinstance(config, Networks):
        metrics = trained(config).metrics
        return {name: metrics[name] for name in ("accuracy", "accuracy_views")}
    return _compare(config)


def parts(config: Compared) -> list[Networks]:
    """The stacks that are compared; a stack of another size is another run."""
    n, size = config.n_seeds, config.stack
    if n < 1 or size < 1 or n % size:
        raise UserError(f"{n} networks do not fill stacks of {size}: give a multiple of it")
    vary = config.vary
    seeds = [
        Seeds(*((i if vary in ("both", what) else 0) for what in ("init", "order")))
        for i in range(n)
    ]
    return [Networks(config.recipe, tuple(seeds[i : i + size])) for i in range(0, n, size)]


def trained(networks: Networks) -> Run:
    """The run of a stack with the classes (K, n_query) it predicts, `plain` and by `views`."""
    return runs.once("classifiers", networks, lambda scratch: _train(networks, scratch))


def _train(networks: Networks, scratch: Path) -> dict[str, Any]:
    recipe, seeds = networks.recipe, networks.seeds
    stack = classifiers.built(recipe, [one.init for one in seeds])
    plan = rate_sweep.planned(recipe)
    orders = [one.order for one in seeds]
    loss = classifiers.learn(
        stack, recipe, plan, orders, classifiers.everything(recipe, len(seeds)), scratch
    )
    query = classifiers.load(recipe.data).query
    plain, views = (
        classifiers.classify(stack, recipe, query),
        classifiers.classify_by_views(stack, recipe, query),
    )
    return {
        "accuracy": float((plain == query.label).mean()),
        "accuracy_views": float((views == query.label).mean()),
        "lr": plan.lr,
        "weight_decay": plan.weight_decay,
        "train_loss": loss,
        "plain": plain,
        "views": views,
    }


def _compare(config: Compared) -> dict[str, Any]:
    """Agreement of every two networks and accuracy of each, plain and from several views.

    agreement*        (K, K)
    chance, by_class  (K, K) expected agreement of random predictions with the same frequencies of
                      classes, overall or for each label
    accuracy*         (K,)
    right*            (K, n_query) whether each network is right
    """
    stacks = [trained(one) for one in parts(config)]
    label = classifiers.load(config.recipe.data).query.label
    plain, views = (
        np.concatenate([one.array(name) for one in stacks]) for name in ("plain", "views")
    )
    outcome = {name: stacks[0].metrics[name] for name in ("lr", "weight_decay")}
    for predicted, suffix in ((plain, ""), (views, "_views")):
        right = predicted == label
        outcome |= {
            f"agreement{suffix}": agreement(predicted),
            f"chance{suffix}": chance_agreement(predicted),
            f"by_class{suffix}": chance_agreement(predicted, label),
            f"accuracy{suffix}": right.mean(1),
            f"right{suffix}": right,
        }
    return outcome


def table(results: list[Run]) -> tuple[list[str], list[list[str]]]:
    """One line per comparison: mean agreement and accuracy, plain and from several views."""
    rows = []
    for run_ in results:
        config, m = run_.config, run_.metrics
        recipe = config["recipe"]
        about = [recipe["data"]["source"], recipe["network"]["type"]]
        if config["type"] == "Compared":
            off = ~np.eye(config["n_seeds"], dtype=bool)
            for suffix, views in (("", "plain"), ("_views", "views")):
                pairs = np.asarray(run_.array(f"agreement{suffix}"))[off]
                agreed = f"{pairs.mean():.4f}" if len(pairs) else ""
                right = estimated(list(run_.array(f"accuracy{suffix}")), "accuracy")
                rows.append([*about, config["vary"], views, agreed, right])
        elif config["type"] == "Trial":
            rate = f"trial of lr {m['lr']:g}, decay {m['weight_decay']:g}"
            rows.append([*about, rate, "validation", "", f"{m['accuracy_validation']:.4f}"])
    return ["data", "network", "what differs", "seen", "agreement", "accuracy"], rows


def work(config: Config) -> Work:
    """What a cell takes, with the networks that it compares and the trials of their rate."""
    if isinstance(config, Trial):
        trial = classifiers.work("classifier_trial", config, config.recipe, 1, kept=False)
        return Work("trial", parts=(trial,))
    if isinstance(config, Networks):
        return Work("networks", parts=(_networks(config),))
    square = counting.dot(config.n_seeds, config.recipe.data.n_query, config.n_seeds)
    return Work("comparison", (square,), tuple(map(_networks, parts(config))), gpu=False)


def _networks(part: Networks) -> Work:
    trials, size = rate_sweep.works(part.recipe), len(part.seeds)
    return classifiers.work(
        "classifiers", part, part.recipe, size, views=6, parts=trials, kept=False
    )


def cells(recipe: classifiers.Recipe, seeds: dict[Vary, int], stack: int) -> list[Config]:
    """Trials, then stacks, then comparisons: an array trains networks before it compares them."""
    compared = [Compared(recipe, vary, n, min(stack, n)) for vary, n in seeds.items()]
    stacks = dict.fromkeys(part for one in compared for part in parts(one))
    return [*rate_sweep.trials(recipe), *stacks, *compared]


def each(recipes: Iterable[classifiers.Recipe], seeds: dict[Vary, int], stack: int) -> list[Config]:
    """The cells of several recipes."""
    return [cell for recipe in recipes for cell in cells(recipe, seeds, stack)]


SMALL = (classifiers.MNIST_MLP, classifiers.MNIST_CNN, classifiers.JPEG_MLP, classifiers.JPEG_CNN)
SMALL_IMAGES = (  # networks that share a GPU
    classifiers.CIFAR_10_INCEPTION,
    classifiers.CIFAR_10_RESNET,
    classifiers.CIFAR_100_INCEPTION,
    classifiers.CIFAR_100_RESNET,
)
PHOTOGRAPHS = (
    classifiers.DTD_INCEPTION,
    classifiers.DTD_RESNET,
    classifiers.FLOWERS_INCEPTION,
    classifiers.FLOWERS_RESNET,
)
ALL: dict[Vary, int] = {"both": 20, "init": 20, "order": 20}
PRESETS: dict[str, list[Config]] = {
    "smoke": each(
        (classifiers.SMOKE_MLP, classifiers.SMOKE_CNN), {"both": 6, "init": 4, "order": 4}, stack=6
    ),
    "small": each(SMALL, {"both": 20, "init": 10, "order": 10}, stack=20),
    "paper": [*each(SMALL_IMAGES, ALL, stack=4), *each(PHOTOGRAPHS, ALL, stack=1)],
}

EXPERIMENT = Experiment(
    "nondeterminism",
    run,
    PRESETS,
    summary="agreement of networks that differ in what is random, plain and from several views",
    table=table,
    seconds={"smoke": 8, "small": 2_885},
    work=work,
    gpu=True,
)

if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
