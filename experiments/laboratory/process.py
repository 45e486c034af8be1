"""This process: what is asked of it, how it holds memory, and whether it is first of several.

A time limit that comes near, a preemption and an eviction all arrive as SIGUSR1 or SIGTERM. The
first one only raises a flag; loops that keep their state on disk look at it, save, then stop. Code
that does not look is stopped GRACE seconds later, wherever it is; like a kill, that loses what was
done since the last save.
"""

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

GPU_SHARE = "RETRACE_GPU_SHARE"  # of the GPU's memory, which this process may take
GRACE = 10.0  # seconds; Slurm's own default between asking and killing is 30
INTERRUPTED = 130  # exit code
SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of glibc's malloc.h

_flag = threading.Event()


class Stopped(KeyboardInterrupt):
    """Raised where work stops on request; finished work and saved state are kept."""


def is_first() -> bool:
    """Whether this process is the only one, or the first of those that torchrun or srun started."""
    from methods.launchers import is_first  # reading runs needs nothing of methods

    return is_first()


def deterministic() -> bool:
    """Whether --deterministic, or RETRACE_DETERMINISTIC, asks for deterministic algorithms."""
    return os.environ.get("RETRACE_DETERMINISTIC", "0") not in ("", "0")


def cores() -> int:
    """The cores that this process may use, whatever the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def stop_requested() -> bool:
    """Whether to save and stop."""
    return _flag.is_set()


def stop_if_requested() -> None:
    """Stop here if that was requested: call it after saving."""
    if stop_requested():
        raise Stopped


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGUSR1 and SIGTERM stop the block; does nothing in a thread, which gets no signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _request_stop) for number in SIGNALS}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, _stop)
    try:
        yield
    finally:
        outermost = before[signal.SIGTERM] is not _request_stop
        if outermost:
            signal.setitimer(signal.ITIMER_REAL, 0)
            _flag.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def _request_stop(number: int, frame: FrameType | None) -> None:
    # A second signal changes nothing: both Slurm and its script signal the processes of a task.
    if not stop_requested():
        _flag.set()
        signal.setitimer(signal.ITIMER_REAL, GRACE)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped


def keep_freed() -> None:
    """Let malloc reuse large blocks instead of returning them to the system at once.

    Touching fresh pages runs at a tenth of the speed of used ones, and every batch asks for the
    same sizes. Does nothing where the C library is not glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_MMAP, 1 << 30)
        libc.mallopt(_TRIM, (1 << 31) - 1)
