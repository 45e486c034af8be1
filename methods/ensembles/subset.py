"""Influence and memorization from models trained on random subsets (Feldman & Zhang, 2020).

masks     (n_models, n_train), which examples each model was trained on
outcomes  (n_models, n_query), whether each model is right about each query (booleans), or how
          probable it takes the right class to be

The influence of an example on a query is the query's mean outcome over the models trained with
the example, minus that over the models trained without it (Subsets, Sec. 2.3): positive = helpful.
Rows are queries. An example that was in every mask, or in none, has no estimate: nan, not 0.

All pairs cost one product of zeros and ones, exact in 8-bit integers. For 2,000 models, 50,000
examples and 10,000 queries that is 2e12 operations, and memory, for any number of models,
is 4 bytes per pair for the sums and 4 for the estimate: 4 GB, 6 with standard errors. On one thread
of an AMD EPYC it takes 6 seconds of the processor's time, 1.3 times the product alone, as
`experiments/speed_ensembles.py` measures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from methods.ensembles.masks import Packed
from methods.errors import MethodError
from methods.rows.matmul import count_product

QUERIES, EXAMPLES = 1_024, 8_192  # in a block of a product: the fastest of those tried
PAIRS = 1 << 17  # finished at once, in cache
MODELS = 4_096  # unpacked at once

Rows = Tensor | np.ndarray | Packed


class Part(NamedTuple):
    """Sums over all models, and over those trained on each example, shaped to broadcast."""

    some: slice
    total: Tensor
    within: Tensor


class _Sums(ABC):
    """The sums over models that an estimate needs; sums over parts of them merge in any order.

    n_models  how many are counted in
    inside    (n_train,) int64, models trained on each example
    total     (n_query,), outcomes summed over all models
    within    outcomes summed over the models trained on each example

    Booleans are counted exactly, in any order. Other outcomes are summed in float64, at a tenth of
    the speed, and their squares in `squares`; booleans equal their squares.
    """

    def __init__(self, n_train: int, n_query: int, dtype: torch.dtype = torch.bool) -> None:
        counted = dtype == torch.bool
        self.dtype = dtype
        self.n_models = 0
        self.inside = torch.zeros(n_train, dtype=torch.int64)
        self.total = torch.zeros(n_query, dtype=torch.int64 if counted else torch.float64)
        each = torch.int32 if counted else torch.float64
        self.within = torch.zeros(self._shape(n_train, n_query), dtype=each)
        self.squares = None if counted else (self.total.clone(), self.within.clone())

    @classmethod
    def of(cls, masks: Rows, outcomes: Rows) -> Self:
        """The sums over some models."""
        sums = cls(_width(masks), _width(outcomes), _taken(outcomes, slice(0)).dtype)
        sums.add(masks, outcomes)
        return sums

    def add(self, masks: Rows, outcomes: Rows) -> None:
        """Count further models in: a mask and the outcomes of each."""
        given = (len(masks), _width(masks)), (len(outcomes), _width(outcomes))
        wanted = (len(masks), len(self.inside)), (len(masks), len(self.total))
        if given != wanted:
            raise MethodError(
                f"masks {given[0]} and outcomes {given[1]}, where {wanted[0]} and {wanted[1]} "
                "fit these sums: give a mask and the outcomes of each model of one ensemble"
            )
        for start in range(0, len(masks), MODELS):
            some = slice(start, start + MODELS)
            results = _taken(outcomes, some)
            self._add(_taken(masks, some).bool().to(results.device), results)

    def merge(self, other: Self) -> None:
        """Count in the models of other sums, another job's for instance."""
        if (self.within.shape, self.dtype) != (other.within.shape, other.dtype):
            raise MethodError(
                f"sums of {tuple(other.within.shape)} {other.dtype} do not add to sums of "
                f"{tuple(self.within.shape)} {self.dtype}: they are of another ensemble"
            )
        self.n_models += other.n_models
        self.inside += other.inside
        self.total += other.total
        self.within += other.within
        for mine, theirs in zip(self.squares or (), other.squares or (), strict=True):
            mine += theirs

    def influence(self) -> Tensor:
        """Mean outcome with each example minus that without it, float32, shaped as `within`."""
        influence = torch.empty(self.within.shape)
        without = _inverse(self.n_models - self.inside)
        weight = _inverse(self.inside) + without
        for some, total, within in self._parts(self.total, self.within):
            influence[some] = within.mul_(weight).addcmul_(total, without, value=-1)
        return influence

    def standard_errors(self) -> Tensor:
        """Standard errors of the influence, in its shape: Welch's, with a variance for each arm.

        nan where an arm has fewer than two models. 0 where all models of each arm agree, which few
        models may do by chance: `plan.standard_error` predicts the error without outcomes.
        """
        errors = torch.empty(self.within.shape)
        sums = self._parts(self.total, self.within)
        squares = self._parts(*(self.squares or (self.total, self.within)))
        for (some, total, within), (_, total2, within2) in zip(sums, squares, strict=True):
            variance = _of_mean(within, within2, self.inside)
            without, without2 = total - within, total2 - within2
            variance += _of_mean(without, without2, self.n_models - self.inside)
            errors[some] = variance.clamp_(min=0).sqrt_()
        return errors

    def _add(self, masks: Tensor, outcomes: Tensor) -> None:
        outcomes = outcomes.to(self.dtype)
        self.n_models += len(masks)
        self.inside += _summed(masks)
        self._count(self.total, self.within, masks, outcomes)
        if self.squares is not None:
            self._count(*self.squares, masks, outcomes.square())

    def _count(self, total: Tensor, within: Tensor, masks: Tensor, outcomes: Tensor) -> None:
        total += _summed(outcomes)
        self._accumulate(within, masks, outcomes)

    @abstractmethod
    def _shape(self, n_train: int, n_query: int) -> tuple[int, ...]:
        """The shape of `within`."""

    @abstractmethod
    def _accumulate(self, within: Tensor, masks: Tensor, outcomes: Tensor) -> None:
        """Add the outcomes of the models trained on each example."""

    @abstractmethod
    def _parts(self, total: Tensor, within: Tensor) -> Iterator[Part]:
        """Yield the sums block by block, `within` as a copy that may be overwritten."""


class Sums(_Sums):
    """Sums for the influence of every example on every query: `within` is (n_query, n_train)."""

    def _shape(self, n_train: int, n_query: int) -> tuple[int, ...]:
        return n_query, n_train

    def _accumulate(self, within: Tensor, masks: Tensor, outcomes: Tensor) -> None:
        counted = outcomes.dtype == torch.bool
        dtype = torch.int8 if counted else torch.float64
        n_query, n_train = within.shape
        for column in range(0, n_train, EXAMPLES):
            these = slice(column, column + EXAMPLES)
            right = masks[:, these].to(dtype)
            for row in range(0, n_query, QUERIES):
                some = slice(row, row + QUERIES)
                left = outcomes[:, some].T.to(dtype).contiguous()
                sums = count_product(left, right) if counted else left @ right
                within[some, these] += sums.cpu()

    def _parts(self, total: Tensor, within: Tensor) -> Iterator[Part]:
        rows = max(1, PAIRS // max(1, within.shape[1]))
        for start in range(0, len(within), rows):
            some = slice(start, start + rows)
            yield Part(some, total[some, None].double(), _copied(within[some]))


class OwnSums(_Sums):
    """Sums for the influence of every example on itself: `within` is (n_train,), without a product.

    Outcomes are on the training examples themselves, in the order of the masks.
    """

    def _shape(self, n_train: int, n_query: int) -> tuple[int, ...]:
        if n_train != n_query:
            raise MethodError(
                f"outcomes of {n_query} queries for {n_train} training examples: memorization "
                "needs the outcomes of each model on all training examples, in their order"
            )
        return (n_train,)

    def _accumulate(self, within: Tensor, masks: Tensor, outcomes: Tensor) -> None:
        within += _summed(masks * outcomes)

    def _parts(self, total: Tensor, within: Tensor) -> Iterator[Part]:
        yield Part(slice(None), total.double(), _copied(within))


def influence(masks: Rows, outcomes: Rows) -> Tensor:
    """The influence of every training example on every query, (n_query, n_train) float32."""
    return Sums.of(masks, outcomes).influence()


def memorization(masks: Rows, outcomes: Rows) -> Tensor:
    """The influence of every training example on itself, (n_train,) float32.

    `outcomes` (n_models, n_train) are on the training examples, in the order of the masks.
    """
    return OwnSums.of(masks, outcomes).influence()


def _summed(values: Tensor) -> Tensor:
    """Sums over models, on the CPU; of booleans by a product, many times faster than `sum`."""
    if values.dtype != torch.bool:
        return values.sum(0, dtype=torch.float64).cpu()
    ones = torch.ones(1, len(values), dtype=torch.int8, device=values.device)
    return count_product(ones, values.to(torch.int8))[0].cpu()


def _of_mean(summed: Tensor, squares: Tensor, count: Tensor) -> Tensor:
    """The estimated variance of the mean of `count` values; nan below two."""
    scale = _inverse(count - 1) / count
    return summed.square().mul_(-scale / count).addcmul_(squares, scale)


def _inverse(count: Tensor) -> Tensor:
    return torch.where(count > 0, 1 / count.double(), torch.nan)


def _copied(values: Tensor) -> Tensor:
    return values.to(torch.float64, copy=True)


def _width(rows: Rows) -> int:
    return rows.width if isinstance(rows, Packed) else int(rows.shape[1])


def _taken(rows: Rows, some: slice) -> Tensor:
    return rows.unpacked(some) if isinstance(rows, Packed) else torch.as_tensor(rows[some])
