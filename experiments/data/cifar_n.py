"""CIFAR-10N (Wei et al., 2022, arXiv:2110.12088): CIFAR-10 labelled again by people, once each.

`cifar-10n/CIFAR-10_human.pt` of github.com/UCSC-REAL/cifar-10-100n under the data folder, beside
the JPEG-recompressed training images of CIFAR-10. The labels of `random_label1` are wrong for 17%
of the images, as people are wrong; those of CIFAR-10 itself are taken to be right.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.data import cifar
from experiments.laboratory import data_folder
from experiments.laboratory.errors import UserError, one_line, quoted

N = 5_000  # images, the first of the training split
GIVEN, TRUE = "random_label1", "clean_label"
ARRAYS: list[Any] = [  # what a dict of numpy arrays is made of; nothing else in the file is run
    (np.empty(0).__reduce__()[0], "numpy.core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    type(np.dtype(np.int64)),
]


def load() -> tuple[Tensor, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Images (N, 3, 32, 32) in [0, 1]; one person's label and the true one, (N,); the classes."""
    path = data_folder.root() / "cifar-10n" / "CIFAR-10_human.pt"
    if not path.exists():
        raise data_folder.missing(
            f"{path.name} is not in {quoted(path.parent)}",
            "it has no download here",
            "copy it from the folder `data` of https://github.com/UCSC-REAL/cifar-10-100n",
            "cifar-10n and cifar-10-jpeg",
        )
    data_folder.note_file(path, "labels of people")
    try:
        with torch.serialization.safe_globals(ARRAYS):
            labels = torch.load(path, weights_only=True)
        given, true = (np.asarray(labels[name], dtype=np.int64)[:N] for name in (GIVEN, TRUE))
    except OSError:
        raise
    except Exception as error:  # a changed byte may cause any
        raise UserError(f"{quoted(path)} is damaged ({one_line(error)}): copy it anew") from error
    images = cifar.load("jpeg", "train", np.arange(N))
    if not (images["label"].numpy() == true).all():
        raise UserError(f"{quoted(path)} has labels of other images than CIFAR-10's: copy it anew")
    return images["image"], given, true, cifar.CLASSES
