"""CIFAR-10 (Krizhevsky, 2009) as torchvision keeps it, or one of two copies of less.

original    cifar-10-batches-py/{data_batch_1..5, test_batch}: the real pixels
jpeg        cifar-10-jpeg/{train, test}.npz: all images in order, each recompressed as JPEG
first4000   cifar-10-first4000/data_batch_1.first4000: the first 4,000 of training, real pixels
"""

import hashlib
import io
import pickle
import shutil
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from experiments.laboratory import data_folder
from experiments.laboratory.data_folder import reachable
from experiments.laboratory.errors import UserError
from experiments.laboratory.runs import note

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

    `index` are positions in the data set's own order; all, in that order, if None. The original is
    downloaded by torchvision if it is missing; the copies come with a project or not at all.
    """
    n = count(source, split)
    chosen = np.arange(n) if index is None else np.asarray(index)
    if source == "jpeg":
        pixels, labels = _jpeg(split, chosen)
    else:
        files = [_file(source, name) for name in _names(source, split)]
        parts = [_batch(source, path, n // len(files)) for path in files]
        pixels = np.concatenate([part[0] for part in parts])[chosen]
        labels = np.concatenate([part[1] for part in parts])[chosen]
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
    folder = data_folder.root() / FOLDERS[source]
    path = folder / name
    if path.exists():
        return path
    if source == "original":
        _download(folder, path)
        return path
    raise UserError(
        f"{name} is not in {folder}: copy it there, name another place with --data DIR or "
        f"RETRACE_DATA=DIR, where DIR has {FOLDERS[source]}, or choose the source original"
    )


def _content(source: Source, path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    _note(source, path)
    return content


def identify(source: Source) -> None:
    """Note which files a source consists of, for a run whose data another run has read."""
    for split in N_EXAMPLES if source != "first4000" else ("train",):
        for name in _names(source, split):
            if (path := data_folder.root() / FOLDERS[source] / name).exists():
                _note(source, path)


def _note(source: Source, path: Path) -> None:
    digest = _md5(path, path.stat().st_mtime_ns)
    note("data", {f"{FOLDERS[source]}/{path.name}": f"{KIND[source]}, md5 {digest}"})


@cache
def _md5(path: Path, changed: int) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


class Arrays(pickle.Unpickler):
    """Unpickles lists, dictionaries and arrays; a file that asks for more is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # how some write bytes
            return super().find_class(module, name)
        if module.partition(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _batch(source: Source, path: Path, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, 3, 32, 32) and labels (n,) of one batch in Python's pickle format."""
    content = _content(source, path)
    try:
        made = Arrays(io.BytesIO(content), encoding="bytes").load()
        found = {k.decode() if isinstance(k, bytes) else k: v for k, v in made.items()}
        pixels, labels = np.asarray(found["data"]), np.asarray(found["labels"])
    except (pickle.UnpicklingError, EOFError, ValueError, LookupError, AttributeError) as error:
        raise _corrupt(source, path, str(error) or type(error).__name__) from error
    except (TypeError, ImportError, MemoryError) as error:  # what a changed byte may ask for
        raise _corrupt(source, path, type(error).__name__) from error
    if pixels.shape != (n, 3 * SIDE**2) or pixels.dtype != np.uint8 or labels.shape != (n,):
        raise _corrupt(source, path, f"it holds {pixels.shape} {pixels.dtype}, not {n:,} images")
    return pixels.reshape(n, 3, SIDE, SIDE), _checked(source, path, labels)


def _jpeg(split: Split, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image, UnidentifiedImageError

    n = count("jpeg", split)
    path = _file("jpeg", _names("jpeg", split)[0])
    content = _content("jpeg", path)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as bundle:
            stream, ends, labels = (bundle[name] for name in ("jpeg", "offsets", "labels"))
    except (zipfile.BadZipFile, ValueError, LookupError, EOFError, OSError, TypeError) as error:
        raise _corrupt("jpeg", path, str(error)) from error
    whole = ends.shape == (n + 1,) and labels.shape == (n,) and int(ends[-1]) == len(stream)
    if not whole or (np.diff(ends) <= 0).any():
        raise _corrupt("jpeg", path, f"it does not hold {n:,} images")
    pixels = np.empty((len(chosen), 3, SIDE, SIDE), np.uint8)
    for row, i in zip(pixels, chosen, strict=True):
        try:
            with Image.open(io.BytesIO(stream[ends[i] : ends[i + 1]].tobytes())) as image:
                row[:] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise _corrupt("jpeg", path, f"image {i} is no whole JPEG") from error
    return pixels, _checked("jpeg", path, labels)[chosen]


def _checked(source: Source, path: Path, labels: np.ndarray) -> np.ndarray:
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(CLASSES):
        raise _corrupt(source, path, "a label is outside of 0 to 9")
    return labels


def _corrupt(source: Source, path: Path, reason: str) -> UserError:
    mend = f"remove it with `rm {path}` and run again to download it, or copy a whole one there"
    if source != "original":
        mend = "copy a whole one there, or choose the source original"
    return UserError(f"{path} is truncated or corrupt ({reason}): {mend}")


def _download(folder: Path, missing: Path) -> None:
    """Let torchvision fetch the archive into a draft folder, then put the batches in place."""
    from torchvision.datasets import CIFAR10

    if not reachable(CIFAR10.url):
        raise _missing(missing, "the publisher's server does not answer")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".draft-", dir=folder) as draft:
            CIFAR10(draft, download=True)
            for path in (Path(draft) / FOLDERS["original"]).iterdir():
                if not (folder / path.name).exists():
                    path.replace(folder / path.name)
    except (OSError, RuntimeError) as error:
        free = shutil.disk_usage(next(p for p in folder.absolute().parents if p.is_dir())).free
        raise _missing(missing, f"its download failed: {error}; {free:,} bytes free") from error


def _missing(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path.name} is not in {path.parent} and {reason}: put the unpacked cifar-10-python.tar.gz"
        f" there, name another place with --data DIR or RETRACE_DATA=DIR, where DIR has "
        f"{FOLDERS['original']}, or choose the source jpeg if {FOLDERS['jpeg']} is at hand"
    )
