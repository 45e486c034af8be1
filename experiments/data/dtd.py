"""Describable Textures (Cimpoi et al., 2014) as torchvision keeps it: `dtd/dtd/{images,labels}`."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from experiments.data.photos import Photos, chosen, fetch, read
from experiments.laboratory.errors import UserError

Split = Literal["train", "val", "test"]
FOLDER, CLASSES = "dtd", 47
N_EXAMPLES: dict[Split, int] = {"train": 1_880, "val": 1_880, "test": 1_880}
ARCHIVE = "dtd-r1.0.1.tar.gz in a folder dtd"


def load(split: Split, index: np.ndarray, keep: bool = False) -> tuple[Photos, Tensor]:
    """Photographs and labels (n,), int64, at some positions of a split of the first partition.

    Classes are numbered in the order of their names.
    """
    from torchvision.datasets import DTD

    home = fetch(FOLDER, DTD._URL, lambda draft: DTD(draft, download=True), ARCHIVE) / "dtd"
    listing = home / "labels" / f"{split}1.txt"
    try:
        names = listing.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {listing} ({error}): put the unpacked {ARCHIVE}") from error
    n = N_EXAMPLES[split]
    classes = sorted({name.partition("/")[0] for name in names})
    if len(names) != n or len(classes) > CLASSES:
        raise UserError(
            f"{listing} lists {len(names):,} photographs of {len(classes)} classes, not {n:,} of "
            f"{CLASSES}: copy a whole one there"
        )
    some = [names[i] for i in chosen(n, index, str(listing))]
    labels = [classes.index(name.partition("/")[0]) for name in some]
    photos = read(f"dtd {split}", [home / "images" / name for name in some], keep)
    return photos, torch.tensor(labels, dtype=torch.int64)
