"""An attribution method is two embeddings and an inner product.

THE sign convention: a positive score is a proponent, helpful: upweighting the candidate lowers
the query's measurement. Rows of a score matrix are queries, columns are candidates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.progress import track
from methods.rows.gradients import Gradients
from methods.rows.matmul import product
from methods.rows.projections import Map
from methods.rows.rows import Rows
from methods.search.ranking import highest, lowest
from methods.task import Examples, Task, chunks, count

TOGETHER = 1 << 23  # numbers of rows projected at once: directions are read once for all of them
HELD = 1 << 30  # bytes of query rows held while candidates stream past

Prepared = dict[str, Tensor]


class Attributor(ABC):
    """A frozen dataclass of hyper-parameters."""

    @abstractmethod
    def fit(self, task: Task, train: Examples, prepared: Prepared | None = None) -> Fitted:
        """Do the once-per-model work; `train` is what the curvature is estimated on."""

    def prepare(self, task: Task, train: Examples) -> Prepared:
        """The expensive part of `fit` as arrays that may be saved and passed to it."""
        return {}

    @property
    def preparation(self) -> Any:
        """What `prepare` depends on: a frozen dataclass, None if there is nothing to prepare."""
        return None

    def scores(self, task: Task, train: Examples, query: Examples) -> Tensor:
        """Fit, then score every training example for every query, (n_query, n_train)."""
        return self.fit(task, train).scores(query, train)

    def self_influence(self, task: Task, train: Examples) -> Tensor:
        """Fit, then score every training example for itself, (n_train,)."""
        return self.fit(task, train).self_influence(train)


class Fitted(ABC):
    """A method fitted to a task: the rows of queries and of candidates."""

    task: Task

    @abstractmethod
    def query_rows(self, examples: Examples) -> Rows: ...

    @abstractmethod
    def train_rows(self, examples: Examples) -> Rows: ...

    def own_rows(self, examples: Examples) -> tuple[Rows, Rows]:
        """Query and train rows of the same examples; override where they share work."""
        return self.query_rows(examples), self.train_rows(examples)

    def terms(self) -> Iterable[Fitted]:
        """Addends of the score, as one a checkpoint; fewer rows are held at once."""
        return (self,)

    def chunk(self, examples: Examples) -> int:
        """How many examples to take at a time."""
        return 64

    def query_chunk(self, examples: Examples) -> int:
        """The same for queries, which may lack the columns of the training loss."""
        return self.chunk(examples)

    def scores(self, query: Examples, candidates: Examples) -> Tensor:
        """(n_query, n_candidates), on the CPU; positive = proponent."""
        _ready(self.task, query=query, candidates=candidates)
        total = torch.zeros(count(query), count(candidates), dtype=self.task.dtype)
        for term in self.terms():
            step = term.query_chunk(query)
            held: list[Rows] = []
            first = 0
            for some in chunks(query, step):
                held.append(term.query_rows(some).compact())
                size = sum(rows.elements for rows in held) * 4
                if size >= HELD:
                    first = term._against(held, candidates, total, first)
            if held:
                term._against(held, candidates, total, first)
        return _finite(total)

    def _against(self, held: list[Rows], candidates: Examples, total: Tensor, first: int) -> int:
        """Add the scores of the held queries, from row `first` on; empty them; return the next."""
        rows = Rows.stacked(held)
        held.clear()
        step, start = self.chunk(candidates), 0
        for some in track(list(chunks(candidates, step)), "scores"):
            block = rows.inner(self.train_rows(some)).cpu()
            total[first : first + rows.count, start : start + count(some)] += block
            start += count(some)
        return first + rows.count

    def self_influence(self, candidates: Examples) -> Tensor:
        """(n_candidates,), on the CPU: the diagonal of `scores`, without the rest."""
        _ready(self.task, candidates=candidates)
        total: Tensor | None = None
        for term in self.terms():
            pieces = []
            for some in track(list(chunks(candidates, term.chunk(candidates))), "self-influence"):
                query, train = term.own_rows(some)
                same = query is train
                value = query.squared_norms() if same else query.paired(train)
                pieces.append(value.cpu())
            added = torch.cat(pieces)
            total = added if total is None else total + added
        if total is None:
            raise MethodError("a method without terms")
        return _finite(total)

    def proponents(self, query: Examples, candidates: Examples, k: int) -> tuple[Tensor, Tensor]:
        """The k highest scores of each query and their candidates, (n_query, k) both.

        Equal scores come in the order of the candidates.
        """
        return highest(self.scores(query, candidates), k)

    def opponents(self, query: Examples, candidates: Examples, k: int) -> tuple[Tensor, Tensor]:
        """The k lowest scores of each query and their candidates, lowest first."""
        return lowest(self.scores(query, candidates), k)


def _ready(task: Task, **examples: Examples) -> None:
    task.check()
    for name, columns in examples.items():
        if count(columns) == 0:
            raise MethodError(f"{name} has no examples: give one at least")


def _finite(scores: Tensor) -> Tensor:
    if not torch.isfinite(scores).all():
        bad = int((~torch.isfinite(scores)).sum())
        raise MethodError(
            f"{bad} of {scores.numel()} scores are not finite: look for NaN in the data or the "
            "parameters; with a Hessian, raise `damping`"
        )
    return scores


class FittedGradients(Fitted):
    """What fitted methods over per-example gradients share."""

    def __init__(self, task: Task, like: FittedGradients | None = None) -> None:
        self.task = task
        self.gradients: Gradients = Gradients(task, task.loss, like.gradients if like else None)
        self.measured = (
            self.gradients if task.measurement is task.loss else Gradients(task, task.measurement)
        )

    def chunk(self, examples: Examples) -> int:
        return self.step(self.gradients, examples)

    def query_chunk(self, examples: Examples) -> int:
        return self.step(self.measured, examples)

    def step(self, gradients: Gradients, examples: Examples) -> int:
        """How many of these gradients to take at a time."""
        gradients.probe(examples)
        return gradients.chunk

    def train_gradients(self, examples: Examples) -> Rows:
        return self.gradients.rows(self.task.move(examples))

    def query_gradients(self, examples: Examples) -> Rows:
        return self.measured.rows(self.task.move(examples))

    def sizes(self) -> dict[str, int]:
        return {n: v.numel() for n, v in self.task.params.items()}


@dataclass(frozen=True, eq=False)
class Bilinear:
    """The matrix left^T middle right: an inverse Hessian known on a few directions.

    left, right are maps of p numbers to d; middle is (d,) for a diagonal, (d, d), or None.
    """

    left: Map
    right: Map
    middle: Tensor | None = None

    def weigh(self, embedded: Tensor) -> Tensor:
        if self.middle is None:
            return embedded
        return embedded * self.middle if self.middle.ndim == 1 else embedded @ self.middle


class Embedded(FittedGradients):
    """Gradients projected on few directions: both embeddings have d numbers."""

    def __init__(self, task: Task, form: Bilinear) -> None:
        super().__init__(task)
        self.form = form

    def step(self, gradients: Gradients, examples: Examples) -> int:
        gradients.probe(examples)
        return gradients.projected_chunk

    def query_rows(self, examples: Examples) -> Rows:
        left = self.embed(examples, self.form.left, self.measured)
        return Rows.dense_of(self.form.weigh(left))

    def train_rows(self, examples: Examples) -> Rows:
        return Rows.dense_of(self.embed(examples, self.form.right, self.gradients))

    def scores(self, query: Examples, candidates: Examples) -> Tensor:
        _ready(self.task, query=query, candidates=candidates)
        left = self.form.weigh(self.embed(query, self.form.left, self.measured))
        right = self.embed(candidates, self.form.right, self.gradients)
        return _finite(product(left, right).cpu())

    def self_influence(self, candidates: Examples) -> Tensor:
        _ready(self.task, candidates=candidates)
        form = self.form
        right = self.embed(candidates, form.right, self.gradients)
        same = form.left is form.right and self.measured is self.gradients
        left = right if same else self.embed(candidates, form.left, self.measured)
        return _finite((form.weigh(left) * right).sum(1).cpu())

    def embed(self, examples: Examples, projection: Map, gradients: Gradients) -> Tensor:
        """Project the gradients of all examples, (n, d); directions are made once a pass."""
        slices = []
        for part in projection.slices():
            batches = list(chunks(examples, self.step(gradients, examples)))
            blocks, held = [], list[Rows]()
            for some in track(batches, "projecting gradients"):
                held.append(gradients.rows(self.task.move(some)).compact())
                if sum(rows.elements for rows in held) >= TOGETHER:
                    blocks.append(part.apply(Rows.stacked(held)))
                    held.clear()
            if held:
                blocks.append(part.apply(Rows.stacked(held)))
            slices.append(torch.cat(blocks))
        return torch.cat(slices, dim=1)
