"""A fitted method and its scores, streamed: never more rows in memory than a block of each side.

THE sign convention: a positive score is a proponent, helpful: upweighting the candidate lowers
the query's measurement. Rows of a score matrix are queries, columns are candidates.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from errno import EISDIR
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods import folders, memory
from methods.errors import MethodError, kind
from methods.examples import Examples, chunks, count, in_memory, parts, sourced
from methods.finite import finite
from methods.fitted import zeros
from methods.fitted.origin import Origin, identity
from methods.fitted.tiles import Best, Find, Place, best
from methods.precision import FullPrecision
from methods.progress import track
from methods.rows.factored import Rows
from methods.rows.gradients import repeated
from methods.rows.tokens import Tokens, with_gradient
from methods.search.searches import highest, lowest, refuse_k
from methods.sources import Column, Source
from methods.task import Task

QUERY_BYTES = 1 << 30  # bytes of query rows kept while candidates stream past, on the CPU
TILE = 1 << 24  # scores at once where only the best are kept
QUERIES = 4096  # at once there, where scores have several terms
STEPS = 50  # of a long pass at least, so that the time it will take is known early
SHORT = 4096  # candidates: a step of fewer is not made shorter for that


class Fitted(FullPrecision, ABC):
    """A method fitted to a task: the rows of queries and of candidates."""

    task: Task
    origin: Origin | None = None

    @abstractmethod
    def query_rows(self, examples: Examples) -> Rows: ...

    @abstractmethod
    def train_rows(self, examples: Examples) -> Rows: ...

    def own_rows(self, examples: Examples) -> tuple[Rows, Rows]:
        """Query and train rows of the same examples; override where they share work."""
        return self.query_rows(examples), self.train_rows(examples)

    def terms(self) -> Iterable[Fitted]:
        """Terms that sum to the score, e.g. one per checkpoint, so that memory holds fewer rows."""
        return (self,)

    def alone(self) -> Fitted | None:
        """The only term, if there is just one: its rows of queries are kept in a pass."""
        return self if type(self).terms is Fitted.terms else None

    def chunk(self, examples: Examples) -> int:
        """How many examples to take at a time."""
        return 64

    def query_chunk(self, examples: Examples) -> int:
        """The same for queries, which may lack the columns of the training loss."""
        return self.chunk(examples)

    def cut(self, examples: Examples, size: int) -> Iterator[Examples]:
        """Divide examples into those that are embedded together."""
        return chunks(examples, size)

    def tracked(self, examples: Examples, label: str) -> Iterable[Examples]:
        """Candidates as they are embedded together, with progress."""
        size = self.chunk(examples)
        return track(self.cut(examples, size), label, -(-count(examples) // size))

    @repeated
    def scores(
        self,
        query: Examples,
        candidates: Examples,
        out: Tensor | np.ndarray | Path | str | None = None,
    ) -> Tensor:
        """(n_query, n_candidates), on the CPU; positive = proponent.

        They are written to `out` if it is given: a tensor or array of that shape (such as a
        `np.memmap`), or the name of a new .npy file, which is mapped into memory.
        """
        query, candidates = checked(self.task, query=query, candidates=candidates)
        shape = count(query), count(candidates)
        with _output(out, shape, self.task.dtype) as total:
            scores = self._scores(query, candidates, total).cpu()
            zeros.refuse(scores, self.terms(), query, candidates)
        return scores

    def _scores(self, query: Examples, candidates: Examples, total: Tensor | None = None) -> Tensor:
        """The same where it was computed: on the parameters' device if it has room."""
        total = self._zeros(count(query), candidates) if total is None else total.zero_()
        for term in self.terms():
            first = 0
            for rows in term._query_blocks(query):
                term._add_scores(total[first : first + rows.count], rows, candidates)
                first += rows.count
        return _finite(total)

    def _zeros(self, n: int, candidates: Examples) -> Tensor:
        shape, dtype = (n, count(candidates)), self.task.dtype
        device = memory.place(self.task.device, prod(shape) * dtype.itemsize)
        return torch.zeros(shape, dtype=dtype, device=device)

    def _query_blocks(self, query: Examples) -> Iterator[Rows]:
        """Query rows in order, in blocks of limited size: candidates stream past each."""
        block: list[Rows] = []
        most = memory.temporary(self.task.device, QUERY_BYTES) // self.task.dtype.itemsize
        for some in self.cut(query, self.query_chunk(query)):
            block.append(self.query_rows(some).compact())
            if sum(rows.elements for rows in block) >= most:
                stacked = Rows.stacked(block)
                block.clear()
                yield stacked
        if block:
            yield Rows.stacked(block)

    def _add_scores(self, total: Tensor, rows: Rows, candidates: Examples) -> None:
        """Add to `total` (n, n_candidates) the scores of n query rows."""
        start = 0
        for some in self.tracked(candidates, "scores"):
            columns = slice(start, start + count(some))
            total[:, columns] += rows.inner(self.train_rows(some)).to(total.device)
            start = columns.stop

    @repeated
    def token_scores(self, query: Examples, candidates: Examples) -> Tensor:
        """Scores of every token of sequences, (n_query, t, n_candidates), on the CPU.

        The task's measurement returns (b, t). Scores over t add up to those of the measurement
        summed over t. Tokens without a gradient, such as padding that the measurement ignores, have
        zeros, at no cost; each other one costs a pass over its sequence, for it may depend on all
        of it.
        """
        query, candidates = checked(self.task, query=in_memory(query), candidates=candidates)
        moved = [with_gradient(term.measuring(), query) for term in self.terms()]
        where = torch.stack(moved).any(0)
        total = torch.zeros(*where.shape, count(candidates), dtype=self.task.dtype)
        if where.any():
            tokens = Source(Tokens(query, where.nonzero()))
            total[where] = self._scores(tokens, candidates).cpu()
        return total

    def measuring(self) -> Task:
        """The task whose measurement is differentiated for query rows."""
        return self.task

    @repeated
    def self_influence(self, candidates: Examples) -> Tensor:
        """(n_candidates,), on the CPU: the diagonal of `scores`, without the rest."""
        (candidates,) = checked(self.task, candidates=candidates)
        total = torch.zeros(count(candidates), dtype=self.task.dtype, device=self.task.device)
        for term in self.terms():
            start = 0
            for some in term.tracked(candidates, "self-influence"):
                query, train = term.own_rows(some)
                value = query.squared_norms() if query is train else query.paired(train)
                total[start : start + len(value)] += value
                start += len(value)
        values = _finite(total).cpu()
        zeros.refuse(values, self.terms(), candidates, candidates)
        return values

    def proponents(self, query: Examples, candidates: Examples, k: int) -> tuple[Tensor, Tensor]:
        """The k highest scores of each query and their candidates, (n_query, k) both.

        Equal scores come in the order of the candidates. The matrix of all scores is never held.
        """
        return self._best(query, candidates, k, highest)

    def opponents(self, query: Examples, candidates: Examples, k: int) -> tuple[Tensor, Tensor]:
        """The k lowest scores of each query and their candidates, lowest first."""
        return self._best(query, candidates, k, lowest)

    @repeated
    def _best(self, query: Examples, candidates: Examples, k: int, find: Find) -> Best:
        """What `find` finds among all scores, from tiles of them."""
        query, candidates = checked(self.task, query=query, candidates=candidates)
        refuse_k(k, count(candidates))
        values = torch.zeros(count(query), k, dtype=self.task.dtype)
        places = torch.zeros(count(query), k, dtype=torch.int64)
        best(self, query, candidates, find, (values, places), Place(), lambda place: None)
        zeros.refuse(values, self.terms(), query, candidates)
        return values, places

    def query_scores(self, query: Examples) -> Iterator[tuple[int, Callable[..., Tensor]]]:
        """Blocks of queries: how many, and the map from candidates to their scores.

        Rows of queries are kept while candidates stream past; not those of several terms, which are
        computed again for every tile.
        """
        term = self.alone()
        if term is not None:
            for rows in term._query_blocks(query):
                yield rows.count, partial(term._row_scores, rows)
        else:
            for some in parts(query, QUERIES):
                yield count(some), partial(self._scores, some)

    def step(self, n: int, n_candidates: int) -> int:
        """How many candidates are scored for n queries before the best of them are kept.

        Queries of several terms are computed again for every step.
        """
        return max(1, min(TILE // n, max(SHORT, n_candidates // STEPS)))

    def _row_scores(self, rows: Rows, candidates: Examples) -> Tensor:
        total = self._zeros(rows.count, candidates)
        self._add_scores(total, rows, candidates)
        return _finite(total)

    def save(self, folder: Path | str) -> None:
        """Write what `fit` computed to a new folder, for `Attributor.restore`.

        One array file for each array of the state, and for each column of the training examples
        where the method goes on reading them, unless they are read from a data set; fitted.json
        identifies the settings and the task.
        """
        if self.origin is None:
            raise MethodError(
                f"{type(self).__name__} was not made by `fit`: save what it is made of"
            )
        origin = self.origin

        def fill(unfinished: Path) -> None:
            for part, arrays in (("state", origin.state), ("train", origin.train or {})):
                if any(isinstance(array, Column) for array in arrays.values()):
                    continue  # a data set stays where it is
                for name, array in arrays.items():
                    np.save(unfinished / f"{part}.{name}.npy", array.cpu().numpy())

        folders.write(folder, "fitted.json", identity(origin.method, origin.task), fill)


def checked(task: Task, **examples: Examples) -> list[Examples]:
    """The examples as they are read."""
    task.check()
    read = {name: sourced(given) for name, given in examples.items()}
    for name, columns in read.items():
        if count(columns) == 0:
            raise MethodError(f"{name} has no examples: give one at least")
    return list(read.values())


@contextmanager
def _output(
    out: Tensor | np.ndarray | Path | str | None, shape: tuple[int, int], dtype: torch.dtype
) -> Iterator[Tensor | None]:
    """Where scores are written, as a tensor; a file has its name once the block has ended."""
    if not isinstance(out, str | Path):
        yield None if out is None else _writable(out, shape, dtype)
        return
    path, number = Path(out), np.dtype(str(dtype).removeprefix("torch."))
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.is_dir():
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        array = np.lib.format.open_memmap(unfinished, mode="w+", dtype=number, shape=shape)
    except OSError as error:
        raise MethodError(f"cannot write {out}: {error.strerror}") from error
    try:
        yield torch.from_numpy(array)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _writable(out: Any, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """A tensor that shares the memory of what a caller gave to write scores to."""
    given = out
    if isinstance(out, np.ndarray) and out.flags.writeable:
        with suppress(TypeError, ValueError):  # no numbers of torch, or laid out otherwise
            out = torch.from_numpy(out)
    if (
        isinstance(out, Tensor)
        and (tuple(out.shape), out.dtype, out.device.type) == (shape, dtype, "cpu")
        and not out.requires_grad
        and not any(n > 1 and step == 0 for n, step in zip(out.shape, out.stride(), strict=True))
    ):
        return out
    found = f"{kind(out)}, {out.dtype}" if isinstance(out, Tensor) else kind(given)
    raise MethodError(
        f"out is {found}: give a writable array {shape} of {str(dtype).removeprefix('torch.')} in "
        "the CPU's memory, without gradients, or a file name"
    )


def _finite(scores: Tensor) -> Tensor:
    if not finite([scores]):
        bad = int((~torch.isfinite(scores)).sum())
        raise MethodError(
            f"{bad} of {scores.numel()} scores are not finite: look for NaN in the data or the "
            "parameters; with a Hessian, raise `damping`"
        )
    return scores


class FittedSum(Fitted):
    """A score that is a sum over terms, one at a time; rows are those of the terms end to end."""

    def __init__(self, addends: list[Fitted]) -> None:
        self.addends, self.task = addends, addends[0].task

    def terms(self) -> Iterable[Fitted]:
        return self.addends

    def alone(self) -> Fitted | None:
        own = type(self).terms is FittedSum.terms and len(self.addends) == 1
        return self.addends[0].alone() if own else None

    def query_rows(self, examples: Examples) -> Rows:
        return Rows.joined(term.query_rows(examples) for term in self.terms())

    def train_rows(self, examples: Examples) -> Rows:
        return Rows.joined(term.train_rows(examples) for term in self.terms())
