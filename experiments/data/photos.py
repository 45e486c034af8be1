"""Photographs in files of their own, of many sizes: what data sets of them share."""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.laboratory import data_folder
from experiments.laboratory.errors import UserError
from experiments.laboratory.runs import note


@dataclass
class Photos:
    """Photographs as RGB, uint8 (3, height, width), by position; decoded on access.

    `keep` stores the decoded ones: a training set is read again every epoch.
    """

    paths: list[Path]
    streams: list[bytes] = field(repr=False)
    keep: bool = False
    _decoded: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.streams)

    def __getitem__(self, position: int) -> Tensor:
        if position in self._decoded:
            return self._decoded[position]
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(io.BytesIO(self.streams[position])) as image:
                pixels = np.array(image.convert("RGB"))
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise UserError(
                f"{self.paths[position]} is truncated or not a JPEG ({error}): replace it"
            ) from error
        photo = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        if self.keep:
            self._decoded[position] = photo
        return photo


def read(name: str, paths: Sequence[Path], keep: bool) -> Photos:
    """Read photographs and note under a name how many, with one checksum over all of them."""
    digest, streams = hashlib.md5(usedforsecurity=False), []
    for path in paths:
        try:
            streams.append(path.read_bytes())
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UserError(
                f"cannot read {path} ({reason}): copy the complete data set there"
            ) from error
        digest.update(streams[-1])
    note("data", {name: f"{len(streams):,} photographs, md5 {digest.hexdigest()}"})
    return Photos(list(paths), streams, keep)


def positions(total: int, index: np.ndarray, listing: Path) -> list[int]:
    """Positions as a list, refused where a data set has fewer examples."""
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < total:
        raise UserError(f"position {int(index.max())} of {total:,} in {listing}: ask for fewer")
    return [int(i) for i in index]


def downloaded(folder: str, address: str, download: Callable[[str], object], archive: str) -> Path:
    """The folder of a data set; torchvision downloads all of it if it is missing."""
    home = data_folder.root() / folder

    def failure(reason: str) -> UserError:
        what = f"{folder} is not in {home.parent}"
        return data_folder.missing(what, reason, f"put the unpacked {archive} there", folder)

    if not home.exists():
        data_folder.download(home.parent, [address], download, folder, failure)
    return home
