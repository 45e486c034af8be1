"""Progress of work that takes longer than two seconds, on stderr, and numbers for W&B.

On a terminal it is a bar; in a file it is a plain line from time to time.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextvars import ContextVar
from typing import Any

from experiments.laboratory.table import duration
from methods.progress import show_with

DELAY = 2.0  # seconds before anything is shown
EVERY = 30.0  # seconds between two lines of a file
now = time.monotonic

Watcher = Callable[[dict[str, Any]], None]

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


def report(**values: Any) -> None:
    """Pass numbers of work in progress to the watcher, if any: `report(epoch=3, loss=0.1)`.

    A value may be an array (K,), with a number for each of K networks.
    """
    watcher = _watcher.get()
    if watcher is not None:
        watcher(values)


def watched() -> bool:
    """Whether someone has what is reported: what costs time is computed only then."""
    return _watcher.get() is not None


@contextlib.contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Let `watcher(values)` have what is reported inside the block."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


class Display:
    """The open bars. Quick loops never make one."""

    def __init__(self) -> None:
        self._open: list[_Bar] = []

    def track(self, iterable: Iterable[Any], label: str, total: int | None = None) -> Iterator[Any]:
        """Yield `iterable` unchanged, with a bar after two seconds."""
        if total is None and isinstance(iterable, Sized):
            total = len(iterable)
        bar = _Bar(label, total, waits=bool(self._open))
        self._open.append(bar)
        try:
            for item in iterable:
                yield item
                bar.advance()
        finally:
            self._open.remove(bar)
            bar.close()

    def close(self) -> None:
        """Remove every bar, so that an error message can be written below them."""
        for bar in reversed(self._open):
            bar.close()


class _Bar:
    """One loop. The outermost has a timer, to be shown before its first step ends.

    In a file, inner loops are shown only if they take long: there are many of them.
    """

    def __init__(self, label: str, total: int | None, waits: bool) -> None:
        self.label, self.total, self.done = label, total, 0
        self.began, self.closed = now(), False
        self.bar: Any = None
        self.delay = EVERY if waits and not sys.stderr.isatty() else DELAY
        self._lock = threading.Lock()
        self._timer = None if waits else threading.Timer(DELAY, self._show)
        if self._timer:
            self._timer.daemon = True
            self._timer.start()

    def advance(self) -> None:
        self.done += 1
        if self.bar is not None:
            self.bar.update()
        elif self._elapsed() > self.delay:
            self._show()

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        with self._lock:
            self.closed = True
            if self.bar is not None:
                self.bar.close()

    def _show(self) -> None:
        with self._lock:
            if self.closed or self.bar is not None:
                return
            if not sys.stderr.isatty():
                self.bar = _Lines(self)
                return
            from tqdm import tqdm

            bar = tqdm(
                desc=self.label,
                total=self.total,
                leave=False,
                dynamic_ncols=True,
                delay=DELAY,  # drawn by refresh() below, once it knows the steps already done
                file=sys.stderr,
            )
            bar.delay, bar.n, bar.start_t = 0.0, self.done, bar.start_t - self._elapsed()
            bar.refresh()
            self.bar = bar

    def _elapsed(self) -> float:
        return now() - self.began

    def __str__(self) -> str:
        of = "" if self.total is None else f" of {self.total}"
        seconds = self._elapsed()
        left = ""
        if self.total is not None and 0 < self.done < self.total:
            left = f", about {duration(seconds / self.done * (self.total - self.done))} left"
        return f"{self.label}: {self.done}{of}, {duration(seconds)}{left}"


class _Lines:
    """What stands for a bar in a file: a line now, and after that one every EVERY seconds."""

    def __init__(self, loop: _Bar) -> None:
        self.loop = loop
        self._say()

    def update(self) -> None:
        if now() - self.last >= EVERY:
            self._say()

    def close(self) -> None:
        """Say where it ended, if that was not said."""
        if self.said != self.loop.done:
            self._say()

    def _say(self) -> None:
        self.said, self.last = self.loop.done, now()
        print(self.loop, file=sys.stderr, flush=True)


@contextlib.contextmanager
def show() -> Iterator[Display]:
    """Show a bar for every slow loop tracked inside the block."""
    display = Display()
    with show_with(display.track):
        try:
            yield display
        finally:
            display.close()
