"""Randomness that is the same on every machine: one stream a (seed, purpose, index)."""

import zlib

import numpy as np
import torch

from methods.errors import MethodError


def stream(seed: int, purpose: str, *index: int) -> np.random.SeedSequence:
    """The seed sequence of one named use of randomness."""
    if seed < 0:
        raise MethodError(f"seed is {seed}: give 0 or more")
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *index])


def numpy_generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(stream(seed, purpose, *index)))


def torch_generator(seed: int, purpose: str, *index: int) -> torch.Generator:
    """A CPU generator: draw on the CPU, then move, and devices agree."""
    state = stream(seed, purpose, *index).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
