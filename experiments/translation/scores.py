"""Self-influence of sentence pairs: of some at hand, and of pools too large to hold.

The once-per-model work of a method is a run. A pool is scored shard by shard, each a run: one
that was killed is redone alone. Its pairs stream past in blocks, so memory does not grow with it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.data.parallel import (
    FILES,
    Corpus,
    Lines,
    Name,
    Pairs,
    check,
    marks,
    misaligned,
    side,
)
from experiments.data.translation_noise import pollute
from experiments.laboratory import attribution, clock, counting, runs
from experiments.laboratory.attribution import Loss, dimension, family
from experiments.laboratory.data_folder import root
from experiments.laboratory.device import device
from experiments.laboratory.disk import checkpointed
from experiments.laboratory.errors import UserError
from experiments.laboratory.work import Unit, Work
from experiments.translation import models
from experiments.translation.models import (
    Encoded,
    Language,
    Model,
    Numbers,
    Trained,
    train_examples,
    trained,
)
from methods.attributor import State
from methods.examples import Examples, take
from methods.fitted.embedded import Bilinear, Embedded
from methods.fitted.scoring import Fitted
from methods.influence import Influence
from methods.progress import track
from methods.random_projection import RandomProjection
from methods.randomness import numpy_generator
from methods.rows.maps import Directions
from methods.rows.projections import Select
from methods.task import Task
from methods.tracin import TracIn

LOSSES = 256  # pairs in a forward pass
BLOCK = 8_192  # pairs in memory at a time; a kill loses at most one block
SCORING = "wmt_scoring"  # the experiment whose cells are shards
STRIDE = 1_000  # lines between two stored offsets in a file too large for memory

Method = RandomProjection | Influence | TracIn | Loss


@dataclass(frozen=True)
class Basis:
    """The once-per-model work of a method, on the last `part` decoder layers or on all."""

    model: Model
    part: int | None
    preparation: Any


@dataclass(frozen=True)
class Polluted:
    """Pairs of a clean corpus, with every kind of noise added to a share of them."""

    corpus: Corpus = Corpus()
    other: Corpus = Corpus("wmt sample")
    share: float = 0.6
    seed: int = 0
    shards: int = 1

    def load(self) -> tuple[Pairs, np.ndarray]:
        """The pairs, and the kind of noise in each."""
        return pollute(self.corpus.load(), self.other.load(), self.share, self.seed)

    @property
    def kinds(self) -> np.ndarray | None:
        """The kind of noise in each pair, (n,)."""
        return self.load()[1]

    def size(self) -> int:
        """The number of pairs."""
        return len(self.corpus.load())

    @property
    def about(self) -> float:
        """The number of pairs of a shard, without reading them."""
        return self.corpus.about / self.shards

    def part(self, shard: int) -> "Shard":
        """One of the shards."""
        pairs, _ = self.load()
        bounds = np.linspace(0, len(pairs), self.shards + 1).astype(int)
        first, last = bounds[shard], bounds[shard + 1]
        return Shard(last - first, lambda a, b: pairs.take(range(first + a, first + b)))

    def chosen(self, index: np.ndarray) -> Iterator[tuple[str, str]]:
        """The pairs at increasing positions."""
        return iter(self.load()[0].take(index))


@dataclass(frozen=True)
class Shard:
    """`n` pairs of a pool; `take(start, end)` reads those from `start` to before `end`."""

    n: int
    take: Callable[[int, int], Pairs]


@dataclass(frozen=True)
class Marks:
    """The offsets of every `stride`-th line in the two files of a corpus."""

    name: Name
    stride: int


@dataclass(frozen=True)
class Crawl:
    """A corpus too large for memory, in shards of `lines` lines."""

    name: Name = "paracrawl"
    shards: int = 110
    lines: int = 1_000_000

    kinds = None  # unknown

    def open(self) -> Lines:
        """The files with their offsets; an error if they are not aligned."""
        stem = root() / FILES[self.name]

        def compute(_: Path) -> dict[str, Any]:
            (german, n), (english, n_english) = (
                marks(side(stem, language), self.name, STRIDE) for language in ("de", "en")
            )
            if n != n_english:
                raise misaligned(stem, n, n_english)
            marked = {"de": german, "en": english}
            check(stem, Lines(stem, STRIDE, marked, n).take(0, STRIDE))
            return {"n": n, "de": german, "en": english}

        run = runs.once("translation_marks", Marks(self.name, STRIDE), compute)
        offsets = {way: np.asarray(run.array(way)) for way in ("de", "en")}
        lines = Lines(stem, STRIDE, offsets, int(run.metrics["n"]))
        if lines.n > self.shards * self.lines:
            raise UserError(
                f"{stem}.de has {lines.n:,} lines, more than {self.shards} shards of {self.lines:,}"
                f": raise pool.shards to {-(-lines.n // self.lines)}"
            )
        return lines

    def size(self) -> int:
        """The number of pairs."""
        return self.open().n

    @property
    def about(self) -> float:
        """The number of pairs of a shard, without reading them."""
        return self.lines

    def part(self, shard: int) -> Shard:
        """One of the shards."""
        lines, first = self.open(), shard * self.lines
        n = max(0, min(self.lines, lines.n - first))
        return Shard(n, lambda a, b: lines.take(first + a, first + b))

    def chosen(self, index: np.ndarray) -> Iterator[tuple[str, str]]:
        """The pairs at increasing positions."""
        return self.open().chosen(index)


Pool = Polluted | Crawl


@dataclass(frozen=True)
class Piece:
    """One shard of a pool."""

    pool: Pool
    shard: int


def shard_numbers(language: Language, pool: Pool, shard: int) -> Numbers:
    """The subwords of a shard's pairs, encoded by the first run that needs them."""

    def blocks() -> Iterator[Pairs]:
        part = pool.part(shard)
        for start, end in streamed(part.n, BLOCK, "subwords"):
            yield part.take(start, end)

    return Numbers.once(Encoded(language.subwords, Piece(pool, shard)), blocks)


@dataclass(frozen=True)
class Scoring:
    """One shard of a pool, scored by every method in one run."""

    model: Model
    pool: Pool
    methods: tuple[Method, ...]
    shard: int = 0


def narrowed(model: Model, task: Task, part: int | None) -> Task:
    """The task on the last `part` decoder layers, or on all parameters."""
    return task if part is None else task.only(model.network.last_layers(part))


def fitted(
    model: Model, learned: Trained, method: RandomProjection | Influence | TracIn, part: int | None
) -> Fitted:
    """A method fitted to a trained model; its basis is computed once, as a run."""
    task = narrowed(model, learned.task, part)
    if isinstance(method, RandomProjection):
        return projected(method, task)
    state: State = {}
    if wanted := basis(model, method, part):

        def load() -> tuple[Task, Examples]:
            again = trained(model)  # noted as what the run was made of
            return narrowed(model, again.task, part), train_examples(model)

        state, _ = attribution.stored_state("translation_basis", wanted, method, load)
    return method.fit(task, state=state)


def basis(model: Model, method: Method, part: int | None = None) -> Basis | None:
    """The config of the run with what a method computes once per model; None if it has none."""
    settings = None if isinstance(method, Loss) else method.state_settings
    return None if settings is None else Basis(model, part, settings)


def projected(method: RandomProjection, task: Task) -> Embedded:
    """A random projection with all directions in memory, so that one pass over pairs is enough."""
    drawn = method.projection.draw(task)
    if not isinstance(method.projection, Select):
        drawn = Directions(drawn.directions(), task)
    return Embedded(task, Bilinear(drawn, drawn))


def by_length(some: Examples) -> Tensor:
    """The order from the longest pairs to the shortest, whose batches have little padding.

    The longest come first because the memory of an example is measured on the first batch.
    """
    return some["length"].argsort(descending=True, stable=True)


def contributions(method: Fitted, some: Examples) -> Tensor:
    """The part of each pair's self-influence per direction, (n, d); d = 1 without directions."""
    if not isinstance(method, Embedded):
        return _by_length(lambda rows: method.self_influence(rows)[:, None], some)

    def products(rows: Examples) -> Tensor:
        query, train = method.own_rows(rows)
        return (query.dense() * train.dense()).cpu()

    return _by_length(products, some)


def losses(task: Task, some: Examples) -> Tensor:
    """The training loss of each pair in nats per subword, (n, 1)."""
    return _by_length(lambda rows: attribution.losses(task, rows, LOSSES)[:, None], some)


def _by_length(compute: Callable[[Examples], Tensor], some: Examples) -> Tensor:
    """Values computed on the pairs in the order of their lengths, in the order given."""
    order = by_length(some)
    return compute(take(some, order))[order.argsort()]


def nested(values: Tensor, dims: tuple[int, ...], method: Method) -> np.ndarray:
    """Self-influence by the first of the directions, for each number in `dims`, (k, n).

    The first directions of a basis or of a Gaussian draw are a smaller basis or draw; selected
    parameters are shuffled first.
    """
    size = values.shape[1]
    if not dims:
        return values.sum(1)[None].double().numpy()
    if max(dims) > size or min(dims) < 1:
        raise UserError(f"dims {dims} of {size} directions: give 1 to {size}")
    if isinstance(method, RandomProjection) and isinstance(method.projection, Select):
        order = numpy_generator(method.projection.seed, "nested").permutation(size)
        values = values[:, torch.from_numpy(order)]
    sums = values.double().cumsum(1)
    unbiased = isinstance(method, RandomProjection)  # each draw is scaled by its own dimension
    return np.stack([sums[:, dim - 1].numpy() * (size / dim if unbiased else 1.0) for dim in dims])


def streamed(n: int, block: int, what: str = "scoring") -> Iterator[tuple[int, int]]:
    """Ranges of at most `block` of n pairs, so that memory does not grow with n."""
    for start in track(list(range(0, n, block)), what):
        yield start, min(start + block, n)


def score(config: Scoring, scratch: Path) -> dict[str, Any]:
    """Self-influence of each pair by each method, `score_NAME` (n,).

    `seconds_NAME` is by the clock of the device, without the model and the basis.
    """
    if not 0 <= config.shard < config.pool.shards:
        raise UserError(
            f"shard {config.shard} of {config.pool.shards}: give 0 to {config.pool.shards - 1}"
        )
    if isinstance(config.pool, Crawl):
        _check_computed(config)
    learned = trained(config.model)
    methods = {
        family(method): None
        if isinstance(method, Loss)
        else fitted(config.model, learned, method, None)
        for method in config.methods
    }
    pairs = shard_numbers(config.model.language, config.pool, config.shard)
    blocks: dict[str, list[np.ndarray]] = {name: [np.empty(0, np.float32)] for name in methods}
    seconds, now = dict.fromkeys(methods, 0.0), partial(clock.now, device().type)
    for start, end in streamed(len(pairs), BLOCK):

        def block(start: int = start, end: int = end) -> dict[str, np.ndarray]:
            some = pairs.columns(np.arange(start, end), config.model.language.length)
            arrays = {}
            for name, method in methods.items():
                began = now()
                values = (
                    losses(learned.task, some) if method is None else contributions(method, some)
                )
                arrays[f"score {name}"] = values.sum(1).float().numpy()
                arrays[f"seconds {name}"] = np.array(now() - began)
            return arrays

        values = checkpointed(scratch, f"pairs-{start}", block)
        for name in methods:
            blocks[name].append(values[f"score {name}"])
            seconds[name] += float(values[f"seconds {name}"])
    return {
        "n_pairs": len(pairs),
        **{f"dim_{family(method)}": dimension(method) for method in config.methods},
        **{f"seconds_{name}": value for name, value in seconds.items()},
        **{f"score_{name}": np.concatenate(values) for name, values in blocks.items()},
    }


def _check_computed(config: Scoring) -> None:
    """Refuse a crawl's shard without its model and basis, which every job would compute.

    Cell 3 of the paper tier of wmt_retrieval computes both.
    """
    first = "run `python -m experiments.wmt_retrieval --preset paper --cell 3` before the shards"
    if runs.find("translation_model", config.model) is None:
        raise UserError(f"the model that scores is not trained: {first}")
    for method in config.methods:
        wanted = basis(config.model, method)
        if wanted is not None and runs.find("translation_basis", wanted) is None:
            raise UserError(f"the basis of {family(method)} is not computed: {first}")


def once(model: Model, method: Method, part: int | None) -> Work | None:
    """What a method computes once for a model, if anything."""
    of, n = unit(model, part), model.train.about
    made = counting.once_per_model("translation_basis", basis(model, method, part), method, of, n)
    return made and replace(made, parts=(models.work(model),))


def encoding(language: Language, pool: Pool, shard: int) -> Work:
    """What encoding a shard takes."""
    return models.encoding(Encoded(language.subwords, Piece(pool, shard)), pool.about)


def unit(model: Model, part: int | None) -> Unit:
    """A pass of the network over a pair, on the last `part` decoder layers or on all."""
    of = models.unit_of(model)
    return of if part is None else of.part(part / (2 * model.network.layers + 2))


def work(config: Scoring) -> Work:
    """What scoring a shard takes, with the model and its bases."""
    n, of, pool = config.model.train.about, models.unit_of(config.model), config.pool
    lines, read = pool.about, encoding(config.model.language, pool, config.shard)
    bases = (once(config.model, one, None) for one in config.methods)
    parts = models.work(config.model), read, *bases
    each = [counting.attributed(one, of, n, parts, candidates=lines) for one in config.methods]
    steps = tuple(step for one in each for step in one.steps)
    memory = max(one.memory for one in each)
    return replace(each[0], label="shards", steps=steps, memory=memory, disk=4 * lines * len(each))


def scores(model: Model, pool: Pool, methods: tuple[Method, ...], name: str) -> np.ndarray:
    """The scores of a whole pool by one of the methods, (n,).

    Shards of a crawl are jobs of another array: a missing one is an error and is not computed.
    """
    shards = []
    for shard in range(pool.shards):
        config = Scoring(model, pool, methods, shard)
        if isinstance(pool, Crawl) and runs.find(SCORING, config) is None:
            raise UserError(
                f"shard {shard} of {pool.shards} of {pool.name} is not scored: "
                f"`python -m experiments.{SCORING} --preset paper`, or slurm/submit {SCORING} paper"
            )
        run = runs.once(SCORING, config, partial(score, config))
        shards.append(np.asarray(run.array(f"score_{name}")))
    return np.concatenate(shards)
