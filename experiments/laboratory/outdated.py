"""Finished runs that other code made: the code here may compute other numbers."""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar

from experiments.laboratory import sources
from experiments.laboratory.resuming import commit_of
from experiments.laboratory.run import Run

SHOWN = 3  # commits that are named

_reused: ContextVar[dict[str, Run] | None] = ContextVar("reused", default=None)


def outdated(run: Run) -> bool:
    """Whether the sources that a run depends on have changed since, or were not written down."""
    return not sources.same(run.meta.get("code"))


def reuse(run: Run) -> None:
    """Remember, for `telling`, that a finished run is used again."""
    known = _reused.get()
    if known is not None:
        known[run.address] = run


@contextlib.contextmanager
def telling(show: bool = True) -> Iterator[None]:
    """Say at the end which of the finished runs used inside were made by other code."""
    used: dict[str, Run] = {}
    token = _reused.set(used)
    try:
        yield
    finally:
        _reused.reset(token)
    if show:
        tell(used.values())


def tell(used: Iterable[Run]) -> None:
    """Say in one line how many of these runs were made by other code, if any are on disk."""
    old = [run for run in used if run.path.is_dir() and outdated(run)]
    if old:
        print(
            f"{in_words(old)}: `python -m experiments runs outdated` lists them, "
            "`python -m experiments runs remake` makes them again",
            file=sys.stderr,
        )


def in_words(old: Sequence[Run]) -> str:
    """How many runs were made by other code, and by which commits."""
    commits = list(dict.fromkeys(commit_of(run.meta) for run in old))
    more = f" and {len(commits) - SHOWN} others" if len(commits) > SHOWN else ""
    were = "1 run was" if len(old) == 1 else f"{len(old)} runs were"
    return f"{were} made by other code ({', '.join(commits[:SHOWN])}{more})"
