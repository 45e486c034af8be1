"""The loss on a point after its influential training pairs are removed and the model retrained.

Reproduces Figure 8 of FastIF (Guo et al., 2021) by the protocol of its Sec. A.3. The most helpful,
or most harmful, pairs of a point by fast and by full influence functions are left out, and the
change of the loss on the point is measured. Controls are pairs chosen without an inverse Hessian,
by features, and at random, and the differences of the loss between seeds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.laboratory import runs
from experiments.laboratory.device import device
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment, sweep
from experiments.laboratory.work import Work
from experiments.models.bert import Bert
from experiments.pairs import models
from experiments.pairs.influence import Plan, balanced, examples, predicted
from experiments.pairs.rankings import (
    Ranking,
    SameFeatures,
    SameGradient,
    System,
    random_of_label,
    ranked,
)
from experiments.pairs.rankings import work as ranking_work
from experiments.training.loop import fit
from experiments.training.models import training_work
from methods.examples import Examples
from methods.progress import track
from methods.randomness import numpy_generator


@dataclass(frozen=True)
class Without:
    """A classifier trained again with some training pairs left out.

    They keep their places in the order with weight 0: with one seed, initial parameters, order and
    dropout of all others stay those of the whole set, so that any difference is due to these pairs.
    The mean is over the whole batch, as in the derivative with respect to a weight.
    """

    of: models.Model
    removed: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Asked:
    """The logits of a retrained classifier for the pairs at some positions of a sample."""

    model: Without
    sample: models.Sample
    at: tuple[int, ...]


def retrained_logits(config: Asked) -> np.ndarray:
    """Logits (len(at), labels) of the retrained classifier; its parameters are not stored."""
    run = runs.once("nli_retrained", config, lambda scratch: _retrain(config, scratch))
    return np.asarray(run.array("logits"))


def without(of: models.Model, removed: np.ndarray, seed: int) -> Without:
    """The classifier without the pairs at these positions, in any order."""
    return Without(of, tuple(sorted(int(i) for i in removed)), seed)


def _retrain(config: Asked, scratch: Path) -> dict[str, Any]:
    model, base = config.model, config.model.of
    train, _ = models.load(base, base.train)
    weight = torch.ones(len(train["label"]))
    weight[_checked(model.removed, len(weight))] = 0.0
    module = base.network.open().top(base.labels, base.dropout, model.seed).to(device())

    def weighed(network: nn.Module, batch: Examples) -> Tensor:
        return batch["weight"] * models.cross_entropy(network, batch)

    results = fit(module, weighed, {**train, "weight": weight}, base.fit, model.seed, scratch)
    query = examples(base, config.sample, np.array(config.at, dtype=np.int64))
    return {"logits": models.logits(module, query).numpy(), "train_loss": results["train_loss"]}


def _checked(removed: tuple[int, ...], n: int) -> list[int]:
    if len(set(removed)) < len(removed) or not all(0 <= i < n for i in removed):
        raise UserError(
            f"pairs {removed} cannot be left out of {n}: give each position from 0 to {n - 1} once"
        )
    return list(removed)


Removal = tuple[str, str, np.ndarray]  # system, direction, pairs: the strongest first


@dataclass(frozen=True)
class Config:
    """One of `points` of a sample, the first half of them rightly predicted.

    plan     fast influence; each of ks replaces its own k
    full     influence of every training pair
    remove   how many pairs are left out
    seeds    of the retrainings of each set, and of the whole set they are compared with
    others   further seeds for training with the whole set
    """

    model: models.Model = models.Model()
    plan: Plan = Plan(repeats=4)
    ks: tuple[int, ...] = (1_000, 10_000)
    full: Plan = Plan(k=None, sample=32)
    sample: models.Sample = models.Sample("mnli dev", n=1_000)
    points: int = 6
    point: int = 0
    remove: tuple[int, ...] = (1, 5, 25)
    seeds: tuple[int, ...] = (0, 1)
    others: tuple[int, ...] = (2, 3, 4, 5)


def run(config: Config, scratch: Path) -> dict[str, Any]:
    _check(config)
    classifier = models.trained(config.model)
    points = balanced(config.model, config.sample, config.points)
    classes, right = predicted(config.model, config.sample)
    _, pairs = models.load(config.model, config.sample)
    position = int(points[config.point])
    label = torch.tensor(int(pairs.label[position]))

    def loss_without(removed: np.ndarray, seed: int) -> float:
        retrained = without(config.model, removed, seed)
        answers = retrained_logits(Asked(retrained, config.sample, tuple(points.tolist())))
        point = torch.from_numpy(np.array(answers[config.point], np.float64))
        return float(F.cross_entropy(point, label))

    removals, none = list(_removals(config, classifier)), np.array([], dtype=np.int64)
    seeds = (*config.seeds, *config.others)
    whole = np.array([loss_without(none, s) for s in track(seeds, "seeds of the whole set")])
    loss = np.empty((len(removals), len(config.remove), len(config.seeds)))
    for i, j, k in track(list(np.ndindex(loss.shape)), "retrainings"):
        loss[i, j, k] = loss_without(removals[i][2][: config.remove[j]], config.seeds[k])
    return {
        "accuracy": float(right.mean()),
        "n_train": len(classifier.pairs),
        "right": float(right[position]),
        "label": pairs.classes[pairs.label[position]],
        "predicted": pairs.classes[classes[position]],
        "premise": pairs.premise[position],
        "hypothesis": pairs.hypothesis[position],
        "before": float(whole[0]),
        "loss": loss,
        "whole": whole,
        "systems": np.array([system for system, *_ in removals], np.str_),
        "directions": np.array([direction for _, direction, _ in removals], np.str_),
        "removed": np.stack([pairs for *_, pairs in removals]),
    }


def _check(config: Config) -> None:
    if not 0 <= config.point < config.points:
        raise UserError(
            f"point {config.point} of {config.points}: choose from 0 to {config.points - 1}"
        )
    seeds = (*config.seeds, *config.others)
    if not config.seeds or len(seeds) < 3 or len(set(seeds)) < len(seeds):
        raise UserError(
            f"seeds {config.seeds} and others {config.others}: give at least one in seeds, and "
            "three different ones in all"
        )
    if not config.remove or min(config.remove) < 1:
        raise UserError(f"{config.remove} pairs to remove: give numbers of 1 or more")


def _removals(config: Config, classifier: models.Trained) -> Iterator[Removal]:
    """The pairs that each system selects for the point, and random ones of each label."""
    most = max(config.remove)
    systems: dict[str, System] = {f"Fast, k = {k:,}": replace(config.plan, k=k) for k in config.ks}
    systems |= {"Full": config.full, "H = I": SameGradient(), "features": SameFeatures()}
    for name, system in systems.items():
        ranking = ranked(Ranking(config.model, config.sample, config.points, system, most))
        for end in ("helpful", "harmful"):
            yield name, end, np.asarray(ranking.array(end)[config.point])
    labels = classifier.train["label"].numpy()
    for label, name in enumerate(classifier.pairs.classes):
        draw = numpy_generator(config.model.seed, "random pairs to leave out", label, config.point)
        yield "random", name, random_of_label(labels, label, most, draw)


def work(config: Config) -> Work:
    """What a cell takes: rankings, and retrainings without what they list."""
    model, most = config.model, max(config.remove)
    of, n = models.unit(model.network, model.labels), models.pairs_of(model.train)
    systems: list[System] = [replace(config.plan, k=k) for k in config.ks]
    systems += [config.full, SameGradient(), SameFeatures()]
    rankings = (
        ranking_work(Ranking(model, config.sample, config.points, one, most)) for one in systems
    )
    sets = (2 * len(systems) + model.labels) * len(config.remove) * len(config.seeds)
    label = f"{of.size:,} parameters of BERT, again"
    again = training_work("", None, of, n, model.fit, label, networks=sets, kept=False)
    # Those of the whole set have the points' positions in their config, which are not known yet.
    seeds = (len(config.seeds) + len(config.others)) / config.points
    share = (replace(step, times=step.times * (1 + seeds / sets)) for step in again.steps)
    return Work("point", (), (*rankings, replace(again, steps=tuple(share))))


LAST = models.Model(
    Bert(frozen=5), models.Sample(n=3_000), fit=replace(models.FIT, epochs=4, every=4)
)
FEW = replace(
    models.SMOKE,
    train=replace(models.SMOKE.train, n=200),
    fit=replace(models.SMOKE.fit, epochs=5, every=5),
)
RELEASED = Plan(k=1_000, depth=1_000, sample=1, damping=50.0, scale=1e4)
PRESETS: dict[str, list[Config]] = {
    "smoke": sweep(
        Config(
            FEW,
            Plan(),
            ks=(60, 150),
            full=Plan(k=None, sample=8),
            sample=models.Sample("mnli dev", "generated", 200),
            points=2,
            remove=(1, 5),
            seeds=(0,),
            others=(1, 2),
        ),
        point=range(2),
    ),
    "small": sweep(Config(LAST, ks=(300, 1_500)), point=range(6)),
    "paper": sweep(
        Config(
            models.PAPER,
            RELEASED,
            full=replace(RELEASED, k=None, sample=128),
            sample=models.Sample("mnli dev", "whole"),
            seeds=(0,),
            others=(1, 2, 3),
        ),
        point=range(6),
    ),
}

EXPERIMENT = Experiment(
    "mnli_retraining",
    run,
    PRESETS,
    summary="loss on a point after its influential pairs are removed and the model retrained",
    columns=("accuracy", "right", "before"),
    seconds={"smoke": 29, "small": 8_280},
    gpu=True,
    work=work,
)


if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
