"""Describable Textures (Cimpoi et al., 2014) as torchvision keeps it: `dtd/dtd/{images,labels}`."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from experiments.data.photos import Photos, downloaded, positions, read
from experiments.laboratory.errors import UserError

Split = Literal["train", "val", "test"]
FOLDER, CLASSES = "dtd", 47
N_EXAMPLES: dict[Split, int] = {"train": 1_880, "val": 1_880, "test": 1_880}
ARCHIVE = "dtd-r1.0.1.tar.gz in a folder dtd"
REMEDY = f"replace the data set by the unpacked {ARCHIVE}"


def load(split: Split, index: np.ndarray) -> tuple[Photos, Tensor]:
    """Photographs and labels (n,), int64, at some positions of a split of the first partition.

    Classes are numbered in the order of their names.
    """
    from torchvision.datasets import DTD

    home = downloaded(FOLDER, DTD._URL, lambda home: DTD(home, download=True), ARCHIVE) / "dtd"
    listing = home / "labels" / f"{split}1.txt"
    try:
        names = listing.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {listing} ({error}): {REMEDY}") from error
    n = N_EXAMPLES[split]
    classes = sorted({name.partition("/")[0] for name in names})
    if len(names) != n or len(classes) > CLASSES:
        raise UserError(
            f"{listing} lists {len(names):,} photographs of {len(classes)} classes, not {n:,} of "
            f"{CLASSES}: {REMEDY}"
        )
    chosen = [names[i] for i in positions(n, index, listing)]
    labels = [classes.index(name.partition("/")[0]) for name in chosen]
    photos = read(f"dtd {split}", [home / "images" / name for name in chosen])
    return photos, torch.tensor(labels, dtype=torch.int64)
