"""Finished results on disk: a run is a folder named by the hash of its whole config.

It exists if and only if it is complete: it is written elsewhere on the same disk, then renamed.
    results/runs/NAME/KEY/{config.json, metrics.json, meta.json, arrays/*.npy}
    results/runs/NAME/presets/PRESET.json     which runs a preset has, in order
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.laboratory import disk, provenance, run_files, scratch
from experiments.laboratory.disk import write_file
from experiments.laboratory.errors import CorruptRun, MissingRuns, Parser, UserError, nearest
from experiments.laboratory.keys import describe, digest, key
from experiments.laboratory.provenance import note
from experiments.laboratory.run_files import Outcome

__all__ = [
    "MissingRuns",
    "Outcome",
    "Parser",
    "Run",
    "UserError",
    "describe",
    "entries",
    "find",
    "key",
    "load",
    "nearest",
    "note",
    "once",
    "plan",
    "planned",
    "results",
    "write_file",
]


def results() -> Path:
    """The folder of results: $RETRACE_RESULTS, or `results` in the repository."""
    return Path(os.environ.get("RETRACE_RESULTS") or provenance.REPOSITORY / "results")


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
        """Read a run and check that it is complete (by sizes; `verify` reads every byte)."""
        try:
            meta = json.loads((path / "meta.json").read_bytes())
            texts = {name: (path / name).read_bytes() for name in run_files.TEXTS}
            for name, content in texts.items():
                if disk.checksum(content) != meta["files"][name]:
                    raise ValueError(f"{name} was changed")
            config, metrics = (json.loads(content) for content in texts.values())
            if digest(config) != path.name:
                raise ValueError("config.json belongs to another run")
            run = cls(path, path.parent.name, path.name, config, metrics, meta)
            for name, facts in meta["arrays"].items():
                size = run._file(name).stat().st_size
                if size != facts["bytes"]:
                    raise ValueError(f"arrays/{name}.npy has {size} of {facts['bytes']} bytes")
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise CorruptRun(path, error) from error
        return run

    def array(self, name: str) -> np.ndarray:
        """One array, mapped from disk and read-only."""
        if name not in self.meta["arrays"]:
            raise UserError(
                f"{self.path} has no array {name!r}: it has {', '.join(self.meta['arrays'])}"
            )
        mapped = self.meta["arrays"][name]["elements"] > 0  # an empty file cannot be mapped
        try:
            return np.load(self._file(name), mmap_mode="r" if mapped else None)
        except (OSError, ValueError, EOFError) as error:
            raise CorruptRun(self.path, error) from error

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array by name."""
        return {name: self.array(name) for name in self.meta["arrays"]}

    def verify(self) -> None:
        """Read every file and compare it with its checksum."""
        for _ in self.files():
            pass

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Path in the folder and content of each file; a UserError if one has changed."""
        sums = self.meta["files"] | {
            f"arrays/{name}.npy": facts["sha256"] for name, facts in self.meta["arrays"].items()
        }
        for name in sorted([*sums, "meta.json"]):
            try:
                content = (self.path / name).read_bytes()
            except OSError as error:
                raise CorruptRun(self.path, error) from error
            if name in sums and disk.checksum(content) != sums[name]:
                raise CorruptRun(self.path, ValueError(f"{name} was changed"))
            yield name, content

    def _file(self, name: str) -> Path:
        return self.path / "arrays" / f"{name}.npy"


def once(
    name: str, config: Any, compute: Callable[[Path], Outcome], agree: Callable[[bool], bool] = bool
) -> Run:
    """The run of `config`, computing it if no finished one is on disk.

    `compute(scratch)` gets a folder that outlives a killed job, for checkpoints, and returns
    numbers and strings (metrics) and numpy arrays by name. Several processes may compute the same
    run at once, each in its own folder; the run of the first to finish stays. Processes that
    compute one run together must `agree` whether it exists, or some would wait for the others.
    """
    described = describe(config)
    path = _home(name) / digest(described)
    try:
        if not agree(path.exists()):
            _compute(path, described, compute)
        elif (path.parent / ".scratch" / path.name).exists():
            scratch.sweep(path.parent, path.name)
    except OSError as error:
        raise (_unwritable(error, path) or error) from error
    run = Run.at(path)
    provenance.cite(name, run.key, run.meta)
    return run


def find(name: str, config: Any) -> Run | None:
    """The finished run of `config`, or None."""
    path = _home(name) / key(config)
    return Run.at(path) if path.exists() else None


def plan(name: str, preset: str, cells: Sequence[Any]) -> None:
    """Write the list of a preset's runs, so that they can be read without the experiment."""
    content = json.dumps(entries(cells), indent=1).encode()
    path = _plan(name, preset)
    try:
        if path.is_file() and path.read_bytes() == content:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)
    except OSError as error:
        raise (_unwritable(error, path) or error) from error


def entries(cells: Sequence[Any]) -> list[dict[str, Any]]:
    """The entry of each cell in the list of a preset: {"key", "config", "parts"}.

    Parts are the keys of the dataclasses that are fields of the config. A run made from such a
    part alone, such as the trained model, has that key.
    """
    return [{"key": key(c), "config": describe(c), "parts": _parts(c)} for c in cells]


def planned(name: str, preset: str) -> list[dict[str, Any]]:
    """The list that `plan` wrote: {"key", "config", "parts"} of each cell."""
    path = _plan(name, preset)
    try:
        listed: list[dict[str, Any]] = json.loads(path.read_bytes())
        if any({"key", "config", "parts"} - entry.keys() for entry in listed):
            raise ValueError("an entry is incomplete")
    except (FileNotFoundError, NotADirectoryError):
        raise MissingRuns(name, preset, 0, None) from None
    except (ValueError, AttributeError) as error:
        again = f"python -m experiments.{name} --preset {preset}"
        raise UserError(
            f"{path} cannot be read ({error}): write it again with `{again}`"
        ) from error
    return listed


def load(name: str, preset: str, partial: bool = False) -> list[Run]:
    """The runs of a preset, in order: all, or MissingRuns; with `partial`, those that exist."""
    try:
        listed = planned(name, preset)
    except MissingRuns:
        if partial:
            return []
        raise
    paths = [_home(name) / entry["key"] for entry in listed]
    present = [path for path in paths if path.exists()]
    if len(present) < len(paths) and not partial:
        raise MissingRuns(name, preset, len(present), len(paths))
    return [Run.at(path) for path in present]


def _home(name: str) -> Path:
    return results() / "runs" / name


def _plan(name: str, preset: str) -> Path:
    return _home(name) / "presets" / f"{preset}.json"


def _parts(config: Any) -> dict[str, str]:
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return {name: key(value) for name, value in values.items() if is_dataclass(value)}


def _compute(path: Path, described: Any, compute: Callable[[Path], Outcome]) -> None:
    with scratch.claim(path.parent, path.name) as slot, provenance.recording() as ledger:
        outcome = compute(slot.work)
        run_files.write(path.parent.name, slot.draft, described, outcome, ledger, slot.resumed)
        disk.publish(slot.draft, path)


def _unwritable(error: OSError, path: Path) -> UserError | None:
    """A disk's error in plain words; None if it is not about the results folder."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    inside = error.filename is not None and Path(error.filename).is_relative_to(results())
    above = error.filename is not None and results().is_relative_to(error.filename)
    if not full and not inside and not above:
        return None
    reason = (error.strerror or str(error)).lower()
    again = "run the same command again; finished runs are kept"
    if not full:
        return UserError(
            f"cannot write {path} ({reason}): set RETRACE_RESULTS to a folder you can write to, "
            f"and {again}"
        )
    existing = next(folder for folder in path.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(existing).free
    return UserError(
        f"cannot write {path}: {reason} ({free:,} bytes free): make room, or set "
        f"RETRACE_RESULTS to a folder on another disk, and {again}"
    )
