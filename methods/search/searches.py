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
from methods.finite import finite
from methods.precision import FullPrecision
from methods.rows.matmul import product

BLOCK = 1 << 24  # scores in memory at once in an exact search
NOT_FINITE = (
    "a score or a distance is not finite: its numbers are too large for their type, so scale them "
    "down, or give them in float64"
)


def highest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of (n, m) and their positions, (n, k) both; ties by position."""
    refuse_k(k, scores.shape[1])
    values, positions = scores.topk(k)
    least = values[:, -1:]
    # topk picks any of those tied at the last value
    crowded = ((scores >= least).sum(1) > k).nonzero()[:, 0]
    for rows in crowded.split(max(1, BLOCK // scores.shape[1])) if len(crowded) else ():
        above, tied = scores[rows] > least[rows], scores[rows] == least[rows]
        room = k - above.sum(1, keepdim=True)
        chosen = above | (tied & (tied.cumsum(1) <= room))
        positions[rows] = chosen.nonzero()[:, 1].view(-1, k)
    positions = positions.sort(dim=1).values
    values, order = scores.gather(1, positions).sort(dim=1, descending=True, stable=True)
    return values, positions.gather(1, order)


def ordered(values: Tensor) -> Tensor:
    """The best values of a search, refused if they are not finite: NaN and infinity come first."""
    if not finite([values]):
        raise MethodError(NOT_FINITE)
    return values


def refuse_rows(what: str, rows: Tensor) -> None:
    """Refuse rows (n, d) with a number that is not finite: no distance or product orders them."""
    if not finite([rows]):
        wrong = int((~rows.isfinite().all(1)).nonzero()[0, 0])
        raise MethodError(
            f"{what} {wrong} have a number that is not finite: look for NaN in the data or the "
            "parameters"
        )


def refuse_k(k: int, n: int) -> None:
    if isinstance(k, bool) or not hasattr(k, "__index__"):
        raise MethodError(f"k is {k}: give a whole number from 1 to {n}")
    if not 0 < k <= n:
        raise MethodError(f"the {k} highest of {n} scores: choose from 1 to {n}")


def lowest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each row and their positions, smallest first; ties by position."""
    values, positions = highest(-scores, k)
    return -values, positions


class Search(FullPrecision, ABC):
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
        """Scores and positions of the k best for each row, (n_query, k) both, on the CPU."""


@dataclass(frozen=True)
class Exact(Search):
    """Every candidate: the same as Fitted.proponents, ties in the order of the candidates."""

    def build(self, rows: Tensor) -> Tensor:
        return rows

    def find(
        self, engine: Tensor, rows: Tensor, k: int, effort: int | None
    ) -> tuple[Tensor, Tensor]:
        some = rows.to(engine.device).split(max(1, BLOCK // len(engine)))
        blocks = [highest(product(each, engine), k) for each in some]
        return ordered(torch.cat([v for v, _ in blocks]).cpu()), torch.cat(
            [i for _, i in blocks]
        ).cpu()


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
        faiss, values = load_faiss(), rows.float().cpu().numpy()
        engine = self._empty(faiss, *values.shape)
        if not engine.is_trained:
            engine.train(values)
        engine.add(values)
        return engine

    def find(self, engine: Any, rows: Tensor, k: int, effort: int | None) -> tuple[Tensor, Tensor]:
        parameters = self._parameters(load_faiss(), effort)
        found = engine.search(rows.float().cpu().numpy(), k, params=parameters)
        scores, positions = (torch.from_numpy(each) for each in found)
        # FAISS finds no place for NaN, and none where a search ends before k candidates.
        if (positions[:, 0] < 0).any() or not finite([scores[positions >= 0]]):
            raise MethodError(NOT_FINITE)
        return scores, positions


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
