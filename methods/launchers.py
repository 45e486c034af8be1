"""Who started this process: torchrun, a step of Slurm, or nobody; and the wait for the others.

A process is one of several only where a launcher certainly started it so. Variables of an
allocation alone (`salloc -n 2`, a batch script, a shell by `srun --pty`) say what could be started.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing this file takes no time: the command line asks whether it is first
    from methods.errors import MethodError

log = logging.getLogger(__name__)

PORT = 29_500  # of the first step of the first job; each step has another
NO_STEP = 0xFFFFFFF0  # ids from here on are Slurm's own: batch script, interactive shell, pending
QUIET = 2.0  # seconds of waiting before it is said
LOOK = 0.1  # seconds between two looks for the others
REPLY = timedelta(seconds=10)  # for a store to answer that listens


def place() -> tuple[int, int, int] | None:
    """Rank, size and rank on this machine, from the environment; None for a single process."""
    env = os.environ
    if "RANK" in env or env.get("WORLD_SIZE", "1") != "1":
        return _numbers("RANK", "WORLD_SIZE", "LOCAL_RANK" if "LOCAL_RANK" in env else "RANK")
    if not _in_step() or env.get("SLURM_STEP_NUM_TASKS", "1") == "1":
        return None
    first = re.sub(r"\[(\d+).*", r"\1", env.get("SLURM_STEP_NODELIST", "localhost"))
    step = sum(int(env.get(f"SLURM_{name}_ID", 0)) for name in ("JOB", "STEP"))
    env.setdefault("MASTER_ADDR", first.split(",")[0])
    env.setdefault("MASTER_PORT", str(PORT + step % 10_000))
    return _numbers("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")


def is_first() -> bool:
    """Whether this process is the only one, or the first of those that were started."""
    found = place()
    return found is None or found[0] == 0


def _in_step() -> bool:
    """Whether srun started this process for its own sake, and not as a shell on a terminal."""
    job, step = (os.environ.get(f"SLURM_{name}_ID", "") for name in ("JOB", "STEP"))
    numbered = re.fullmatch("[0-9]+", job) and re.fullmatch("[0-9]+", step)
    return bool(numbered) and int(step) < NO_STEP and not _on_terminal()


def _on_terminal() -> bool:
    """Whether `srun --pty` started this step: the other tasks are shells that have ended.

    What srun starts from such a shell inherits its variables, but its tasks have no terminal.
    """
    if "SLURM_PTY_PORT" not in os.environ:
        return False
    task = os.environ.get("SLURM_TASK_PID", "")
    try:
        # The name in parentheses may hold blanks; state, parent, group and session follow.
        return Path(f"/proc/{task}/stat").read_text().rpartition(")")[2].split()[4] != "0"
    except (OSError, IndexError):
        return True


def _numbers(*names: str) -> tuple[int, int, int] | None:
    """Rank, size and local rank by the variables that have them; None for a group of one."""
    words = {name: os.environ.get(name, "") for name in names}
    numbers = {
        name: int(word) if re.fullmatch("[0-9]+", word) else -1 for name, word in words.items()
    }
    rank, size, local = map(numbers.__getitem__, names)
    if not 0 <= rank < size or local < 0:
        said = ", ".join(f"{name} is {word or 'not set'}" for name, word in words.items())
        raise _error(
            f"{said}: a rank is a number from 0 to one less than the size; start the processes by "
            "torchrun or srun, or unset these variables for a single process"
        )
    return (rank, size, local) if size > 1 else None


def address(size: int) -> tuple[str, int]:
    """Host and port where the processes meet, as torchrun or srun has them."""
    host, port = (os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 1 << 16:
        raise _error(
            f"{size} processes cannot meet at '{host}:{port}', as MASTER_ADDR:MASTER_PORT has it: "
            "set both, or start them by torchrun or srun, which do"
        )
    return host, int(port)


def meet(rank: int, size: int, patience: timedelta, group: int, stop: Callable[[], None]) -> Any:
    """The store of all processes, once all of them are there.

    No step of the wait lasts: an interrupt ends it at once, and so does what `stop` raises.
    """
    host, port = address(size)
    wait = _Wait(rank, size, f"{host}:{port}", patience, stop)
    store = None
    try:
        while (store := _store(rank, size, host, port, patience)) is None:
            wait.look([0])
        mine = f"group {group}: here {rank}"
        store.set(mine, "")
        try:
            while missing := [
                other for other in range(size) if not store.check([f"group {group}: here {other}"])
            ]:
                wait.look(missing)
        except BaseException:
            store.delete_key(mine)
            raise
    except (RuntimeError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise _error(
            f"process {rank} of {size} cannot meet the others at {host}:{port} ({reason}): see "
            "whether all were started and whether that port is free"
        ) from error
    return store


class _Wait:
    """A wait that says after a moment for whom, and ends."""

    def __init__(
        self, rank: int, size: int, where: str, patience: timedelta, stop: Callable[[], None]
    ) -> None:
        self.me, self.where, self.stop = f"process {rank} of {size}", where, stop
        self.patience, self.began, self.said = patience, time.monotonic(), False

    def look(self, missing: Sequence[int]) -> None:
        """Pass a moment; an error once patience is at an end."""
        self.stop()
        waited, whom = time.monotonic() - self.began, _in_words(missing)
        if waited > self.patience.total_seconds():
            raise _error(
                f"{self.me} waited {_duration(self.patience)} for {whom} at {self.where}: see "
                "whether all were started, by torchrun or srun"
            )
        if not self.said and waited >= QUIET:
            log.warning(
                "%s waits for %s at %s, for %s at most: ctrl-C ends it",
                self.me,
                whom,
                self.where,
                _duration(self.patience),
            )
            self.said = True
        time.sleep(LOOK)


def _in_words(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"process {ranks[0]}"
    shown = ", ".join(map(str, ranks[:5])) + (" ..." if len(ranks) > 5 else "")
    return f"{len(ranks)} processes ({shown})"


def _duration(time: timedelta) -> str:
    seconds = time.total_seconds()
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def _store(rank: int, size: int, host: str, port: int, patience: timedelta) -> Any:
    """The store at an address: made by process 0, unless torchrun has one; None before it is."""
    import torch.distributed as dist

    if rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        options = {"wait_for_workers": False, "multi_tenant": True}
        store = dist.TCPStore("127.0.0.1", port, size, True, REPLY, **options)
    else:
        try:
            socket.create_connection((host, port), timeout=1.0).close()
            store = dist.TCPStore(host, port, size, False, REPLY, wait_for_workers=False)
        except (TimeoutError, ConnectionError, RuntimeError):
            return None
    store.set_timeout(patience)
    return store


def _error(message: str) -> MethodError:
    from methods.errors import MethodError

    return MethodError(message)
