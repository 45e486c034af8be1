"""Working folders that outlive a killed job and are never shared by two living ones.

The owner of a slot is written in the folder's own name, so taking over a dead owner's slot is one
rename, which exactly one process can win. No locks: they cannot be trusted on network file systems.
An owner that was only believed dead finds its folder gone; it cannot corrupt its successor's.
"""

import contextlib
import hashlib
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

BEAT = 15.0  # seconds between two signs of life
STALE = 300.0  # seconds without one after which an owner on another machine counts as dead
FREE = "free"
LIVING, SILENT, DEAD = "living", "silent", "dead"


@dataclass(frozen=True)
class Slot:
    """One process's folder: `work` survives a kill, `draft` is removed by whoever comes next."""

    path: Path
    resumed: bool

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def draft(self) -> Path:
        return self.path / "draft"


@contextlib.contextmanager
def claim(home: Path, key: str) -> Iterator[Slot]:
    """Own a slot for `key`, the freshest one a dead process left if there is one.

    An exception inside the block keeps the work for a later attempt; success removes it.
    """
    slot = _take(home / ".scratch" / key)
    stop = threading.Event()
    threading.Thread(target=_beat, args=(slot.path, stop), daemon=True).start()
    try:
        yield slot
    except BaseException:
        stop.set()
        _release(slot)
        raise
    stop.set()
    shutil.rmtree(slot.path, ignore_errors=True)
    sweep(home, key)


def slots(home: Path) -> dict[str, list[Path]]:
    """The slots now there by key of their run, whoever owns them."""
    found: dict[str, list[Path]] = {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for parent in sorted((home / ".scratch").iterdir()):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # swept in this moment
                found[parent.name] = sorted(parent.iterdir())
    return {key: paths for key, paths in found.items() if paths}


def state(slot: Path) -> str:
    """Whether a slot's owner is LIVING or DEAD; SILENT if it is only known to give no sign.

    Only the owner's own machine knows that it is dead, or Slurm, which started it anew elsewhere.
    """
    owner = slot.name.split(".")
    if owner[0] == FREE:
        return DEAD
    if len(owner) != 6:
        return LIVING
    host, pid, started, job, restart, _ = owner
    if host == _host():
        return LIVING if _started(int(pid)) == started else DEAD
    if job and job == _slurm()[0] and int(restart) < int(_slurm()[1]):
        return DEAD  # the same Slurm job, requeued on another node
    return SILENT if silence(slot) > STALE else LIVING


def silence(slot: Path) -> float:
    """Seconds since the owner's last sign of life."""
    return max(0.0, time.time() - slot.stat().st_mtime)


def job(slot: Path) -> str:
    """The Slurm job that owns a slot, "" if none does."""
    owner = slot.name.split(".")
    return owner[3] if len(owner) == 6 else ""


def sweep(home: Path, key: str) -> None:
    """Remove what dead processes left for a run that is now finished."""
    parent = home / ".scratch" / key
    if not parent.is_dir():
        return
    for path in _claimable(parent):
        remove(path)
    for folder in (parent, parent.parent):
        with contextlib.suppress(OSError):  # not empty: somebody else is at work there
            folder.rmdir()


def remove(slot: Path) -> bool:
    """Remove a slot nobody owns; False if somebody took it first."""
    # Taken by a rename first: another process may be about to claim the same one.
    taken = _rename(slot, slot.parent / _token())
    if taken is None:
        return False
    shutil.rmtree(taken, ignore_errors=True)
    return True


def _take(parent: Path) -> Slot:
    mine = parent / _token()
    if parent.is_dir():
        for path in _claimable(parent):
            if _rename(path, mine) is not None:
                shutil.rmtree(mine / "draft", ignore_errors=True)
                slot = Slot(mine, resumed=any(mine.glob("work/*")))
                slot.work.mkdir(exist_ok=True)
                return slot
    for attempt in range(100):
        try:
            (mine / "work").mkdir(parents=True)
            break
        except FileNotFoundError:  # a finishing process swept the empty parent: once more
            if attempt == 99:
                raise
    return Slot(mine, resumed=False)


def _release(slot: Slot) -> None:
    """Leave the work to any successor, this very process included; leave no empty folder."""
    shutil.rmtree(slot.draft, ignore_errors=True)
    with contextlib.suppress(OSError):  # taken over, or on a disk that refuses every change
        if any(slot.work.iterdir()):
            slot.path.rename(slot.path.with_name(f"{FREE}.{uuid.uuid4().hex[:8]}"))
            return
        slot.work.rmdir()
        for folder in (slot.path, slot.path.parent, slot.path.parent.parent):
            folder.rmdir()


def _rename(source: Path, target: Path) -> Path | None:
    with contextlib.suppress(OSError):
        source.rename(target)
    # Asked of the disk, not of the call: a network file system may report a lost reply as an error.
    return target if target.is_dir() else None


def _claimable(parent: Path) -> list[Path]:
    """Slots whose owners are dead, the most recently used first."""
    used: dict[Path, float] = {}
    try:
        slots = list(parent.iterdir())
    except FileNotFoundError:  # swept in this moment
        return []
    for path in slots:
        with contextlib.suppress(FileNotFoundError):  # taken in this moment
            if state(path) != LIVING:
                used[path] = path.stat().st_mtime
    return sorted(used, key=lambda path: -used[path])


def _token() -> str:
    job, restart = _slurm()
    pid = os.getpid()
    return f"{_host()}.{pid}.{_started(pid)}.{job}.{restart}.{uuid.uuid4().hex[:8]}"


def _slurm() -> tuple[str, str]:
    return os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_RESTART_COUNT", "0")


@cache
def _host() -> str:
    """This machine and its process numbering: two containers may share the name of their host."""
    with contextlib.suppress(OSError):
        return _digest(f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}")
    return _digest(socket.gethostname())


def _started(pid: int) -> str:
    """When a process began, lest a reused number pass for its owner; "" if it is dead."""
    try:
        # The name in parentheses may hold blanks; the state and 19 fields later the start follow.
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return "" if status[0] in "ZX" else _digest(f"{boot} {status[19]}")
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    try:  # no /proc, as on macOS: only whether the number is in use can be asked
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "alive"
    return "alive"


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        try:
            os.utime(path)
        except OSError:
            return


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]
