"""Made-up digits as the four idx files of MNIST, in a few kilobytes."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from experiments.data import digits


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    content = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_letters(folder: Path, n: int, side: int = 28, suffix: str = "") -> np.ndarray:
    """Made-up letters 1 to 26 as the files of EMNIST, `n` for training, and their labels."""
    draw = np.random.default_rng(1)
    patterns, label = draw.integers(0, 200, (26, side, side)), np.arange(n) % 26
    for split, rows in (("test", 3), ("train", n)):
        image = patterns[label[:rows]] + draw.integers(0, 56, (rows, side, side))
        write_idx(folder / f"emnist-letters-{split}-images-idx3-ubyte{suffix}", image)
        write_idx(folder / f"emnist-letters-{split}-labels-idx1-ubyte{suffix}", label[:rows] + 1)
    return label


def write_mnist(folder: Path, sizes: dict[str, int], patch: pytest.MonkeyPatch) -> None:
    """Noisy copies of ten patterns where MNIST would be under `folder`, of these sizes."""
    patch.setenv("RETRACE_DATA", str(folder))
    patch.setattr(digits, "N_EXAMPLES", sizes)
    draw = np.random.default_rng(0)
    patterns = draw.integers(0, 200, (10, 28, 28))
    for split, n in sizes.items():
        label = np.arange(n) % 10
        image = patterns[label] + draw.integers(0, 56, (n, 28, 28))
        start = folder / "MNIST" / "raw" / digits.PREFIX[split]
        write_idx(start.with_name(f"{start.name}-images-idx3-ubyte"), image)
        write_idx(start.with_name(f"{start.name}-labels-idx1-ubyte"), label)
