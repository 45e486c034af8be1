"""Progress bars on stderr for whatever takes longer than two seconds."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextvars import ContextVar
from typing import Any

from methods.progress import show_with

# Numbers of work in progress, told to whoever watches: a mirror, or nobody.


Watcher = Callable[[dict[str, float]], None]

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


def tell(**values: float) -> None:
    """Tell the watcher in force, if there is one: `tell(epoch=3, loss=0.1)`."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher(values)


@contextlib.contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Let `watcher(values)` hear what is told inside the block."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


DELAY = 2.0  # seconds before a bar appears


class Display:
    """The bars now open. Quick loops, of which there are many, never make one."""

    def __init__(self) -> None:
        self._open: list[_Bar] = []

    def track(self, iterable: Iterable[Any], label: str, total: int | None = None) -> Iterator[Any]:
        """Yield `iterable` unchanged; after two seconds show how far it has come."""
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
        """Remove every bar: an error message is about to be written below them."""
        for bar in reversed(self._open):
            bar.close()


class _Bar:
    """One loop. The outermost does not wait for its first step to end before it shows."""

    def __init__(self, label: str, total: int | None, waits: bool) -> None:
        self.label, self.total, self.done = label, total, 0
        self.began, self.closed = time.monotonic(), False
        self.bar: Any = None
        self._lock = threading.Lock()
        self._timer = None if waits else threading.Timer(DELAY, self._show)
        if self._timer:
            self._timer.daemon = True
            self._timer.start()

    def advance(self) -> None:
        self.done += 1
        if self.bar is not None:
            self.bar.update()
        elif self._elapsed() > DELAY:
            self._show()

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        with self._lock:
            self.closed = True
            if self.bar is not None:
                self.bar.close()

    def _show(self) -> None:
        from tqdm import tqdm

        with self._lock:
            if self.closed or self.bar is not None:
                return
            seen = sys.stderr.isatty()
            every = 0.1 if seen else 30.0  # a log file wants few lines
            bar = tqdm(
                desc=self.label,
                total=self.total,
                leave=False if seen else None,  # there, what follows begins a line of its own
                mininterval=every,
                dynamic_ncols=True,
                delay=DELAY,  # not to be drawn before it knows what was done unseen
                file=sys.stderr,
            )
            bar.delay, bar.n, bar.start_t = 0.0, self.done, bar.start_t - self._elapsed()
            bar.refresh()
            self.bar = bar

    def _elapsed(self) -> float:
        return time.monotonic() - self.began


@contextlib.contextmanager
def show() -> Iterator[Display]:
    """Let every loop tracked inside the block appear when it is slow."""
    display = Display()
    with show_with(display.track):
        try:
            yield display
        finally:
            display.close()
