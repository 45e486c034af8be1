"""Low-latency TracIn: recall of its proponents against query time, by exact and approximate search.

Reproduces Sec. C of TracIn's appendix (Pruthi et al., 2020): the gradients of candidates at all
checkpoints, times the square roots of the learning rates, projected and concatenated, are put into
a nearest-neighbour index. The network is small, so that unprojected rows fit in memory too, and
their exact index is compared with TracInCP. Searches take turns with the exact one, in one thread.
"""

import math
import shutil
import statistics
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

from experiments.digits import models
from experiments.digits.models import Data, Model, trained
from experiments.laboratory import runs
from experiments.laboratory.clock import now, threads
from experiments.laboratory.counting import FLOAT, dot, gradients, scores
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.work import Step, Work
from experiments.models.mnist_cnn import DigitsCNN, SmallCNN
from experiments.training.plans import Fit
from methods.examples import Examples, chunks, take
from methods.fitted.scoring import Fitted
from methods.randomness import numpy_generator
from methods.rows.projections import Gaussian, TwoSided
from methods.search.index import Index, build_from_rows, candidate_rows, load, save
from methods.search.projected import Projected
from methods.search.searches import HNSW, IVF, Exact, load_faiss
from methods.tracin import TracIn

K = 10  # proponents of a query
ROUNDS = 3  # timings of a search, in turns with the exact one
ALONE = 20  # queries in a round that are searched one by one
SAME = 1e-5  # of a query's highest score: closer scores may come in either order in float32


@dataclass(frozen=True)
class Stored:
    """Rows of the model's first n training examples, and of `n_queries` random held-out ones.

    A `projection` applies at every checkpoint. The model's seed draws the queries.
    """

    model: Model
    projection: Gaussian | TwoSided | None = None
    n: int = 60_000
    n_queries: int = 200


@dataclass(frozen=True)
class Truth:
    """TracInCP's proponents of the same queries, among the first n training examples."""

    model: Model
    n: int
    n_queries: int


@dataclass(frozen=True)
class Embedded:
    """Rows of candidates (n, dim) and queries (n_queries, dim); seconds taken by the former."""

    candidates: Tensor
    queries: Tensor
    seconds: float


@dataclass(frozen=True)
class Config:
    """One index over the first n of the stored rows; `efforts` are the settings of its searches."""

    stored: Stored
    method: Exact | HNSW | IVF = Exact()
    n: int = 6_000
    efforts: tuple[int, ...] = ()


def run(config: Config, scratch: Path) -> dict[str, Any]:
    if config.n > config.stored.n:
        raise UserError(f"{config.n} of {config.stored.n} rows: lower n or raise stored.n")
    with one_thread(faiss=not isinstance(config.method, Exact)):
        rows = embedded(config.stored, config.n)
        started = time.perf_counter()
        index = build_from_rows(rows.candidates, config.method)
        build_seconds = time.perf_counter() - started
        exact = build_from_rows(rows.candidates, Exact())
        searches = _sweep(config, index, exact, rows.queries)
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
        **searches,
    }


def _sweep(config: Config, index: Index, exact: Index, queries: Tensor) -> dict[str, Any]:
    """For every effort, how many of a query's proponents are retrieved, and times.

    hits, hits_tracin (efforts, n_queries): proponents by the exact index, and by TracInCP
    ms, ratio (efforts, 2): time of single queries and of all together, and over the exact index's
    """
    truth = proponents(Truth(config.stored.model, config.n, config.stored.n_queries))
    nearest = exact.search(queries, K)[1].numpy()
    columns: dict[str, list[Any]] = {"hits": [], "hits_tracin": [], "ms": [], "ratio": []}
    for effort in config.efforts or (None,):
        scores, ids = (part.numpy() for part in index.search(queries, K, effort))
        columns["hits"].append(_overlap(ids, nearest))
        milliseconds, ratios = _times(index, exact, queries, effort)
        columns["ms"].append(milliseconds)
        columns["ratio"].append(ratios)
        columns["hits_tracin"].append(_overlap(ids, truth["ids"]))
    result: dict[str, Any] = {name: np.array(values) for name, values in columns.items()}
    result["truth_seconds"] = truth["seconds"]
    result["recall"] = float(result["hits"][-1].mean() / K)
    result["recall_tracin"] = float(result["hits_tracin"][-1].mean() / K)
    if isinstance(config.method, Exact):  # an approximate search may return fewer than K
        result |= _differences(scores, ids, truth)
    return result


def _differences(scores: np.ndarray, ids: np.ndarray, truth: dict[str, Any]) -> dict[str, Any]:
    """Differences from TracInCP: other_ids (n_queries,), places with another candidate; score_gap.

    Candidates whose scores are equal but for rounding are ties, which do not count.
    """
    gap = np.abs(scores - truth["scores"]) / np.abs(truth["scores"]).max(1, keepdims=True)
    other = (ids != truth["ids"]) & (gap > SAME)
    return {"other_ids": other.sum(1), "score_gap": float(gap.max())}


def _overlap(retrieved: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How many of the wanted ids of each query were retrieved, (n_query,)."""
    return (retrieved[:, :, None] == wanted[:, None, :]).any(2).sum(1)


def _times(
    index: Index, exact: Index, queries: Tensor, effort: int | None
) -> tuple[list[float], list[float]]:
    """Processor milliseconds per query, one by one and all together; ratios to the exact index."""
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
    """Bytes of the saved index, and the seconds to read and check it."""
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
    """Milliseconds for the row of one query: gradients at all checkpoints, projected."""
    method, _, queries = fitted(config.stored)
    times = []
    for i in range(ALONE):
        started = now(method.task.device.type)
        method.query_rows(take(queries, slice(i, i + 1))).dense()
        times.append(1e3 * (now(method.task.device.type) - started))
    return statistics.median(times)


def fitted(stored: Stored) -> tuple[Fitted, Examples, Examples]:
    """TracInCP of the model, projected if `stored` says so; training examples and queries."""
    learned = trained(stored.model)
    n_held_out, seed = len(learned.evaluation.index), stored.model.seed
    if stored.n > len(learned.train.index) or stored.n_queries > n_held_out:
        raise UserError(
            f"{stored.n} rows of {len(learned.train.index)} training examples and "
            f"{stored.n_queries} queries of {n_held_out} held out: lower stored.n or "
            "stored.n_queries"
        )
    drawn = numpy_generator(seed, "queries").permutation(n_held_out)[: stored.n_queries]
    queries = take(learned.evaluation.examples, torch.from_numpy(drawn))
    whole = TracIn().fit(learned.task, learned.train.examples)
    method = whole if stored.projection is None else Projected(whole, stored.projection)
    return method, learned.train.examples, queries


def embedded(stored: Stored, n: int) -> Embedded:
    """Rows of the first n candidates and of the queries; projected rows are stored as a run."""
    if stored.projection is None:  # large, and fast to compute
        return _embed(stored, n)

    def compute(_scratch: Path) -> dict[str, Any]:
        rows = _embed(stored, stored.n)
        arrays = {"rows": rows.candidates.numpy(), "queries": rows.queries.numpy()}
        return {**arrays, "seconds": rows.seconds}

    run = runs.once("nearest_rows", stored, compute)
    rows = torch.from_numpy(np.array(run.array("rows")[:n]))
    queries = torch.from_numpy(np.array(run.array("queries")))
    return Embedded(rows, queries, run.metrics["seconds"] * n / stored.n)


def _embed(stored: Stored, n: int) -> Embedded:
    method, train, queries = fitted(stored)
    started = time.perf_counter()
    rows = candidate_rows(method, take(train, slice(0, n))).cpu()
    seconds = time.perf_counter() - started
    query_rows = [method.query_rows(some).dense().cpu() for some in chunks(queries, 100)]
    return Embedded(rows, torch.cat(query_rows), seconds)


def proponents(truth: Truth) -> dict[str, Any]:
    """TracInCP's `scores` and `ids` (n_queries, K), and the `seconds` they took; a run."""

    def compute(_scratch: Path) -> dict[str, Any]:
        method, train, queries = fitted(Stored(truth.model, None, truth.n, truth.n_queries))
        started = time.perf_counter()
        scores, ids = method.proponents(queries, take(train, slice(0, truth.n)), K)
        seconds = time.perf_counter() - started
        return {"scores": scores.numpy(), "ids": ids.numpy(), "seconds": seconds}

    run = runs.once("nearest_truth", truth, compute)
    return {**run.metrics, **run.arrays()}


@contextmanager
def one_thread(faiss: bool) -> Iterator[None]:
    """Let torch, and FAISS if `faiss`, use one thread, so that times are comparable."""
    library = load_faiss() if faiss else None
    before = library.omp_get_max_threads() if library else 0
    if library:
        library.omp_set_num_threads(1)
    try:
        with threads(1):
            yield
    finally:
        if library:
            library.omp_set_num_threads(before)


def work(config: Config) -> Work:
    """What a cell takes: rows at all checkpoints, TracInCP's proponents, and searches."""
    stored, method, n = config.stored, config.method, config.n
    model, asked = stored.model, stored.n_queries
    of, learned = models.unit(model), models.work(model)
    count = -(-model.fit.epochs // model.fit.every)
    dim = stored.projection.dim if stored.projection else of.size
    truth = Work(
        "TracInCP",
        scores(TracIn(), of, n, asked, count),
        (learned,),
        "nearest_truth",
        Truth(model, n, asked),
    )
    rows_of = n if stored.projection is None else stored.n
    passes = gradients(of, count * rows_of)
    rows: tuple[Step, ...] = ()
    parts: tuple[Work, ...] = (truth,)
    if stored.projection is None:
        rows = (passes,)
    else:
        made = passes, dot(count * rows_of, of.size, dim)
        disk = FLOAT * (rows_of + asked) * count * dim
        parts = truth, Work("rows", made, (learned,), "nearest_rows", stored, disk=disk)
    search = dot(asked, count * dim, n)
    searches = replace(search, times=2 * ROUNDS * (1 + len(config.efforts)))
    build = dot(n, count * dim, 0 if isinstance(method, Exact) else 200)
    memory = 2 * FLOAT * n * count * dim
    label = f"{type(method).__name__} search"
    return Work(label, (*rows, build, searches), parts, memory=memory)


MNIST = Model(
    SmallCNN(),
    Data(n_train=60_000, n_eval=0, noise=0.0),
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
    n_queries: int,
    approximate: bool = True,
) -> list[Config]:
    """Exact indexes of all kinds of rows at the first size; every index at every size."""
    few, most = sizes[0], sizes[-1]
    drawn = [replace(projection, seed=model.seed) for projection in projections]
    made = [Config(Stored(model, p, few, n_queries), n=few) for p in [None, *drawn]]
    for n in sizes:
        lists = 2 ** round(math.log2(n) / 2)
        inverted = (IVF(lists), tuple(2**i for i in range(8) if 2**i <= lists // 4))
        methods: list[tuple[Exact | HNSW | IVF, tuple[int, ...]]] = [(Exact(), ())]
        methods += [GRAPH, inverted] if approximate else []
        short = Stored(model, replace(SHORT, seed=model.seed), most, n_queries)
        made += [Config(short, method, n, efforts) for method, efforts in methods]
    return made


def preset(model: Model, seeds: int, *settings: Any) -> list[Config]:
    """Cells of all seeds; those without FAISS first, which run where it is missing."""
    made = [cell for s in range(seeds) for cell in cells(replace(model, seed=s), *settings)]
    return sorted(made, key=lambda cell: not isinstance(cell.method, Exact))


SIZES = (6_000, 60_000)
PRESETS: dict[str, list[Config]] = {
    "smoke": preset(DIGITS, 2, (1_000,), PROJECTIONS[:1], 100, FAISS),
    "small": preset(MNIST, 3, SIZES, PROJECTIONS, 200),
    "paper": preset(MNIST, 10, SIZES, PROJECTIONS, 1_000),
}

EXPERIMENT = Experiment(
    "tracin_nearest",
    run,
    PRESETS,
    summary="TracIn's proponents by nearest-neighbour search: recall against latency",
    columns=("recall", "recall_tracin", "build_seconds", "bytes"),
    seconds={"smoke": 11, "small": 530},
    gpu=True,
    work=work,
    shared="stored",
)


if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
