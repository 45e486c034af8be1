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

from experiments.laboratory import privacy
from experiments.laboratory.privacy import REPOSITORY

P = ParamSpec("P")
Loaded = TypeVar("Loaded")


@dataclass
class Ledger:
    """Notes taken while one run is computed.

    `devices` are those it computes on: name, and when it first did. `gpu_peak` is in bytes.
    """

    began: float = field(default_factory=lambda: time.perf_counter())
    inside: float = 0.0  # seconds of the runs computed meanwhile
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: list[dict[str, str]] = field(default_factory=list)
    devices: dict[str, tuple[str, float]] = field(default_factory=dict)
    gpu_peak: int = 0


_latest: dict[str, str] = {}
_open: ContextVar[tuple[Ledger, ...]] = ContextVar("ledgers", default=())


@contextlib.contextmanager
def recording() -> Iterator[Ledger]:
    """Collect the notes of the run computed in this block, and of the runs computed inside it."""
    _keep_peak()
    ledger = Ledger()
    token = _open.set((*_open.get(), ledger))
    try:
        yield ledger
    finally:
        _keep_peak()
        _open.reset(token)


def note(section: str, facts: Mapping[str, Any]) -> None:
    """Add facts to meta.json of every run now being computed: `note("data", {file: md5})`."""
    for ledger in _open.get():
        ledger.notes.setdefault(section, {}).update(facts)


def computes_on(device: str, name: str) -> None:
    """Record the device, as `cuda:0`, and its name for every run now being computed.

    A later run of this process that says nothing computes there too, on what is there already.
    """
    _latest.clear()
    _latest[device] = name
    for ledger in _open.get():
        ledger.devices.setdefault(device, (name, time.perf_counter()))


def forget_device() -> None:
    """Let this process, as one that has just begun, have computed nowhere yet."""
    _latest.clear()


def latest_device() -> str | None:
    """The name of the device that this process computes on, if that was said."""
    return next(iter(_latest.values()), None)


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


def own_seconds(ledger: Ledger) -> float:
    """Seconds since a run began, without those of the runs computed inside it."""
    return max(0.0, time.perf_counter() - ledger.began - ledger.inside)


def spend(seconds: float) -> None:
    """Take a finished run's own seconds off those of the runs that it was computed inside."""
    for ledger in _open.get():
        ledger.inside += seconds


def cite(name: str, key: str, meta: Mapping[str, Any]) -> None:
    """Record that the run being computed uses this finished one, and hence its data."""
    if _open.get():
        part = {"name": name, "key": key}
        if part not in _open.get()[-1].parts:
            _open.get()[-1].parts.append(part)
        note("data", meta.get("data", {}))


def describe(ledger: Ledger) -> dict[str, Any]:
    """Commit, versions, device, cost and command of the run that the ledger belongs to.

    `own_seconds` are without those of the runs computed inside this one; `peak_memory_bytes` is the
    peak of the whole process so far, not of this run alone.
    """
    slurm = {
        name.removeprefix("SLURM_").lower(): value
        for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")
        if (value := os.environ.get(name))
    }
    device = _device(ledger)  # first: it has finished its work when the seconds are counted
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    facts = {
        **commit(),
        "versions": _versions(),
        "seconds": time.perf_counter() - ledger.began,
        "own_seconds": own_seconds(ledger),
        "peak_memory_bytes": peak * (1 if sys.platform == "darwin" else 1024),
        "slurm": slurm or None,
        "argv": privacy.words(sys.argv),
        "parts": ledger.parts,
        "data": {},
        **ledger.notes,
        **device,
    }
    return {name: privacy.scrubbed(value) for name, value in facts.items()}


@cache
def commit() -> dict[str, Any]:
    """The commit of the code that makes numbers; None where no repository holds this package.

    It is asked once, before anything is computed: the code in memory stays that one.
    """
    here = str(Path(__file__).resolve().relative_to(REPOSITORY))
    if _git("ls-files", "--error-unmatch", "--", here) is None:
        return {"commit": None, "dirty": None}
    changed = _git("status", "--porcelain", "--", "methods", "experiments")
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if changed is None else bool(changed),
    }


def _git(*arguments: str) -> str | None:
    """What git says of the repository around this package, whatever GIT_DIR and the like say."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    words = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(
            words, cwd=REPOSITORY, env=own, capture_output=True, text=True, timeout=20
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


def _device(ledger: Ledger) -> dict[str, Any]:
    """The device with its name, and of a GPU how much of it was used; it has finished its work.

    `gpu.seconds` are those since its first use, of all GPUs: each of several processes has its own.
    """
    torch, gpu = sys.modules.get("torch"), None
    device = f"cpu ({platform.machine()})"
    known = ledger.devices or {used: (name, ledger.began) for used, name in _latest.items()}
    for used, (name, began) in known.items():
        if used != "cpu":
            _keep_peak()
            count = _processes()
            device = f"{used.partition(':')[0]} ({name})"
            gpu = {
                "device": used,
                "name": name,
                "count": count,
                "seconds": count * (time.perf_counter() - began),
                "peak_memory_bytes": ledger.gpu_peak if used.startswith("cuda") else None,
            }
    dtype = "float64" if torch is None else str(torch.get_default_dtype()).partition(".")[2]
    return {
        "device": device,
        "gpu": gpu,
        "threads": os.cpu_count() if torch is None else torch.get_num_threads(),
        "precision": {"attribution": f"{dtype} without TF32", **ledger.notes.get("precision", {})},
        "deterministic": torch is not None and torch.are_deterministic_algorithms_enabled(),
    }


def _keep_peak() -> None:
    """Add the peak of the GPU's memory since the last call to every run now being computed."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for ledger in _open.get():
        ledger.gpu_peak = max(ledger.gpu_peak, peak)


def _processes() -> int:
    """How many processes compute the run together."""
    workers = sys.modules.get("methods.workers")
    return 1 if workers is None else int(workers.here().size)
