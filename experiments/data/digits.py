"""MNIST in the layout of torchvision: `MNIST/raw/*-ubyte` under the data folder."""

import contextlib
import hashlib
import shutil
import tempfile
import threading
import urllib.request
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from experiments.laboratory import data_folder
from experiments.laboratory.errors import UserError
from experiments.laboratory.runs import note

# The 1,797 handwritten digits that come with scikit-learn (UCI optical recognition, test part).


def load_sklearn() -> dict[str, Tensor]:
    """Images (1797, 1, 8, 8) in [0, 1], float32, and labels (1797,), int64; no network, no file."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    image = np.ascontiguousarray(bundle.images, dtype=np.float32)
    label = np.ascontiguousarray(bundle.target, dtype=np.int64)
    digest = hashlib.md5(image.tobytes() + label.tobytes(), usedforsecurity=False).hexdigest()
    note("data", {"sklearn digits": f"md5 {digest}"})
    return {
        "image": torch.from_numpy(image)[:, None] / 16,
        "label": torch.from_numpy(label),
    }


N_EXAMPLES = {"train": 60_000, "test": 10_000}
PREFIX = {"train": "train", "test": "t10k"}
PROBE_SECONDS = 4.0  # for each of two mirrors, asked at the same time


def load_mnist(split: Literal["train", "test"]) -> dict[str, Tensor]:
    """Images (n, 1, 28, 28) in [0, 1], float32, and labels (n,), int64; downloaded if missing."""
    n, prefix = N_EXAMPLES[split], PREFIX[split]
    folder = data_folder.root() / "MNIST" / "raw"
    images, labels = folder / f"{prefix}-images-idx3-ubyte", folder / f"{prefix}-labels-idx1-ubyte"
    missing = [path for path in (images, labels) if not path.exists()]
    if missing:
        _download(folder, missing[0])
    image = _read(images, (n, 28, 28))
    label = _read(labels, (n,))
    return {
        "image": torch.from_numpy(image).view(n, 1, 28, 28).float() / 255,
        "label": torch.from_numpy(label).long(),
    }


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    header = 4 + 4 * len(shape)
    expected = header + int(np.prod(shape))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    mend = f"remove it with `rm {path}` and run again to download it, or copy a whole one there"
    if len(content) != expected:
        raise UserError(f"{path} has {len(content):,} of {expected:,} bytes: {mend}")
    # The idx format: two zeros, 8 for unsigned bytes, the number of axes, their big-endian lengths.
    wanted = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
    if content[:header] != wanted:
        raise UserError(f"{path} is not an idx file of shape {shape}: {mend}")
    note("data", {f"MNIST/raw/{path.name}": f"md5 {_md5(path, path.stat().st_mtime_ns)}"})
    return np.frombuffer(bytearray(content), np.uint8, offset=header).reshape(shape)


@cache
def _md5(path: Path, changed: int) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _download(folder: Path, missing: Path) -> None:
    """Let torchvision fetch all four files into a draft folder, then put them in place."""
    from torchvision.datasets import MNIST

    if not _reachable(MNIST.mirrors):
        raise _missing(missing, "no mirror of MNIST answers")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".draft-", dir=folder) as draft:
            MNIST(draft, download=True)
            for path in Path(draft, "MNIST", "raw").glob("*-ubyte"):
                if not (folder / path.name).exists():
                    path.replace(folder / path.name)
    except (OSError, RuntimeError) as error:
        free = shutil.disk_usage(next(p for p in folder.absolute().parents if p.is_dir())).free
        raise _missing(missing, f"its download failed: {error}; {free:,} bytes free") from error


def _reachable(mirrors: list[str]) -> bool:
    """Whether any mirror answers soon. In threads: a name may take minutes to not be found."""
    answered = threading.Event()

    def ask(address: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            request = urllib.request.Request(f"{address}train-labels-idx1-ubyte.gz", method="HEAD")
            urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
            answered.set()

    threads = [threading.Thread(target=ask, args=(each,), daemon=True) for each in mirrors]
    for thread in threads:
        thread.start()
    waits = PROBE_SECONDS + 1.0
    while waits > 0 and not answered.wait(0.1) and any(thread.is_alive() for thread in threads):
        waits -= 0.1
    return answered.is_set()


def _missing(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path.name} is not in {path.parent} and {reason}: "
        "put the four idx files of MNIST there, or name another place with --data DIR or "
        "RETRACE_DATA=DIR, where DIR has MNIST/raw"
    )
