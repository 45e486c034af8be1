"""CIFAR-100 (Krizhevsky, 2009) as torchvision keeps it: `cifar-100-python/{train, test}`."""

import io
import pickle

import numpy as np
import torch
from torch import Tensor

from experiments.data.cifar import SIDE, Arrays, Split
from experiments.laboratory import data_folder
from experiments.laboratory.errors import UserError

FOLDER, N_EXAMPLES, CLASSES = "cifar-100-python", {"train": 50_000, "test": 10_000}, 100


def load(split: Split, index: np.ndarray) -> dict[str, Tensor]:
    """Images (n, 3, 32, 32) in [0, 1], float32, and fine labels (n,), int64, at some positions."""
    path = data_folder.root() / FOLDER / split
    n = N_EXAMPLES[split]
    if not path.exists():
        command = "from torchvision.datasets import CIFAR100; "
        command += f"CIFAR100('{data_folder.root()}', download=True)"
        what = f"{split} is not in {path.parent}"
        remedy = f'download it with `python -c "{command}"`'
        raise data_folder.missing(what, "has to be downloaded", remedy, FOLDER)
    remedy = data_folder.replace(path)
    content = data_folder.read(path, remedy, "CIFAR-100")
    try:
        columns = Arrays(io.BytesIO(content), encoding="latin1").load()
        pixels, labels = np.asarray(columns["data"]), np.asarray(columns["fine_labels"])
    except (EOFError, ValueError, LookupError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is truncated or corrupt ({error}): {remedy}") from error
    if pixels.shape != (n, 3 * SIDE**2) or labels.shape != (n,):
        raise UserError(f"{path} has {pixels.shape}, not {n:,} images: {remedy}")
    return {
        "image": torch.from_numpy(pixels[index].reshape(-1, 3, SIDE, SIDE)).float() / 255,
        "label": torch.from_numpy(labels[index].astype(np.int64)),
    }
