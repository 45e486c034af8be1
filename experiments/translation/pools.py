"""Pools of candidate pairs, scored shard by shard with a basis that stays the same.

A shard is a run: complete or not there, so that one that was killed is redone alone. Its pairs
stream past in blocks; what is held does not grow with the pool.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data import noise
from experiments.data.parallel import FILES, Corpus, Lines, Name, Pairs, marks, misaligned, side
from experiments.laboratory import runs
from experiments.laboratory.attribution import Loss, dimension, family
from experiments.laboratory.data_folder import root
from experiments.laboratory.errors import UserError
from experiments.laboratory.scratch import kept
from experiments.translation.models import Model, examples, trained
from experiments.translation.scores import (
    Method,
    basis,
    contributions,
    fitted,
    losses,
    streamed,
)

BLOCK = 8_192  # pairs held at a time, and lost at most where a shard is killed
SCORING = "wmt_scoring"  # the experiment whose cells are shards
STRIDE = 1_000  # lines between two marks in a file that is too large to hold


@dataclass(frozen=True)
class Polluted:
    """Pairs of a clean corpus of which a share is spoilt, kind by kind (experiments/data/noise)."""

    corpus: Corpus = Corpus()
    other: Corpus = Corpus("wmt sample")
    share: float = 0.6
    seed: int = 0
    shards: int = 1

    def load(self) -> tuple[Pairs, np.ndarray]:
        """The pairs, and what is wrong with each."""
        return noise.pollute(self.corpus.load(), self.other.load(), self.share, self.seed)

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

        values = kept(scratch, f"pairs-{start}", block)
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
