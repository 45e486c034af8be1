"""Scores by methods at a benchmark's settings, and how they agree with its trainings."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.ensembles import benchmark
from experiments.ensembles.benchmark import Setting
from experiments.laboratory.attribution import dimension
from experiments.laboratory.clock import wall
from experiments.laboratory.device import on_device
from methods.curvature.exact_hessian import exact_hessian
from methods.ensembles.lds import lds, pearson, predicted
from methods.ensembles.masks import Packed
from methods.errors import MethodError
from methods.examples import Examples, chunks, count, take
from methods.fitted.inverted import FittedInverse
from methods.gradcos import GradCos
from methods.ihvp.arnoldi import Arnoldi, Krylov
from methods.ihvp.cholesky import Cholesky
from methods.ihvp.lissa import LiSSA
from methods.ihvp.truncated import Galerkin, Truncated
from methods.influence import Influence
from methods.progress import track
from methods.representer import Representer
from methods.rows.factored import Rows
from methods.rows.last_layer import Head
from methods.task import Task
from methods.tracin import TracIn
from methods.trak import TRAK

LR = 1e-3  # the weight of each network in TracIn; it changes no rank
QUERIES = 50  # whose Krylov spaces are in memory at once


@dataclass(frozen=True)
class Representers:
    """Representer points whose features are scaled to length 1 in the product, as in dattri."""

    lam: float = 1e-3

    def scores(self, task: Task, train: Examples, query: Examples) -> Tensor:
        found = Representer(self.lam, tolerance=1 / 200).scores(task, train, query)
        head = Head(task, train)
        lengths = [
            torch.cat([head.features(part).norm(dim=1) for part in chunks(some, head.chunk)])
            for some in (query, train)
        ]
        return found / lengths[0].cpu()[:, None] / lengths[1].cpu()


@dataclass(frozen=True)
class AllRitzValues:
    """Arnoldi's inverse of every Ritz value, converged or not, as dattri's code keeps them."""

    damping: float = 0.01
    iterations: int = 49

    def scores(self, task: Task, train: Examples, query: Examples) -> Tensor:
        n = self.iterations
        method = Influence(Arnoldi(n, Krylov(n, None, 0, n)), self.damping)
        state = method.state(task, train)
        state.pop("residuals", None)  # by which `Arnoldi` would refuse
        return method.fit(task, train, state).scores(query, train)


Method = Influence | TracIn | GradCos | TRAK | Representers | AllRitzValues


@dataclass(frozen=True)
class Plan:
    """Which trainings judge, which choose settings, and how many queries are scored.

    n_held      halves whose losses judge
    n_choosing  the halves after them: they choose the settings of the honest column, and are the
                networks of TRAK
    n_left_out  trainings without one example, of a random order of all of them
    """

    setting: Setting = Setting()
    n_held: int = 100
    n_choosing: int = 50
    n_left_out: int = 5_000
    n_query: int = 500
    n_whole: int = 10
    half_stack: int = 50
    left_out_stack: int = 100

    @property
    def halves(self) -> list[benchmark.Part]:
        count = self.n_held + self.n_choosing
        return benchmark.parts(self.setting, "half", count, self.half_stack)

    @property
    def wholes(self) -> list[benchmark.Part]:
        return benchmark.parts(self.setting, "whole", self.n_whole, self.n_whole)

    @property
    def left_out(self) -> list[benchmark.Part]:
        return benchmark.parts(self.setting, "without one", self.n_left_out, self.left_out_stack)

    @property
    def parts(self) -> list[benchmark.Part]:
        return [*self.wholes, *self.halves, *self.left_out]


class Quality(NamedTuple):
    """How scores agree with trainings, for each query, (n_query,)."""

    lds: np.ndarray
    choosing: np.ndarray
    loo: np.ndarray


@dataclass(frozen=True)
class Truth:
    """What the trainings of a plan found.

    masks, losses    (n_halves, n_train) bool and (n_halves, n_query), of the halves
    without, lacks   (n_left_out, n_query) and (n_left_out,), of the trainings without one example
    """

    plan: Plan
    masks: np.ndarray
    losses: np.ndarray
    without: np.ndarray
    lacks: np.ndarray

    def sums(self, scores: Tensor) -> np.ndarray:
        """Summed scores of the judging halves, (n_held, n_query)."""
        return predicted(self.masks[: self.plan.n_held], scores)

    def quality(self, scores: Tensor) -> Quality:
        """LDS on the halves that judge and on those that choose, and leave-one-out."""
        n = self.plan.n_held
        judged, chosen = (
            lds(self.masks[some], -self.losses[some], scores)
            for some in (slice(0, n), slice(n, None))
        )
        return Quality(judged, chosen, pearson(self.without.T, self.scored_without(scores).T))

    def scored_without(self, scores: Tensor) -> np.ndarray:
        """The scores of the left out examples, (n_left_out, n_query)."""
        return scores.double().numpy().T[self.lacks]


def truth(plan: Plan) -> Truth:
    """The outcomes of all trainings of a plan; missing ones are trained now."""
    n, n_query = plan.setting.n_train, plan.n_query
    masks = Packed(benchmark.gathered(plan.halves, "masks"), n).unpacked().numpy()
    losses = benchmark.gathered(plan.halves, "losses")[:, :n_query].astype(float)
    without = benchmark.gathered(plan.left_out, "losses")[:, :n_query].astype(float)
    lacks = benchmark.removed(plan.setting)[: plan.n_left_out]
    return Truth(plan, masks, losses, without, lacks)


class Tried(NamedTuple):
    """Scores of one setting, (n_query, n_train), and their seconds; or why there are none."""

    scores: Tensor | None
    seconds: float
    refusal: str = ""


def attempts(plan: Plan, params: np.ndarray, tried: tuple[Method, ...]) -> Iterator[Tried]:
    """The scores of each setting for networks with `params` (n_networks, p)."""
    train, query = map(on_device, benchmark.load(plan.setting))
    query = take(query, slice(0, plan.n_query))
    task = benchmark.task_of(plan.setting, params, LR)
    clock = partial(wall, task.device)
    if all(isinstance(one, Influence) and isinstance(one.inverse, Truncated) for one in tried):
        began = clock()
        found = _of_dampings(task, train, query, tried)
        each = (clock() - began) / len(tried)
        yield from (Tried(scores, each) for scores in found)
        return
    hessian = None
    for method in tried:
        began, state = clock(), None
        if isinstance(method, Influence) and isinstance(method.inverse, Cholesky):
            hessian = exact_hessian(task, train) if hessian is None else hessian
            state = {"hessian": hessian}  # undamped, so the same for every damping
        try:
            if state is None:
                scores = method.scores(task, train, query)
            else:
                assert isinstance(method, Influence)
                scores = method.fit(task, train, state).scores(query, train)
            yield Tried(scores.double(), clock() - began)
        except MethodError as error:
            yield Tried(None, clock() - began, str(error))


def _of_dampings(
    task: Task, train: Examples, query: Examples, tried: tuple[Method, ...]
) -> list[Tensor]:
    """The scores of truncated solutions at every damping, from one Krylov space a query."""
    first = tried[0]
    assert isinstance(first, Influence)
    assert isinstance(first.inverse, Truncated)
    solver = Galerkin(first.hessian(task, train), first.inverse.products)
    fitted = FittedInverse(task, solver)
    shifts = [one.damping - first.damping for one in tried if isinstance(one, Influence)]
    blocks: list[list[Tensor]] = [[] for _ in tried]
    for some in track(chunks(query, QUERIES), "Krylov spaces", -(-count(query) // QUERIES)):
        gradients = fitted.query_gradients(some).dense()
        for found, solved in zip(blocks, solver.shifted(gradients, shifts), strict=True):
            left = Rows.dense_of(solved, fitted.sizes())
            products = [
                left.inner(fitted.train_gradients(part))
                for part in chunks(train, fitted.chunk(train))
            ]
            found.append(torch.cat(products, dim=1).double().cpu())
    return [torch.cat(rows) for rows in blocks]


def setting_of(method: Method) -> str:
    """The setting that was tried, in words; "" where a method has only one."""
    if isinstance(method, Representers):
        return f"L2 {method.lam:g}"
    if isinstance(method, AllRitzValues):
        return f"regularisation {method.damping:g}"
    if isinstance(method, Influence):
        if isinstance(method.inverse, LiSSA):
            return f"batch {method.inverse.sample}"
        return f"regularisation {method.damping:g}"
    return f"{dimension(method)}" if dimension(method) else ""
