"""Handwritten digits: MNIST as torchvision has it, the smaller set of scikit-learn, and one's own.

MNIST/raw/*-ubyte under the data folder; scikit-learn brings its digits along; and any folder of
*images-idx3-ubyte and *labels-idx1-ubyte, .gz or not, as EMNIST and Fashion-MNIST have them.
"""

import gzip
import hashlib
import struct
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from experiments.laboratory import data_folder
from experiments.laboratory.errors import UserError, nearest, quoted

KNOWN = ("mnist", "digits")
N_EXAMPLES = {"train": 60_000, "test": 10_000}
PREFIX = {"train": "train", "test": "t10k"}


def load(source: str) -> tuple[dict[str, Tensor], int]:
    """The images and labels of a source, those for training if it has two splits; how many classes.

    Labels of one's own are numbered from 0 in their order.
    """
    if source in KNOWN:
        return (load_mnist("train") if source == "mnist" else load_sklearn()), 10
    path = folder(source)
    pixels, given = read_idx_folder(path)
    data_folder.note_content(path.name, pixels.tobytes(), given.tobytes())
    classes, label = np.unique(given, return_inverse=True)
    image = torch.from_numpy(pixels.astype(np.float32) / 255)[:, None]
    return {"image": image, "label": torch.from_numpy(label.astype(np.int64))}, len(classes)


def digest(source: str) -> str:
    """What a folder of one's own has, wherever it is; "" for what is known by its name."""
    if source in KNOWN:
        return ""
    whole = hashlib.md5(usedforsecurity=False)
    for array in read_idx_folder(folder(source)):
        whole.update(array.tobytes())
    return whole.hexdigest()


def folder(source: str) -> Path:
    """The folder of idx files at a path, or of that name under the data folder."""
    given = Path(source).expanduser()
    found = next((path for path in (given, data_folder.root() / source) if has_idx(path)), None)
    if not source or found is None:
        raise UserError(
            f"there are no images at {quoted(source)} ({nearest(source, KNOWN)}): give a folder "
            "with *images-idx3-ubyte and *labels-idx1-ubyte, as a path or under the data folder"
        )
    return found


def has_idx(path: Path) -> bool:
    """Whether a folder has idx files."""
    return path.is_dir() and any(path.glob("*idx3-ubyte*"))


def read_idx_folder(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, height, width) and labels (n,) of a folder, those of training if it has both."""
    names = sorted(path.glob("*images*idx3-ubyte*"), key=lambda file: "train" not in file.name)
    if not names:
        raise UserError(f"{quoted(path)} has no *images-idx3-ubyte: put it beside the labels")
    beside = path / names[0].name.replace("images", "labels").replace("idx3", "idx1")
    if not beside.exists():
        raise UserError(f"{quoted(names[0])} has no {beside.name} beside it: put it there")
    pixels, given = _any_idx(names[0], 3), _any_idx(beside, 1)
    if len(pixels) != len(given):
        raise UserError(
            f"{quoted(path)} has {len(pixels):,} images and {len(given):,} labels: replace both"
        )
    return pixels, given


def _any_idx(path: Path, axes: int) -> np.ndarray:
    """An idx file of bytes, of any size."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (gzip.BadGzipFile, EOFError) as error:
        raise UserError(f"{quoted(path)} is a damaged .gz ({error}): replace it") from error
    header = 4 + 4 * axes
    known = len(content) >= header and content[:4] == bytes([0, 0, 8, axes])
    shape = struct.unpack(f">{axes}I", content[4:header]) if known else ()
    if not known or len(content) - header != int(np.prod(shape)):
        raise UserError(f"{quoted(path)} is no complete idx file of {axes} axes: replace it")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def load_sklearn() -> dict[str, Tensor]:
    """scikit-learn's 1,797 digits (UCI optical recognition, test part): no network, no file.

    Images (1797, 1, 8, 8) in [0, 1], float32, and labels (1797,), int64.
    """
    from sklearn.datasets import load_digits

    bundle = load_digits()
    image = np.ascontiguousarray(bundle.images, dtype=np.float32)
    label = np.ascontiguousarray(bundle.target, dtype=np.int64)
    data_folder.note_content("sklearn digits", image.tobytes(), label.tobytes())
    return {"image": torch.from_numpy(image)[:, None] / 16, "label": torch.from_numpy(label)}


def load_mnist(split: Literal["train", "test"]) -> dict[str, Tensor]:
    """Images (n, 1, 28, 28) in [0, 1], float32, and labels (n,), int64; downloaded if missing."""
    n, prefix = N_EXAMPLES[split], PREFIX[split]
    folder = data_folder.root() / "MNIST" / "raw"
    images, labels = folder / f"{prefix}-images-idx3-ubyte", folder / f"{prefix}-labels-idx1-ubyte"
    absent = [path for path in (images, labels) if not path.exists()]
    if absent:
        _download(absent[0])
    image = _read(images, (n, 28, 28))
    label = _read(labels, (n,))
    if label.max() > 9:
        raise UserError(
            f"{quoted(labels)} has the label {label.max()}, digits end at 9: {_remedy(labels)}"
        )
    return {
        "image": torch.from_numpy(image).view(n, 1, 28, 28).float() / 255,
        "label": torch.from_numpy(label).long(),
    }


def _download(absent: Path) -> None:
    """Let torchvision download the four files that are not there yet."""
    from torchvision.datasets import MNIST

    def failure(reason: str) -> UserError:
        what = f"{absent.name} is not in {absent.parent}"
        return data_folder.missing(what, reason, "put the four idx files there", "MNIST/raw")

    data_folder.download(
        absent.parent,
        [f"{mirror}train-labels-idx1-ubyte.gz" for mirror in MNIST.mirrors],
        lambda draft: MNIST(draft, download=True),
        "MNIST/raw/*-ubyte",
        failure,
    )


def _remedy(path: Path) -> str:
    return f"remove it with `rm {quoted(path)}` and run again to download it"


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    remedy = _remedy(path)
    content = data_folder.read(path, remedy)
    header = 4 + 4 * len(shape)
    expected = header + int(np.prod(shape))
    if len(content) != expected:
        raise UserError(f"{quoted(path)} has {len(content):,} of {expected:,} bytes: {remedy}")
    # The idx format: two zeros, 8 for unsigned bytes, the number of axes, their big-endian lengths.
    wanted = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
    if content[:header] != wanted:
        raise UserError(f"{quoted(path)} is not an idx file of shape {shape}: {remedy}")
    return np.frombuffer(bytearray(content), np.uint8, offset=header).reshape(shape)
