"""Photographs in files of their own, of many sizes: what data sets of them share."""

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.laboratory import data_folder, runs
from experiments.laboratory.errors import UserError, quoted
from experiments.laboratory.runs import note
from experiments.laboratory.tensors import mapped, sent


@dataclass(frozen=True)
class Photos:
    """Photographs as RGB, uint8 (3, height, width) each, by position: parts of one long array.

    pixels  (all of them,) uint8, on a device, or in a file mapped into memory
    starts  (n,) where each begins; sizes  (n, 2) its height and width
    """

    pixels: Tensor
    starts: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, photos: Sequence[Tensor]) -> "Photos":
        """Photographs, each a tensor of its own."""
        sizes = np.array([photo.shape[1:] for photo in photos], dtype=np.int64).reshape(-1, 2)
        return cls(torch.cat([photo.flatten() for photo in photos]), _starts(sizes), sizes)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, position: int) -> Tensor:
        height, width = (int(size) for size in self.sizes[position])
        start = int(self.starts[position])
        return self.pixels[start : start + 3 * height * width].view(3, height, width)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[position] for position in range(len(self)))

    def to(self, device: torch.device) -> "Photos":
        """All of them on a device."""
        return replace(self, pixels=self.pixels.to(device))

    def take(self, index: Sequence[int], device: torch.device) -> "Photos":
        """Some of them on a device: copied there in one piece, unless all are there."""
        if self.pixels.device == device:
            return Photos(self.pixels, self.starts[index], self.sizes[index])
        some = Photos.of([self[position] for position in index])
        return replace(some, pixels=sent(some.pixels, device))


@dataclass(frozen=True)
class Decoded:
    """Photographs decoded once, for all processes: `md5` is that of their files, in order."""

    name: str
    md5: str


def _starts(sizes: np.ndarray) -> np.ndarray:
    counts = 3 * sizes.prod(1)
    return counts.cumsum() - counts


def _decode(paths: Sequence[Path], streams: Sequence[bytes], scratch: Path) -> dict[str, Any]:
    """Their pixels and sizes: one photograph at a time is in memory, whatever they are together."""
    from PIL import Image

    file, sizes = scratch / "pixels", []
    with file.open("wb") as flat:
        for path, stream in zip(paths, streams, strict=True):
            try:
                with Image.open(io.BytesIO(stream)) as image:
                    pixels = np.array(image.convert("RGB"))
            except Exception as error:  # a changed byte of a picture may cause any
                raise UserError(
                    f"{quoted(path)} is truncated or not a JPEG ({error}): replace it"
                ) from error
            sizes.append(pixels.shape[:2])
            flat.write(pixels.transpose(2, 0, 1).tobytes())
    pixels = np.memmap(file, np.uint8, "r") if sizes else np.empty(0, np.uint8)
    return {"pixels": pixels, "sizes": np.array(sizes, dtype=np.int64).reshape(-1, 2)}


def read(name: str, paths: Sequence[Path]) -> Photos:
    """Read photographs and note under a name how many, with one checksum over all of them.

    They are decoded by the first run that needs them.
    """
    digest, streams = hashlib.md5(usedforsecurity=False), []
    for path in paths:
        try:
            streams.append(path.read_bytes())
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UserError(
                f"cannot read {quoted(path)} ({reason}): copy the complete data set there"
            ) from error
        digest.update(streams[-1])
    note("data", {name: f"{len(streams):,} photographs, md5 {digest.hexdigest()}"})
    wanted = Decoded(name, digest.hexdigest())
    run = runs.once(
        "photographs", wanted, lambda scratch: _decode(paths, streams, scratch), patient=True
    )
    sizes = np.asarray(run.array("sizes"))
    return Photos(mapped(run.array("pixels")), _starts(sizes), sizes)


def positions(total: int, index: np.ndarray, listing: Path) -> list[int]:
    """Positions as a list, refused where a data set has fewer examples."""
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < total:
        raise UserError(f"position {int(index.max())} of {total:,} in {listing}: ask for fewer")
    return [int(i) for i in index]


def downloaded(folder: str, address: str, download: Callable[[str], object], archive: str) -> Path:
    """The folder of a data set; torchvision downloads all of it if it is missing."""
    home = data_folder.root() / folder

    def failure(reason: str) -> UserError:
        what = f"{quoted(folder)} is not in {quoted(home.parent)}"
        return data_folder.missing(what, reason, f"put the unpacked {archive} there", folder)

    if not home.exists():
        data_folder.download(home.parent, [address], download, folder, failure)
    return home
