"""Self-influence of sentence pairs: of some at hand, and of pools too large to hold.

What a method computes once per model is a run. A pool is scored shard by shard, each a run: one
that was killed is redone alone. Its pairs stream past in blocks, so memory does not grow with it.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.data.parallel import FILES, Corpus, Lines, Name, Pairs, marks, misaligned, side
from experiments.data.translation_noise import pollute
from experiments.laboratory import attribution, runs
from experiments.laboratory.attribution import Loss, dimension, family
from experiments.laboratory.data_folder import root
from experiments.laboratory.device import on_device
from experiments.laboratory.disk import checkpointed
from experiments.laboratory.errors import UserError
from experiments.translation.models import Model, Trained, examples, trained
from methods.attributor import Bilinear, Embedded, Fitted, State
from methods.influence import Influence
from methods.progress import track
from methods.random_projection import RandomProjection
from methods.randomness import numpy_generator
from methods.rows.projections import Directions, Select
from methods.task import Examples, Task, take
from methods.tracin import TracIn

LOSSES = 256  # pairs of a forward pass


Method = RandomProjection | Influence | TracIn | Loss


@dataclass(frozen=True)
class Basis:
    """What the once-per-model work of a method depends on; `part` as `narrowed` has it."""

    model: Model
    part: int | None
    preparation: Any


def narrowed(model: Model, task: Task, part: int | None) -> Task:
    """The task on the last `part` decoder layers, or on all parameters."""
    return task if part is None else task.only(model.network.last_layers(part))


def fitted(
    model: Model, there: Trained, method: RandomProjection | Influence | TracIn, part: int | None
) -> Fitted:
    """A method fitted to a trained model; a basis is found once and is a run."""
    task = narrowed(model, there.task, part)
    if isinstance(method, RandomProjection):
        return projected(method, task)
    state: State = {}
    if wanted := basis(model, method, part):

        def load() -> tuple[Task, Examples]:
            again = trained(model)  # noted as what this run was made of
            train = on_device(examples(model, model.train.load()))
            return narrowed(model, again.task, part), train

        state, _ = attribution.stored_state("translation_basis", wanted, method, load)
    return method.fit(task, state=state)


def basis(model: Model, method: Method, part: int | None = None) -> Basis | None:
    """The run that a method's once-per-model work is, None if it has none."""
    needed = None if isinstance(method, Loss) else method.state_settings
    return None if needed is None else Basis(model, part, needed)


def projected(method: RandomProjection, task: Task) -> Embedded:
    """A random projection whose directions are held whole: one pass over pairs, however large."""
    drawn = method.projection.draw(task)
    if not isinstance(method.projection, Select):
        drawn = Directions(drawn.directions(), task)
    return Embedded(task, Bilinear(drawn, drawn))


def by_length(some: Examples) -> Tensor:
    """The order from the longest pairs to the shortest: batches that are hardly padded.

    The longest come first, so that what an example costs is found on them.
    """
    return some["length"].argsort(descending=True, stable=True)


def contributions(method: Fitted, some: Examples) -> Tensor:
    """What each direction adds to the self-influence of each pair, (n, d); others have d = 1."""
    if not isinstance(method, Embedded):
        return _restored(lambda rows: method.self_influence(rows)[:, None], some)

    def products(rows: Examples) -> Tensor:
        query, train = method.own_rows(rows)
        return (query.dense() * train.dense()).cpu()

    return _restored(products, some)


def losses(task: Task, some: Examples) -> Tensor:
    """The training loss of each pair in nats a subword, (n, 1)."""

    return _restored(lambda rows: attribution.losses(task, rows, LOSSES)[:, None], some)


def _restored(of: Any, some: Examples) -> Tensor:
    order = by_length(some)
    found = of(take(some, order))
    out = torch.empty_like(found)
    out[order] = found
    return out


def nested(values: Tensor, dims: tuple[int, ...], method: Method) -> np.ndarray:
    """Self-influence at each of `dims` directions of the largest number, (k, n).

    The first directions of a basis or a Gaussian draw are the smaller one; of chosen parameters
    a random part is.
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


def streamed(n: int, block: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most `block` of n pairs: what is held does not grow with n."""
    for start in track(list(range(0, n, block)), "scoring"):
        yield start, min(start + block, n)


BLOCK = 8_192  # pairs held at a time, and lost at most where a shard is killed
SCORING = "wmt_scoring"  # the experiment whose cells are shards
STRIDE = 1_000  # lines between two marks in a file that is too large to hold


@dataclass(frozen=True)
class Polluted:
    """Pairs of a clean corpus, with every kind of noise added to a share of them."""

    corpus: Corpus = Corpus()
    other: Corpus = Corpus("wmt sample")
    share: float = 0.6
    seed: int = 0
    shards: int = 1

    def load(self) -> tuple[Pairs, np.ndarray]:
        """The pairs, and what is wrong with each."""
        return pollute(self.corpus.load(), self.other.load(), self.share, self.seed)

    @property
    def kinds(self) -> np.ndarray | None:
        """What is wrong with each pair, (n,)."""
        return self.load()[1]

    def size(self) -> int:
        """Pairs there are."""
        return len(self.corpus.load())

    def part(self, shard: int) -> "Part":
        """The pairs of one shard."""
        pairs, _ = self.load()
        bounds = np.linspace(0, len(pairs), self.shards + 1).astype(int)
        return Part(pairs.take(range(bounds[shard], bounds[shard + 1])))

    def chosen(self, index: np.ndarray) -> Iterator[tuple[str, str]]:
        """The pairs at increasing positions."""
        return iter(self.load()[0].take(index))


@dataclass(frozen=True)
class Part:
    """Pairs that are held."""

    pairs: Pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, start: int, end: int) -> Pairs:
        """Some of them."""
        return self.pairs.take(range(start, min(end, len(self.pairs))))


@dataclass(frozen=True)
class Range:
    """Lines of two files that are never held whole."""

    lines: Lines
    first: int
    last: int

    def __len__(self) -> int:
        return max(0, min(self.last, self.lines.n) - self.first)

    def take(self, start: int, end: int) -> Pairs:
        """Some of them."""
        return self.lines.take(self.first + start, self.first + min(end, len(self)))


@dataclass(frozen=True)
class Marks:
    """Where every `stride`-th line of a corpus' two files starts."""

    name: Name
    stride: int


@dataclass(frozen=True)
class Crawl:
    """A corpus too large to hold, in shards of `lines` lines."""

    name: Name = "paracrawl"
    shards: int = 110
    lines: int = 1_000_000

    kinds = None  # nobody knows

    def open(self) -> Lines:
        """The files with their marks; an error if they are not aligned."""
        asked, stem = Marks(self.name, STRIDE), root() / FILES[self.name]

        def compute(_: Path) -> dict[str, Any]:
            found = {way: marks(side(stem, way), self.name, STRIDE) for way in ("de", "en")}
            if found["de"][1] != found["en"][1]:
                raise misaligned(stem, found["de"][1], found["en"][1])
            return {"n": found["de"][1], **{way: place for way, (place, _) in found.items()}}

        run = runs.once("translation_marks", asked, compute)
        offsets = {way: np.asarray(run.array(way)) for way in ("de", "en")}
        lines = Lines(stem, STRIDE, offsets, int(run.metrics["n"]))
        if lines.n > self.shards * self.lines:
            raise UserError(
                f"{stem}.de has {lines.n:,} lines, {self.shards} shards of {self.lines:,} have "
                f"fewer: raise pool.shards to {-(-lines.n // self.lines)}"
            )
        return lines

    def size(self) -> int:
        """Pairs there are."""
        return self.open().n

    def part(self, shard: int) -> Range:
        """The pairs of one shard."""
        return Range(self.open(), shard * self.lines, (shard + 1) * self.lines)

    def chosen(self, index: np.ndarray) -> Iterator[tuple[str, str]]:
        """The pairs at increasing positions."""
        return self.open().chosen(index)


Pool = Polluted | Crawl


@dataclass(frozen=True)
class Scoring:
    """One shard of a pool, scored by every method in one run."""

    model: Model
    pool: Pool
    methods: tuple[Method, ...]
    shard: int = 0


def score(config: Scoring, scratch: Path) -> dict[str, Any]:
    """Self-influence of each pair by each method, `score_NAME` (n,), and what it took.

    `seconds_NAME` is the processor's time, without the model and the basis.
    """
    if not 0 <= config.shard < config.pool.shards:
        raise UserError(
            f"shard {config.shard} of {config.pool.shards}: give 0 to {config.pool.shards - 1}"
        )
    if isinstance(config.pool, Crawl):
        _made_before(config)
    there = trained(config.model)
    prepared = {
        family(m): None if isinstance(m, Loss) else fitted(config.model, there, m, None)
        for m in config.methods
    }
    part = config.pool.part(config.shard)
    found: dict[str, list[np.ndarray]] = {name: [] for name in prepared}
    seconds = dict.fromkeys(prepared, 0.0)
    for start, end in streamed(len(part), BLOCK):

        def block(start: int = start, end: int = end) -> dict[str, np.ndarray]:
            some, made = examples(config.model, part.take(start, end)), {}
            for name, method in prepared.items():
                began = time.process_time()
                values = losses(there.task, some) if method is None else contributions(method, some)
                made[f"score {name}"] = values.sum(1).float().numpy()
                made[f"seconds {name}"] = np.array(time.process_time() - began)
            return made

        values = checkpointed(scratch, f"pairs-{start}", block)
        for name in prepared:
            found[name].append(values[f"score {name}"])
            seconds[name] += float(values[f"seconds {name}"])
    none = [np.empty(0, np.float32)]
    return {
        "n_pairs": len(part),
        **{f"dim_{family(method)}": dimension(method) for method in config.methods},
        **{f"seconds_{name}": value for name, value in seconds.items()},
        **{f"score_{name}": np.concatenate(of or none) for name, of in found.items()},
    }


def _made_before(config: Scoring) -> None:
    """Refuse a crawl's shard without its model and basis: every job of the array would make them.

    Cell 3 of the paper tier's retrieval has both.
    """
    first = "run `python -m experiments.wmt_retrieval --preset paper --cell 3` before the shards"
    if runs.find("translation_model", config.model) is None:
        raise UserError(f"the model that scores is not trained: {first}")
    for method in config.methods:
        needed = basis(config.model, method)
        if needed is not None and runs.find("translation_basis", needed) is None:
            raise UserError(f"the basis of {family(method)} is not there: {first}")


def scores(model: Model, pool: Pool, methods: tuple[Method, ...], name: str) -> np.ndarray:
    """The scores of a whole pool by one of the methods, (n,).

    Shards of a crawl are an array of jobs of their own: missing ones are an error, not computed.
    """
    pieces = []
    for shard in range(pool.shards):
        asked = Scoring(model, pool, methods, shard)
        if isinstance(pool, Crawl) and runs.find(SCORING, asked) is None:
            raise UserError(
                f"shard {shard} of {pool.shards} of {pool.name} is not scored: "
                f"`python -m experiments.{SCORING} --preset paper`, or slurm/submit {SCORING} paper"
            )
        run = runs.once(SCORING, asked, partial(score, asked))
        pieces.append(np.asarray(run.array(f"score_{name}")))
    return np.concatenate(pieces)
