"""An attribution method is two embeddings and an inner product.

THE sign convention: a positive score is a proponent, helpful: upweighting the candidate lowers
the query's measurement. Rows of a score matrix are queries, columns are candidates.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods import folders
from methods.errors import MethodError
from methods.progress import track
from methods.rows.factored import Rows
from methods.rows.gradients import Gradients
from methods.rows.projections import Map
from methods.search.searches import highest, lowest
from methods.task import Examples, Params, Task, chunks, count

TOGETHER = 1 << 23  # numbers of rows projected at once: directions are read once for all of them
QUERY_BYTES = 1 << 30  # bytes of query rows kept while candidates stream past

State = dict[str, Tensor]


class Attributor(ABC):
    """A frozen dataclass of hyper-parameters.

    `fit` has two steps. `state` is the expensive one, done once a model: arrays that may be kept,
    and shared by methods whose `state_settings` are equal. `fitted` is the cheap one. A method
    defines `fitted`, and the other two if it has such arrays.
    """

    @property
    def reads_train(self) -> bool:
        """Whether the fitted method goes on reading the training examples."""
        return False

    @property
    def state_settings(self) -> Any:
        """The settings that `state` depends on, a frozen dataclass; None where it is empty."""
        return None

    def state(self, task: Task, train: Examples) -> State:
        """The expensive part of `fit`, as arrays; `train` is what the curvature is estimated on."""
        return {}

    @abstractmethod
    def fitted(self, task: Task, state: State, train: Examples | None) -> Fitted:
        """The method of a state; `train` is None only where the method does not read it."""

    def fit(self, task: Task, train: Examples | None = None, state: State | None = None) -> Fitted:
        """Fit the method to a task.

        Without `state` it is computed from `train`. With it, `train` is needed only by a method
        that goes on reading it: CG and LiSSA multiply by its Hessian, Representer needs its size.
        """
        if state is None and train is not None:
            state = self.state(task, train)
        if state is None or (train is None and self.reads_train):
            name = type(self).__name__
            raise MethodError(f"{name} needs the training examples: give them to `fit`")
        fitted = self.fitted(task, state, train)
        fitted.origin = Origin(self, task, state, train if self.reads_train else None)
        return fitted

    def restore(self, task: Task, folder: Path | str) -> Fitted:
        """The fitted method that `Fitted.save` wrote, for the same task and settings.

        Parameters, weight decay and settings are checked; functions cannot be: give the loss
        and the measurement that are meant.
        """

        def load(folder: Path, about: Any) -> tuple[Any, dict[str, Examples]]:
            parts: dict[str, Examples] = {"state": {}, "train": {}}
            for name in about["sha256"]:
                part, column = name.removesuffix(".npy").split(".", 1)
                parts[part][column] = torch.from_numpy(np.load(folder / name))
            return {what: about[what] for what in ("method", "model")}, parts

        about, parts = folders.read(folder, "fitted.json", "fitted method", load)
        for what, mine in _origin(self, task).items():
            theirs = about[what]
            for name in {**theirs, **mine}:
                have, want = theirs.get(name), mine.get(name)
                if have != want:
                    differs = f"{name} is {have} there and {want} here"
                    reason = differs if what == "method" else f"other {name}"
                    raise MethodError(f"{folder} is of another {what}: {reason}; fit again")
        return self.fit(task, parts["train"] or None, parts["state"])

    def scores(self, task: Task, train: Examples, query: Examples) -> Tensor:
        """Fit, then score every training example for every query, (n_query, n_train)."""
        return self.fit(task, train).scores(query, train)

    def self_influence(self, task: Task, train: Examples) -> Tensor:
        """Fit, then score every training example for itself, (n_train,)."""
        return self.fit(task, train).self_influence(train)


@dataclass(frozen=True, eq=False)
class Origin:
    """The inputs of a fitted method; `train` only if it is read again."""

    method: Attributor
    task: Task
    state: State
    train: Examples | None


class Fitted(ABC):
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

    def chunk(self, examples: Examples) -> int:
        """How many examples to take at a time."""
        return 64

    def query_chunk(self, examples: Examples) -> int:
        """The same for queries, which may lack the columns of the training loss."""
        return self.chunk(examples)

    def scores(self, query: Examples, candidates: Examples) -> Tensor:
        """(n_query, n_candidates), on the CPU; positive = proponent."""
        _check(self.task, query=query, candidates=candidates)
        total = torch.zeros(count(query), count(candidates), dtype=self.task.dtype)
        for term in self.terms():
            first = 0
            for rows in term._query_blocks(query):
                term._add_scores(total[first : first + rows.count], rows, candidates)
                first += rows.count
        return _finite(total)

    def _query_blocks(self, query: Examples) -> Iterator[Rows]:
        """Query rows in order, in blocks of QUERY_BYTES bytes: candidates stream past each."""
        block: list[Rows] = []
        for some in chunks(query, self.query_chunk(query)):
            block.append(self.query_rows(some).compact())
            if sum(rows.elements for rows in block) * 4 >= QUERY_BYTES:
                stacked = Rows.stacked(block)
                block.clear()
                yield stacked
        if block:
            yield Rows.stacked(block)

    def _add_scores(self, total: Tensor, rows: Rows, candidates: Examples) -> None:
        """Add to `total` (n, n_candidates) the scores of n query rows."""
        start = 0
        for some in track(list(chunks(candidates, self.chunk(candidates))), "scores"):
            columns = slice(start, start + count(some))
            total[:, columns] += rows.inner(self.train_rows(some)).cpu()
            start = columns.stop

    def self_influence(self, candidates: Examples) -> Tensor:
        """(n_candidates,), on the CPU: the diagonal of `scores`, without the rest."""
        _check(self.task, candidates=candidates)
        total = torch.zeros(count(candidates), dtype=self.task.dtype)
        for term in self.terms():
            start = 0
            for some in track(list(chunks(candidates, term.chunk(candidates))), "self-influence"):
                query, train = term.own_rows(some)
                value = query.squared_norms() if query is train else query.paired(train)
                total[start : start + len(value)] += value.cpu()
                start += len(value)
        return _finite(total)

    def proponents(self, query: Examples, candidates: Examples, k: int) -> tuple[Tensor, Tensor]:
        """The k highest scores of each query and their candidates, (n_query, k) both.

        Equal scores come in the order of the candidates.
        """
        return highest(self.scores(query, candidates), k)

    def opponents(self, query: Examples, candidates: Examples, k: int) -> tuple[Tensor, Tensor]:
        """The k lowest scores of each query and their candidates, lowest first."""
        return lowest(self.scores(query, candidates), k)

    def save(self, folder: Path | str) -> None:
        """Write what `fit` computed to a new folder, for `Attributor.restore`.

        One array file for each array of the state, and for each column of the training examples
        where the method goes on reading them; fitted.json identifies the settings and the task.
        """
        if self.origin is None:
            raise MethodError(
                f"{type(self).__name__} was not made by `fit`: save what it is made of"
            )
        origin = self.origin

        def fill(unfinished: Path) -> None:
            for part, arrays in (("state", origin.state), ("train", origin.train or {})):
                for name, array in arrays.items():
                    np.save(unfinished / f"{part}.{name}.npy", array.cpu().numpy())

        folders.write(folder, "fitted.json", _origin(origin.method, origin.task), fill)


def _origin(method: Attributor, task: Task) -> dict[str, dict[str, Any]]:
    """The settings of a fitted method, and digests of all numbers of its task."""
    moments = [{"lr": torch.tensor(c.lr), **c.params} for c in task.checkpoints]
    model = {
        "parameters": _digest(task.params),
        "frozen parameters": _digest(task.frozen or {}),
        "weight decay": task.weight_decay,
        "checkpoints": [_digest(moment) for moment in moments],
    }
    return {"method": json.loads(json.dumps(_settings(method), default=repr)), "model": model}


def _settings(value: Any, prefix: str = "") -> dict[str, Any]:
    """The fields of a dataclass that matter to its equality, nested ones as "inverse.depth"."""
    if not is_dataclass(value):
        return {prefix: value}
    settings: dict[str, Any] = {f"{prefix}.type".lstrip("."): type(value).__name__}
    for field in fields(value):
        if field.compare:
            settings |= _settings(getattr(value, field.name), f"{prefix}.{field.name}".lstrip("."))
    return settings


def _digest(params: Params) -> str:
    """SHA-256 of names, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(params.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check(task: Task, **examples: Examples) -> None:
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


class FittedSum(Fitted):
    """A score that is a sum over terms, one at a time; rows are those of the terms end to end."""

    def __init__(self, addends: list[Fitted]) -> None:
        self.addends, self.task = addends, addends[0].task

    def terms(self) -> Iterable[Fitted]:
        return self.addends

    def query_rows(self, examples: Examples) -> Rows:
        return Rows.joined(term.query_rows(examples) for term in self.terms())

    def train_rows(self, examples: Examples) -> Rows:
        return Rows.joined(term.train_rows(examples) for term in self.terms())


class FittedGradients(Fitted):
    """The common part of fitted methods over per-example gradients.

    gradients, measured   those of the training loss and of the measurement: the same object if loss
                          and measurement are the same function
    """

    def __init__(self, task: Task, like: FittedGradients | None = None) -> None:
        self.task = task
        self.gradients: Gradients = Gradients(task, task.loss, like.gradients if like else None)
        self.measured = (
            self.gradients if task.measurement is task.loss else Gradients(task, task.measurement)
        )

    def chunk(self, examples: Examples) -> int:
        return self.gradients.chunk(examples)

    def query_chunk(self, examples: Examples) -> int:
        return self.measured.chunk(examples)

    def train_gradients(self, examples: Examples) -> Rows:
        return self.gradients.rows(examples)

    def query_gradients(self, examples: Examples) -> Rows:
        return self.measured.rows(examples)

    def sizes(self) -> dict[str, int]:
        return self.gradients.sizes()


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

    def chunk(self, examples: Examples) -> int:
        return count(examples)  # d numbers each, and directions are drawn once for all of them

    def query_chunk(self, examples: Examples) -> int:
        return count(examples)

    def query_rows(self, examples: Examples) -> Rows:
        left = self._embed(examples, self.form.left, self.measured)
        return Rows.dense_of(self.form.weigh(left))

    def train_rows(self, examples: Examples) -> Rows:
        return Rows.dense_of(self._embed(examples, self.form.right, self.gradients))

    def own_rows(self, examples: Examples) -> tuple[Rows, Rows]:
        if self.form.left is not self.form.right or self.measured is not self.gradients:
            return super().own_rows(examples)
        embedded = self._embed(examples, self.form.right, self.gradients)
        return Rows.dense_of(self.form.weigh(embedded)), Rows.dense_of(embedded)

    def _embed(self, examples: Examples, projection: Map, gradients: Gradients) -> Tensor:
        """Project the gradients of all examples, (n, d); directions are made once a pass."""
        slices = []
        for part in projection.slices():
            batches = list(chunks(examples, gradients.projected_chunk(examples)))
            blocks, together = [], list[Rows]()
            for some in track(batches, "projecting gradients"):
                together.append(gradients.rows(some).compact())
                if sum(rows.elements for rows in together) >= TOGETHER:
                    blocks.append(part.apply(Rows.stacked(together)))
                    together.clear()
            if together:
                blocks.append(part.apply(Rows.stacked(together)))
            slices.append(torch.cat(blocks))
        return torch.cat(slices, dim=1)
