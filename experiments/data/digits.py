"""Handwritten digits: MNIST in the layout of torchvision, and the smaller set of scikit-learn.

MNIST/raw/*-ubyte under the data folder; scikit-learn brings its digits along.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from experiments.laboratory import data_folder
from experiments.laboratory.errors import UserError, quoted

N_EXAMPLES = {"train": 60_000, "test": 10_000}
PREFIX = {"train": "train", "test": "t10k"}


def load_sklearn() -> dict[str, Tensor]:
    """scikit-learn's 1,797 digits (UCI optical recognition, test part): no network, no file.

    Images (1797, 1, 8, 8) in [0, 1], float32, and labels (1797,), int64.
    """
    from sklearn.datasets import load_digits

    bundle = load_digits()
    image = np.ascontiguousarray(bundle.images, dtype=np.float32)
    label = np.ascontiguousarray(bundle.target, dtype=np.int64)
    data_folder.note_content("sklearn digits", image.tobytes(), label.tobytes())
    return {"image": torch.from_numpy(image)[:, None] / 16, "label": torch.from_numpy(label)}


def load_mnist(split: Literal["train", "test"]) -> dict[str, Tensor]:
    """Images (n, 1, 28, 28) in [0, 1], float32, and labels (n,), int64; downloaded if missing."""
    n, prefix = N_EXAMPLES[split], PREFIX[split]
    folder = data_folder.root() / "MNIST" / "raw"
    images, labels = folder / f"{prefix}-images-idx3-ubyte", folder / f"{prefix}-labels-idx1-ubyte"
    absent = [path for path in (images, labels) if not path.exists()]
    if absent:
        _download(absent[0])
    image = _read(images, (n, 28, 28))
    label = _read(labels, (n,))
    if label.max() > 9:
        raise UserError(
            f"{quoted(labels)} has the label {label.max()}, digits end at 9: {_remedy(labels)}"
        )
    return {
        "image": torch.from_numpy(image).view(n, 1, 28, 28).float() / 255,
        "label": torch.from_numpy(label).long(),
    }


def _download(absent: Path) -> None:
    """Let torchvision download the four files that are not there yet."""
    from torchvision.datasets import MNIST

    def failure(reason: str) -> UserError:
        what = f"{absent.name} is not in {absent.parent}"
        return data_folder.missing(what, reason, "put the four idx files there", "MNIST/raw")

    data_folder.download(
        absent.parent,
        [f"{mirror}train-labels-idx1-ubyte.gz" for mirror in MNIST.mirrors],
        lambda draft: MNIST(draft, download=True),
        "MNIST/raw/*-ubyte",
        failure,
    )


def _remedy(path: Path) -> str:
    return f"remove it with `rm {quoted(path)}` and run again to download it"


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    remedy = _remedy(path)
    content = data_folder.read(path, remedy)
    header = 4 + 4 * len(shape)
    expected = header + int(np.prod(shape))
    if len(content) != expected:
        raise UserError(f"{quoted(path)} has {len(content):,} of {expected:,} bytes: {remedy}")
    # The idx format: two zeros, 8 for unsigned bytes, the number of axes, their big-endian lengths.
    wanted = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
    if content[:header] != wanted:
        raise UserError(f"{quoted(path)} is not an idx file of shape {shape}: {remedy}")
    return np.frombuffer(bytearray(content), np.uint8, offset=header).reshape(shape)
