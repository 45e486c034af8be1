"""Wrong labels and disjoint random subsets, the same on every machine."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from experiments.laboratory.errors import UserError
from methods.randomness import Purpose, numpy_generator


def reassign(
    labels: ArrayLike, share: float, num_classes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Give round(share * n) examples another label, uniformly among the wrong ones.

    Returns `given` (n,) int64 and `corrupted` (n,) bool, true exactly where given differs.
    """
    true = np.asarray(labels, dtype=np.int64)
    if not 0 <= share <= 1:
        raise UserError(f"share of wrong labels is {share}: give a number from 0 to 1")
    if num_classes < 2 or (len(true) and not 0 <= true.min() <= true.max() < num_classes):
        raise UserError(f"labels do not fit {num_classes} classes: give num_classes of the data")
    draw = numpy_generator(seed, Purpose.LABELS)
    chosen = draw.permutation(len(true))[: round(share * len(true))]
    given, corrupted = true.copy(), np.zeros(len(true), dtype=bool)
    given[chosen] = (true[chosen] + draw.integers(1, num_classes, len(chosen))) % num_classes
    corrupted[chosen] = True
    return given, corrupted


def check_some(n: int, share: float) -> None:
    """Refuse, before a model is trained, a share of wrong labels of which none or all are wrong.

    How well the wrong ones are found among the others then has no number.
    """
    wrong = round(share * n)
    if not 0 < wrong < n:
        raise UserError(
            f"data.noise is {share}, which makes {wrong:,} of {n:,} labels wrong, and none can be "
            f"told from the others: give a share of 1 to {n - 1:,} of them"
        )


def split(n: int, sizes: Sequence[int], seed: int) -> list[np.ndarray]:
    """Disjoint random sets of positions below n, of the given sizes, each in random order."""
    if min(sizes, default=0) < 0 or sum(sizes) > n:
        raise UserError(f"parts of {' + '.join(map(str, sizes))} do not fit into {n} examples")
    order = numpy_generator(seed, Purpose.SPLIT).permutation(n)
    ends = np.cumsum(sizes)
    return [order[end - size : end] for size, end in zip(sizes, ends, strict=True)]
