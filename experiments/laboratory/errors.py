"""What a user can mend: one line on stderr and a non-zero exit, never a traceback."""

import argparse
import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn


class UserError(Exception):
    """What was found, then the command or the number that mends it, in one line."""


class Diverged(UserError):
    """A training whose loss or parameters are no longer numbers."""


class MissingRuns(UserError):
    """Runs that nobody has made yet; the message prints the command that makes them."""

    def __init__(self, name: str, preset: str, present: int, total: int | None) -> None:
        found = "no runs" if not present else f"{present} of {total} runs"
        super().__init__(
            f"{name} has {found} of preset {preset}: "
            f"make them with `python -m experiments.{name} --preset {preset}`"
        )


class CorruptRun(UserError):
    """A run whose files are not as they were written."""

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
    """A command line of which a mistake raises a UserError; its caller prints that, and ends."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: see --help")


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the likely one, else all there are."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there is {', '.join(known) or 'none'}"
