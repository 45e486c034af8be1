"""Where randomness comes from: one seed, one purpose, one index, never `seed + i`."""

from enum import IntEnum

import numpy as np

from experiments.laboratory.errors import UserError


class Purpose(IntEnum):
    """What the numbers are for; two purposes of one seed never share a stream."""

    ORDER = 1  # of the training examples, by epoch
    NOISE = 2  # dropout and the like, by epoch
    INITIAL = 3  # parameters
    SPLIT = 4  # of a data set into disjoint parts
    LABELS = 5  # which are changed, and to what
    UNITS = 6  # of a layer, when only some take part
    PRECONDITION = 7  # examples of a preconditioner, by round
    BATCHES = 8  # which examples are one batch, where the order has a stream of its own
    POLLUTION = 9  # which sentence pairs are spoilt, and how


def sequence(seed: int, purpose: Purpose, index: int = 0) -> np.random.SeedSequence:
    """The seed sequence every generator of this package is made from."""
    if seed < 0:
        raise UserError(f"seed is {seed}: give 0 or more")
    return np.random.SeedSequence([seed, int(purpose), index])


def generator(seed: int, purpose: Purpose, index: int = 0) -> np.random.Generator:
    """A numpy generator, the same on every machine."""
    return np.random.default_rng(sequence(seed, purpose, index))


def torch_seeds(seed: int, purpose: Purpose, index: int = 0, count: int = 1) -> list[int]:
    """`count` seeds for torch generators."""
    return [int(word) for word in sequence(seed, purpose, index).generate_state(count, np.uint64)]
