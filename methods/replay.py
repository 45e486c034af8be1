"""Replay through training: exact metagradients (Ilyas & Engstrom, 2025, MAGIC: Near-Optimal Data
Attribution for Deep Learning, arXiv:2504.16430; Engstrom et al., 2025, Optimizing ML Training with
Metagradient Descent, arXiv:2503.13751, Sec. 2.2, REPLAY).

Training is a function of the weights of its examples: the same initial parameters, batches and
learning rates, each example's loss times its weight. Its derivative at a query's measurement is
computed by reverse mode through all steps, which are computed again from states kept along the way.
It is exact if training is deterministic and smooth: in evaluation mode, without dropout, and with
activations whose second derivative exists where it matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import isqrt
from typing import ClassVar

import torch
from torch import Tensor

from methods.curvature.curvature import twice_differentiated
from methods.errors import MethodError, at_least
from methods.examples import Examples, chunks, count, sourced, take
from methods.finite import finite
from methods.losses.failures import explained
from methods.losses.objective import Params
from methods.losses.proofs import prove_independent
from methods.precision import full_precision
from methods.progress import track
from methods.task import Task

State = tuple[Tensor, ...]  # parameters (p,), then what the optimiser keeps of each, (p,)


@dataclass(frozen=True)
class SGD:
    """torch.optim.SGD: gradients plus weight decay, with momentum."""

    momentum: float = 0.0
    nesterov: bool = False
    kept: ClassVar[int] = 1

    def step(self, state: State, gradient: Tensor, lr: float, number: int) -> State:
        """The state after step `number`, counted from 1."""
        params, velocity = state
        velocity = self.momentum * velocity + gradient
        along = gradient + self.momentum * velocity if self.nesterov else velocity
        return params - lr * along, velocity


@dataclass(frozen=True)
class Adam:
    """torch.optim.Adam, with the weight decay in the gradient, or AdamW if it is `decoupled`.

    eps_root  added to the mean square before its root is taken, which has no derivative at 0: where
              a parameter's gradient may be exactly 0, as with ReLU, give a small one, such as 1e-12
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    eps_root: float = 0.0
    decoupled: float = 0.0
    kept: ClassVar[int] = 2

    def step(self, state: State, gradient: Tensor, lr: float, number: int) -> State:
        """The state after step `number`, counted from 1."""
        params, mean, square = state
        first, second = self.betas
        mean = first * mean + (1 - first) * gradient
        square = second * square + (1 - second) * gradient * gradient
        scale = (square / (1 - second**number) + self.eps_root).sqrt() + self.eps
        params = params * (1 - lr * self.decoupled)
        return params - lr * (mean / (1 - first**number)) / scale, mean, square


@dataclass(frozen=True)
class Training:
    """A training run: at step t, an update by the mean over a batch of (weighted) losses.

    batches    positions of training examples, one (b,) tensor or list of integers for each step
    lrs        the learning rate of each step
    optimiser  SGD or Adam
    keep       states in memory at each level of the recursion; None is the root of the number of
               steps, with which each step is computed at most four times, once of them with its
               graph. With 2 memory grows with the logarithm of the number of steps, as does the
               time of each

    The task's weight decay is part of the objective, as in `weight_decay` of torch's optimisers.
    """

    batches: Sequence[Tensor | Sequence[int]]
    lrs: Sequence[float]
    optimiser: SGD | Adam = field(default_factory=SGD)
    keep: int | None = None

    def __post_init__(self) -> None:
        if len(self.batches) != len(self.lrs) or not len(self.batches):
            raise MethodError(
                f"{len(self.batches)} batches and {len(self.lrs)} learning rates: give one of each "
                "for every step, of one step at least"
            )
        at_least(2, keep=self.keep)


@dataclass(frozen=True)
class Replayed:
    """What a training run led to, and how it would change.

    scores    (n_query, n_train): minus the derivative of a query's measurement at the end of
              training by the weight of a training example, positive for proponents. Leaving the
              example out changes the measurement by about its score
    params    the parameters at the end
    measured  the queries' measurements there, (n_query,)
    """

    scores: Tensor
    params: Params
    measured: Tensor


@full_precision()
def metagradients(
    task: Task, train: Examples, query: Examples, training: Training, weights: Tensor | None = None
) -> Replayed:
    """Train from `task.params`, then differentiate the queries' measurements by all weights.

    weights  (n_train,), at which training is run and differentiated; None is 1 for each example

    A query costs one second-order pass over every step, all of them together up to three trainings.
    """
    run = _Run(task, sourced(train), training, weights)
    end = run.forward(run.start(), 0, len(training.lrs))
    measured, adjoints = _measurements(run.at(end[0]), sourced(query))
    zeros = adjoints.new_zeros(adjoints.shape)
    run.adjoints = (adjoints, *[zeros.clone() for _ in range(training.optimiser.kept)])
    run.scores = adjoints.new_zeros(len(adjoints), run.n_train)
    run.reverse(run.start(), 0, len(training.lrs))
    if not finite([run.scores]):
        raise MethodError(
            "a derivative through training is not finite: training diverged, or is not smooth; "
            "lower the learning rates, or with Adam give an eps_root such as 1e-12"
        )
    params = {name: value.clone() for name, value in run.at(end[0]).params.items()}
    return Replayed(-run.scores.cpu(), params, measured.cpu())


def _measurements(task: Task, query: Examples) -> tuple[Tensor, Tensor]:
    """The measurements (n_query,) and their gradients (n_query, p), by plain autograd."""
    values, rows = [], []
    for one in chunks(query, 1):
        batch = task.move(one)
        leaved = task.leaves(task.measurement)
        with leaved as (leaves, function), explained(task, task.measurement, batch):
            value, params = function(batch)[0], list(leaves.values())
            found = torch.autograd.grad(value, params, allow_unused=True, materialize_grads=True)
        values.append(value.detach().to(task.dtype))
        rows.append(task.flatten(dict(zip(task.params, found, strict=True))).to(task.dtype))
    return torch.stack(values), torch.stack(rows)


class _Run:
    """A training run forward and backward; `adjoints` are of the state reached going back."""

    def __init__(
        self, task: Task, train: Examples, training: Training, weights: Tensor | None
    ) -> None:
        task.check()
        self.task, self.train, self.training = task, train, training
        self.n_train = count(train)
        given = torch.ones(self.n_train) if weights is None else weights
        if given.shape != (self.n_train,):
            raise MethodError(
                f"weights of shape {tuple(given.shape)} for {self.n_train} training examples"
            )
        self.weights = given.to(task.device, task.dtype)
        self.batches = [
            torch.as_tensor(batch, dtype=torch.int64).cpu() for batch in training.batches
        ]
        for step, batch in enumerate(self.batches):
            least, most = batch.aminmax() if batch.numel() else (torch.tensor(-1),) * 2
            if batch.ndim != 1 or not 0 <= int(least) <= int(most) < self.n_train:
                raise MethodError(
                    f"batch {step} is not a list of positions from 0 to {self.n_train - 1}"
                )
        self.function = task.function(task.loss)
        self.adjoints: State = ()
        self.scores = torch.empty(0)
        self._progress = iter(track(range(len(self.batches)), "replaying training"))

    def start(self) -> State:
        first = self.task.flatten(self.task.params).to(self.task.dtype)
        return (first, *[torch.zeros_like(first) for _ in range(self.training.optimiser.kept)])

    def at(self, flat: Tensor) -> Task:
        """The task at some parameters (p,)."""
        return replace(self.task, params=self.task.tangents(flat), checkpoints=())

    def forward(self, state: State, first: int, last: int) -> State:
        """The state before step `last`, from that before step `first`."""
        for step in range(first, last):
            leaf = state[0].detach().requires_grad_()
            state = tuple(v.detach() for v in self._after((leaf, *state[1:]), step)[0])
        return state

    def _after(self, state: State, step: int, graph: bool = False) -> tuple[State, Tensor]:
        """The state after a step, and the weights of its batch as a leaf, (b,)."""
        task, index = self.task, self.batches[step]
        batch = task.move(take(self.train, index))
        weights = self.weights[index.to(task.device)].requires_grad_(graph)
        with torch.enable_grad(), twice_differentiated(), explained(task, task.loss, batch):
            if step == 0:
                prove_independent(task, task.loss, batch)
            losses = self.function(task.tangents(state[0]), batch)
            mean = (weights * losses).mean()
            gradient = torch.autograd.grad(mean, state[0], create_graph=graph)[0]
            gradient = gradient + task.weight_decay * state[0]
            lr = self.training.lrs[step]
            return self.training.optimiser.step(state, gradient, lr, step + 1), weights

    def reverse(self, state: State, first: int, last: int) -> None:
        """Carry the adjoints from after step `last` - 1 to before step `first`."""
        steps = last - first
        if steps == 1:
            self._back(state, first)
            return
        keep = self.training.keep or isqrt(len(self.batches) - 1) + 1
        size = -(-steps // keep)
        starts, states = list(range(first, last, size)), [state]
        for one, following in pairwise(starts):
            states.append(self.forward(states[-1], one, following))
        for one in reversed(starts):
            self.reverse(states.pop(), one, min(one + size, last))

    def _back(self, state: State, step: int) -> None:
        """One step backward, for all queries."""
        leaves = tuple(value.detach().requires_grad_() for value in state)
        after, weights = self._after(leaves, step, graph=True)
        moved: list[State] = []
        with twice_differentiated():
            for adjoint in zip(*self.adjoints, strict=True):
                found = torch.autograd.grad(
                    after, (*leaves, weights), adjoint, retain_graph=True, materialize_grads=True,
                    allow_unused=True,
                )  # fmt: skip
                moved.append(found)
        *adjoints, by_weight = (torch.stack(each) for each in zip(*moved, strict=True))
        self.adjoints = tuple(adjoints)
        index = self.batches[step].to(self.task.device)
        self.scores.index_add_(1, index, by_weight)  # an example may be twice in a batch
        next(self._progress, None)
