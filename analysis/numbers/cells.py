"""Arrays in one cell of a CSV: bytes, such as an image's pixels, and short lists of numbers."""

import numpy as np
from numpy.typing import ArrayLike

HEX = "hex:"  # keeps a CSV reader from taking bytes for a number


def packed(values: ArrayLike) -> str:
    """Write an array's bytes as a cell."""
    return HEX + np.asarray(values).tobytes().hex()


def unpacked(cell: str) -> bytes:
    """The bytes that `packed` wrote."""
    return bytes.fromhex(cell.removeprefix(HEX))


def listed(values: np.ndarray) -> str:
    """Write numbers as a cell, with five significant digits."""
    return " ".join(f"{value:.5g}" for value in values)


def unlisted(cell: str) -> np.ndarray:
    """The numbers that `listed` wrote."""
    return np.array(cell.split(), dtype=float)
