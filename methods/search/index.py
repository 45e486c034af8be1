"""Low-latency proponents: an index over the rows of candidates (TracIn, Sec. C), and its files.

A score is an inner product of two rows, so the proponents of a query are the candidates whose rows
have the largest inner product with its own: for TracIn, the gradients of all checkpoints, times
the roots of their learning rates, end to end. `Projected` makes such rows short.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods import folders, memory
from methods.errors import MethodError
from methods.examples import Examples, count, sourced, take
from methods.fitted.scoring import Fitted
from methods.rows.factored import Rows
from methods.search.projected import Projected
from methods.search.searches import HNSW, IVF, Exact, Search, load_faiss, refuse_rows

BUDGET = 4 << 30  # bytes an index may take while it is built
PROBES = 4  # candidates whose rows distinguish one index from another
CLOSE = 1e-3  # relative: a row computed again, in another batch or on another machine
SEARCHES: dict[str, type[Search]] = {kind.__name__: kind for kind in (Exact, HNSW, IVF)}


@dataclass(frozen=True, eq=False)
class Index:
    """Candidates' rows ready to be searched.

    engine  the searchable form of the rows, as `method.build` made it
    n, dim  the number of candidates, and of numbers in a row
    probe   (m, dim), the rows of a few candidates, by which `load` recognises the index
    """

    method: Search
    engine: Any
    n: int
    dim: int
    probe: Tensor

    def search(
        self, rows: Rows | Tensor, k: int, effort: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The k proponents found for each query row: scores and candidates, (n_query, k) both.

        `effort` replaces the method's own: a higher one finds more of the true ones, and is slower.
        """
        dense = rows.dense() if isinstance(rows, Rows) else rows
        if dense.shape[1] != self.dim:
            raise MethodError(
                f"query rows of {dense.shape[1]} numbers, the index has {self.dim}: "
                "it was built from another model, other checkpoints or another projection"
            )
        if not 0 < k <= self.n:
            raise MethodError(f"the {k} nearest of {self.n} candidates: choose from 1 to {self.n}")
        refuse_rows("the rows of query", dense)
        return self.method.find(self.engine, dense, k, effort)


def build(
    fitted: Fitted, candidates: Examples, method: Search | None = None, budget: int = BUDGET
) -> Index:
    """Index the candidates' rows; an error before any work if that takes more than `budget` bytes.

    `fitted` may be Projected, so that rows are short.
    """
    candidates, method = sourced(candidates), method or Exact()
    n = count(candidates)
    method.check(n)
    dim = width(fitted, candidates)
    _check_budget(method, n, dim, fitted, budget)
    return build_from_rows(candidate_rows(fitted, candidates, dim), method)


def build_from_rows(rows: Tensor, method: Search) -> Index:
    """Index rows (n, dim) that `candidate_rows` made."""
    n, dim = rows.shape
    method.check(n)
    refuse_rows("the rows of candidate", rows)
    if not (rows[:1].any() or rows.any()):
        raise MethodError("every row is 0: look for a loss that is saturated or constant")
    return Index(method, method.build(rows), n, dim, rows[_probed(n)].cpu())


def candidate_rows(fitted: Fitted, candidates: Examples, dim: int | None = None) -> Tensor:
    """The candidates' rows, term after term, (n, dim); on the CPU unless the device has room."""
    candidates = sourced(candidates)
    n = count(candidates)
    dim = width(fitted, candidates) if dim is None else dim
    dtype, first = fitted.task.dtype, 0
    place = memory.place(fitted.task.device, n * dim * dtype.itemsize)
    rows = torch.empty(n, dim, dtype=dtype, device=place)
    for term in fitted.terms():
        start, size = 0, 0
        for some in term.tracked(candidates, "rows"):
            block = term.train_rows(some).dense()
            size = block.shape[1]
            rows[start : start + len(block), first : first + size] = block
            start += len(block)
        first += size
    return rows


def width(fitted: Fitted, candidates: Examples) -> int:
    """How many numbers a row has."""
    return fitted.train_rows(take(candidates, slice(0, 1))).dense().shape[1]


def save(index: Index, folder: Path | str) -> None:
    """Write the index to a new folder: index.json, the rows or FAISS's own file, and the probe."""

    def fill(unfinished: Path) -> None:
        if isinstance(index.method, Exact):
            np.save(unfinished / "rows.npy", index.engine.cpu().numpy())
        else:
            load_faiss().write_index(index.engine, str(unfinished / "index.faiss"))
        np.save(unfinished / "probe.npy", index.probe.numpy())

    method = {"type": type(index.method).__name__, **vars(index.method)}
    folders.write(folder, "index.json", {"method": method, "n": index.n, "dim": index.dim}, fill)


def load(folder: Path | str, fitted: Fitted, candidates: Examples) -> Index:
    """Read an index of these candidates' rows; one of others is refused, as is a damaged one.

    A few candidates' rows are computed again and compared with those it was built from.
    """
    candidates = sourced(candidates)
    index: Index = folders.read(folder, "index.json", "index", _read)
    again = "build it again, or load it with what it was built from"
    n, dim = count(candidates), width(fitted, candidates)
    if index.n != n:
        raise MethodError(
            f"{folders.quoted(folder)} indexes {index.n} candidates, these are {n}: {again}"
        )
    if index.dim != dim:
        raise MethodError(
            f"{folders.quoted(folder)} has rows of {index.dim} numbers, these have {dim}: {again}"
        )
    rows = fitted.train_rows(take(candidates, _probed(n))).dense().cpu()
    gaps = (rows - index.probe).norm(dim=1)
    wrong = gaps > CLOSE * index.probe.norm(dim=1)
    if wrong.any():
        place = int(_probed(n)[wrong][0])
        raise MethodError(
            f"{folders.quoted(folder)} has another row for candidate {place}: it is of other "
            "candidates, another "
            f"model, other checkpoints or another projection; {again}"
        )
    return index


def _read(folder: Path, about: Any) -> Index:
    settings = dict(about["method"])
    method = SEARCHES[settings.pop("type")](**settings)
    if isinstance(method, Exact):
        engine: Any = torch.from_numpy(np.load(folder / "rows.npy"))
    else:
        engine = load_faiss().read_index(str(folder / "index.faiss"))
    probe = torch.from_numpy(np.load(folder / "probe.npy"))
    return Index(method, engine, about["n"], about["dim"], probe)


def _check_budget(method: Search, n: int, dim: int, fitted: Fitted, budget: int) -> None:
    itemsize = fitted.task.dtype.itemsize
    planned = method.planned(n, dim, itemsize)
    if planned <= budget:
        return
    terms = len(fitted.addends if isinstance(fitted, Projected) else list(fitted.terms()))
    per_row = budget // n - method.overhead
    fits = max(0, per_row // (method.copies * itemsize * terms))
    remedy = f"project them, Projected(fitted, TwoSided({fits})) fits, or" if fits else "please"
    raise MethodError(
        f"{n} rows of {dim} numbers take {planned / 2**30:.3g} GiB, the budget is "
        f"{budget / 2**30:.3g}: {remedy} raise `budget`"
    )


def _probed(n: int) -> Tensor:
    """The candidates whose rows are kept to distinguish this index from another."""
    return torch.linspace(0, n - 1, min(n, PROBES)).round().long()
