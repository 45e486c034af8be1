"""Low-latency proponents: an index over the rows of candidates (TracIn, Sec. C).

A score is an inner product of two rows, so the proponents of a query are the candidates whose rows
have the largest inner product with its own: for TracIn, the gradients of all checkpoints, times
the roots of their learning rates, end to end. Short rows come from methods.projected.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from methods.attributor import Fitted
from methods.errors import MethodError
from methods.progress import track
from methods.rows.rows import Rows
from methods.search.projected import Projected
from methods.search.search import Exact, Search
from methods.task import Examples, chunks, count, take

BUDGET = 4 << 30  # bytes an index may take while it is built
PROBES = 4  # candidates whose rows tell one index from another


@dataclass(frozen=True, eq=False)
class Index:
    """Candidates' rows ready to be searched; `probe` are rows of a few of them."""

    method: Search
    engine: Any
    n: int
    dim: int
    probe: Tensor

    def search(
        self, rows: Rows | Tensor, k: int, effort: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The k proponents found for each query row: scores and candidates, (n_query, k) both.

        `effort` replaces the method's own: more of it finds more of the true ones, and is slower.
        """
        dense = (rows.dense() if isinstance(rows, Rows) else rows).cpu()
        if dense.shape[1] != self.dim:
            raise MethodError(
                f"query rows of {dense.shape[1]} numbers, the index has {self.dim}: "
                "it was built from another model, other checkpoints or another projection"
            )
        if not 0 < k <= self.n:
            raise MethodError(f"the {k} nearest of {self.n} candidates: choose from 1 to {self.n}")
        return self.method.find(self.engine, dense, k, effort)


def build(
    fitted: Fitted, candidates: Examples, method: Search | None = None, budget: int = BUDGET
) -> Index:
    """Index the candidates' rows; an error before any work if that takes more than `budget` bytes.

    `fitted` may be Projected, so that rows are short.
    """
    method, n = method or Exact(), count(candidates)
    method.check(n)
    dim = width(fitted, candidates)
    _afford(method, n, dim, fitted, budget)
    return over(gather(fitted, candidates, dim), method)


def over(rows: Tensor, method: Search) -> Index:
    """Index rows (n, dim) that are there already, as `gather` makes them."""
    n, dim = rows.shape
    method.check(n)
    return Index(method, method.build(rows), n, dim, rows[probed(n)].clone())


def gather(fitted: Fitted, candidates: Examples, dim: int | None = None) -> Tensor:
    """The candidates' rows, term after term, (n, dim), on the CPU."""
    n = count(candidates)
    dim = width(fitted, candidates) if dim is None else dim
    rows, first = torch.empty(n, dim, dtype=fitted.task.dtype), 0
    for term in fitted.terms():
        start, size = 0, 0
        for some in track(list(chunks(candidates, term.chunk(candidates))), "rows"):
            block = term.train_rows(some).dense()
            size = block.shape[1]
            rows[start : start + len(block), first : first + size] = block
            start += len(block)
        first += size
    if not torch.isfinite(rows).all():
        raise MethodError("a row is not finite: look for NaN in the candidates or the parameters")
    return rows


def width(fitted: Fitted, candidates: Examples) -> int:
    """How many numbers a row has."""
    return fitted.train_rows(take(candidates, slice(0, 1))).dense().shape[1]


def _afford(method: Search, n: int, dim: int, fitted: Fitted, budget: int) -> None:
    itemsize = fitted.task.dtype.itemsize
    planned = method.planned(n, dim, itemsize)
    if planned <= budget:
        return
    terms = len(fitted.addends if isinstance(fitted, Projected) else list(fitted.terms()))
    per_row = budget // n - method.overhead
    fits = isqrt(max(0, per_row // (method.copies * itemsize * terms))) ** 2
    remedy = f"project them, Projected(fitted, TwoSided({fits})) fits, or" if fits else "please"
    raise MethodError(
        f"{n} rows of {dim} numbers take {planned / 2**30:.3g} GiB, the budget is "
        f"{budget / 2**30:.3g}: {remedy} raise `budget`"
    )


def probed(n: int) -> Tensor:
    """The candidates whose rows are kept to tell this index from another."""
    return torch.linspace(0, n - 1, min(n, PROBES)).round().long()
