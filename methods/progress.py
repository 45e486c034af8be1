"""Progress of loops, at no cost until somebody asks to see it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")
Reporter = Callable[[Iterable[Any], str, int | None], Iterable[Any]]

_reporter: ContextVar[Reporter | None] = ContextVar("reporter", default=None)


def track(iterable: Iterable[T], label: str, total: int | None = None) -> Iterable[T]:
    """Yield `iterable` unchanged, through the current reporter, if there is one."""
    reporter = _reporter.get()
    return iterable if reporter is None else reporter(iterable, label, total)


@contextmanager
def show_with(reporter: Reporter | None) -> Iterator[None]:
    """Let `reporter(iterable, label, total)` wrap every loop tracked inside the block.

    `with show_with(tqdm):` shows bars with the time left.
    """
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)
