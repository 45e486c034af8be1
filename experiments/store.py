"""The store as a whole: checked, packed, merged with another, and rid of what dead jobs left.

python -m experiments.runs verify [NAME ...]        read every byte of every run
python -m experiments.runs pack FILE.tar [NAME ...] finished runs, and lists of presets
python -m experiments.runs merge FILE.tar|FOLDER    take what is not here; what is here stays
python -m experiments.runs drafts [NAME ...]        what attempts left, living and dead
python -m experiments.runs clean [ATTEMPT ...]      remove the dead ones, or those named
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments import archive, drafts, runs
from experiments.problems import Parser, UserError, nearest
from experiments.runs import Run
from experiments.table import counted

MISTAKE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of `python -m experiments.runs`: 2 for what a user can mend."""
    parser = Parser(
        prog="python -m experiments.runs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands: dict[str, Callable[[list[str]], int]] = {
        "verify": _verify, "pack": _pack, "merge": _merge, "drafts": _drafts, "clean": _clean,
    }  # fmt: skip
    parser.add_argument("command", choices=commands)
    parser.add_argument("words", nargs="*", help="as above")
    try:
        given = parser.parse_args(argv)
        return commands[given.command](given.words)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        print(
            f"error: cannot write or read{where} ({error.strerror}): mend that and run the same "
            "command again; what was done is kept",
            file=sys.stderr,
        )
        return MISTAKE


def _verify(names: list[str]) -> int:
    count, problems = 0, []
    for path in archive.finished(_known(names)):
        count += 1
        try:
            Run.at(path).verify()
        except UserError as error:
            problems.append(str(error))
    print(f"{count - len(problems)} of {count} runs are as they were written")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return MISTAKE if problems else 0


def _pack(words: list[str]) -> int:
    if not words:
        raise UserError("no file to pack into: `python -m experiments.runs pack runs.tar`")
    file = Path(words[0])
    if words[0] in _stored() or file.suffix != ".tar":
        raise UserError(f"{words[0]} is not named like a tar file: name the file first, FILE.tar")
    count = archive.pack(file, _known(words[1:]))
    print(f"{counted(count, 'run')} in {file}, {file.stat().st_size:,} bytes")
    return 0


def _merge(words: list[str]) -> int:
    if len(words) != 1:
        raise UserError("name one source: `python -m experiments.runs merge FILE.tar`, or a folder")
    merged = archive.merge(Path(words[0]))
    print(
        f"{counted(len(merged.taken), 'run')} taken, {len(merged.same)} were here, "
        f"{len(merged.other)} are here with other numbers"
    )
    for address in merged.other:
        print(f"  {address}: ours stays")
    if merged.damaged:
        raise UserError(
            f"damaged there and not taken: {counted(len(merged.damaged), 'run')} "
            f"({', '.join(merged.damaged[:3])}): `python -m experiments.runs verify` there says how"
        )
    return 0


def _drafts(names: list[str]) -> int:
    some = drafts.found(_known(names))
    print(drafts.table(some) if some else "no attempts: every run that was begun is finished")
    if some:
        print("\nremove the dead ones, checkpoints included: `python -m experiments.runs clean`")
    return 0


def _clean(addresses: list[str]) -> int:
    removed = drafts.clean(drafts.found(_stored()), addresses)
    for each in removed:
        print(f"removed {each.address}")
    print(f"{counted(len(removed), 'attempt')} removed")
    return 0


def _stored() -> list[str]:
    home = runs.results() / "runs"
    return sorted(path.name for path in home.iterdir() if path.is_dir()) if home.is_dir() else []


def _known(names: list[str]) -> list[str]:
    stored = _stored()
    for name in names:
        if name not in stored:
            raise UserError(f"no runs of {name!r} in {runs.results()}: {nearest(name, stored)}")
    return names or stored
