"""Flowers 102 (Nilsback & Zisserman, 2008) as torchvision keeps it.

flowers-102/{jpg/image_00001.jpg ..., imagelabels.mat, setid.mat}
"""

import zlib
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from experiments.data.photos import Photos, downloaded, positions, read
from experiments.laboratory.errors import UserError, quoted

Split = Literal["train", "val", "test"]
FOLDER, CLASSES = "flowers-102", 102
N_EXAMPLES: dict[Split, int] = {"train": 1_020, "val": 1_020, "test": 6_149}
COLUMNS: dict[Split, str] = {"train": "trnid", "val": "valid", "test": "tstid"}
ARCHIVE = "102flowers.tgz with imagelabels.mat and setid.mat in a folder flowers-102"
REMEDY = f"replace the data set by the unpacked {ARCHIVE}"


def load(split: Split, index: np.ndarray) -> tuple[Photos, Tensor]:
    """Photographs and labels (n,), int64, at some positions of a split."""
    from torchvision.datasets import Flowers102

    address = f"{Flowers102._download_url_prefix}{Flowers102._file_dict['setid'][0]}"
    home = downloaded(FOLDER, address, lambda home: Flowers102(home, download=True), ARCHIVE)
    numbers = _column(home / "setid.mat", COLUMNS[split])
    labels = _column(home / "imagelabels.mat", "labels")
    n = N_EXAMPLES[split]
    if len(numbers) != n or not 0 < int(numbers.min()) <= int(numbers.max()) <= len(labels):
        raise UserError(
            f"{quoted(home / 'setid.mat')} lists {len(numbers):,} photographs for {split}, "
            f"not {n:,} of "
            f"{len(labels):,}: {REMEDY}"
        )
    if not 0 < int(labels.min()) <= int(labels.max()) <= CLASSES:
        raise UserError(
            f"{quoted(home / 'imagelabels.mat')} has a label outside 1 to {CLASSES}: {REMEDY}"
        )
    chosen = [int(numbers[i]) for i in positions(n, index, home)]
    wanted = [home / "jpg" / f"image_{number:05d}.jpg" for number in chosen]
    photos = read(f"flowers-102 {split}", wanted)
    return photos, torch.tensor([int(labels[i - 1]) - 1 for i in chosen], dtype=torch.int64)


def _column(path: Any, name: str) -> np.ndarray:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    unreadable = (OSError, ValueError, LookupError, TypeError, NotImplementedError)
    try:
        given = np.atleast_1d(loadmat(path, squeeze_me=True)[name])
        numbers = given.astype(np.int64)
        if given.ndim != 1 or not np.array_equal(numbers, given):
            raise ValueError(f"{name} is no list of whole numbers")
        return numbers
    except (*unreadable, MatReadError, zlib.error) as error:
        raise UserError(f"cannot read {quoted(path)} ({error}): {REMEDY}") from error
