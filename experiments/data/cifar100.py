"""CIFAR-100 (Krizhevsky, 2009) as torchvision keeps it: `cifar-100-python/{train, test}`."""

import io
import json
import shlex

import numpy as np
import torch
from torch import Tensor

from experiments.data.cifar import SIDE, Arrays, Split
from experiments.laboratory import data_folder
from experiments.laboratory.errors import UserError, quoted

FOLDER, N_EXAMPLES, CLASSES = "cifar-100-python", {"train": 50_000, "test": 10_000}, 100


def load(split: Split, index: np.ndarray) -> dict[str, Tensor]:
    """Images (n, 3, 32, 32) in [0, 1], float32, and fine labels (n,), int64, at some positions."""
    path = data_folder.root() / FOLDER / split
    n = N_EXAMPLES[split]
    if not path.exists():
        command = "from torchvision.datasets import CIFAR100; "
        command += f"CIFAR100({json.dumps(str(data_folder.root()))}, download=True)"
        what = f"{split} is not in {quoted(path.parent)}"
        remedy = f"download it with `python -c {shlex.quote(command)}`"
        raise data_folder.missing(what, "has to be downloaded", remedy, FOLDER)
    remedy = data_folder.replace(path)
    content = data_folder.read(path, remedy, "CIFAR-100")
    try:
        columns = Arrays(io.BytesIO(content), encoding="latin1").load()
        pixels, labels = np.asarray(columns["data"]), np.asarray(columns["fine_labels"])
    except Exception as error:  # a changed byte of a pickle may cause any
        raise UserError(f"{quoted(path)} is truncated or corrupt ({error}): {remedy}") from error
    if pixels.dtype != np.uint8 or labels.dtype.kind not in "iu":
        found = f"pixels of {pixels.dtype} and labels of {labels.dtype}, not whole numbers"
        raise UserError(f"{quoted(path)} has {found}: {remedy}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < CLASSES:
        raise UserError(f"{quoted(path)} has a label outside 0 to {CLASSES - 1}: {remedy}")
    if pixels.shape != (n, 3 * SIDE**2) or labels.shape != (n,):
        raise UserError(f"{quoted(path)} has {pixels.shape}, not {n:,} images: {remedy}")
    return {
        "image": torch.from_numpy(pixels[index].reshape(-1, 3, SIDE, SIDE)).float() / 255,
        "label": torch.from_numpy(labels[index].astype(np.int64)),
    }
