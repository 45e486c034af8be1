"""Which examples each of many models is trained on, and booleans kept at one bit each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from methods.ensembles.arrays import array
from methods.errors import MethodError
from methods.randomness import stream


@dataclass(frozen=True)
class Packed:
    """Rows of booleans: bits (n_rows, ceil(width / 8)) uint8, as they go to disk."""

    bits: np.ndarray
    width: int

    @classmethod
    def of(cls, rows: Tensor | np.ndarray) -> Packed:
        """Pack an array (n_rows, width) of anything that is true or false."""
        truth = array(rows).astype(bool)
        return cls(np.packbits(truth, axis=1, bitorder="little"), truth.shape[1])

    def __len__(self) -> int:
        return len(self.bits)

    def unpacked(self, some: slice = slice(None)) -> Tensor:
        """Some of the rows as booleans, (n, width)."""
        rows = np.unpackbits(self.bits[some], axis=1, count=self.width, bitorder="little")
        return torch.from_numpy(rows.view(bool))


def draw_masks(n_models: int, n_train: int, size: int, seed: int, first: int = 0) -> np.ndarray:
    """Random subsets of `size` examples for the models from `first` on, (n_models, n_train) bool.

    Every model has its own random stream, so that a job draws only the masks of its own models. The
    stream is raw words of PCG64, which are the same on every machine and in every version of numpy.
    """
    if not 0 < size <= n_train:
        raise MethodError(f"a subset of {size} of {n_train} examples: give 1 to {n_train}")
    masks = np.zeros((n_models, n_train), dtype=bool)
    for row in range(n_models):
        words = np.random.PCG64(stream(seed, "mask", first + row)).random_raw(n_train)
        masks[row, np.argpartition(words, size - 1)[:size]] = True  # 64-bit words do not repeat
    return masks
