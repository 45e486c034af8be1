"""Rows of training digits at the checkpoints of a network, and TracInCP's proponents among them."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import runs
from experiments.digit_models import Model, trained
from experiments.problems import UserError
from methods.attributor import Fitted
from methods.nearest import gather
from methods.projected import Projected
from methods.projections import Gaussian, TwoSided
from methods.randomness import numpy_generator
from methods.task import Examples, chunks, take
from methods.tracin import TracIn

K = 10  # proponents of a query


@dataclass(frozen=True)
class Stored:
    """Rows of the model's first n training examples, projected at every checkpoint if asked.

    And of `n_queries` held-out ones, drawn at random by the model's seed.
    """

    model: Model
    projection: Gaussian | TwoSided | None = None
    n: int = 60_000
    n_queries: int = 200


@dataclass(frozen=True)
class Truth:
    """TracInCP's proponents of the same queries among the first n training examples."""

    model: Model
    n: int
    n_queries: int


@dataclass(frozen=True)
class Embedded:
    """Rows of candidates (n, dim) and of queries (n_queries, dim), and what the former took."""

    candidates: Tensor
    queries: Tensor
    seconds: float


def fitted(stored: Stored) -> tuple[Fitted, Examples, Examples]:
    """TracInCP of the model, projected if asked; the training examples and the queries."""
    there = trained(stored.model)
    held, seed = len(there.evaluation.index), stored.model.seed
    if stored.n > len(there.train.index) or stored.n_queries > held:
        raise UserError(
            f"{stored.n} rows of {len(there.train.index)} training examples and "
            f"{stored.n_queries} queries of {held} held out: lower stored.n and stored.n_queries"
        )
    drawn = numpy_generator(seed, "queries").permutation(held)[: stored.n_queries]
    queries = take(there.evaluation.examples, torch.from_numpy(drawn))
    whole = TracIn().fit(there.task, there.train.examples)
    method = whole if stored.projection is None else Projected(whole, stored.projection)
    return method, there.train.examples, queries


def embedded(stored: Stored, n: int) -> Embedded:
    """Rows of the first n candidates and of the queries; projected ones are kept as a run."""
    if stored.projection is None:  # many numbers, and quickly made
        return _embed(stored, n)

    def compute(_scratch: Path) -> dict[str, Any]:
        made = _embed(stored, stored.n)
        arrays = {"rows": made.candidates.numpy(), "queries": made.queries.numpy()}
        return {**arrays, "seconds": made.seconds}

    kept = runs.once("nearest_rows", stored, compute)
    rows = torch.from_numpy(np.array(kept.array("rows")[:n]))
    queries = torch.from_numpy(np.array(kept.array("queries")))
    return Embedded(rows, queries, kept.metrics["seconds"] * n / stored.n)


def _embed(stored: Stored, n: int) -> Embedded:
    method, train, queries = fitted(stored)
    started = time.perf_counter()
    rows = gather(method, take(train, slice(0, n)))
    seconds = time.perf_counter() - started
    asked = [method.query_rows(some).dense() for some in chunks(queries, 100)]
    return Embedded(rows, torch.cat(asked), seconds)


def proponents(truth: Truth) -> dict[str, Any]:
    """TracInCP's `scores` and `ids` (n_queries, K), and the `seconds` they took; a run."""

    def compute(_scratch: Path) -> dict[str, Any]:
        method, train, queries = fitted(Stored(truth.model, None, truth.n, truth.n_queries))
        started = time.perf_counter()
        scores, ids = method.proponents(queries, take(train, slice(0, truth.n)), K)
        seconds = time.perf_counter() - started
        return {"scores": scores.numpy(), "ids": ids.numpy(), "seconds": seconds}

    kept = runs.once("nearest_truth", truth, compute)
    return {**kept.metrics, **kept.arrays()}
