"""Being asked to stop: a time limit that comes near, a preemption, an eviction.

The first SIGUSR1 or SIGTERM only raises a flag, which loops that keep their state on disk look at:
they save, then stop. Whatever does not look is stopped after GRACE seconds, wherever it is, which
loses what it did since it last saved, as a kill would.
"""

import contextlib
import ctypes
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# How the process holds memory: freed buffers are kept for the next use of their size.


_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of glibc's malloc.h


def keep_freed() -> None:
    """Let malloc reuse large blocks instead of returning them to the system at once.

    First touch of fresh pages runs at a tenth of the speed of used ones, and batch after batch
    asks for the same sizes. Does nothing where the C library is not glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_MMAP, 1 << 30)
        libc.mallopt(_TRIM, (1 << 31) - 1)


GRACE = 10.0  # seconds; Slurm's own default between asking and killing is 30
INTERRUPTED = 130  # exit code
SIGNALS = (signal.SIGUSR1, signal.SIGTERM)

_flag = threading.Event()


class Stopped(KeyboardInterrupt):
    """Raised where work stops because it was asked to; finished work and saved state are kept."""


def asked() -> bool:
    """Whether to save and stop."""
    return _flag.is_set()


def obey() -> None:
    """Stop here if asked to: call it after saving."""
    if asked():
        raise Stopped


@contextlib.contextmanager
def heed() -> Iterator[None]:
    """Heed SIGUSR1 and SIGTERM inside the block; only the main thread can, others leave them be."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _ask) for number in SIGNALS}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, _insist)
    try:
        yield
    finally:
        outermost = before[signal.SIGTERM] is not _ask
        if outermost:
            signal.setitimer(signal.ITIMER_REAL, 0)
            _flag.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def _ask(number: int, frame: FrameType | None) -> None:
    # Asked twice is asked once: Slurm signals every process of a task, and its script passes it on.
    if not asked():
        _flag.set()
        signal.setitimer(signal.ITIMER_REAL, GRACE)


def _insist(number: int, frame: FrameType | None) -> None:
    raise Stopped
