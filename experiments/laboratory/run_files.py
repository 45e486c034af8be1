"""What a computation returns, checked and written as the files of a run."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from experiments.laboratory import disk, provenance
from experiments.laboratory.errors import UserError

Outcome = Mapping[str, Any]
TEXTS = ("config.json", "metrics.json")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def write(
    name: str, draft: Path, config: Any, outcome: Outcome, page: provenance.Ledger, resumed: bool
) -> None:
    """Write config, metrics, arrays, and last meta.json with their checksums, down to the disk."""
    if not isinstance(outcome, Mapping):
        found = None if outcome is None else f"a {type(outcome).__name__}"
        raise UserError(f"run of {name} returned {found}: return a dict of metrics and arrays")
    metrics, arrays = _sort(outcome)
    (draft / "arrays").mkdir(parents=True)
    written = {name: _write_array(draft, name, array) for name, array in arrays.items()}
    texts = {"config.json": config, "metrics.json": metrics}
    files = {name: _write_json(draft / name, data) for name, data in texts.items()}
    meta = provenance.describe(page) | {"resumed": resumed, "files": files, "arrays": written}
    _write_json(draft / "meta.json", meta)
    disk.sync_folder(draft / "arrays")
    disk.sync_folder(draft)


def _sort(outcome: Outcome) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    metrics: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, given in outcome.items():
        if not _NAME.fullmatch(name):
            raise UserError(f"result {name!r} cannot name a file: use letters, digits, _ . -")
        value = given.item() if isinstance(given, np.generic) else given
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                raise UserError(f"array {name!r} holds Python objects: give it a numeric dtype")
            arrays[name] = value
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(
                f"metric {name!r} is {value}, so the run is not kept: "
                "return a finite number, or leave the metric out"
            )
        elif isinstance(value, bool | int | float | str):
            metrics[name] = value
        else:
            raise UserError(
                f"result {name!r} is a {type(value).__name__}: "
                "return a number, a string or a numpy array"
            )
    return metrics, arrays


class _Summing:
    """A file that sums up what passes through.

    numpy writes real files in one C call, which hides whether the disk was full; to any other
    object it writes in pieces, whose errors name their cause.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sum, self.size = file, hashlib.sha256(), 0

    def write(self, piece: bytes) -> int:
        self.sum.update(piece)
        self.size += len(piece)
        return self.file.write(piece)


def _write_array(draft: Path, name: str, array: np.ndarray) -> dict[str, Any]:
    with (draft / "arrays" / f"{name}.npy").open("wb") as file:
        summing = _Summing(file)
        contiguous = np.asarray(array, order="C")  # the same bytes however it was made
        np.lib.format.write_array(summing, contiguous, allow_pickle=False)
        disk.sync(file)
    facts = {"sha256": summing.sum.hexdigest(), "bytes": summing.size, "elements": array.size}
    return facts | {"shape": list(array.shape), "dtype": str(array.dtype)}


def _write_json(path: Path, data: Any) -> str:
    content = (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()
    with path.open("wb") as file:
        file.write(content)
        disk.sync(file)
    return disk.checksum(content)
