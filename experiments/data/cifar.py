"""CIFAR-10 (Krizhevsky, 2009) as torchvision keeps it, or one of two smaller copies.

original    cifar-10-batches-py/{data_batch_1..5, test_batch}: the real pixels
jpeg        cifar-10-jpeg/{train, test}.npz: all images in order, each recompressed as JPEG
first4000   cifar-10-first4000/data_batch_1.first4000: the first 4,000 of training, real pixels
"""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from experiments.laboratory import data_folder
from experiments.laboratory.errors import UserError, quoted

Source = Literal["original", "jpeg", "first4000"]
Split = Literal["train", "test"]

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
N_EXAMPLES: dict[Split, int] = {"train": 50_000, "test": 10_000}
N_FIRST, BATCHES = 4_000, 5
FOLDERS = {
    "original": "cifar-10-batches-py",
    "jpeg": "cifar-10-jpeg",
    "first4000": "cifar-10-first4000",
}
KIND = {
    "original": "CIFAR-10",
    "jpeg": "JPEG-recompressed CIFAR-10",
    "first4000": "CIFAR-10, first 4,000 training images",
}
SIDE = 32


def count(source: Source, split: Split) -> int:
    """How many images a split has."""
    if source == "first4000":
        if split == "test":
            raise UserError("first4000 has no test split: split its images, or name another source")
        return N_FIRST
    return N_EXAMPLES[split]


def load(source: Source, split: Split, index: np.ndarray | None = None) -> dict[str, Tensor]:
    """Images (n, 3, 32, 32) in [0, 1], float32, and labels (n,), int64.

    `index` are positions in the data set's own order; all, in that order, if None. Torchvision
    downloads the original if it is missing; the copies have no download.
    """
    n = count(source, split)
    chosen = np.arange(n) if index is None else np.asarray(index)
    files = [_file(source, name) for name in _names(source, split)]
    if source == "jpeg":
        pixels, labels = _jpeg(files[0], n, chosen)
    else:
        batches = [_batch(source, path, n // len(files)) for path in files]
        pixels, labels = (np.concatenate(parts)[chosen] for parts in zip(*batches, strict=True))
    return {
        "image": torch.from_numpy(pixels).float() / 255,
        "label": torch.from_numpy(labels.astype(np.int64)),
    }


def _names(source: Source, split: str) -> list[str]:
    if source == "jpeg":
        return [f"{split}.npz"]
    if source == "first4000":
        return ["data_batch_1.first4000"]
    return ["test_batch"] if split == "test" else [f"data_batch_{i + 1}" for i in range(BATCHES)]


def _file(source: Source, name: str) -> Path:
    path = data_folder.root() / FOLDERS[source] / name
    if not path.exists():
        if source != "original":
            raise UserError(
                f"{name} is not in {quoted(path.parent)}: copy it there, name another place "
                "with --data "
                f"DIR or RETRACE_DATA=DIR, where DIR has {FOLDERS[source]}, or choose the source "
                "original"
            )
        _download(path)
    return path


def _download(path: Path) -> None:
    """Let torchvision download the batches that are not there yet."""
    from torchvision.datasets import CIFAR10

    def failure(reason: str) -> UserError:
        remedy = (
            "put the unpacked cifar-10-python.tar.gz there, or choose the source jpeg if you have "
            + FOLDERS["jpeg"]
        )
        what = f"{path.name} is not in {quoted(path.parent)}"
        return data_folder.missing(what, reason, remedy, FOLDERS["original"])

    data_folder.download(
        path.parent,
        [CIFAR10.url],
        lambda draft: CIFAR10(draft, download=True),
        f"{FOLDERS['original']}/*",
        failure,
    )


def _content(source: Source, path: Path) -> bytes:
    return data_folder.read(path, _remedy(source, path), KIND[source])


def _remedy(source: Source, path: Path) -> str:
    if source == "original":
        return f"remove it with `rm {quoted(path)}` and run again to download it"
    return "replace it by a complete copy, or choose the source original"


def _damaged(source: Source, path: Path, reason: str) -> UserError:
    return UserError(f"{quoted(path)} is truncated or corrupt ({reason}): {_remedy(source, path)}")


class Arrays(pickle.Unpickler):
    """Unpickles lists, dictionaries and arrays; refuses files that need any other class."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # some Python versions pickle bytes by it
            return super().find_class(module, name)
        if module.partition(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it needs {module}.{name}")


def _batch(source: Source, path: Path, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, 3, 32, 32) and labels (n,) of one batch in Python's pickle format."""
    content = _content(source, path)
    try:
        batch = Arrays(io.BytesIO(content), encoding="bytes").load()
        columns = {k.decode() if isinstance(k, bytes) else k: v for k, v in batch.items()}
        pixels, labels = np.asarray(columns["data"]), np.asarray(columns["labels"])
    except (pickle.UnpicklingError, EOFError, ValueError, LookupError, AttributeError) as error:
        raise _damaged(source, path, str(error) or type(error).__name__) from error
    except (TypeError, ImportError, MemoryError) as error:  # a changed byte may cause these
        raise _damaged(source, path, type(error).__name__) from error
    if pixels.shape != (n, 3 * SIDE**2) or pixels.dtype != np.uint8 or labels.shape != (n,):
        raise _damaged(source, path, f"it has {pixels.shape} {pixels.dtype}, not {n:,} images")
    return pixels.reshape(n, 3, SIDE, SIDE), _checked(source, path, labels)


def _jpeg(path: Path, n: int, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, 3, 32, 32) and labels (n,) at some positions among n JPEG streams."""
    from PIL import Image

    unreadable = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
    content = _content("jpeg", path)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as bundle:
            stream, ends, labels = (bundle[name] for name in ("jpeg", "offsets", "labels"))
    except (zipfile.BadZipFile, ValueError, LookupError, EOFError, OSError, TypeError) as error:
        raise _damaged("jpeg", path, str(error)) from error
    shapes = ends.shape == (n + 1,) and labels.shape == (n,) and stream.ndim == 1
    whole = stream.dtype == np.uint8 and ends.dtype.kind in "iu"
    complete = shapes and whole and int(ends[0]) == 0 and int(ends[-1]) == len(stream)
    if not complete or (ends[1:] <= ends[:-1]).any():
        raise _damaged("jpeg", path, f"it does not have {n:,} images")
    pixels = np.empty((len(chosen), 3, SIDE, SIDE), np.uint8)
    for row, i in zip(pixels, chosen, strict=True):
        try:
            with Image.open(io.BytesIO(stream[ends[i] : ends[i + 1]].tobytes())) as image:
                if image.size != (SIDE, SIDE):
                    raise _damaged("jpeg", path, f"image {i} has {image.size} pixels")
                row[:] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        except unreadable as error:
            raise _damaged("jpeg", path, f"image {i} is truncated or not a JPEG") from error
    return pixels, _checked("jpeg", path, labels)[chosen]


def _checked(source: Source, path: Path, labels: np.ndarray) -> np.ndarray:
    if labels.dtype.kind not in "iu":
        raise _damaged(source, path, f"labels are {labels.dtype}")
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(CLASSES):
        raise _damaged(source, path, "a label is outside 0 to 9")
    return labels
