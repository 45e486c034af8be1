"""Ways to look through candidates' rows for the largest inner products with a query's.

`Exact` looks at every candidate; `HNSW` and `IVF` (FAISS: `pip install 'retrace[index]'`) at few.
HNSW walks by the inner product itself, which is no metric. Adding a coordinate that makes it one
(all rows of equal length) found fewer proponents at equal work: gradients differ in length by
orders of magnitude, and all but the longest then look alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.rows.matmul import product
from methods.search.ranking import highest

BLOCK = 1 << 24  # scores held at once by an exact search


class Search(ABC):
    """How candidates are looked through: a frozen dataclass."""

    copies: ClassVar[int] = 1
    """How often every row is in memory while the index is built."""

    def planned(self, n: int, dim: int, itemsize: int = 4) -> int:
        """Bytes needed for n rows of `dim` numbers."""
        return n * (self.copies * dim * itemsize + self.overhead)

    @property
    def overhead(self) -> int:
        """Bytes a candidate needs beside its row."""
        return 0

    def check(self, n: int) -> None:
        """Raise before any work what would fail after it."""
        if n < 1:
            raise MethodError("no candidates to search: give at least one")

    @abstractmethod
    def build(self, rows: Tensor) -> Any:
        """The searchable form of the candidates' rows (n, dim)."""

    @abstractmethod
    def find(self, engine: Any, rows: Tensor, k: int, effort: int | None) -> tuple[Tensor, Tensor]:
        """Scores and places of the k best found for each row, (n_query, k) both."""


@dataclass(frozen=True)
class Exact(Search):
    """Every candidate: what Fitted.proponents finds, equal scores in the order of candidates."""

    def build(self, rows: Tensor) -> Tensor:
        return rows

    def find(
        self, engine: Tensor, rows: Tensor, k: int, effort: int | None
    ) -> tuple[Tensor, Tensor]:
        step = max(1, BLOCK // len(engine))
        found = [highest(product(some, engine), k) for some in rows.split(step)]
        return torch.cat([v for v, _ in found]), torch.cat([i for _, i in found])


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
        scores, places = engine.search(rows.float().numpy(), k, params=parameters)
        return torch.from_numpy(scores), torch.from_numpy(places)


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
    """Candidates in `lists` clusters, of which a search looks through `effort` (nprobe).

    It may find fewer than k: the rest are places of -1 with the lowest score there is.
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
        engine.cp.min_points_per_centroid = 1  # else it warns where clusters are small
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
