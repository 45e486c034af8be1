"""The store of all runs: verify it, pack it, merge it with another, remove what dead jobs left.

python -m experiments runs verify [NAME ...]         read every byte of every run
python -m experiments runs pack FILE.tar [NAME ...]  write finished runs and lists of presets
python -m experiments runs merge FILE.tar|FOLDER     take the runs that are missing here
python -m experiments runs attempts [NAME ...]       list unfinished attempts, living and dead
python -m experiments runs clean [ATTEMPT ...]       remove the dead ones, or those named
"""

import argparse
import contextlib
import io
import re
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import IO

from experiments.cluster import slurm
from experiments.laboratory import disk, runs, scratch
from experiments.laboratory.errors import USER_MISTAKE, Parser, UserError, nearest
from experiments.laboratory.runs import Run
from experiments.laboratory.table import aligned, counted

KEY = re.compile(r"[0-9a-f]{16}")
FILE = re.compile(
    r"runs/(?P<name>\w+)/(?P<key>[0-9a-f]{16})/(?P<file>\w+\.json|arrays/\w[\w.-]*\.npy)"
)
PRESET = re.compile(r"runs/(?P<name>\w+)/presets/(?P<file>\w+\.json)")


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
        words = " ".join(["python -m experiments runs attempts", *given.words])
        raise UserError(f"`drafts` is now `attempts`: `{words}`")
    if given.command not in COMMANDS:
        raise UserError(f"no command {given.command!r}: {nearest(given.command, COMMANDS)}")
    try:
        return COMMANDS[given.command](given.words)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise UserError(
            f"cannot write or read{where} ({error.strerror}): correct that and run the same "
            "command again; what was done is kept"
        ) from error


def _verify(names: list[str]) -> int:
    count, errors = 0, []
    for path in finished(_known(names)):
        count += 1
        try:
            Run.at(path).verify()
        except UserError as error:
            errors.append(str(error))
    print(f"{count - len(errors)} of {count} runs are as they were written")
    for message in errors:
        print(f"error: {message}", file=sys.stderr)
    return USER_MISTAKE if errors else 0


def _pack(words: list[str]) -> int:
    if not words:
        raise UserError("no file to pack into: `python -m experiments runs pack runs.tar`")
    file = Path(words[0])
    if words[0] in _stored() or file.suffix != ".tar":
        raise UserError(f"{words[0]} is not named like a tar file: name the file first, FILE.tar")
    count = pack(file, _known(words[1:]))
    print(f"{counted(count, 'run')} in {file}, {file.stat().st_size:,} bytes")
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
    if merged.damaged:
        raise UserError(
            f"{counted(len(merged.damaged), 'run')} damaged there and not taken "
            f"({', '.join(merged.damaged[:3])}): `python -m experiments runs verify` there says how"
        )
    return 0


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
            raise UserError(f"no runs of {name!r} in {runs.results()}: {nearest(name, stored)}")
    return names or stored


def finished(names: Sequence[str]) -> Iterator[Path]:
    """The folders of the finished runs of some experiments."""
    for name in names:
        for path in sorted((runs.results() / "runs" / name).iterdir()):
            if KEY.fullmatch(path.name):
                yield path


def pack(file: Path, names: Sequence[str]) -> int:
    """Write finished runs, each checked as it is read, and lists of presets to a tar file.

    The file appears only when it is complete. Return the number of its runs.
    """
    root = runs.results()
    folders = list(finished(names))
    presets = [path for name in names for path in (root / "runs" / name).glob("presets/[!.]*.json")]
    try:
        with disk.replacing(file) as temporary, tarfile.open(temporary, "w") as tar:
            for path in folders:
                for name, content in Run.at(path).files():
                    _add(tar, (path / name).relative_to(root), content)
            for path in sorted(presets):
                _add(tar, path.relative_to(root), path.read_bytes())
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"cannot write {file} ({reason}): name one on a disk with room") from error
    return len(folders)


def _add(tar: tarfile.TarFile, path: Path, content: bytes) -> None:
    """Add a file without owner and time, so that the same runs always make the same bytes."""
    member = tarfile.TarInfo(path.as_posix())
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


@dataclass
class Merged:
    """Runs by NAME/KEY: taken, here with the same numbers, here with others, damaged there."""

    taken: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def merge(source: Path) -> Merged:
    """Take the runs that are missing here from a tar file or another results folder, each checked.

    The key of a run stands for its whole config, so two stores agree on what a key means. Where
    both have a run, ours stays: it may differ in its seconds, or in the last bits of its numbers.
    """
    if source.is_dir():
        return _merge_runs(_Folder(source))
    try:
        with tarfile.open(source) as tar:
            return _merge_runs(_Tar(tar))
    except FileNotFoundError as error:
        raise UserError(f"there is no {source}: name a file made by `pack`, or a folder") from error
    except tarfile.TarError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{source} cannot be read ({reason}): pack it again") from error


class _Folder:
    """Another results folder: its files by path from its root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        paths = [*root.glob("runs/*/*/*"), *root.glob("runs/*/*/arrays/*")]
        self.files = {path.relative_to(root).as_posix() for path in paths if path.is_file()}

    def open(self, name: str) -> IO[bytes]:
        return (self.root / name).open("rb")


class _Tar:
    """The regular files of a tar file by path; everything else in it is ignored."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self.tar = tar
        self.members = {member.name: member for member in tar.getmembers() if member.isfile()}
        self.files = set(self.members)

    def open(self, name: str) -> IO[bytes]:
        opened = self.tar.extractfile(self.members[name])
        assert opened is not None, "only regular files are listed"
        return opened


def _merge_runs(source: _Folder | _Tar) -> Merged:
    contents: dict[tuple[str, str], dict[str, str]] = {}
    for full in source.files:
        if match := FILE.fullmatch(full):
            contents.setdefault((match["name"], match["key"]), {})[match["file"]] = full
    if not contents:
        raise UserError("there are no runs in it: give the results folder itself, or a packed one")
    merged = Merged()
    for (name, key), files in sorted(contents.items()):
        home = runs.results() / "runs" / name
        if not (home / key).is_dir():
            kind = merged.taken if _take(source, files, home, key) else merged.damaged
        else:
            kind = merged.same if _same_numbers(source, files, home / key) else merged.other
        kind.append(f"{name}/{key}")
    for full in sorted(source.files):
        if match := PRESET.fullmatch(full):
            path = runs.results() / "runs" / match["name"] / "presets" / match["file"]
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                with source.open(full) as file:
                    disk.write_file(path, file.read())
    return merged


def _take(source: _Folder | _Tar, files: dict[str, str], home: Path, key: str) -> bool:
    """Copy a run, and let it appear only if every byte is as it was written."""
    with scratch.claim(home, key) as slot:
        draft = slot.draft / key
        (draft / "arrays").mkdir(parents=True)
        for relative, full in files.items():
            with source.open(full) as theirs, (draft / PurePosixPath(relative)).open("wb") as ours:
                shutil.copyfileobj(theirs, ours)
                disk.sync(ours)
        try:
            Run.at(draft).verify()
        except UserError:
            return False
        disk.publish(draft, home / key)
    return True


def _same_numbers(source: _Folder | _Tar, files: dict[str, str], path: Path) -> bool:
    """Whether all files agree but meta.json, which has seconds and machines."""
    ours = {"config.json", "metrics.json"} | {
        f"arrays/{array.name}" for array in (path / "arrays").iterdir()
    }
    if set(files) - {"meta.json"} != ours:
        return False
    for relative in sorted(ours):
        with source.open(files[relative]) as theirs:
            if theirs.read() != (path / relative).read_bytes():
                return False
    return True


@dataclass(frozen=True)
class Attempt:
    """The files of one attempt at a run: checkpoints and, while it is being written, the result.

    `state` is one of scratch's. An attempt is dead if its owner ended it, or is known to have
    ended: this machine says so, or Slurm reports that the job ended and it has been silent. The
    silence of another machine alone proves nothing.
    """

    slot: Path
    name: str
    key: str
    state: str
    silence: float
    """Seconds since the last sign of life."""

    @property
    def address(self) -> str:
        """Its name on the command line: EXPERIMENT/KEY/FOLDER."""
        return f"{self.name}/{self.key}/{self.slot.name}"


def attempts(names: Sequence[str]) -> list[Attempt]:
    """Every attempt at the runs of these experiments."""
    listed = list(_attempts_on_disk(names))
    silent = [each for each in listed if each.state == scratch.SILENT and scratch.job(each.slot)]
    if silent and slurm.present():
        queued = {task.job for task in slurm.queue(mine=False)}
        for each in silent:
            if scratch.job(each.slot) not in queued:
                listed[listed.index(each)] = replace(each, state=scratch.DEAD)
    return listed


def _attempts_on_disk(names: Sequence[str]) -> Iterator[Attempt]:
    for name in names:
        for key, slots in scratch.slots(runs.results() / "runs" / name).items():
            for slot in slots:
                with contextlib.suppress(FileNotFoundError):  # it has just ended
                    yield Attempt(slot, name, key, scratch.state(slot), scratch.silence(slot))


def table(listed: Sequence[Attempt]) -> str:
    """The attempts as a table: state, last sign of life, size, job and whether the run exists."""
    rows = []
    for each in listed:
        size = sum(path.stat().st_size for path in each.slot.rglob("*") if path.is_file())
        next_step = "done" if (each.slot.parents[2] / each.key).is_dir() else "resumes"
        sign, job = f"{each.silence:.0f} s ago", scratch.job(each.slot)
        rows.append([each.state, sign, f"{size:,}", job, next_step, each.address])
    return aligned(["state", "last sign", "bytes", "job", "next", "attempt"], rows)


def clean(listed: Sequence[Attempt], addresses: Sequence[str]) -> list[Attempt]:
    """Remove the dead ones, or those named unless they are living; return what was removed."""
    known = {each.address: each for each in listed}
    for address in addresses:
        if address not in known:
            raise UserError(f"no attempt {address}: `python -m experiments runs attempts` has all")
        if known[address].state == scratch.LIVING:
            raise UserError(f"{address} is being worked on: end that process first, then clean")
    dead = [each for each in listed if each.state == scratch.DEAD]
    removed = []
    for each in [known[address] for address in addresses] or dead:
        if scratch.remove(each.slot):
            removed.append(each)
            with contextlib.suppress(OSError):  # not empty: there are others
                each.slot.parent.rmdir()
                each.slot.parent.parent.rmdir()
    return removed
