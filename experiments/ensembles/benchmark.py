"""The trainings of a benchmark: half subsets, the whole set, and the set without one example.

As in dattri's benchmark (Deng et al., 2024), whose settings `experiments.lds_published` has. The
networks of halves and of the whole set have seeds of their own, and see their examples in a new
order every epoch. Those without one example have the seed of the first network of the whole set,
and see the others in the order of the file, as the benchmark's code does. A part of an ensemble is
a run of its own, so that an array of jobs trains them in any order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from experiments.data import digits
from experiments.laboratory import provenance, runs
from experiments.laboratory.counting import image_unit
from experiments.laboratory.device import device, on_device
from experiments.laboratory.errors import UserError
from experiments.laboratory.runs import Run
from experiments.laboratory.work import Unit, Work
from experiments.models.benchmark_mlp import BenchmarkMLP
from experiments.training.left_out import fit_without
from experiments.training.loop import load_params
from experiments.training.models import training_work
from experiments.training.plans import Fit, cross_entropy
from experiments.training.stacked import Members, Stack, fit_stack, together
from methods.ensembles.masks import Packed, draw_masks
from methods.examples import Examples, chunks, take
from methods.precision import products
from methods.randomness import numpy_generator, stream
from methods.task import Checkpoint, Task

Kind = Literal["half", "whole", "without one"]


@dataclass(frozen=True)
class InOrder(Fit):
    """Every epoch sees the examples in the order of the file."""

    def batches(self, train: Mapping[str, Tensor], draw: np.random.Generator) -> list[Tensor]:
        n = len(next(iter(train.values())))
        return list(torch.arange(n).split(self.batch_size))


@dataclass(frozen=True)
class Setting:
    """A network, its plan, and the first examples of the training and the test file.

    `mean` and `deviation` standardise the pixels, which are between 0 and 1.
    """

    network: BenchmarkMLP = BenchmarkMLP()
    source: Literal["digits", "mnist"] = "mnist"
    n_train: int = 5_000
    n_query: int = 500
    fit: Fit = Fit(20, 32, 0.01, 0.0, every=20)
    mean: float = 0.1307
    deviation: float = 0.3081
    seed: int = 0

    @property
    def name(self) -> str:
        return "MLP" if self.network.hidden else "Logistic regression"


@dataclass(frozen=True)
class Part:
    """The networks of one kind from number `first` on, `size` of them."""

    setting: Setting = Setting()
    kind: Kind = "half"
    first: int = 0
    size: int = 50


def parts(setting: Setting, kind: Kind, count: int, size: int) -> list[Part]:
    """The parts that make up the first `count` networks of a kind."""
    if count % size:
        raise UserError(f"{count} networks do not fill stacks of {size}: give a multiple of it")
    return [Part(setting, kind, first, size) for first in range(0, count, size)]


def part(one: Part) -> Run:
    """The run of a part, trained now if no run has it."""
    return runs.once("benchmark_part", one, lambda scratch: _train(one, scratch))


def gathered(some: list[Part], name: str) -> np.ndarray:
    """One array of all networks of some parts, such as their `losses` (n_networks, n_query)."""
    return np.concatenate([part(one).array(name) for one in some])


@provenance.remembered
def load(setting: Setting) -> tuple[Examples, Examples]:
    """The training examples and the queries, their pixels standardised."""
    if setting.source == "digits":
        whole = digits.load_sklearn()
        train = take(whole, slice(0, setting.n_train))
        query = take(whole, slice(setting.n_train, setting.n_train + setting.n_query))
    else:
        train = take(digits.load_mnist("train"), slice(0, setting.n_train))
        query = take(digits.load_mnist("test"), slice(0, setting.n_query))
    return _standardised(setting, train), _standardised(setting, query)


def _standardised(setting: Setting, some: Examples) -> Examples:
    return {**some, "image": (some["image"] - setting.mean) / setting.deviation}


def masks_of(one: Part) -> np.ndarray:
    """Which examples each network of a part is trained on, (size, n_train) bool."""
    setting, n = one.setting, one.setting.n_train
    if one.kind == "half":
        return draw_masks(one.size, n, n // 2, setting.seed, one.first)
    masks = np.ones((one.size, n), dtype=bool)
    if one.kind == "without one":
        masks[np.arange(one.size), removed(setting)[one.first : one.first + one.size]] = False
    return masks


def removed(setting: Setting) -> np.ndarray:
    """The example that each network of the kind "without one" lacks: a random order of all."""
    return numpy_generator(setting.seed, "left out").permutation(setting.n_train)


def _seed(one: Part, member: int) -> int:
    whole = one.kind == "without one"
    purpose, number = ("whole", 0) if whole else (one.kind, one.first + member)
    return int(stream(one.setting.seed, purpose, number).generate_state(1)[0])


def _train(one: Part, scratch: Path) -> dict[str, Any]:
    setting, masks = one.setting, masks_of(one)
    train, query = map(on_device, load(setting))
    seeds = [_seed(one, member) for member in range(one.size)]
    networks: Members = together([setting.network.build(seed) for seed in seeds], device())
    plan, kept = setting.fit, dict[str, np.ndarray]()
    if one.kind == "without one" and not setting.network.hidden and not plan.momentum:
        lacks = np.nonzero(~masks)[1]
        trained, train_loss = fit_without(networks.at(0), train, lacks, plan)
        networks = Stack(trained)
    else:
        if one.kind == "without one":
            plan = InOrder(**{f.name: getattr(plan, f.name) for f in fields(Fit)})
        outcome = fit_stack(networks, cross_entropy, train, masks, plan, seeds, scratch)
        train_loss = outcome["train_loss"]
        kept = {} if one.kind == "without one" else {"params": outcome["params"][-1]}
    losses, right = answers(networks, query)
    return {
        "accuracy_query": float(right.mean()),
        "train_loss": train_loss,
        "losses": losses,
        "masks": Packed.of(masks).bits,
        **kept,
    }


@torch.no_grad()
@products("ieee")
def answers(networks: Members, query: Examples) -> tuple[np.ndarray, np.ndarray]:
    """The loss of each query for each network, in nats, and whether it is right, (K, n_query)."""
    found = []
    for judge in (cross_entropy, _hits):
        values = [networks.shared(judge, batch) for batch in chunks(query, 500)]
        found.append(torch.cat(values, dim=1).cpu().numpy())
    return found[0], found[1]


def _hits(model: Any, batch: Examples) -> Tensor:
    hits: Tensor = model(batch["image"]).argmax(1) == batch["label"]
    return hits.float()


def task_of(setting: Setting, params: np.ndarray, lr: float) -> Task:
    """The task of the first network, with all of them as its checkpoints at the rate `lr`.

    params (n_networks, p); queries are measured by their loss.
    """
    moments = []
    module = setting.network.build(0).to(device())
    for row in params:
        load_params(module, row)
        moments.append(Checkpoint(dict(module.named_parameters()), lr))
    load_params(module, params[0])
    module.requires_grad_(False)
    return Task.of(module, cross_entropy, checkpoints=moments)


def unit(setting: Setting) -> Unit:
    """A pass of the network over one image."""
    return image_unit(setting.network, setting.network.image_shape, cross_entropy)


def work(one: Part) -> Work:
    """What training a part takes."""
    setting = one.setting
    n = int(masks_of(one)[0].sum())
    return training_work(
        "benchmark_part",
        one,
        unit(setting),
        n,
        setting.fit,
        f"{setting.name}, {one.kind}",
        together=True,
        networks=one.size,
        scored=setting.n_query,
        kept=one.kind != "without one",
    )


LOGISTIC = Setting()
MLP = Setting(BenchmarkMLP((128, 64)), fit=Fit(50, 64, 0.01, 0.9, every=50))
