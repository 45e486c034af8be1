"""Finished results on disk: a run is a folder named by the hash of its whole config.

It exists if and only if it is complete: it is written elsewhere on the same disk, then renamed.
    results/runs/NAME/KEY/{config.json, metrics.json, meta.json, arrays/*.npy}
    results/runs/NAME/presets/PRESET.json     which runs a preset has, in order
"""

import contextlib
import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from experiments.laboratory import (
    disk,
    outdated,
    presets,
    process,
    provenance,
    resuming,
    run_files,
    scratch,
    sources,
)
from experiments.laboratory.disk import write_file
from experiments.laboratory.errors import (
    MissingRuns,
    Once,
    Parser,
    UserError,
    guarded,
    nearest,
    quoted,
)
from experiments.laboratory.keys import describe, digest, key
from experiments.laboratory.outdated import tell
from experiments.laboratory.provenance import note
from experiments.laboratory.run import Run, reading
from experiments.laboratory.run_files import Outcome

__all__ = [
    "MissingRuns",
    "Once",
    "Outcome",
    "Parser",
    "Run",
    "UserError",
    "describe",
    "entries",
    "find",
    "guarded",
    "key",
    "load",
    "nearest",
    "note",
    "once",
    "plan",
    "planned",
    "present",
    "quoted",
    "reading",
    "results",
    "tell",
    "until",
    "write_file",
]

PATH, COMPONENT = 4_095, 255  # bytes of a path and of one of its names: Linux's limits
LONGEST = 250  # bytes, below .scratch, of a file in a draft: key, owner, arrays, its name
POLL_SECONDS = 1.0  # between two looks at a run that another process computes

_remaking: ContextVar[bool] = ContextVar("remaking", default=False)
_wanted: ContextVar[str | None] = ContextVar("wanted", default=None)


class _Reached(BaseException):
    """The run for whose sake something was computed is there; no code but `until` catches it."""


def results() -> Path:
    """The folder of results: $RETRACE_RESULTS, or `results` in the repository."""
    given = os.environ.get("RETRACE_RESULTS")
    try:
        return Path(given or provenance.REPOSITORY / "results").expanduser()
    except RuntimeError as error:
        raise UserError(f"RETRACE_RESULTS is {given}, and there is no such home folder") from error


def check_place(name: str) -> None:
    """Refuse a results folder in which the runs of an experiment would have too long a path."""
    longest = len(os.fsencode((_home(name) / ".scratch").absolute())) + LONGEST
    parts = [len(os.fsencode(part)) for part in results().parts]
    if longest > PATH or max(parts, default=0) > COMPONENT:
        raise UserError(
            f"the path of the results folder is too long, {len(os.fsencode(results().absolute()))} "
            f"bytes: set RETRACE_RESULTS to one of at most {PATH - LONGEST - 50:,}, with names of "
            f"at most {COMPONENT}"
        )


def once(
    name: str,
    config: Any,
    compute: Callable[[Path], Outcome],
    agree: Callable[[bool], bool] = bool,
    patient: bool = False,
) -> Run:
    """The run of `config`, computing it if no finished one is on disk.

    `compute(scratch)` gets a folder that outlives a killed job, for checkpoints, and returns
    numbers and strings (metrics) and numpy arrays by name. Several processes may compute the same
    run at once, each in its own folder; the run of the first to finish stays. Processes that
    compute one run together must `agree` whether it exists, or some would wait for the others. A
    `patient` process waits for another that computes the run already, as is best for large files
    that all jobs of an array need first.
    """
    described = describe(config)
    path = _home(name) / digest(described)
    try:
        if patient:
            _wait(path)
        exists = agree(_usable(path))
        if not exists:
            _compute(path, config, described, compute, agree)
        elif (path.parent / ".scratch" / path.name).exists():
            scratch.sweep(path.parent, path.name)
    except OSError as error:
        raise (_unwritable(error, path) or error) from error
    run = Run.at(path)
    if exists:
        outdated.reuse(run)
    provenance.cite(name, run.key, run.meta)
    if run.address == _wanted.get():
        raise _Reached
    return run


@contextlib.contextmanager
def until(address: str) -> Iterator[None]:
    """End the block as soon as `once` has the run NAME/KEY, which the block needs on its way."""
    token = _wanted.set(address)
    try:
        with contextlib.suppress(_Reached):
            yield
    finally:
        _wanted.reset(token)


def present(address: str) -> bool:
    """Whether there is a run NAME/KEY."""
    return (results() / "runs" / address).is_dir()


def find(name: str, config: Any) -> Run | None:
    """The finished run of `config`, or None."""
    path = _home(name) / key(config)
    return Run.at(path) if _usable(path) else None


@contextlib.contextmanager
def remaking(again: bool = True) -> Iterator[None]:
    """Inside, runs that other code made count as missing: they are computed and replaced."""
    token = _remaking.set(again)
    try:
        yield
    finally:
        _remaking.reset(token)


def plan(name: str, preset: str, cells: Sequence[Any]) -> None:
    """Write the list of a preset's runs, so that they can be read without the experiment."""
    check_place(name)
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
        return presets.read(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise MissingRuns(name, preset, 0, None) from None
    except (OSError, ValueError) as error:
        again = f"python -m experiments.{name} --preset {preset}"
        raise UserError(
            f"{quoted(path)} cannot be read ({error}): write it again with `{again}`"
        ) from error


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


def _wait(path: Path) -> None:
    """Wait while another process computes a run."""
    watch, said = scratch.Watch(path.parent, path.name), False
    while not path.exists() and watch.working():
        if not said:
            address = f"{path.parent.name}/{path.name}"
            print(f"waiting for {address}: another process computes it", file=sys.stderr)
            said = True
        process.stop_if_requested()
        time.sleep(POLL_SECONDS)


def _usable(path: Path) -> bool:
    """Whether there is a run, which is not to be remade."""
    return path.exists() and not (_remaking.get() and outdated.outdated(Run.at(path)))


def _compute(
    path: Path,
    config: Any,
    described: Any,
    compute: Callable[[Path], Outcome],
    agree: Callable[[bool], bool],
) -> None:
    name, code = path.parent.name, sources.code(config, compute)
    with scratch.claim(path.parent, path.name) as slot, provenance.recording() as ledger:
        origins = resuming.begin(slot, f"{name}/{path.name}", code, agree)
        try:
            outcome = compute(slot.work)
            facts: dict[str, Any] = {"resumed": slot.resumed, "code": code.described()}
            if len(origins) > 1:
                facts["origins"] = origins
            run_files.write(name, slot.draft, described, outcome, ledger, facts)
            if path.exists() and not _usable(path):
                path.rename(slot.path / "replaced")
            disk.publish(slot.draft, path)
        except OSError as error:
            if slot.path.is_dir():
                raise
            if not path.is_dir():
                raise UserError(
                    f"another process took over {quoted(path)} while this one gave no sign of "
                    "life: once that has ended, the same command uses its run"
                ) from error
        own = provenance.own_seconds(ledger)
    provenance.spend(own)


def _unwritable(error: OSError, path: Path) -> UserError | None:
    """A disk's error in plain words; None if it is not about the results folder."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    inside = error.filename is not None and Path(error.filename).is_relative_to(results())
    above = error.filename is not None and results().is_relative_to(error.filename)
    if not full and not inside and not above:
        return None
    reason = (error.strerror or str(error)).lower()
    if error.errno == errno.EXDEV:
        return UserError(
            f"{quoted(path.parent / '.scratch')} is on another file system than the runs beside "
            "it, so that none can be moved there in one step: remove it, or let it be a folder"
        )
    again = "run the same command again; finished runs are kept"
    if not full:
        return UserError(
            f"cannot write {quoted(path)} ({reason}): set RETRACE_RESULTS to a folder you can "
            "write to, "
            f"and {again}"
        )
    existing = next(folder for folder in path.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(existing).free
    return UserError(
        f"cannot write {quoted(path)}: {reason} ({free:,} bytes free): make room, or set "
        f"RETRACE_RESULTS to a folder on another disk, and {again}"
    )
