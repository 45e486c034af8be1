"""Finished runs, sent again or for the first time: `python -m experiments track`.

track replay [NAME]           send the runs that are not there yet
track replay [NAME] --lost    and those whose folder is gone from this disk
track report [PAPER]          one W&B report for each paper, of the pages that are there
"""

import argparse
from collections.abc import Sequence

from experiments.laboratory import lists, progress, runs
from experiments.laboratory.errors import Parser, UserError, nearest, quoted
from experiments.laboratory.tracking import reports, trackers
from experiments.laboratory.tracking.mirror import Again, Mirror


def replay(name: str | None = None, again: Again = "never") -> int:
    """Send the finished runs of one experiment or of all, as far as they are not sent."""
    home = runs.results() / "runs"
    known = sorted(path.parent.name for path in home.glob("*/presets"))
    if name is not None and name not in known:
        raise UserError(f"no runs of {name!r} in {quoted(home)}: {nearest(name, known)}")
    for word in trackers.chosen():
        for each in [name] if name else known:
            presets = [path.stem for path in (home / each / "presets").glob("*.json")]
            for preset in sorted(presets, key=lambda preset: (preset == lists.CUSTOM, preset)):
                if not _replay(Mirror(each, preset, trackers.PLACES[word](), again)):
                    return 2
    return 0


def _replay(mirror: Mirror) -> bool:
    """Send one preset; whether all of it arrived."""
    if mirror.off:
        return False
    finished = runs.load(mirror.name, mirror.preset, partial=True)
    with progress.show() as display:
        for run in display.track(finished, f"{mirror.name} {mirror.preset}"):
            mirror.send(run.key)
        mirror.finish()
    print(
        f"{mirror.name}/{mirror.preset}: {len(finished)} runs, {mirror.sent} pages sent to "
        f"{mirror.tracker.label} ({mirror.tracker.destination})"
    )
    return not mirror.off


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of the trackers."""
    parser = Parser(
        prog="python -m experiments track",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["replay", "report"])
    parser.add_argument("name", nargs="?", help="one experiment, or one paper (default: all)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--lost", action="store_true", help="also pages whose folder is gone")
    which.add_argument("--again", action="store_true", help="all pages, whatever was sent")
    trackers.options(parser)
    return parser.run(argv, _main)


def _main(given: argparse.Namespace) -> int:
    trackers.hand_down(given)
    if given.command == "report":
        return reports.write(given.name)
    again: Again = "always" if given.again else "lost" if given.lost else "never"
    return replay(given.name, again)
