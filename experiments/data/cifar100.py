"""CIFAR-100 (Krizhevsky, 2009) as torchvision keeps it: `cifar-100-python/{train, test}`."""

import hashlib
import pickle
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.data.cifar import Arrays, Split
from experiments.laboratory import data_folder
from experiments.laboratory.errors import UserError
from experiments.laboratory.runs import note

FOLDER, N_EXAMPLES, CLASSES = "cifar-100-python", {"train": 50_000, "test": 10_000}, 100


def load(split: Split, index: np.ndarray) -> dict[str, Tensor]:
    """Images (n, 3, 32, 32) in [0, 1], float32, and fine labels (n,), int64, at some positions."""
    path = data_folder.root() / FOLDER / split
    n = N_EXAMPLES[split]
    try:
        with path.open("rb") as file:
            found = Arrays(file, encoding="latin1").load()
        pixels, labels = np.asarray(found["data"]), np.asarray(found["fine_labels"])
    except FileNotFoundError:
        raise UserError(
            f"{split} is not in {path.parent}: put the unpacked cifar-100-python.tar.gz there, by "
            f'`python -c "from torchvision.datasets import CIFAR100; '
            f"CIFAR100('{data_folder.root()}', download=True)\"`, "
            "or name another place with --data DIR or RETRACE_DATA=DIR"
        ) from None
    except (OSError, EOFError, ValueError, LookupError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(f"cannot read {path} ({error}): copy a whole one there") from error
    if pixels.shape != (n, 3 * 32**2) or labels.shape != (n,):
        raise UserError(f"{path} holds {pixels.shape}, not {n:,} images: copy a whole one there")
    note("data", {f"{FOLDER}/{split}": f"CIFAR-100, md5 {_md5(path, path.stat().st_mtime_ns)}"})
    return {
        "image": torch.from_numpy(pixels[index].reshape(-1, 3, 32, 32)).float() / 255,
        "label": torch.from_numpy(labels[index].astype(np.int64)),
    }


@cache
def _md5(path: Path, changed: int) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
