"""What the command lines of one artifact, of all and of the README's table have in common."""

import argparse
import difflib
import os
import sys
from collections.abc import Callable

from analysis.verdict import TIERS
from experiments.runs import UserError


def add_options(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Add the options that one artifact and all of them have in common."""
    what = "every tier that has runs" if default is None else default
    parser.add_argument(
        "--preset", default=default, help=f"{', '.join(TIERS)} (default: {what})", metavar="TIER"
    )
    parser.add_argument(
        "--redraw", action="store_true", help="draw from the committed CSV alone, without runs"
    )
    parser.add_argument(
        "--partial", action="store_true", help="draw the runs there are, and say so on the figure"
    )


def known_tier(name: str) -> str:
    """The tier if there is one of that name, else name the nearest in a UserError."""
    if name in TIERS:
        return name
    nearest = difflib.get_close_matches(name, TIERS, n=1, cutoff=0.0)[0]
    raise UserError(
        f"there is no preset {name!r} to draw from: --preset {nearest}? ({', '.join(TIERS)})"
    )


def guarded(work: Callable[[], int]) -> int:
    """The exit code of `work`; what a user can mend ends in one line, not a traceback."""
    try:
        return work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted: finished artifacts stay", file=sys.stderr)
        return 130
