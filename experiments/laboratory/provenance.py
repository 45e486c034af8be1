"""Where a run comes from: what meta.json says beside its numbers."""

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
    """What was noted while one run was computed."""

    began: float = field(default_factory=time.perf_counter)
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: list[dict[str, str]] = field(default_factory=list)


_open: ContextVar[tuple[Ledger, ...]] = ContextVar("ledgers", default=())


@contextlib.contextmanager
def ledger() -> Iterator[Ledger]:
    """Collect the notes of a run, and of the runs computed inside it."""
    page = Ledger()
    token = _open.set((*_open.get(), page))
    try:
        yield page
    finally:
        _open.reset(token)


def note(section: str, facts: Mapping[str, Any]) -> None:
    """Add facts to meta.json of every run now being computed: `note("data", {file: md5})`."""
    for page in _open.get():
        page.notes.setdefault(section, {}).update(facts)


def remembered(load: Callable[P, Loaded]) -> Callable[P, Loaded]:
    """Keep what a loader last returned, and repeat what it noted to every run that asks again.

    `cache_clear()` forgets it, as of functools' caches.
    """
    held: dict[Any, tuple[Loaded, Ledger]] = {}

    @wraps(load)
    def asked(*args: P.args, **kwargs: P.kwargs) -> Loaded:
        question = args, tuple(sorted(kwargs.items()))
        if question in held:
            value, page = held[question]
            for section, facts in page.notes.items():
                note(section, facts)
            return value
        with ledger() as page:
            value = load(*args, **kwargs)
        held.clear()
        held[question] = value, page
        return value

    asked.cache_clear = held.clear  # type: ignore[attr-defined]
    return asked


def cite(name: str, key: str, meta: Mapping[str, Any]) -> None:
    """Tell the run being computed that it uses this finished one, and so its data."""
    if _open.get():
        part = {"name": name, "key": key}
        if part not in _open.get()[-1].parts:
            _open.get()[-1].parts.append(part)
        note("data", meta.get("data", {}))


def describe(page: Ledger) -> dict[str, Any]:
    """Commit, versions, device, cost and command of the run whose ledger this is.

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
        "seconds": time.perf_counter() - page.began,
        "peak_memory_bytes": peak * (1 if sys.platform == "darwin" else 1024),
        "slurm": slurm or None,
        "argv": [_relative(sys.argv[0]), *sys.argv[1:]] if sys.argv else [],
        "parts": page.parts,
        "data": {},
        **page.notes,
    }


@cache
def _commit() -> dict[str, Any]:
    """Of the code that makes numbers; asked once, when the code in memory was read."""
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
