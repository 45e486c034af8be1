"""Photographs in files of their own, of many sizes: what data sets of them share."""

import hashlib
import io
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.laboratory import data_folder
from experiments.laboratory.data_folder import reachable
from experiments.laboratory.errors import UserError
from experiments.laboratory.runs import note


@dataclass
class Photos:
    """Photographs as RGB, uint8 (3, height, width), by position; decoded when asked for.

    The decoded ones are kept if `keep`: a training set is asked again every epoch.
    """

    paths: list[Path]
    streams: list[bytes] = field(repr=False)
    keep: bool = False
    _held: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.streams)

    def __getitem__(self, position: int) -> Tensor:
        if position in self._held:
            return self._held[position]
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(io.BytesIO(self.streams[position])) as image:
                pixels = np.array(image.convert("RGB"))
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise UserError(
                f"{self.paths[position]} is no whole JPEG ({error}): copy a whole one there"
            ) from error
        photo = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        if self.keep:
            self._held[position] = photo
        return photo


def read(name: str, paths: Sequence[Path], keep: bool) -> Photos:
    """Read files and note what they are under a name, by one checksum over all of them."""
    digest, streams = hashlib.md5(usedforsecurity=False), []
    for path in paths:
        try:
            streams.append(path.read_bytes())
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UserError(f"cannot read {path}: {reason}; copy a whole data set there") from error
        digest.update(streams[-1])
    note("data", {name: f"{len(streams):,} photographs, md5 {digest.hexdigest()}"})
    return Photos(list(paths), streams, keep)


def chosen(total: int, index: np.ndarray, what: str) -> list[int]:
    """Positions as a list, refused where a data set has fewer examples."""
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < total:
        raise UserError(f"position {int(index.max())} of {total:,} in {what}: copy a whole one")
    return [int(i) for i in index]


def fetch(folder: str, address: str, download: Callable[[str], object], archive: str) -> Path:
    """The data set's folder, downloaded by torchvision if it is missing: all of it or nothing."""
    home = data_folder.root() / folder
    if home.exists():
        return home
    if not reachable(address):
        raise _missing(home, "the publisher's server does not answer", archive)
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".draft-", dir=home.parent) as draft:
            download(draft)
            (Path(draft) / folder).replace(home)
    except (OSError, RuntimeError) as error:
        free = shutil.disk_usage(next(p for p in home.absolute().parents if p.is_dir())).free
        reason = f"its download failed: {error}; {free:,} bytes free"
        raise _missing(home, reason, archive) from error
    return home


def _missing(home: Path, reason: str, archive: str) -> UserError:
    return UserError(
        f"{home.name} is not in {home.parent} and {reason}: put the unpacked {archive} there, or "
        f"name another place with --data DIR or RETRACE_DATA=DIR, where DIR has {home.name}"
    )
