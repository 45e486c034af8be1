"""Randomness that is the same on every machine: one stream per seed, purpose and index.

Never `seed + i`: neighbouring seeds would then share their streams.
"""

import contextlib
import zlib
from collections.abc import Iterator
from enum import IntEnum
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri

from methods.errors import MethodError


class Purpose(IntEnum):
    """The uses of random numbers in training; two purposes of one seed never share a stream."""

    ORDER = 1  # of the training examples, by epoch
    NOISE = 2  # dropout and the like, by epoch
    INITIAL = 3  # parameters
    SPLIT = 4  # of a data set into disjoint parts
    LABELS = 5  # which labels are changed, and to what
    UNITS = 6  # of a layer, when only some take part
    PRECONDITION = 7  # examples of a preconditioner, by round
    BATCHES = 8  # which examples form a batch, where the order has a stream of its own
    POLLUTION = 9  # which sentence pairs are corrupted, and how


def stream(seed: int, purpose: Purpose | str, *index: int) -> np.random.SeedSequence:
    """The seed sequence of one use of randomness: a Purpose, or any other by its name."""
    if seed < 0:
        raise MethodError(f"seed is {seed}: give 0 or more")
    number = zlib.crc32(purpose.encode()) if isinstance(purpose, str) else int(purpose)
    return np.random.SeedSequence([seed, number, *index])


def numpy_generator(seed: int, purpose: Purpose | str, *index: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(stream(seed, purpose, *index)))


def philox(seed: int, purpose: Purpose | str, number: int) -> np.random.Philox:
    """Stream `number` of 2^64 independent ones, by a counter: none of those before it is drawn."""
    return np.random.Philox(key=_key(seed, purpose), counter=[0, number, 0, 0])


@lru_cache(maxsize=64)
def _key(seed: int, purpose: Purpose | str) -> np.ndarray:
    return stream(seed, purpose).generate_state(2, np.uint64)


def words(source: np.random.Philox, count: int, kind: str | np.dtype[Any]) -> np.ndarray:
    """The next `count` random words of an integer type, the same on every machine."""
    each = np.dtype(kind).itemsize
    return source.random_raw(-(-count * each // 8)).astype("<u8", copy=False).view(kind)[:count]


@cache
def normals() -> np.ndarray:
    """65,536 numbers that are equally likely under N(0, 1), ascending, scaled to variance 1.

    A 16-bit word draws one of them, at three times the speed of numpy's normal numbers. They end
    at 4.32, and their kurtosis is 2.9992 instead of 3.
    """
    upper = ndtri(0.5 + (np.arange(1 << 15) + 0.5) / (1 << 16))
    upper /= np.sqrt(np.square(upper).mean())
    return np.concatenate([-upper[::-1], upper]).astype(np.float32)


def torch_generator(seed: int, purpose: Purpose | str, *index: int) -> torch.Generator:
    """A CPU generator: draw on the CPU, then move, so that all devices agree."""
    state = stream(seed, purpose, *index).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def torch_seeds(seed: int, purpose: Purpose | str, index: int = 0, count: int = 1) -> list[int]:
    """`count` seeds for torch generators."""
    words = stream(seed, purpose, index).generate_state(count, np.uint64)
    return [int(word) for word in words]


@contextlib.contextmanager
def initial_values(seed: int) -> Iterator[torch.Generator]:
    """Yield a generator for the parameters of a network, and let the network be built meanwhile.

    Layers draw from torch's global generator: it starts like the yielded one, and gets its state
    back at the end.
    """
    start = torch_seeds(seed, Purpose.INITIAL)[0]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(start)
        yield torch.Generator().manual_seed(start)
