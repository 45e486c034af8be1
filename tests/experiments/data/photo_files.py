"""Small photographs where the textures and the flowers would be, in torchvision's layout."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from experiments.data import dtd, flowers

CLASSES = ("banded", "dotted", "woven")
SPLITS = ("train", "val", "test")


def _write(path: Path, draw: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = draw.integers(90, 130, 2)
    coarse = draw.integers(0, 255, (6, 8, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize((int(width), int(height))).save(path, "JPEG", quality=95)


def write_dtd(folder: Path, n: int, patch: pytest.MonkeyPatch) -> Path:
    """`n` textures a split, of three classes in turn; returns the folder of the data set."""
    patch.setenv("RETRACE_DATA", str(folder))
    patch.setattr(dtd, "N_EXAMPLES", dict.fromkeys(SPLITS, n))
    draw, home = np.random.default_rng(0), folder / "dtd" / "dtd"
    for at, split in enumerate(SPLITS):
        names = []
        for i in range(at * n, at * n + n):
            name = f"{CLASSES[i % 3]}/{CLASSES[i % 3]}_{i:04d}.jpg"
            _write(home / "images" / name, draw)
            names.append(name)
        listing = home / "labels" / f"{split}1.txt"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("\n".join(names) + "\n")
    return home


def write_flowers(folder: Path, n: int, patch: pytest.MonkeyPatch) -> Path:
    """`n` flowers a split, of classes 1 to 3 in turn; returns the folder of the data set."""
    patch.setenv("RETRACE_DATA", str(folder))
    patch.setattr(flowers, "N_EXAMPLES", dict.fromkeys(SPLITS, n))
    draw, home = np.random.default_rng(1), folder / "flowers-102"
    order = 1 + draw.permutation(3 * n)
    for number in order:
        _write(home / "jpg" / f"image_{number:05d}.jpg", draw)
    savemat(home / "imagelabels.mat", {"labels": [1 + np.arange(3 * n) % 3]})
    parts = {flowers.COLUMNS[s]: [order[i * n : i * n + n]] for i, s in enumerate(SPLITS)}
    savemat(home / "setid.mat", parts)
    return home
