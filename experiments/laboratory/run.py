"""A finished run, read and checked: whoever reads a changed byte is told so in one line."""

import contextlib
import errno
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.laboratory import disk, run_files
from experiments.laboratory.errors import CorruptRun, UserError, quoted
from experiments.laboratory.keys import digest

GONE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
ERRORS = (
    OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, RecursionError,
    OverflowError, MemoryError, SyntaxError,
)  # fmt: skip

_verified: set[tuple[int | str, ...]] = set()
_readings: list[dict[str, set[str]]] = []


@contextlib.contextmanager
def reading() -> Iterator[dict[str, set[str]]]:
    """Yield the names of the arrays that are read while the block lasts, by key of their run."""
    read: dict[str, set[str]] = {}
    _readings.append(read)
    try:
        yield read
    finally:
        _readings.remove(read)


@dataclass(frozen=True)
class Run:
    """A finished run: `config`, `metrics`, `meta` are its JSON files; arrays wait on disk."""

    path: Path
    name: str
    key: str
    config: dict[str, Any]
    metrics: dict[str, Any]
    meta: dict[str, Any]

    @classmethod
    def at(cls, path: Path) -> "Run":
        """Read a run and check that it is complete: the texts, and the sizes of the arrays.

        An array is checked when it is first read; `verify` reads every byte.
        """
        with checking(path):
            meta = run_files.read_meta((path / run_files.META).read_bytes())
            texts = {name: (path / name).read_bytes() for name in run_files.TEXTS}
            for name, content in texts.items():
                if disk.checksum(content) != meta["files"][name]:
                    raise ValueError(f"{name} was changed")
            config = json.loads(texts["config.json"])
            metrics = run_files.strict_json(texts["metrics.json"])
            if digest(config) != path.name:
                raise ValueError("config.json belongs to another run")
            if meta.get("name", path.parent.name) != path.parent.name:
                raise ValueError(f"it is a run of {meta['name']}")
            run = cls(path, path.parent.name, path.name, config, metrics, meta)
            for name, facts in meta["arrays"].items():
                size = run._file(name).stat().st_size
                if size != facts["bytes"]:
                    raise ValueError(f"arrays/{name}.npy has {size} of {facts['bytes']} bytes")
        return run

    @property
    def address(self) -> str:
        """Its name on the command line: EXPERIMENT/KEY."""
        return f"{self.name}/{self.key}"

    def array(self, name: str) -> np.ndarray:
        """One array, mapped from disk and read-only; checked when a process first reads it."""
        if name not in self.meta["arrays"]:
            known = ", ".join(self.meta["arrays"])
            raise UserError(f"{quoted(self.path)} has no array {name!r}: it has {known}")
        for read in _readings:
            read.setdefault(self.key, set()).add(name)
        return self._read(name)

    def _read(self, name: str) -> np.ndarray:
        file, facts = self._file(name), self.meta["arrays"][name]
        with checking(self.path):
            _verify_once(file, facts["sha256"])
            array = _mapped(file) if math.prod(facts["shape"]) else _empty(file)
            found = {"shape": list(array.shape), "dtype": str(array.dtype)}
            if any(facts[what] != of_file for what, of_file in found.items()):
                raise ValueError(f"{file.name} has {found['dtype']} {found['shape']}")
        return array

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array by name."""
        return {name: self.array(name) for name in self.meta["arrays"]}

    def verify(self) -> None:
        """Read every file and compare it with its checksum."""
        for name, checksum in self.files():
            with checking(self.path):
                _verify(self.path / name, name, checksum)

    def files(self) -> Iterator[tuple[str, str]]:
        """Path in the folder and checksum of each file; of meta.json, as it is now."""
        sums = self.meta["files"] | {
            f"arrays/{name}.npy": facts["sha256"] for name, facts in self.meta["arrays"].items()
        }
        with checking(self.path):
            content = (self.path / run_files.META).read_bytes()
            if run_files.read_meta(content) != self.meta:
                raise ValueError(f"{run_files.META} was changed")
        yield from sorted((sums | {run_files.META: disk.checksum(content)}).items())

    def _file(self, name: str) -> Path:
        return self.path / "arrays" / f"{name}.npy"


@contextlib.contextmanager
def checking(path: Path) -> Iterator[None]:
    """Errors inside are UserErrors: a run that was changed, or one that cannot be read now."""
    try:
        yield
    except ERRORS as error:
        if isinstance(error, OSError) and error.errno not in (*GONE, None):
            reason = (error.strerror or str(error)).lower()
            raise UserError(
                f"cannot read {quoted(error.filename or path)} ({reason}): permit it, or see to "
                "the disk; the run may be whole"
            ) from error
        raise CorruptRun(path, error) from error


def _verify_once(file: Path, checksum: str) -> None:
    about = file.stat()
    identity = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    seen = (*identity, checksum)
    if seen not in _verified:
        _verify(file, f"arrays/{file.name}", checksum)
        _verified.add(seen)


def _verify(file: Path, name: str, checksum: str) -> None:
    if disk.file_checksum(file) != checksum:
        raise ValueError(f"{name} was changed")


def _mapped(file: Path) -> np.ndarray:
    return np.lib.format.open_memmap(file, mode="r")  # never unpickles


def _empty(file: Path) -> np.ndarray:
    """An array without elements, whose file has nothing to map."""
    formats = np.lib.format
    with file.open("rb") as opened:
        first = formats.read_magic(opened) == (1, 0)
        header = formats.read_array_header_1_0 if first else formats.read_array_header_2_0
        shape, _, dtype = header(opened)
    if math.prod(shape) or dtype.hasobject:
        raise ValueError(f"{file.name} has {dtype} {list(shape)}")
    return np.empty(shape, dtype)
