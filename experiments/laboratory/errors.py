"""Mistakes a user can correct: one line on stderr and exit code 2, never a traceback."""

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

USER_MISTAKE = 2  # exit code


class UserError(Exception):
    """One line: what was found, then the command or the number that corrects it."""


class Diverged(UserError):
    """A training whose loss or parameters are not finite any more."""


class MissingRuns(UserError):
    """Runs that do not exist yet; the message has the command that makes them."""

    def __init__(self, name: str, preset: str, present: int, total: int | None) -> None:
        found = "no runs" if not present else f"{present} of {total} runs"
        super().__init__(
            f"{name} has {found} of preset {preset}: "
            f"make them with `python -m experiments.{name} --preset {preset}`"
        )


class CorruptRun(UserError):
    """A run whose files have changed since they were written."""

    def __init__(self, path: Path, error: Exception) -> None:
        if isinstance(error, OSError):
            reason = f"{error.strerror or error}: {Path(error.filename or path).name}"
        elif isinstance(error, LookupError):
            reason = f"meta.json has no {error}"
        else:
            reason = str(error)
        super().__init__(
            f"{path} is a corrupt run ({reason}): remove it with `rm -r {path}`; "
            "the command that made it then makes it again"
        )


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are UserErrors."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: see --help")

    def run(self, argv: Sequence[str] | None, command: Callable[[argparse.Namespace], int]) -> int:
        """Call `command` with the parsed words; return its exit code, 2 after a UserError."""
        try:
            return command(self.parse_args(argv))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return USER_MISTAKE


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the nearest known one, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there is {', '.join(known) or 'none'}"
