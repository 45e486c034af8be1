"""Low-latency TracIn: recall of its proponents against the time of a query, exact and approximate.

Reproduces Sec. C of TracIn's appendix (Pruthi et al., 2020): the gradients of candidates at all
checkpoints, times the roots of the learning rates, projected and end to end, in a nearest-neighbour
index. The network is small, so that unprojected rows can be stored too, and the exact index over
them held against TracInCP. Searches are timed in turns with the exact one, one thread each.
"""

import math
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.digit_models import Data, Model, with_seed
from experiments.experiment import Experiment
from experiments.models.mnist_cnn import DigitsCNN, SmallCNN
from experiments.nearest_rows import K, Stored, Truth, embedded, fitted, proponents
from experiments.problems import UserError
from experiments.training import Fit
from methods.index_files import load, save
from methods.nearest import Index, over
from methods.projections import Gaussian, TwoSided
from methods.search import HNSW, IVF, Exact, load_faiss
from methods.task import take

ROUNDS = 3  # times a search is timed, in turns with the exact one
ALONE = 20  # queries of a round that are asked one by one


@dataclass(frozen=True)
class Config:
    """One index over the first n of the stored rows; `efforts` are what its searches try."""

    stored: Stored
    method: Exact | HNSW | IVF = Exact()
    n: int = 6_000
    efforts: tuple[int, ...] = ()
    n_queries: int = 200
    compare: bool = True
    """Whether TracInCP itself is computed too, on these candidates."""


def run(config: Config, scratch: Path) -> dict[str, Any]:
    _check(config)
    with one_thread(faiss=not isinstance(config.method, Exact)):
        rows = embedded(config.stored, config.n, config.n_queries)
        started = time.perf_counter()
        index = over(rows.candidates, config.method)
        build_seconds = time.perf_counter() - started
        exact = over(rows.candidates, Exact())
        found = _sweep(config, index, exact, rows.queries)
        size, load_seconds = _on_disk(config, index, scratch / "index")
        query_ms = _query_ms(config)
    return {
        "method": type(config.method).__name__,
        "n": config.n,
        "dim": index.dim,
        "rows_seconds": rows.seconds,
        "query_ms": query_ms,
        "build_seconds": build_seconds,
        "load_seconds": load_seconds,
        "bytes": size,
        **found,
    }


def _check(config: Config) -> None:
    rows, queries = config.stored.n, config.stored.model.data.n_eval
    if config.n > rows or config.n_queries > queries:
        raise UserError(
            f"{config.n} of {rows} rows and {config.n_queries} of {queries} queries: lower n and "
            "n_queries, or raise stored.n and stored.model.data.n_eval"
        )


def _sweep(config: Config, index: Index, exact: Index, queries: Tensor) -> dict[str, Any]:
    """At every effort: how many of a query's proponents are found, and times.

    hits, hits_tracin (efforts, n_queries): of the exact index's and of TracInCP's own;
    ms, ratio (efforts, 2): of queries alone and together, and over the exact index's.
    """
    truth = None
    if config.compare:
        truth = proponents(Truth(config.stored.model, config.n, config.n_queries))
    nearest = exact.search(queries, K)[1].numpy()
    found: dict[str, list[Any]] = {"hits": [], "hits_tracin": [], "ms": [], "ratio": []}
    for effort in config.efforts or (None,):
        scores, ids = (part.numpy() for part in index.search(queries, K, effort))
        found["hits"].append(_overlap(ids, nearest))
        milliseconds, ratios = _times(index, exact, queries, effort)
        found["ms"].append(milliseconds)
        found["ratio"].append(ratios)
        if truth is not None:
            found["hits_tracin"].append(_overlap(ids, truth["ids"]))
    result: dict[str, Any] = {name: np.array(values) for name, values in found.items() if values}
    result["recall"] = float(result["hits"][-1].mean() / K)
    if truth is not None:
        largest = np.abs(truth["scores"]).max(1)
        result["truth_seconds"] = truth["seconds"]
        result["recall_tracin"] = float(result["hits_tracin"][-1].mean() / K)
        result["same_ids"] = (ids == truth["ids"]).sum(1)
        result["score_gap"] = float((np.abs(scores - truth["scores"]).max(1) / largest).max())
    return result


def _overlap(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How many of the wanted ids of each query were found, (n_query,)."""
    return (found[:, :, None] == wanted[:, None, :]).any(2).sum(1)


def _times(
    index: Index, exact: Index, queries: Tensor, effort: int | None
) -> tuple[list[float], list[float]]:
    """Milliseconds of processor a query, alone and all together; and over the exact index's."""
    milliseconds, ratios = [], []
    for batches in (queries[:ALONE].split(1), (queries,)):
        ours, theirs = [], []
        for _ in range(ROUNDS):
            ours.append(_timed(index, batches, effort))
            theirs.append(_timed(exact, batches, None))
        milliseconds.append(statistics.median(ours))
        ratios.append(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)))
    return milliseconds, ratios


def _timed(index: Index, batches: tuple[Tensor, ...], effort: int | None) -> float:
    started = time.process_time()
    for batch in batches:
        index.search(batch, K, effort)
    return 1e3 * (time.process_time() - started) / sum(map(len, batches))


def _on_disk(config: Config, index: Index, folder: Path) -> tuple[int, float]:
    """Bytes of the saved index, and the seconds until it is read, checked and recognised."""
    shutil.rmtree(folder, ignore_errors=True)
    save(index, folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    method, train, _ = fitted(config.stored)
    started = time.perf_counter()
    load(folder, method, take(train, slice(0, config.n)))
    seconds = time.perf_counter() - started
    shutil.rmtree(folder)
    return size, seconds


def _query_ms(config: Config) -> float:
    """Milliseconds to make the row of one query: gradients at all checkpoints, projected."""
    method, _, heldout = fitted(config.stored)
    times = []
    for i in range(ALONE):
        started = time.process_time()
        method.query_rows(take(heldout, slice(i, i + 1))).dense()
        times.append(1e3 * (time.process_time() - started))
    return statistics.median(times)


@contextmanager
def one_thread(faiss: bool) -> Iterator[None]:
    """Let torch, and FAISS if asked, use one thread, so that times compare."""
    library = load_faiss() if faiss else None
    before = torch.get_num_threads(), library.omp_get_max_threads() if library else 0
    torch.set_num_threads(1)
    if library:
        library.omp_set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        if library:
            library.omp_set_num_threads(before[1])


MNIST = Model(
    SmallCNN(),
    Data(n_train=59_000, n_eval=1_000, noise=0.0),
    Fit(epochs=3, batch_size=128, lr=0.05, momentum=0.9),
)
DIGITS = Model(
    DigitsCNN(),
    Data("digits", n_train=1_000, n_eval=100, noise=0.0),
    Fit(epochs=6, batch_size=50, lr=0.05, momentum=0.9, every=2),
)
SHORT = Gaussian(256)
PROJECTIONS = (Gaussian(64), TwoSided(64), TwoSided(256), TwoSided(1_024))  # beside SHORT
GRAPH = (HNSW(links=16), (10, 20, 40, 80, 160))
FAISS = find_spec("faiss") is not None


def cells(
    model: Model,
    sizes: tuple[int, ...],
    projections: Sequence[Gaussian | TwoSided],
    approximate: bool = True,
    compare: tuple[int, ...] = (),
) -> list[Config]:
    """Unprojected and projected rows in exact indexes at the first size; all indexes at all."""
    few, most = sizes[0], sizes[-1]
    drawn = [replace(projection, seed=model.seed) for projection in projections]
    made = [Config(Stored(model, p, few), n=few) for p in [None, *drawn]]
    for n in sizes:
        lists = 2 ** round(math.log2(n) / 2)
        inverted = (IVF(lists), tuple(2**i for i in range(8) if 2**i <= lists // 4))
        methods: list[tuple[Exact | HNSW | IVF, tuple[int, ...]]] = [(Exact(), ())]
        methods += [GRAPH, inverted] if approximate else []
        short = Stored(model, replace(SHORT, seed=model.seed), most)
        made += [Config(short, m, n, e, compare=n == few or n in compare) for m, e in methods]
    return made


PRESETS: dict[str, list[Config]] = {
    "smoke": [
        replace(cell, n_queries=100)
        for seed in range(2)
        for cell in cells(with_seed(DIGITS, seed), (1_000,), PROJECTIONS[:1], FAISS)
    ],
    "small": [
        cell
        for seed in range(3)
        for cell in cells(with_seed(MNIST, seed), (6_000, 59_000), PROJECTIONS)
    ],
    "paper": [
        replace(cell, n_queries=1_000)
        for seed in range(10)
        for cell in cells(with_seed(MNIST, seed), (6_000, 59_000), PROJECTIONS, compare=(59_000,))
    ],
}

EXPERIMENT = Experiment(
    "tracin_nearest",
    run,
    PRESETS,
    summary="TracIn's proponents by nearest-neighbour search: recall against latency",
    columns=("recall", "recall_tracin", "build_seconds", "bytes"),
    seconds={"smoke": 9},
)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
