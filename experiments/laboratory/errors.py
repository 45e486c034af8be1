"""Mistakes a user can correct: one line on stderr and exit code 2, never a traceback."""

import argparse
import contextlib
import errno
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import experiments
from experiments.laboratory.process import INTERRUPTED
from experiments.laboratory.spelling import nearest as nearest

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


def quoted(path: Path | str) -> str:
    """A path as messages show it: a shell that it is pasted into takes it for this path alone."""
    text = str(path)
    if text.startswith("-"):
        text = f"./{text}"
    if text.isprintable():
        return shlex.quote(text)
    # Line breaks, and bytes that are not UTF-8, as bash and zsh write them.
    plain = (
        chr(b) if 32 <= b < 127 and b not in b"'\\" else f"\\x{b:02x}" for b in os.fsencode(text)
    )
    return f"$'{''.join(plain)}'"


def one_line(message: object) -> str:
    """A message as one line; blanks within its lines stay, as paths may have them."""
    return " ".join(line.strip() for line in str(message).splitlines())


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
            f"{quoted(path)} is a corrupt run ({reason}): remove it with `rm -r {quoted(path)}`; "
            "the command that made it then makes it again"
        )


def guarded(command: Callable[[], int], begun: bool = True) -> int:
    """The exit code of a command of which mistakes, interrupts and failed disks are one line.

    One that has not `begun` imports much before it begins.
    """
    if begun:
        experiments.imported()
    try:
        try:
            code = command()
        except SystemExit as end:  # --help
            code = int(end.code or 0)
        sys.stdout.flush()  # a full disk may refuse only now what was printed
        return code
    except UserError as error:
        say(f"error: {error}")
    except KeyboardInterrupt:
        say("\ninterrupted: what is finished is kept, and the same command does the rest")
        return INTERRUPTED
    except OSError as error:
        return failed(error)
    return USER_MISTAKE


def failed(error: OSError) -> int:
    """Say in one line what the operating system refused; return the exit code."""
    piped = isinstance(error, BrokenPipeError)  # --list | head
    try:
        if error.filename is None and not piped:
            print(flush=True)  # whether it is the output that fails: an error does not say
        output = not piped
    except (OSError, ValueError):
        output = False
    if not output:
        with contextlib.suppress(OSError, ValueError):  # so that nothing is said at the exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if piped:
        return 0
    code = errno.errorcode.get(error.errno or 0)
    reason = f"{error.strerror or error}" + (f" ({code})" if code else "")
    again = "the same command goes on from what is finished"
    if not output:
        say(f"error: cannot write the output ({reason}): give it a place with room; {again}")
    elif isinstance(error.filename, str | bytes):
        path = quoted(os.fsdecode(error.filename))
        say(f"error: cannot read or write {path} ({reason}): correct that; {again}")
    else:
        results, data = (os.environ.get(f"RETRACE_{name}") for name in ("RESULTS", "DATA"))
        say(
            f"error: a file cannot be read or written ({reason}): look at the disks of results "
            f"({quoted(results or 'results')}), data ({quoted(data or 'data')}) and temporary "
            f"files ({quoted(tempfile.gettempdir())}); {again}"
        )
    return USER_MISTAKE


def say(line: str) -> None:
    """Write a line to stderr, unless that cannot be written either."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def number(least: int) -> Callable[[str], int]:
    """A parser for argparse of whole numbers from `least` on."""

    def parse(word: str) -> int:
        if not re.fullmatch("[0-9]+", word) or int(word) < least:
            raise argparse.ArgumentTypeError(f"{word!r} is not a number from {least} on")
        return int(word)

    return parse


class Once(argparse.Action):
    """For argparse: an option whose value would be lost if it were given again."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Set the value, or refuse the second."""
        given = vars(namespace).setdefault("_given", {})
        if self.dest in given:
            raise UserError(
                f"{option_string} is given twice, {given[self.dest]} and {values}: give it once"
            )
        given[self.dest] = values
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are UserErrors."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: see --help")

    def run(self, argv: Sequence[str] | None, command: Callable[[argparse.Namespace], int]) -> int:
        """Call `command` with the parsed words; return its exit code, 2 after a UserError."""
        return guarded(lambda: command(self.parse_args(argv)))
