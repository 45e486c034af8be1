"""The store of all runs: verify, pack, merge, record what artifacts need, remove dead attempts.

python -m experiments runs verify [NAME ...]         read every byte of every run
python -m experiments runs pack FILE.tar [NAME ...]  write finished runs and lists of presets
python -m experiments runs merge FILE.tar|FOLDER     take the runs that are missing or corrupt here
python -m experiments runs record [NAME ...]         keep what committed artifacts are made of
python -m experiments runs outdated [NAME ...]       list the runs that other code made
python -m experiments runs remake [NAME ...]         compute these again, and replace them
python -m experiments runs attempts [NAME ...]       list unfinished attempts, living and dead
python -m experiments runs clean [ATTEMPT ...]       remove the dead ones, or those named
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from experiments.laboratory import outdated, packing, records, registry, run_files, runs
from experiments.laboratory.attempts import attempts, clean, table
from experiments.laboratory.errors import USER_MISTAKE, Parser, UserError, nearest, quoted
from experiments.laboratory.packing import finished, merge, pack
from experiments.laboratory.resuming import commit_of
from experiments.laboratory.runs import Run
from experiments.laboratory.table import aligned, counted


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of `python -m experiments runs`."""
    parser = Parser(
        prog="python -m experiments runs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="command", help=", ".join(COMMANDS))
    parser.add_argument("words", nargs="*", help="what the command takes, as above")
    return parser.run(argv, _main)


def _main(given: argparse.Namespace) -> int:
    if given.command == "drafts":
        words = shlex.join(["python", "-m", "experiments", "runs", "attempts", *given.words])
        raise UserError(f"`drafts` is now `attempts`: `{words}`")
    if given.command not in COMMANDS:
        raise UserError(f"no command {given.command!r}: {nearest(given.command, COMMANDS)}")
    try:
        return COMMANDS[given.command](given.words)
    except OSError as error:
        where = f" {quoted(error.filename)}" if error.filename else ""
        raise UserError(
            f"cannot write or read{where} ({error.strerror}): correct that and run the same "
            "command again; what was done is kept"
        ) from error


def _verify(names: list[str]) -> int:
    count, errors, bare = 0, [], 0
    for path in finished(_known(names)):
        count += 1
        try:
            (run := Run.at(path)).verify()
            bare += not run_files.has_checksum(run.meta)
        except UserError as error:
            errors.append(str(error))
    print(f"{count - len(errors)} of {count} runs are as they were written")
    if bare:
        print(f"of {counted(bare, 'run')}, an earlier version wrote meta.json without a checksum")
    for message in errors:
        print(f"error: {message}", file=sys.stderr)
    return USER_MISTAKE if errors else 0


def _pack(words: list[str]) -> int:
    if not words:
        raise UserError("no file to pack into: `python -m experiments runs pack runs.tar`")
    file = Path(words[0])
    if words[0] in _stored() or file.suffix != ".tar":
        raise UserError(
            f"{quoted(words[0])} is not named like a tar file: name the file first, FILE.tar"
        )
    count = pack(file, _known(words[1:]))
    print(f"{counted(count, 'run')} in {quoted(file)}, {file.stat().st_size:,} bytes")
    return 0


def _merge(words: list[str]) -> int:
    if len(words) != 1:
        raise UserError("name one source: `python -m experiments runs merge FILE.tar`, or a folder")
    merged = merge(Path(words[0]))
    print(
        f"{counted(len(merged.taken), 'run')} taken, {len(merged.same)} were here, "
        f"{len(merged.other)} are here with other numbers"
    )
    for address in merged.other:
        print(f"  {address}: ours stays")
    for address in merged.mended:
        print(f"  {address}: ours was corrupt and is replaced by theirs")
    if not merged.summed and words[0].endswith(".tar"):
        print(f"an earlier version packed it, without {packing.SUMS}: lists of presets are as read")
    if merged.lost:
        raise UserError(
            f"{counted(len(merged.lost), 'run')} corrupt here and damaged there "
            f"({_some(merged.lost)}): `python -m experiments runs verify` says how"
        )
    if merged.damaged:
        raise UserError(
            f"{counted(len(merged.damaged), 'run')} damaged there and not taken "
            f"({_some(merged.damaged)}): `python -m experiments runs verify` there says how"
        )
    return 0


def _record(names: list[str]) -> int:
    written = records.record(names)
    if not written:
        raise UserError("no artifact was built from runs here: `python -m analysis` builds them")
    print("\n".join(written))
    return 0


def _some(addresses: Sequence[str]) -> str:
    more = f" and {len(addresses) - 3} others" if len(addresses) > 3 else ""
    return f"{', '.join(addresses[:3])}{more}"


def _outdated(names: list[str]) -> int:
    names = _known(names)
    old = list(_of_other_code(names))
    count = sum(1 for _ in finished(names))
    if not old:
        print(f"the code here made {counted(count, 'run')}, all there are")
        return 0
    rows = [[run.address, commit_of(run.meta), _since(run)] for run in old]
    print(aligned(["run", "made by", "its sources"], rows))
    again = shlex.join(["python", "-m", "experiments", "runs", "remake", *names])
    print(f"\nof {counted(count, 'run')}, {outdated.in_words(old)}; compute them again: `{again}`")
    return 0


def _since(run: Run) -> str:
    return "have changed" if run.meta.get("code") else "were not written down"


def _of_other_code(names: Sequence[str]) -> Iterator[Run]:
    """The runs that other code made; one that is corrupt is said."""
    for path in finished(names):
        try:
            run = Run.at(path)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            continue
        if outdated.outdated(run):
            yield run


def _remake(names: list[str]) -> int:
    code = 0
    named = _using(_known(names))
    for name in [name for name in named if name in registry.names()]:
        experiment = registry.named(name)
        for preset, cells in experiment.readable().items():
            old = {run.key for run in _of_other_code([name])}
            chosen = [i for i, cell in enumerate(cells) if runs.key(cell) in old]
            if chosen:
                words = [word for i in chosen for word in ("--cell", str(i))]
                code = max(code, experiment.main(["--preset", preset, "--remake", *words]))
    left = list(_of_other_code(named))
    if left and not code:
        print(f"{counted(len(left), 'run')} of no preset here stay; what removes them:")
        for run in left:
            print(f"  rm -r {quoted(run.path)}")
    return code


def _using(names: Sequence[str]) -> list[str]:
    """These experiments, and those that have runs made of theirs."""
    users: dict[str, set[str]] = {}
    for path in finished(_stored()):
        try:
            run = Run.at(path)
        except UserError:
            continue  # `verify` says so
        for part in run.meta["parts"]:
            users.setdefault(part["name"], set()).add(run.name)
    found = list(names)
    for name in found:
        found += sorted(users.get(name, set()) - set(found))
    return found


def _attempts(names: list[str]) -> int:
    listed = attempts(_known(names))
    print(table(listed) if listed else "no attempts: every run that was begun is finished")
    if listed:
        print("\nremove the dead ones and their checkpoints: `python -m experiments runs clean`")
    return 0


def _clean(addresses: list[str]) -> int:
    removed = clean(attempts(_stored()), addresses)
    for each in removed:
        print(f"removed {each.address}")
    print(f"{counted(len(removed), 'attempt')} removed")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "verify": _verify,
    "pack": _pack,
    "merge": _merge,
    "record": _record,
    "outdated": _outdated,
    "remake": _remake,
    "attempts": _attempts,
    "clean": _clean,
}


def _stored() -> list[str]:
    home = runs.results() / "runs"
    return sorted(path.name for path in home.iterdir() if path.is_dir()) if home.is_dir() else []


def _known(names: list[str]) -> list[str]:
    """These experiments, or all that have runs; a UserError if one has none."""
    stored = _stored()
    for name in names:
        if name not in stored:
            raise UserError(
                f"no runs of {name!r} in {quoted(runs.results())}: {nearest(name, stored)}"
            )
    return list(dict.fromkeys(names)) or stored
