"""Networks trained on a whole set, and scores of its examples by methods and controls."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.ensembles import subsets
from experiments.ensembles.subsets import Ensemble
from experiments.laboratory import attribution, counting, disk, runs
from experiments.laboratory.device import device, on_device
from experiments.laboratory.work import Work
from experiments.training.models import checkpoints, training_work
from experiments.training.plans import cross_entropy, negative_log_odds
from experiments.training.stacked import together
from methods.attributor import State
from methods.examples import Examples, chunks, count, take
from methods.ihvp.arnoldi import Arnoldi, Krylov
from methods.ihvp.deflated import Deflated
from methods.influence import Influence
from methods.random_projection import RandomProjection
from methods.randomness import stream, torch_generator
from methods.representer import Representer
from methods.rows.last_layer import Head
from methods.task import Task
from methods.tracin import TracIn

GRADIENT = TracIn(learning_rates=False, checkpoints=(-1,))


@dataclass(frozen=True)
class Whole:
    """`count` networks trained on all examples of an ensemble, which attributions explain.

    Network, plan and augmentation are the ensemble's; an epoch has more steps, since there are more
    examples. There is a checkpoint every `every` epochs.
    """

    ensemble: Ensemble = Ensemble()
    count: int = 10
    every: int = 4


@dataclass(frozen=True)
class Cosine:
    """Control: gradients at the end of training, scaled to length 1."""


@dataclass(frozen=True)
class Similarity:
    """Control: the cosine of the last layer's inputs; labels play no part."""


@dataclass(frozen=True)
class Chance:
    """Control: random scores, normally distributed."""

    seed: int = 0


Method = TracIn | Influence | RandomProjection | Representer | Cosine | Similarity | Chance


@dataclass(frozen=True)
class Scores:
    """A method's scores for one network."""

    pairs: Tensor
    """(n_query, n_train), positive = proponent."""
    own: Tensor | None
    """(n_train,) self-influence; None if it was not wanted or the method has none."""


@dataclass(frozen=True)
class Basis:
    """Dominant eigenvectors of one network's Hessian: a run that methods share."""

    whole: Whole
    member: int
    krylov: Krylov


def trained(whole: Whole) -> runs.Run:
    """The run of the networks, trained if no run has them yet."""
    return runs.once("whole_models", whole, lambda scratch: _train(whole, scratch))


def work(whole: Whole) -> Work:
    """What training the networks takes."""
    data, plan = whole.ensemble.data, replace(whole.ensemble.fit, every=whole.every)
    label = f"{type(whole.ensemble.network).__name__} on {data.source}, whole"
    of, scored = subsets.unit(whole.ensemble), data.n_train + data.n_query
    return training_work(
        "whole_models",
        whole,
        of,
        data.n_train,
        plan,
        label,
        together=True,
        networks=whole.count,
        scored=scored,
    )


def basis_works(method: Method, whole: Whole, members: int) -> tuple[Work, ...]:
    """What the eigenvectors that a method needs take."""
    inverse = method.inverse if isinstance(method, Influence) else None
    if not isinstance(inverse, Arnoldi | Deflated):
        return ()
    of, n = subsets.unit(whole.ensemble), whole.ensemble.data.n_train
    plain = Influence(Arnoldi(1, inverse.basis))
    wanted = [Basis(whole, member, inverse.basis) for member in range(members)]
    made = (counting.once_per_model("attribution_basis", one, plain, of, n) for one in wanted)
    return tuple(replace(one, parts=(work(whole),)) for one in made if one)


def member_task(whole: Whole, member: int) -> Task:
    """One of the networks, with the loss on images as they are, without augmentation.

    A query is measured by minus its log-odds.
    """
    run = trained(whole)
    module = whole.ensemble.network.build(0).to(device())
    buffers = run.array("buffers") if "buffers" in run.meta["arrays"] else None
    moments = checkpoints(
        module,
        run.array("params")[:, member],
        run.array("lrs"),
        None if buffers is None else buffers[:, member],
    )
    decay = whole.ensemble.fit.weight_decay
    module.requires_grad_(False)
    losses = cross_entropy, negative_log_odds
    return Task.of(module, *losses, weight_decay=decay, checkpoints=moments)


def _train(whole: Whole, scratch: Path) -> dict[str, Any]:
    ensemble = whole.ensemble
    train, query = map(on_device, subsets.load(ensemble.data))
    seeds = [
        int(stream(ensemble.seed, "whole", member).generate_state(1)[0])
        for member in range(whole.count)
    ]
    networks = together([ensemble.network.build(seed) for seed in seeds], device())
    everything = np.ones((whole.count, ensemble.data.n_train), dtype=bool)
    plan = replace(ensemble.fit, every=whole.every)
    outcome = subsets.train(networks, ensemble, train, everything, plan, seeds, scratch)
    right = subsets.answers(networks, train, query)[0].double().mean(0)
    n_train = ensemble.data.n_train
    accuracy = {
        "accuracy_train": float(right[:n_train].mean()),
        "accuracy_query": float(right[n_train:].mean()),
    }
    return {**outcome, **accuracy, "num_params": outcome["params"].shape[2]}


def scored(method: Method, whole: Whole, member: int, n_query: int, own: bool) -> Scores:
    """Scores of all training examples for the first queries, and their self-influence if `own`."""
    train, queries = map(on_device, subsets.load(whole.ensemble.data))
    query = take(queries, slice(0, n_query))
    if isinstance(method, Chance):
        draw = torch_generator(method.seed, "chance", member)
        numbers = torch.randn(n_query + 1, count(train), generator=draw)
        return Scores(numbers[:-1], numbers[-1])
    task = member_task(whole, member)
    if isinstance(method, Similarity):
        left, right = (_features(task, each) for each in (query, train))
        return Scores((left @ right.T).float().cpu(), None)
    if isinstance(method, Cosine):
        lengths = GRADIENT.self_influence(_of_loss(task), train).sqrt().clamp_min(1e-30)
        of_query = replace(task, loss=task.measurement)
        own_lengths = GRADIENT.self_influence(of_query, query).sqrt().clamp_min(1e-30)
        return Scores(GRADIENT.scores(task, train, query) / lengths / own_lengths[:, None], None)
    state = basis_of(method, whole, member)
    pairs = method.fit(task, train, state).scores(query, train)
    fitted = method.fit(_of_loss(task), train, state) if own else None
    return Scores(pairs, None if fitted is None else fitted.self_influence(train))


def basis_of(method: Method, whole: Whole, member: int) -> State | None:
    """The eigenvectors that a method needs, computed once for all methods."""
    inverse = method.inverse if isinstance(method, Influence) else None
    if not isinstance(inverse, Arnoldi | Deflated):
        return None
    wanted, undamped = Basis(whole, member, inverse.basis), Influence(Arnoldi(1, inverse.basis))

    def load() -> tuple[Task, Examples]:
        return member_task(whole, member), on_device(subsets.load(whole.ensemble.data)[0])

    return attribution.stored_state("attribution_basis", wanted, undamped, load)[0]


def display(method: Method) -> str:
    """The method's name in tables and figures."""
    if isinstance(method, TracIn):
        return "Gradients" if method == GRADIENT else "TracIn"
    if isinstance(method, Influence) and not isinstance(method.inverse, Arnoldi):
        kind = attribution.family(method)
        return "Influence" if kind == "Deflated" else f"Influence, {kind}"
    name = attribution.display(method)
    return {"Similarity": "Features", "Chance": "Random"}.get(name, name)


def _of_loss(task: Task) -> Task:
    """The same task, with queries measured by the training loss, as self-influence needs."""
    return replace(task, measurement=task.loss)


def _features(task: Task, examples: Examples) -> Tensor:
    """The last layer's inputs, scaled to length 1, (n, features)."""
    head = Head(task, examples)
    seen = torch.cat([head.features(some) for some in chunks(examples, head.chunk)])
    seen = seen if head.bias is None else seen[:, :-1]  # the last column is 1 everywhere
    return seen / seen.norm(dim=1, keepdim=True).clamp_min(1e-30)


def summed(one: Scores, other: Scores) -> Scores:
    """The sum of scores, whose ranks and correlations are those of their mean."""
    own = None if one.own is None or other.own is None else one.own + other.own
    return Scores(one.pairs + other.pairs, own)


def checkpointed_scores(scratch: Path, name: str, compute: Callable[[], Scores]) -> Scores:
    """The scores of one network, read if a killed attempt at the run had computed them."""

    def arrays() -> disk.Arrays:
        scores = compute()
        own = torch.empty(0) if scores.own is None else scores.own
        return {"pairs": scores.pairs.numpy(), "own": own.numpy()}

    saved = disk.checkpointed(scratch, name, arrays)
    pairs, own = torch.from_numpy(saved["pairs"]), torch.from_numpy(saved["own"])
    return Scores(pairs, own if len(own) else None)
