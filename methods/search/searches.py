"""Searches for the largest scores: of a score matrix, and of inner products with candidates' rows.

`Exact` computes every inner product; `HNSW` and `IVF` (FAISS: `pip install 'retrace[index]'`) few.
HNSW walks by the inner product itself, which is no metric. With one more coordinate, which makes
all rows equally long and the inner product a metric, it finds fewer proponents at equal work:
gradients differ in length by orders of magnitude, and all but the longest then look alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.rows.matmul import product

BLOCK = 1 << 24  # scores in memory at once in an exact search


def highest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of (n, m) and their positions, (n, k) both; ties by position."""
    if not 0 < k <= scores.shape[1]:
        raise MethodError(
            f"the {k} highest of {scores.shape[1]} scores: choose from 1 to {scores.shape[1]}"
        )
    values, positions = scores.topk(k)
    least = values[:, -1:]
    crowded = (scores >= least).sum(1) > k  # topk picks any of those tied at the last value
    for row in crowded.nonzero()[:, 0].tolist():
        above = int((values[row] > least[row]).sum())
        tied = (scores[row] == least[row]).nonzero()[:, 0]
        positions[row, above:] = tied[: k - above]
    positions = positions.sort(dim=1).values
    values, order = scores.gather(1, positions).sort(dim=1, descending=True, stable=True)
    return values, positions.gather(1, order)


def lowest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each row and their positions, smallest first; ties by position."""
    values, positions = highest(-scores, k)
    return -values, positions


class Search(ABC):
    """A way to search candidates: a frozen dataclass."""

    copies: ClassVar[int] = 1
    """How often every row is in memory while the index is built."""

    def planned(self, n: int, dim: int, itemsize: int = 4) -> int:
        """Bytes needed for n rows of `dim` numbers."""
        return n * (self.copies * dim * itemsize + self.overhead)

    @property
    def overhead(self) -> int:
        """Bytes a candidate needs in addition to its row."""
        return 0

    def check(self, n: int) -> None:
        """Refuse before any work what would fail after it."""
        if n < 1:
            raise MethodError("no candidates to search: give at least one")

    @abstractmethod
    def build(self, rows: Tensor) -> Any:
        """The searchable form of the candidates' rows (n, dim)."""

    @abstractmethod
    def find(self, engine: Any, rows: Tensor, k: int, effort: int | None) -> tuple[Tensor, Tensor]:
        """Scores and positions of the k best for each row, (n_query, k) both."""


@dataclass(frozen=True)
class Exact(Search):
    """Every candidate: the same as Fitted.proponents, ties in the order of the candidates."""

    def build(self, rows: Tensor) -> Tensor:
        return rows

    def find(
        self, engine: Tensor, rows: Tensor, k: int, effort: int | None
    ) -> tuple[Tensor, Tensor]:
        step = max(1, BLOCK // len(engine))
        blocks = [highest(product(some, engine), k) for some in rows.split(step)]
        return torch.cat([v for v, _ in blocks]), torch.cat([i for _, i in blocks])


class _Faiss(Search):
    copies = 2  # the rows, and FAISS's own

    def check(self, n: int) -> None:
        super().check(n)
        load_faiss()

    @abstractmethod
    def _empty(self, faiss: Any, n: int, dim: int) -> Any: ...

    @abstractmethod
    def _parameters(self, faiss: Any, effort: int | None) -> Any: ...

    def build(self, rows: Tensor) -> Any:
        faiss, values = load_faiss(), rows.float().numpy()
        engine = self._empty(faiss, *values.shape)
        if not engine.is_trained:
            engine.train(values)
        engine.add(values)
        return engine

    def find(self, engine: Any, rows: Tensor, k: int, effort: int | None) -> tuple[Tensor, Tensor]:
        parameters = self._parameters(load_faiss(), effort)
        scores, positions = engine.search(rows.float().numpy(), k, params=parameters)
        return torch.from_numpy(scores), torch.from_numpy(positions)


@dataclass(frozen=True)
class HNSW(_Faiss):
    """A graph of neighbours walked greedily (Malkov & Yashunin, 2018).

    links         neighbours a candidate keeps (twice as many on the ground level)
    construction  candidates considered for them
    effort        candidates kept in view during a search (efSearch)
    """

    links: int = 16
    construction: int = 80
    effort: int = 64

    @property
    def overhead(self) -> int:
        return 4 * 2 * (self.links + 1) + 16

    def _empty(self, faiss: Any, n: int, dim: int) -> Any:
        engine = faiss.IndexHNSWFlat(dim, self.links, faiss.METRIC_INNER_PRODUCT)
        engine.hnsw.efConstruction = self.construction
        return engine

    def _parameters(self, faiss: Any, effort: int | None) -> Any:
        return faiss.SearchParametersHNSW(efSearch=effort or self.effort)


@dataclass(frozen=True)
class IVF(_Faiss):
    """Candidates in `lists` clusters; a search looks through `effort` of them (nprobe).

    It may find fewer than k: the rest have position -1 and the lowest score possible.
    """

    lists: int = 256
    effort: int = 16

    @property
    def overhead(self) -> int:
        return 8

    def check(self, n: int) -> None:
        super().check(n)
        if not 0 < self.lists <= n:
            raise MethodError(f"{self.lists} lists for {n} candidates: choose from 1 to {n}")

    def _empty(self, faiss: Any, n: int, dim: int) -> Any:
        coarse, metric = faiss.IndexFlatIP(dim), faiss.METRIC_INNER_PRODUCT
        engine = faiss.IndexIVFFlat(coarse, dim, self.lists, metric)
        engine.cp.min_points_per_centroid = 1  # otherwise FAISS warns of small clusters
        return engine

    def _parameters(self, faiss: Any, effort: int | None) -> Any:
        return faiss.SearchParametersIVF(nprobe=effort or self.effort)


def load_faiss() -> Any:
    """The library, or how to get it."""
    try:
        import faiss
    except ImportError as error:
        raise MethodError(
            "HNSW and IVF need FAISS, which is not installed: `pip install 'retrace[index]'`, "
            "or search with Exact()"
        ) from error
    return faiss
