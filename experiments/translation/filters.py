"""Selections from a pool of sentence pairs: by rules, at random, or the least self-influential."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from experiments.data.parallel import Corpus
from experiments.data.translation_noise import passes
from experiments.laboratory.attribution import Loss, arnoldi, family, randproj
from experiments.laboratory.errors import UserError
from experiments.training.plans import Warmed
from experiments.translation import models
from experiments.translation.models import ADAM, Language, Model, Subwords
from experiments.translation.scores import (
    BLOCK,
    Crawl,
    Method,
    Polluted,
    Pool,
    scores,
    shard_numbers,
)
from methods.examples import Examples
from methods.ihvp.arnoldi import Krylov
from methods.progress import track
from methods.randomness import Purpose, numpy_generator


@dataclass(frozen=True)
class Everything:
    """The whole pool."""


@dataclass(frozen=True)
class Rules:
    """Pairs that pass the rules of a common pre-filter (data/translation_noise)."""


@dataclass(frozen=True)
class Chance:
    """A random share."""

    share: float


@dataclass(frozen=True)
class Lowest:
    """The share with the lowest scores by the method of that name, assumed to be the cleanest."""

    method: str
    share: float


Arm = Everything | Rules | Chance | Lowest


@dataclass(frozen=True)
class Setting:
    """One tier: the model that scores, the pools, the selections, and how they are compared.

    model       the bootstrap model, trained on clean pairs that are in no pool
    noisy_pool  its seed is that of the cell
    clean       a clean pool, from which parts are removed
    shares      selected from the noisy pool; `removed` are removed from the clean one
    retrain     sizes and plan of the networks trained on a selection: one epoch is the early
                budget, all epochs are the late one
    early       steps of the early budget
    """

    model: Model
    methods: tuple[Method, ...]
    noisy_pool: Pool
    clean: Pool
    retrain: Model
    early: int
    test: Corpus
    shares: tuple[float, ...]
    removed: tuple[float, ...] = (0.25, 0.5)
    by_chance: tuple[float, ...] = ()
    seeds: int = 3

    def noisy(self, seed: int) -> Pool:
        """The noisy pool of one seed, which decides the pairs that get noise, unless it is real."""
        pool = self.noisy_pool
        return replace(pool, seed=seed) if isinstance(pool, Polluted) else pool

    def arms(self) -> list[Arm]:
        """The selections from the noisy pool."""
        arms: list[Arm] = [Everything(), Rules(), *map(Chance, self.by_chance)]
        arms += [Lowest(family(one), share) for share in self.shares for one in self.methods]
        return arms

    def of_clean(self) -> list[Arm]:
        """The selections from the clean pool."""
        lowest: list[Arm] = [Lowest("Arnoldi", 1 - share) for share in self.removed]
        return [Everything(), *lowest, *(Chance(1 - share) for share in self.removed[-1:])]


def select(
    arm: Arm, model: Model, pool: Pool, methods: tuple[Method, ...], seed: int
) -> np.ndarray:
    """Positions in the pool of the pairs an arm selects, increasing."""
    n = pool.size()
    if isinstance(arm, Everything):
        return np.arange(n)
    if isinstance(arm, Rules):
        passed = []
        for start in track(range(0, n, BLOCK), "rules"):
            rows = np.arange(start, min(start + BLOCK, n))
            passed += [passes(*pair) for pair in pool.chosen(rows)]
        return np.flatnonzero(passed)
    size = round(arm.share * n)
    if not 0 < size <= n:
        raise UserError(f"a share of {arm.share} of {n:,} pairs: give more than 0 and at most 1")
    if isinstance(arm, Chance):
        return np.sort(numpy_generator(seed, Purpose.SPLIT).permutation(n)[:size])
    if arm.method not in (known := [family(method) for method in methods]):
        raise UserError(f"no scores by {arm.method!r}: choose one of {', '.join(known)}")
    values = scores(model, pool, methods, arm.method)
    return np.sort(np.argsort(values, kind="stable")[:size])


def encoded(model: Model, pool: Pool, index: np.ndarray) -> Examples:
    """The pairs at increasing positions as a model takes them, on the CPU.

    In 16-bit numbers, 100 million pairs of 64 subwords a side take 26 GB.
    """
    length, columns, start = model.language.length, dict[str, np.ndarray](), 0
    for shard in track(range(pool.shards), "shards"):
        pairs = shard_numbers(model.language, pool, shard)
        first, last = np.searchsorted(index, [start, start + len(pairs)])
        for name, column in pairs.columns(index[first:last] - start, length).items():
            values = column.numpy()
            width = (length,) if values.ndim == 2 else ()
            whole = columns.setdefault(name, np.zeros((len(index), *width), values.dtype))
            whole[first:last][tuple(slice(size) for size in values.shape)] = values
        start += len(pairs)
    return {name: torch.from_numpy(values) for name, values in columns.items()}


KRYLOV = Krylov(60, 128, 0, 20)
BOOT = replace(
    models.SMALL,
    network=replace(models.SMALL.network, width=96, inner=256),
    language=Language(Subwords(Corpus("multi30k", 0, 8_000), 2_000), 48),
    train=Corpus("multi30k", 0, 8_000),
    fit=Warmed(epochs=12, batch_size=64, lr=3e-3, every=12, adam=ADAM, warmup=1.5),
)
SMOKE_BOOT = replace(
    models.SMOKE,
    language=replace(models.SMOKE.language, length=20),
    fit=replace(models.SMOKE.fit, every=12),
)
SMOKE = Setting(
    SMOKE_BOOT,
    (arnoldi(5, Krylov(12, 48, 0, 5)), randproj(5, 0), Loss()),
    Polluted(Corpus("generated", 600, 700), Corpus("generated test"), shards=2),
    Polluted(Corpus("generated", 1_300, 400), Corpus("generated test"), share=0.0),
    replace(SMOKE_BOOT, fit=replace(SMOKE_BOOT.fit, epochs=3, every=1, warmup=0.7)),
    early=10,
    test=Corpus("generated test", 0, 60),
    shares=(0.3,),
    removed=(0.5,),
    seeds=2,
)
SMALL = Setting(
    BOOT,
    (arnoldi(10, KRYLOV), randproj(10, 0), Loss()),
    Polluted(Corpus("multi30k", 8_000, 16_000), Corpus("wmt sample"), shards=2),
    Polluted(Corpus("multi30k", 24_000, 5_000), Corpus("wmt sample"), share=0.0),
    replace(BOOT, fit=replace(BOOT.fit, epochs=4, every=1, warmup=0.7)),
    early=120,
    test=Corpus("multi30k test", 0, 500),
    shares=(0.1, 0.3),
    by_chance=(0.3,),
)
PAPER = Setting(
    models.PAPER,
    (arnoldi(10, Krylov(200, 512, 0, 20)), randproj(10, 0), Loss()),
    Crawl(),
    Polluted(Corpus("wmt17"), Corpus("newstest2016"), share=0.0, shards=10),
    replace(
        models.PAPER,
        language=replace(models.PAPER.language, length=64),
        fit=replace(models.PAPER.fit, epochs=20, every=1, warmup=0.4),
    ),
    early=10_000,
    test=Corpus("newstest2016"),
    shares=(0.01, 0.05, 0.10),
    by_chance=(0.10,),
)
