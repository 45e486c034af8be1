"""Several processes that share one computation: torchrun, a Slurm step, or started here.

`run(function, size)` starts the processes on this machine. A program that `torchrun` or `srun`
started several times calls `function(group)` itself, `with joined() as group`. With a single
process, neither starts anything. Each process has the GPU of its rank on this machine.
"""

from __future__ import annotations

import json
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from methods import launchers
from methods.errors import MethodError

PATIENCE = timedelta(minutes=10)  # without a sign of life, until a process counts as dead
BEAT = 15.0  # seconds between two signs of life
GRACE = 10.0  # seconds for a stopped worker to end
STOPPED = "stopped"


@dataclass(frozen=True)
class Group:
    """This process among those that share a computation."""

    rank: int = 0
    size: int = 1

    def share(self, n: int) -> range:
        """The indices, below n, of the work of this process: every size-th from its rank on."""
        return range(self.rank, n, self.size)

    def meet(self) -> None:
        """Wait until every process is here, for as long as all of them give signs of life."""
        if _meeting is not None and self.size > 1:
            _meeting.wait()

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place and in every one: an all-reduce.

        The tensor may be on any device: it is moved where the processes can talk to each other.
        """
        if self.size > 1:
            self.meet()
            there = tensor.to(_talks_on(tensor.device))
            dist.all_reduce(there)
            if there is not tensor:
                tensor.copy_(there)
        return tensor

    def all(self, flag: bool) -> bool:
        """Whether the flag is true in every process, so that all take the same branch."""
        return float(self.sum(torch.tensor(float(flag)))) == self.size


ALONE = Group()


def here() -> Group:
    """The group this process has joined, by `run` or `joined`; otherwise this process alone."""
    return Group(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else ALONE


def local_rank() -> int | None:
    """The number of this process among those of its group on this machine; None if it is alone."""
    if _rank_here is not None:
        return _rank_here
    place = launchers.place()
    return place[2] if place else None


def own_device() -> torch.device:
    """The GPU of this process, several processes to one if there are too few; or the CPU."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return torch.device("cuda", (local_rank() or 0) % count) if count else torch.device("cpu")


def run(
    function: Callable[..., Any],
    size: int,
    *arguments: Any,
    device: Callable[[], torch.device] = own_device,
) -> Any:
    """Call `function(group, *arguments)` in `size` new processes; return what rank 0 returned.

    Functions and arguments must pickle, so a function must belong to a module. Each process
    computes on its own `device()`. If one process dies, the others are stopped and its error is
    raised here. The processes share the CPU's threads. Called within a group, it starts nothing:
    its processes are the workers, and each gets its own result.
    """
    if size < 1:
        raise MethodError(f"{size} workers: give 1 or more")
    if (group := here()).size > 1:
        if group.size != size:
            raise MethodError(f"{size} workers in a group of {group.size}: start {size} processes")
        return function(group, *arguments)
    if size == 1:
        return function(ALONE, *arguments)
    import torch.multiprocessing as mp

    threads = max(1, torch.get_num_threads() // size)
    with tempfile.TemporaryDirectory(prefix="retrace-workers-") as name:
        folder = Path(name)
        given = size, folder, threads, device, function, arguments
        context = mp.spawn(_work, given, size, join=False)
        try:
            while not context.join():
                pass
        except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
            reason = _first_failure(context.processes, folder) or str(error)
            raise MethodError(f"{reason}; the rest of {size} workers were stopped") from error
        return torch.load(folder / "result.pt", weights_only=False)


def _work(
    rank: int,
    size: int,
    folder: Path,
    threads: int,
    device: Callable[[], torch.device],
    function: Callable[..., Any],
    arguments: Any,
) -> None:
    global _rank_here
    torch.set_num_threads(threads)
    _rank_here = rank
    store, note = dist.FileStore(str(folder / "meeting")), folder / f"error-{rank}.json"
    with _noted(note), _joined(store, rank, size, device) as group, _noted(note):
        result = function(group, *arguments)
        if rank == 0:
            torch.save(result, folder / "result.pt")


@contextmanager
def _noted(note: Path) -> Iterator[None]:
    """Write down an error, unless one is written already."""
    try:
        yield
    except BaseException as error:
        if not note.exists():
            what = {"time": time.time(), "what": f"{type(error).__name__}: {error}"}
            note.write_text(json.dumps(what))
        raise


def _first_failure(processes: Any, folder: Path) -> str | None:
    """The first error of all: workers that wait for the failed one fail after it."""
    for rank, process in enumerate(processes):
        process.join(GRACE)
        code = process.exitcode or 0
        if code < 0 and -code != signal.SIGTERM:
            name = signal.Signals(-code).name
            return f"worker {rank} was killed by {name}: if memory ran out, use fewer workers"
    notes = {path: json.loads(path.read_text()) for path in folder.glob("error-*.json")}
    if not notes:
        return None
    first = min(notes, key=lambda path: notes[path]["time"])
    return f"worker {first.stem.partition('-')[2]} failed: {notes[first]['what']}"


@contextmanager
def joined(
    device: Callable[[], torch.device] = own_device, stop: Callable[[], None] = lambda: None
) -> Iterator[Group]:
    """The group of processes that torchrun or srun started; without either, this one alone.

    Each of them computes on its own `device()`. While they wait for each other, `stop()` is called
    again and again: what it raises ends the wait.
    """
    place = launchers.place()
    if place is None:
        yield ALONE
        return
    rank, size, _ = place
    store = launchers.meet(rank, size, PATIENCE, _groups, stop)
    with _joined(store, rank, size, device) as group:
        yield group


@contextmanager
def _joined(
    store: Any, rank: int, size: int, device: Callable[[], torch.device]
) -> Iterator[Group]:
    global _meeting, _groups
    _groups += 1
    store = dist.PrefixStore(f"group {_groups}", store)  # torchrun's outlives a group
    meeting = _Meeting(store, rank, size)
    try:
        chosen = device()
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        backend = _backend(meeting.told(_identity(chosen)))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        _meeting = meeting
        yield Group(rank, size)
        meeting.leave()
    except BaseException as error:
        meeting.fail(error)
        raise
    finally:
        _meeting = None
        meeting.close()
        if dist.is_initialized():
            dist.destroy_process_group()


class _Meeting:
    """Where processes wait for each other: counters in the store that they share.

    A collective of torch fails after a fixed time, although another process may only have more to
    do. So processes meet before each one, and wait for as long as the others give signs of life.
    """

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.store, self.rank, self.size = dist.PrefixStore("meeting", store), rank, size
        self.turns, self._end = 0, threading.Event()
        self._thread = threading.Thread(target=self._live, args=(self.store.clone(),), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when every process has called this as often as this one."""
        self.turns += 1
        self.store.add("arrived", 1)
        self._until("arrived", self.turns * self.size)

    def told(self, word: str) -> list[str]:
        """What each process tells, by rank."""
        self.store.set(f"told {self.rank}", word)
        self.wait()
        return [self.store.get(f"told {rank}").decode() for rank in range(self.size)]

    def leave(self) -> None:
        """Wait for all once more; rank 0, which may have the store, is the last to leave."""
        self.wait()
        self.store.add("left", 1)
        if self.rank == 0:
            self._until("left", self.size)

    def fail(self, error: BaseException) -> None:
        """Tell those who wait why this process does not come any more."""
        stopped = isinstance(error, KeyboardInterrupt)
        with suppress(RuntimeError):
            if not self.store.check(["failed"]):
                word = f"process {self.rank} failed: {type(error).__name__}: {error}"
                self.store.set("failed", STOPPED if stopped else word)

    def close(self) -> None:
        """Give no more signs of life."""
        self._end.set()
        self._thread.join(GRACE)

    def _live(self, store: Any) -> None:
        ended = False
        while not ended:
            with suppress(RuntimeError):  # one that is lost does not end them all
                store.add(f"beats of {self.rank}", 1)
            ended = self._end.wait(BEAT)

    def _until(self, counter: str, count: int) -> None:
        heard: dict[int, tuple[int, float]] = {}
        pause = 0.001
        try:
            while self._count(counter) < count:
                self._look(heard)
                time.sleep(pause)
                pause = min(1.0, 2 * pause)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise MethodError(
                f"the process that the others meet at is gone ({reason}): see its own output"
            ) from error

    def _look(self, heard: dict[int, tuple[int, float]]) -> None:
        if self.store.check(["failed"]):
            word = self.store.get("failed").decode()
            raise KeyboardInterrupt if word == STOPPED else MethodError(word)
        for rank in range(self.size):
            beats, now = self._count(f"beats of {rank}"), time.monotonic()
            before, since = heard.setdefault(rank, (beats, now))
            if beats != before:
                heard[rank] = beats, now
            elif now - since > PATIENCE.total_seconds():
                raise MethodError(
                    f"process {rank} of {self.size} gave no sign of life for "
                    f"{PATIENCE.total_seconds():.0f} seconds: see its own output"
                )

    def _count(self, name: str) -> int:
        return int(self.store.get(name)) if self.store.check([name]) else 0


_meeting: _Meeting | None = None
_groups = 0  # joined so far by this process, and so by each of the others
_rank_here: int | None = None  # in the processes that `run` started


def _identity(device: torch.device) -> str:
    """A word that tells GPUs apart, though not the parts of one (MIG); "" without NCCL or GPU."""
    if device.type != "cuda" or not dist.is_nccl_available():
        return ""
    card = torch.cuda.get_device_properties(device)
    place = [getattr(card, f"pci_{part}_id", device.index) for part in ("domain", "bus", "device")]
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{boot.read_text() if boot.exists() else socket.gethostname()} {place}"


def _backend(identities: list[str]) -> str:
    """Gloo for tensors on the CPU; also NCCL, if every process has a GPU of its own."""
    apart = all(identities) and len(set(identities)) == len(identities)
    return "cpu:gloo,cuda:nccl" if apart else "gloo"


def _talks_on(device: torch.device) -> torch.device:
    """Where tensors of a device are reduced: there, if the group's backend can."""
    backends = dict(part.split(":") for part in dist.get_backend_config().split(","))
    if device.type in backends and (device.type == "cpu" or backends[device.type] != "gloo"):
        return device
    if "cpu" in backends:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
