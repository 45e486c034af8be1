"""Working folders ("slots") that outlive a killed process and are never shared by two living ones.

A slot's name says who owns it, so taking over the slot of a dead owner is one rename, which exactly
one process can win. There are no locks, because network file systems cannot be trusted with them.
An owner that was wrongly taken for dead finds its folder gone; it cannot damage its successor's.
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
STALE = 300.0  # seconds without one, after which an owner on another machine is silent
FREE = "free"
LIVING, SILENT, DEAD = "living", "silent", "dead"


@dataclass(frozen=True)
class Slot:
    """The folder of one process: `work` survives a kill, `draft` is removed by the next owner."""

    path: Path
    resumed: bool

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def origin(self) -> Path:
        """The file that says what code began the work."""
        return self.path / "origin.json"

    @property
    def draft(self) -> Path:
        return self.path / "draft"


@contextlib.contextmanager
def claim(home: Path, key: str) -> Iterator[Slot]:
    """Own a slot for `key`: the most recently used one of a dead process, or a new one.

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


class Watch:
    """Looks at the owners of a run for as long as one works, by this machine's running time alone.

    A clock that was set may give a dead owner's last sign of life any age.
    """

    def __init__(self, home: Path, key: str) -> None:
        self._parent = home / ".scratch" / key
        self._signs: dict[Path, tuple[float, float]] = {}

    def working(self) -> list[Path]:
        """The slots whose owners have given a sign of life in the last STALE seconds."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            living = [slot for slot in self._parent.iterdir() if state(slot) == LIVING]
            return [slot for slot in living if _is_here(slot) or self._gives_signs(slot)]
        return []

    def _gives_signs(self, slot: Path) -> bool:
        sign, now = slot.stat().st_mtime, time.monotonic()
        if self._signs.get(slot, (None, now))[0] != sign:
            self._signs[slot] = sign, now
        return now - self._signs[slot][1] <= STALE


def slots(home: Path) -> dict[str, list[Path]]:
    """All slots of an experiment, whoever owns them, by the key of their run."""
    by_key: dict[str, list[Path]] = {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for parent in sorted((home / ".scratch").iterdir()):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # it was just removed
                by_key[parent.name] = sorted(parent.iterdir())
    return {key: paths for key, paths in by_key.items() if paths}


def state(slot: Path) -> str:
    """The state of a slot's owner: LIVING, DEAD, or SILENT (no sign of life for STALE seconds).

    Only the owner's machine, or Slurm when it restarted the job elsewhere, knows that it is dead.
    """
    owner = slot.name.split(".")
    if owner[0] == FREE:
        return DEAD
    if len(owner) != 6:
        return LIVING
    _, pid, started, job, restart, _ = owner
    if _is_here(slot):
        return LIVING if _started(int(pid)) == started else DEAD
    if job and job == _slurm()[0] and int(restart) < int(_slurm()[1]):
        return DEAD  # the same Slurm job, requeued on another node
    return SILENT if silence(slot) > STALE else LIVING


def silence(slot: Path) -> float:
    """Seconds since the owner's last sign of life, by the clock of the file system.

    A sign that lies in the future was given before that clock was set: it is as old.
    """
    return abs(_now(slot.parent) - slot.stat().st_mtime)


def _now(folder: Path) -> float:
    """The time by the clock that gives files their times: on a network, another machine's."""
    try:
        os.utime(folder)
        return folder.stat().st_mtime
    except OSError:  # it may only be read
        return time.time()


def _is_here(slot: Path) -> bool:
    """Whether the owner of a slot is, or was, a process of this machine."""
    return slot.name.partition(".")[0] == _host()


def job(slot: Path) -> str:
    """The Slurm job that owns a slot; "" if no job does."""
    owner = slot.name.split(".")
    return owner[3] if len(owner) == 6 else ""


def sweep(home: Path, key: str) -> None:
    """Remove the slots that dead processes left for a run that is now finished."""
    parent = home / ".scratch" / key
    if not parent.is_dir():
        return
    for path in _claimable(parent):
        remove(path)
    for folder in (parent, parent.parent):
        with contextlib.suppress(OSError):  # not empty: another process is at work
            folder.rmdir()


def remove(slot: Path) -> bool:
    """Remove a slot without a living owner; False if another process took it first."""
    # Renamed before it is removed: another process may be about to claim it.
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
        except FileNotFoundError:  # a finishing process removed the empty parent: try again
            if attempt == 99:
                raise
    return Slot(mine, resumed=False)


def _release(slot: Slot) -> None:
    """Leave the work to the next owner, which may be this process; leave no empty folder."""
    shutil.rmtree(slot.draft, ignore_errors=True)
    with contextlib.suppress(OSError):  # taken over, or on a disk that refuses every change
        if any(slot.work.iterdir()):
            slot.path.rename(slot.path.with_name(f"{FREE}.{uuid.uuid4().hex[:8]}"))
            return
        slot.work.rmdir()
        slot.origin.unlink(missing_ok=True)
        for folder in (slot.path, slot.path.parent, slot.path.parent.parent):
            folder.rmdir()


def _rename(source: Path, target: Path) -> Path | None:
    with contextlib.suppress(OSError):
        source.rename(target)
    # Look at the disk, not at the call: a network file system may report a lost reply as an error.
    return target if target.is_dir() else None


def _claimable(parent: Path) -> list[Path]:
    """Slots whose owners are dead, the most recently used first."""
    last_used: dict[Path, float] = {}
    with contextlib.suppress(FileNotFoundError):  # the folder was just removed
        for path in list(parent.iterdir()):
            with contextlib.suppress(FileNotFoundError):  # another process just took it
                if state(path) != LIVING:
                    last_used[path] = path.stat().st_mtime
    return sorted(last_used, key=lambda path: -last_used[path])


def _token() -> str:
    job, restart = _slurm()
    pid = os.getpid()
    return f"{_host()}.{pid}.{_started(pid)}.{job}.{restart}.{uuid.uuid4().hex[:8]}"


def _slurm() -> tuple[str, str]:
    return os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_RESTART_COUNT", "0")


@cache
def _host() -> str:
    """This machine and its process ids: two containers may share the name of their host."""
    with contextlib.suppress(OSError):
        return _digest(f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}")
    return _digest(socket.gethostname())


def _started(pid: int) -> str:
    """When a process began, as process ids are reused; "" if it is dead."""
    try:
        # The name in parentheses may hold blanks; the state and 19 fields later the start follow.
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return "" if status[0] in "ZX" else _digest(f"{boot} {status[19]}")
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    try:  # without /proc, as on macOS, only whether the id is in use can be known
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "alive"
    return "alive"


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        with contextlib.suppress(OSError):  # one that fails does not end them all
            os.utime(path)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]
