"""FastIF (Guo et al., 2021, arXiv:2012.15781): influence functions on few candidates, in parallel.

1. The k nearest neighbours of a query, by features, are its candidates (Sec. 3.2).
2. s_test = H^-1 grad query by LiSSA, averaged over T independent repeats (Sec. 3.3), which are
   divided among processes and summed by one all-reduce (Sec. 3.4).
3. Only the candidates get scores <s_test, grad candidate>, divided among the same processes.

Beyond the paper: many queries share every Hessian product, the spread of the repeats estimates the
error of s_test, and scores materialise no gradient and share a backward pass among candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.attributor import Attributor, State
from methods.errors import MethodError, at_least, within
from methods.examples import Examples, count, sourced, take
from methods.fitted.scoring import Fitted
from methods.ihvp.inverse import norms
from methods.ihvp.lissa import LiSSA, Recursion
from methods.influence import Influence
from methods.precision import full_precision
from methods.rows.factored import Rows
from methods.rows.gradients import Gradients, gradient_rows, repeated
from methods.search.searches import NOT_FINITE, load_faiss, lowest, ordered, refuse_rows
from methods.task import Task
from methods.workers import ALONE, Group

DISTANCES = 1 << 26  # computed at a time by an exact search


@dataclass(frozen=True)
class FastIF(Attributor):
    """Influence functions by averaged LiSSA, and how few candidates of each query they score.

    Fitted, it scores every candidate it is given, by one process. `influential` is the procedure of
    the paper: it needs features to choose candidates by, and scores these alone.

    k        candidates per query; None is all of them, the original influence function
    lissa    J = depth, B = sample, T = repeats
    damping  on the Hessian's diagonal, in addition to the task's weight decay: the released code's
             `damp` times its `scale`
    """

    k: int | None = 1_000
    lissa: LiSSA = LiSSA(depth=1_000, sample=1, scale=1e4)
    damping: float = 50.0

    def __post_init__(self) -> None:
        at_least(1, k=self.k)
        within("[0, inf)", damping=self.damping)

    @property
    def influence(self) -> Influence:
        """The influence function on all candidates."""
        return Influence(self.lissa, self.damping)

    @property
    def reads_train(self) -> bool:
        return self.influence.reads_train

    @property
    def state_settings(self) -> object:
        return self.influence.state_settings

    def state(self, task: Task, train: Examples) -> State:
        """The scale of LiSSA, found by power iteration unless given."""
        return self.influence.state(task, train)

    def fitted(self, task: Task, state: State, train: Examples | None) -> Fitted:
        return self.influence.fitted(task, state, train)


@dataclass(frozen=True, eq=False)
class STest:
    """s_test of some queries, (k, p), from independent repeats.

    error (k,) estimates |s_test - its expectation| from the spread of the repeats; nan with one
    repeat. The bias by truncation and damping is not part of it.
    """

    mean: Tensor
    error: Tensor
    repeats: int

    @property
    def relative_error(self) -> Tensor:
        """error / |s_test|, (k,)."""
        return self.error / norms(self.mean)


@dataclass(frozen=True, eq=False)
class Scored:
    """Candidates of each query, (n_query, k), and their scores: positive = proponent."""

    candidates: Tensor
    scores: Tensor
    s_test: STest


@full_precision()
def neighbours(query: Tensor, train: Tensor, k: int) -> Tensor:
    """The k training examples nearest by Euclidean distance, nearest first, (n_query, k).

    query, train (n, d) are features, compared where those of `train` lie: on the CPU by FAISS's
    flat index; by torch where that is not installed, and on other devices. The positions are in the
    CPU's memory.
    """
    at_least(1, k=k)
    if k > len(train):
        raise MethodError(f"{k} neighbours among {len(train)} training examples: lower k")
    if query.shape[1] != train.shape[1]:
        raise MethodError(
            f"features of {query.shape[1]} and {train.shape[1]} numbers: take both from one model"
        )
    refuse_rows("the features of query", query)
    refuse_rows("the features of training example", train)
    query = query.to(train.device)
    if train.device.type != "cpu":
        return _nearest(query, train, k)
    try:
        faiss = load_faiss()
    except MethodError:
        return _nearest(query, train, k)
    index = faiss.IndexFlatL2(train.shape[1])
    index.add(train.float().cpu().contiguous().numpy())
    found = torch.from_numpy(index.search(query.float().cpu().contiguous().numpy(), k)[1])
    if (found < 0).any():  # its answer where distances overflow
        raise MethodError(NOT_FINITE)
    return found


def _nearest(query: Tensor, train: Tensor, k: int) -> Tensor:
    """`neighbours` by torch: |t|^2 - 2 q.t has the same order as the distance; ties by position."""
    squares, step = train.square().sum(1), max(1, DISTANCES // len(train))
    distances = (squares - 2 * some @ train.T for some in query.split(step))
    blocks = [lowest(each, k) for each in distances]
    ordered(torch.cat([values for values, _ in blocks]))
    return torch.cat([positions for _, positions in blocks]).cpu()


def s_test(
    task: Task, train: Examples, query: Examples, settings: FastIF, group: Group = ALONE
) -> STest:
    """H^-1 times the gradient of each query's measurement; every process gets all of it.

    Each Hessian product, and each minibatch, serves all queries. The repeats do not depend on the
    number of processes.
    """
    gradients = gradient_rows(task, query, task.measurement).dense()
    return inverted(task, train, gradients, settings, group)


def inverted(
    task: Task, train: Examples, vectors: Tensor, settings: FastIF, group: Group = ALONE
) -> STest:
    """The inverse Hessian times vectors (k, p), averaged over repeats."""
    recursion = recursion_of(task, train, settings)
    return averaged(recursion, vectors, settings.lissa.repeats, group)


def averaged(
    recursion: Recursion, vectors: Tensor, repeats: int, group: Group = ALONE, first: int = 0
) -> STest:
    """The same by a recursion that exists already, over its repeats from number `first` on."""
    k, p = vectors.shape
    sums = vectors.new_zeros(k * p + k)  # of estimates and of their squares: one all-reduce
    for repeat in group.share(repeats):
        estimate = recursion.estimate(vectors, first + repeat)
        sums[: k * p] += estimate.flatten()
        sums[k * p :] += estimate.square().sum(1)
    group.sum(sums)
    mean = sums[: k * p].view(k, p) / repeats
    if vectors.any() and not mean.any():
        raise MethodError("every s_test is 0: lower LiSSA's `scale`, or `damping`")
    if repeats == 1:
        return STest(mean, torch.full_like(mean[:, 0], torch.nan), 1)
    scatter = (sums[k * p :] - repeats * mean.square().sum(1)).clamp_min(0)
    return STest(mean, (scatter / (repeats * (repeats - 1))).sqrt(), repeats)


def recursion_of(task: Task, train: Examples, settings: FastIF) -> Recursion:
    """LiSSA over the damped Hessian of the training loss, its scale found unless given."""
    hessian = settings.influence.hessian(task, train)
    return settings.lissa.invert(hessian, settings.lissa.state(hessian))


def scores(
    task: Task, s_test: Tensor, candidates: Examples, index: Tensor, group: Group = ALONE
) -> Tensor:
    """<s_test of each query, gradient of each of its candidates>, (n_query, k).

    index (n_query, k) are positions among the candidates. Candidates with a column `length` are
    taken in its order, so that batches are padded little.
    """
    candidates, gradients = sourced(candidates), Gradients(task)
    out = torch.zeros(index.shape, dtype=task.dtype)
    index, s_test = index.cpu(), s_test.to(task.device)

    @repeated
    def fill() -> None:
        for row in range(len(index)):
            own = torch.tensor(group.share(index.shape[1]))
            own = own[_by_length(candidates, index[row, own])]
            direction = Rows.dense_of(s_test[row : row + 1], gradients.sizes())
            step = gradients.chunk(take(candidates, index[row, :4]))
            for places in own.split(step):
                rows = gradients.rows(take(candidates, index[row, places]))
                out[row, places] = rows.inner(direction)[:, 0].cpu()

    fill()
    if not torch.isfinite(out).all():
        raise MethodError("a score is not finite: raise `damping`, or LiSSA's `scale`")
    return group.sum(out)


def _by_length(candidates: Examples, index: Tensor) -> Tensor:
    length = candidates.get("length")
    return torch.arange(len(index)) if length is None else length[index].cpu().argsort(stable=True)


def influential(
    task: Task,
    train: Examples,
    query: Examples,
    features: tuple[Tensor, Tensor],
    settings: FastIF,
    candidates: Examples | None = None,
    group: Group = ALONE,
) -> Scored:
    """The whole procedure: candidates, s_test, scores.

    features are those of the queries and of the candidates, (n, d) both. The candidates are the
    training examples unless others are given (Sec. 6.3, data augmentation): the Hessian is always
    that of the training loss.
    """
    train, query = sourced(train), sourced(query)
    pool = train if candidates is None else sourced(candidates)
    n, n_query = count(pool), count(query)
    if len(features[0]) != n_query or len(features[1]) != n:
        raise MethodError(
            f"features of {len(features[0])} queries and {len(features[1])} candidates for "
            f"{n_query} and {n}: give one row each"
        )
    if settings.k is None:
        index = torch.arange(n).expand(n_query, n)
    else:
        index = neighbours(*features, settings.k)
    estimate = s_test(task, train, query, settings, group)
    return Scored(index, scores(task, estimate.mean, pool, index, group), estimate)
