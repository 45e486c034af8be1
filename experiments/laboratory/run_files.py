"""The files of a run: what a computation returns, checked and written."""

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
    name: str, folder: Path, config: Any, outcome: Outcome, ledger: provenance.Ledger, resumed: bool
) -> None:
    """Write and flush config, metrics and arrays, then meta.json with their checksums."""
    if not isinstance(outcome, Mapping):
        returned = None if outcome is None else f"a {type(outcome).__name__}"
        raise UserError(f"run of {name} returned {returned}: return a dict of metrics and arrays")
    metrics, arrays = _sorted_by_kind(outcome)
    (folder / "arrays").mkdir(parents=True)
    array_facts = {name: _write_array(folder, name, array) for name, array in arrays.items()}
    texts = {"config.json": config, "metrics.json": metrics}
    checksums = {name: _write_json(folder / name, data) for name, data in texts.items()}
    meta = provenance.describe(ledger)
    meta |= {"resumed": resumed, "files": checksums, "arrays": array_facts}
    _write_json(folder / "meta.json", meta)
    disk.sync_folder(folder / "arrays")
    disk.sync_folder(folder)


def _sorted_by_kind(outcome: Outcome) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metrics and arrays; a UserError names what is neither."""
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
                f"metric {name!r} is {value}, so the run is not stored: "
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


class _SummedFile:
    """A file that computes the checksum and size of what is written to it.

    numpy writes to real files in one C call, which hides whether the disk was full. To any other
    object it writes block by block, and then an error names its cause.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sum, self.size = file, hashlib.sha256(), 0

    def write(self, block: bytes) -> int:
        self.sum.update(block)
        self.size += len(block)
        return self.file.write(block)


def _write_array(folder: Path, name: str, array: np.ndarray) -> dict[str, Any]:
    with (folder / "arrays" / f"{name}.npy").open("wb") as file:
        summed = _SummedFile(file)
        contiguous = np.asarray(array, order="C")  # the bytes do not depend on the memory layout
        np.lib.format.write_array(summed, contiguous, allow_pickle=False)
        disk.sync(file)
    facts = {"sha256": summed.sum.hexdigest(), "bytes": summed.size, "elements": array.size}
    return facts | {"shape": list(array.shape), "dtype": str(array.dtype)}


def _write_json(path: Path, data: Any) -> str:
    content = (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()
    with path.open("wb") as file:
        file.write(content)
        disk.sync(file)
    return disk.checksum(content)
