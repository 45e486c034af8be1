"""Where a run comes from: the commit, machine, cost and data recorded in its meta.json."""

import contextlib
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

REPOSITORY = Path(__file__).resolve().parents[2]
P = ParamSpec("P")
Loaded = TypeVar("Loaded")


@dataclass
class Ledger:
    """Notes taken while one run is computed."""

    began: float = field(default_factory=time.perf_counter)
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: list[dict[str, str]] = field(default_factory=list)


_open: ContextVar[tuple[Ledger, ...]] = ContextVar("ledgers", default=())


@contextlib.contextmanager
def recording() -> Iterator[Ledger]:
    """Collect the notes of the run computed in this block, and of the runs computed inside it."""
    ledger = Ledger()
    token = _open.set((*_open.get(), ledger))
    try:
        yield ledger
    finally:
        _open.reset(token)


def note(section: str, facts: Mapping[str, Any]) -> None:
    """Add facts to meta.json of every run now being computed: `note("data", {file: md5})`."""
    for ledger in _open.get():
        ledger.notes.setdefault(section, {}).update(facts)


def remembered(load: Callable[P, Loaded]) -> Callable[P, Loaded]:
    """Cache the last result of a loader, and repeat its notes for every run that loads it again.

    `cache_clear()` empties the cache, as with functools.cache.
    """
    last: dict[Any, tuple[Loaded, Ledger]] = {}

    @wraps(load)
    def cached(*args: P.args, **kwargs: P.kwargs) -> Loaded:
        arguments = args, tuple(sorted(kwargs.items()))
        if arguments in last:
            value, ledger = last[arguments]
            for section, facts in ledger.notes.items():
                note(section, facts)
            return value
        with recording() as ledger:
            value = load(*args, **kwargs)
        last.clear()
        last[arguments] = value, ledger
        return value

    cached.cache_clear = last.clear  # type: ignore[attr-defined]
    return cached


def cite(name: str, key: str, meta: Mapping[str, Any]) -> None:
    """Record that the run being computed uses this finished one, and hence its data."""
    if _open.get():
        part = {"name": name, "key": key}
        if part not in _open.get()[-1].parts:
            _open.get()[-1].parts.append(part)
        note("data", meta.get("data", {}))


def describe(ledger: Ledger) -> dict[str, Any]:
    """Commit, versions, device, cost and command of the run that the ledger belongs to.

    `peak_memory_bytes` is the peak of the whole process so far, not of this run alone.
    """
    slurm = {
        name.removeprefix("SLURM_").lower(): value
        for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")
        if (value := os.environ.get(name))
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        **_commit(),
        "versions": _versions(),
        **_device(),
        "seconds": time.perf_counter() - ledger.began,
        "peak_memory_bytes": peak * (1 if sys.platform == "darwin" else 1024),
        "slurm": slurm or None,
        "argv": [_relative(sys.argv[0]), *sys.argv[1:]] if sys.argv else [],
        "parts": ledger.parts,
        "data": {},
        **ledger.notes,
    }


@cache
def _commit() -> dict[str, Any]:
    """The commit of the code that makes numbers, read once: the code in memory stays that one."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", "methods", "experiments")
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _versions() -> dict[str, str]:
    loaded = {
        name: str(sys.modules[name].__version__)
        for name in ("numpy", "torch", "scipy", "sklearn", "transformers", "datasets")
        if hasattr(sys.modules.get(name), "__version__")
    }
    return {"python": platform.python_version(), **loaded}


def _device() -> dict[str, Any]:
    device: dict[str, Any] = {"device": f"cpu ({platform.machine()})", "threads": os.cpu_count()}
    torch = sys.modules.get("torch")
    if torch is not None:
        device["threads"] = torch.get_num_threads()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            device["device"] = torch.cuda.get_device_name()
    return device


def _relative(argument: str) -> str:
    path = Path(argument)
    if not path.is_absolute():
        return argument
    inside = path.is_relative_to(REPOSITORY)
    return str(path.relative_to(REPOSITORY)) if inside else path.name
