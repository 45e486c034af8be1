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
META, TEXTS = "meta.json", ("config.json", "metrics.json")
FORMAT = 2  # of meta.json: from 2 on, its last entry is the checksum of all before
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_KEY, _SUM = re.compile(r"[0-9a-f]{16}"), re.compile(r"[0-9a-f]{64}")
_MARK, _END = b',\n "sha256": "', b'"\n}\n'
_TYPES: dict[str, tuple[type, ...]] = {  # of what is in meta.json; null stands for what is unknown
    "name": (str,), "commit": (str,), "dirty": (bool,), "device": (str,), "resumed": (bool,),
    "seconds": (int, float), "own_seconds": (int, float), "peak_memory_bytes": (int,),
    "versions": (dict,), "data": (dict,), "gpu": (dict,), "precision": (dict,), "slurm": (dict,),
    "code": (dict,), "origins": (list,), "argv": (list,), "files": (dict,), "arrays": (dict,),
    "parts": (list,),
}  # fmt: skip
_NEEDED = ("files", "arrays", "parts", "resumed", "seconds", "device")


def write(
    name: str,
    folder: Path,
    config: Any,
    outcome: Outcome,
    ledger: provenance.Ledger,
    facts: Mapping[str, Any],
) -> None:
    """Write and flush config, metrics and arrays, then meta.json with their checksums.

    `facts` are added to those of the ledger: whether it was resumed, and the code.
    """
    if not isinstance(outcome, Mapping):
        returned = None if outcome is None else f"a {type(outcome).__name__}"
        raise UserError(f"run of {name} returned {returned}: return a dict of metrics and arrays")
    metrics, arrays = _sorted_by_kind(outcome)
    (folder / "arrays").mkdir(parents=True)
    array_facts = {name: _write_array(folder, name, array) for name, array in arrays.items()}
    texts = {"config.json": config, "metrics.json": metrics}
    checksums = {name: _write_json(folder / name, data) for name, data in texts.items()}
    meta = {"format": FORMAT, "name": name} | provenance.describe(ledger)
    meta |= {**facts, "files": checksums, "arrays": array_facts}
    _write(folder / META, _sealed(meta))
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


def as_json(data: Any) -> bytes:
    """The bytes of a JSON file of a run."""
    return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()


def _write_json(path: Path, data: Any) -> str:
    content = as_json(data)
    _write(path, content)
    return disk.checksum(content)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        disk.sync(file)


def _sealed(meta: Mapping[str, Any]) -> bytes:
    """meta.json with the checksum of its bytes as the last entry."""
    text = json.dumps(meta, indent=1, allow_nan=False).encode().removesuffix(b"\n}")
    return text + _MARK + disk.checksum(text).encode() + _END


def read_meta(content: bytes) -> dict[str, Any]:
    """meta.json, checked: its bytes if they have a checksum, its values whoever wrote them.

    A ValueError says what is wrong. Those of earlier versions have no checksum.
    """
    meta = strict_json(content, whole=10**18)
    if not isinstance(meta, dict):
        raise ValueError(f"{META} is no object")
    head, mark, tail = content.rpartition(_MARK)
    if (mark or "format" in meta) and tail != disk.checksum(head).encode() + _END:
        raise ValueError(f"{META} was changed")
    _check_types(meta)
    return meta


def has_checksum(meta: Mapping[str, Any]) -> bool:
    """Whether meta.json is covered by a checksum; those of earlier versions are not."""
    return "format" in meta


def strict_json(content: bytes, whole: int | None = None) -> Any:
    """JSON whose numbers are finite, and whole ones at most `whole`."""

    def number(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError(f"a number is {text[:20]}")
        return value

    def whole_number(text: str) -> int:
        if whole is not None and abs(value := int(text[:40])) > whole:
            raise ValueError(f"a number is {text[:20]}...")
        return int(text) if whole is None else value

    return json.loads(content, parse_constant=number, parse_float=number, parse_int=whole_number)


def _check_types(meta: dict[str, Any]) -> None:
    if missing := [name for name in _NEEDED if meta.get(name) is None]:
        raise ValueError(f"{META} has no {missing[0]}")
    for name, types in _TYPES.items():
        value = meta.get(name)
        if value is not None and not isinstance(value, types):
            raise ValueError(f"{name} in {META} is a {type(value).__name__}")
    texts = {"versions": meta.get("versions"), "files": meta["files"]}
    for name, mapping in texts.items():
        if not all(isinstance(value, str) for value in (mapping or {}).values()):
            raise ValueError(f"{name} in {META} has a value that is no text")
    if sorted(meta["files"]) != sorted(TEXTS):
        raise ValueError(f"files in {META} are {', '.join(meta['files'])[:80]}")
    for part in meta["parts"]:
        known = isinstance(part, dict) and {"name", "key"} <= part.keys()
        if not (known and re.fullmatch(r"[\w.-]+", str(part["name"]))) or not _KEY.fullmatch(
            str(part["key"])
        ):
            raise ValueError(f"a part in {META} is no run")
    for name, facts in meta["arrays"].items():
        if not _NAME.fullmatch(name) or not _describes(facts):
            raise ValueError(f"array {name[:80]!r} in {META} is not described")


def _describes(facts: Any) -> bool:
    """Whether these can be the facts of an array."""
    if not isinstance(facts, dict) or not _SUM.fullmatch(str(facts.get("sha256"))):
        return False
    sizes = [
        facts.get("bytes"),
        *(facts["shape"] if isinstance(facts.get("shape"), list) else [-1]),
    ]
    return isinstance(facts.get("dtype"), str) and all(type(n) is int and n >= 0 for n in sizes)
