"""SOURCE: segmented stationary unrolling (Bae et al., 2024, Training Data Attribution via
Approximate Unrolled Differentiation, arXiv:2405.12186, Sec. 3.2, Eq. 9 to 13).

Training is divided into segments in which curvature H_l and gradients are taken for stationary.
Within one, K steps at the rate eta carry what an example added on by S_l = exp(-eta K H_l), and add
R_l g = (1 - exp(-eta K H_l)) H_l^-1 g of the example's mean gradient there. Functions of a
curvature are taken of its eigenvalues.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from methods.attributor import Attributor, State
from methods.checkpoints import rates
from methods.curvature.kronecker import (
    Fisher,
    KroneckerFunction,
    covariances,
    eigenbasis,
    variances,
)
from methods.curvature.matrix import Matrix, Operator
from methods.curvature.operators import GaussNewton, Hessian
from methods.errors import MethodError, at_least
from methods.examples import Examples
from methods.finite import finite
from methods.fitted.gradients import FittedGradients
from methods.fitted.scoring import Fitted, FittedSum
from methods.rows.factored import Rows
from methods.rows.gradients import Gradients
from methods.task import Task

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Unrolling(Attributor):
    """sum over segments l of <R_l S_l+1 ... S_L grad query, mean grad candidate in l>: positive for
    proponents.

    steps      of the optimiser that the task's checkpoints cover together, as many in each segment
    segments   equal parts of the checkpoints, in their order; the learning rate of a segment is the
               mean of its checkpoints'
    curvature  "ekfac": eigenvalue-corrected Kronecker factors, whose layers alone count; "hessian"
               or "gauss-newton": the whole matrix, for networks of a few thousand parameters. Each
               is the mean over the checkpoints of a segment
    labels     for "ekfac": column of class labels to draw from the model (see `EKFAC`)
    damping    added to the curvature, in addition to the task's weight decay (the paper: 0)
    momentum   of SGD: rates are divided by 1 - momentum
    discrete   (1 - eta H)^K in place of its limit exp(-eta K H), which the paper takes

    The gradient of queries is that at the task's parameters, the end of training. With one segment
    and ever more steps scores tend to those of influence functions with that curvature.
    """

    steps: int = 1000
    segments: int = 3
    curvature: Literal["ekfac", "hessian", "gauss-newton"] = "ekfac"
    labels: str | None = None
    damping: float = 0.0
    momentum: float = 0.0
    discrete: bool = False

    def __post_init__(self) -> None:
        at_least(1, segments=self.segments)
        at_least(self.segments, steps=self.steps)
        if self.curvature not in ("ekfac", "hessian", "gauss-newton"):
            raise MethodError(
                f'curvature is {self.curvature!r}: give "ekfac", "hessian" or "gauss-newton"'
            )
        if not 0 <= self.momentum < 1:
            raise MethodError(f"momentum is {self.momentum}: give 0 or more, below 1")

    @property
    def state_settings(self) -> Segments:
        return Segments(self.segments, self.curvature, self.labels)

    def state(self, task: Task, train: Examples) -> State:
        """The eigenvectors and values of each segment's curvature, without weight decay."""
        compute = self._factored if self.curvature == "ekfac" else self._whole
        state: State = {}
        for i, moments in enumerate(self._segments(task)):
            found = compute([task.at(task.checkpoints[j]) for j in moments], train)
            state |= {f"{i}.{name}": array for name, array in found.items()}
        return state

    def fitted(self, task: Task, state: State, train: Examples | None) -> Fitted:
        parts = self._segments(task)
        if {key.split(".")[0] for key in state} != {str(i) for i in range(len(parts))}:
            raise MethodError(f"the state is not of {len(parts)} segments: it is of other settings")
        end, terms = replace(task, checkpoints=()), list[Fitted]()
        carried: list[Operator] = []  # from the last segment to the one at hand
        first: FittedMoment | None = None
        for i, moments in reversed(list(enumerate(parts))):
            prefix = f"{i}."
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            added, onward = (self._operator(task, own, f) for f in self._functions(task, moments))
            for j in moments:
                path, there = (*carried, added), task.at(task.checkpoints[j])
                term = FittedMoment(end, there, path, 1 / len(moments), first)
                terms.append(term)
                first = first or term
            carried.append(onward)
        return FittedSum(terms)

    def _segments(self, task: Task) -> list[range]:
        """The positions of the checkpoints of each segment."""
        n = len(task.checkpoints)
        if n < self.segments:
            raise MethodError(
                f"{n} checkpoints for {self.segments} segments: pass Task.of(..., checkpoints=...) "
                "with one for each segment at least, or lower `segments`"
            )
        ends = [round(i * n / self.segments) for i in range(self.segments + 1)]
        return [range(*both) for both in pairwise(ends)]

    def _functions(self, task: Task, moments: range) -> tuple[Function, Function]:
        """R and S of the curvature's eigenvalues, in a segment."""
        lrs = rates(task.checkpoints[j] for j in moments)
        rate = sum(lrs) / len(lrs) / (1 - self.momentum)
        steps, shift = self.steps / self.segments, task.weight_decay + self.damping

        def onward(values: Tensor) -> Tensor:
            values = values + shift
            if self.discrete:
                return (1 - rate * values) ** round(steps)
            return torch.exp(-rate * steps * values)

        def added(values: Tensor) -> Tensor:
            values = values + shift
            flat = (values * rate * steps).abs() <= torch.finfo(values.dtype).eps
            safe = torch.where(flat, 1.0, values)
            whole = (
                1 - onward(safe - shift) if self.discrete else -torch.expm1(-rate * steps * safe)
            )
            return torch.where(flat, rate * steps, whole / safe)

        return added, onward

    def _factored(self, tasks: list[Task], train: Examples) -> State:
        fisher, each = (
            Fisher(self.labels),
            [covariances(t, train, Fisher(self.labels)) for t in tasks],
        )
        blocks = each[0]
        mean = {
            block: [
                torch.stack(sides).mean(0)
                for sides in zip(*(one[block] for one in each), strict=True)
            ]
            for block in blocks
        }
        state = eigenbasis(mean)
        along = [variances(t, train, fisher, state) for t in tasks]
        return {**state, **{k: torch.stack([a[k] for a in along]).mean(0) for k in along[0]}}

    def _whole(self, tasks: list[Task], train: Examples) -> State:
        kind = Hessian if self.curvature == "hessian" else GaussNewton
        matrices = [kind(replace(t, weight_decay=0.0), train).dense().double() for t in tasks]
        matrix = torch.stack(matrices).mean(0)
        if not finite([matrix]):
            raise MethodError("a curvature is not finite: look for NaN in the parameters or data")
        values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
        return {"values": values, "vectors": vectors}

    def _operator(self, task: Task, state: State, function: Function) -> Operator:
        if self.curvature == "ekfac":
            return KroneckerFunction(task, state, function)
        kept = (state[name].double().to(task.device) for name in ("values", "vectors"))
        values, vectors = (array.clone(memory_format=torch.contiguous_format) for array in kept)
        if len(values) != task.size:
            raise MethodError(
                f"the state has {len(values)} parameters, the task {task.size}: it was made for "
                "another model"
            )
        return Matrix(((vectors * function(values)) @ vectors.T).to(task.dtype))


@dataclass(frozen=True)
class Segments:
    """What a state depends on: rates and steps are not among it."""

    segments: int
    curvature: str
    labels: str | None


class FittedMoment(FittedGradients):
    """One checkpoint: candidates' gradients there, and those of queries, carried back to it."""

    def __init__(
        self,
        end: Task,
        moment: Task,
        path: tuple[Operator, ...],
        weight: float,
        like: FittedMoment | None,
    ) -> None:
        super().__init__(moment, like)
        shared = like.measured if like else None
        self.measured: Gradients = Gradients(end, end.measurement, shared)
        self.path, self.weight = path, weight

    def query_rows(self, examples: Examples) -> Rows:
        vectors = self.query_gradients(examples).dense()
        for operator in self.path:
            vectors = operator.apply(vectors)
        return Rows.dense_of(vectors * self.weight, self.sizes())

    def train_rows(self, examples: Examples) -> Rows:
        return self.train_gradients(examples)
