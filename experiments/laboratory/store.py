"""The store as a whole: checked, packed, merged with another, and rid of what dead jobs left.

python -m experiments runs verify [NAME ...]        read every byte of every run
python -m experiments runs pack FILE.tar [NAME ...] finished runs, and lists of presets
python -m experiments runs merge FILE.tar|FOLDER    take what is not here; what is here stays
python -m experiments runs attempts [NAME ...]      what attempts left, living and dead
python -m experiments runs clean [ATTEMPT ...]      remove the dead ones, or those named
"""

import argparse
import contextlib
import io
import re
import shutil
import sys
import tarfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import IO

from experiments.cluster import slurm
from experiments.laboratory import disk, runs, scratch
from experiments.laboratory.errors import USER_MISTAKE, Parser, UserError, nearest
from experiments.laboratory.runs import Run
from experiments.laboratory.table import aligned, counted

# Stores moved between machines: packed as one file, and merged run by run.
#
# A run is named by its whole config, so two stores cannot disagree on what a name means. Where both
# have a run, ours stays: it may differ in its seconds, or in the last bits of another machine.


KEY = re.compile(r"[0-9a-f]{16}")
FILE = re.compile(
    r"runs/(?P<name>\w+)/(?P<key>[0-9a-f]{16})/(?P<file>\w+\.json|arrays/\w[\w.-]*\.npy)"
)
PRESET = re.compile(r"runs/(?P<name>\w+)/presets/(?P<file>\w+\.json)")


@dataclass
class Merged:
    """Runs by NAME/KEY: taken, here with the same numbers, here with others, damaged there."""

    taken: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def finished(names: Sequence[str]) -> Iterator[Path]:
    """The folders of the finished runs of some experiments."""
    for name in names:
        for path in sorted((runs.results() / "runs" / name).iterdir()):
            if KEY.fullmatch(path.name):
                yield path


def pack(file: Path, names: Sequence[str]) -> int:
    """Write finished runs, each checked as it is read, and lists of presets to a tar file.

    It is whole or not there at all. Return how many runs it has.
    """
    root = runs.results()
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
    folders = list(finished(names))
    listed = [path for name in names for path in (root / "runs" / name).glob("presets/[!.]*.json")]
    try:
        with tarfile.open(draft, "w") as tar:
            for path in folders:
                for name, content in Run.at(path).files():
                    _add(tar, (path / name).relative_to(root), content)
            for path in sorted(listed):
                _add(tar, path.relative_to(root), path.read_bytes())
        draft.replace(file)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"cannot write {file} ({reason}): name one on a disk with room") from error
    finally:
        draft.unlink(missing_ok=True)
    return len(folders)


def merge(source: Path) -> Merged:
    """Take from a tar file or another results folder whatever is not here, each run checked."""
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
        found = [*root.glob("runs/*/*/*"), *root.glob("runs/*/*/arrays/*")]
        self.files = {path.relative_to(root).as_posix() for path in found if path.is_file()}

    def open(self, name: str) -> IO[bytes]:
        return (self.root / name).open("rb")


class _Tar:
    """The regular files of a tar file by path; whatever else is in it is not looked at."""

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
        if told := FILE.fullmatch(full):
            contents.setdefault((told["name"], told["key"]), {})[told["file"]] = full
    if not contents:
        raise UserError("there are no runs in it: give the results folder itself, or a packed one")
    merged = Merged()
    for (name, key), files in sorted(contents.items()):
        home = runs.results() / "runs" / name
        if not (home / key).is_dir():
            kind = merged.taken if _take(source, files, home, key) else merged.damaged
        else:
            kind = merged.same if _agree(source, files, home / key) else merged.other
        kind.append(f"{name}/{key}")
    for full in sorted(source.files):
        if told := PRESET.fullmatch(full):
            path = runs.results() / "runs" / told["name"] / "presets" / told["file"]
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                with source.open(full) as file:
                    disk.write_file(path, file.read())
    return merged


def _take(source: _Folder | _Tar, files: dict[str, str], home: Path, key: str) -> bool:
    """Copy a run into a draft and give it its name if every byte of it is as it was written."""
    with scratch.claim(home, key) as slot:
        draft = slot.draft / key
        (draft / "arrays").mkdir(parents=True)
        for relative, full in files.items():
            with source.open(full) as one, (draft / PurePosixPath(relative)).open("wb") as other:
                shutil.copyfileobj(one, other)
                disk.sync(other)
        try:
            Run.at(draft).verify()
        except UserError:
            return False
        try:
            draft.rename(home / key)
        except OSError:
            if not (home / key).is_dir():  # else somebody finished it meanwhile: theirs stays
                raise
        disk.sync_folder(home)
    return True


def _agree(source: _Folder | _Tar, files: dict[str, str], path: Path) -> bool:
    """Whether the numbers are the same; meta.json, which tells seconds and machines, may differ."""
    ours = {"config.json", "metrics.json"} | {
        f"arrays/{one.name}" for one in (path / "arrays").iterdir()
    }
    if set(files) - {"meta.json"} != ours:
        return False
    for relative in sorted(ours):
        with source.open(files[relative]) as one:
            if one.read() != (path / relative).read_bytes():
                return False
    return True


def _add(tar: tarfile.TarFile, path: Path, content: bytes) -> None:
    """Add a file of no owner and no time: the same runs, packed anywhere, make the same bytes."""
    member = tarfile.TarInfo(path.as_posix())
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


# What attempts at runs left on disk, who owns it, and removing what nobody does.
#
# An attempt's folder holds its checkpoints, which the next attempt goes on from, and for a moment
# its half-written result. It is dead if its owner ended it or is known to have ended: by this
# machine, or by Slurm together with its silence. Silence alone, of another machine, proves nothing.


@dataclass(frozen=True)
class Draft:
    """One attempt: `state` is one of scratch's."""

    slot: Path
    name: str
    key: str
    state: str
    silence: float
    """Seconds since the last sign of life."""

    @property
    def address(self) -> str:
        """How a person names it: EXPERIMENT/KEY/FOLDER."""
        return f"{self.name}/{self.key}/{self.slot.name}"


def found(names: Sequence[str]) -> list[Draft]:
    """Every attempt at the runs of these experiments."""
    drafts = list(_all(names))
    if any(each.state == scratch.SILENT and scratch.job(each.slot) for each in drafts):
        queued = {task.job for task in slurm.queue(mine=False)} if slurm.present() else None
        drafts = [_asked(each, queued) for each in drafts]
    return drafts


def table(drafts: Sequence[Draft]) -> str:
    """The attempts as a table: state, last sign of life, size, job and whether the run is there."""
    rows = []
    for each in drafts:
        there = "done" if (each.slot.parents[2] / each.key).is_dir() else "resumes"
        sign = f"{each.silence:.0f} s ago"
        size = f"{_size(each.slot):,}"
        rows.append([each.state, sign, size, scratch.job(each.slot), there, each.address])
    return aligned(["state", "last sign", "bytes", "job", "next", "attempt"], rows)


def clean(drafts: Sequence[Draft], addresses: Sequence[str]) -> list[Draft]:
    """Remove the dead ones, or those that are named if they are not living; return them."""
    known = {each.address: each for each in drafts}
    for address in addresses:
        if address not in known:
            raise UserError(
                f"no attempt {address}: `python -m experiments runs attempts` lists them"
            )
        if known[address].state == scratch.LIVING:
            raise UserError(f"{address} is being worked on: end that process first, then clean")
    dead = [each for each in drafts if each.state == scratch.DEAD]
    removed = []
    for each in [known[address] for address in addresses] or dead:
        if scratch.remove(each.slot):
            removed.append(each)
            with contextlib.suppress(OSError):  # not empty: there are others
                each.slot.parent.rmdir()
                each.slot.parent.parent.rmdir()
    return removed


def _all(names: Sequence[str]) -> Iterator[Draft]:
    home = runs.results() / "runs"
    for name in names:
        for key, slots in scratch.slots(home / name).items():
            for slot in slots:
                try:
                    yield Draft(slot, name, key, scratch.state(slot), scratch.silence(slot))
                except FileNotFoundError:  # ended in this moment
                    continue


def _asked(draft: Draft, queued: set[str] | None) -> Draft:
    job = scratch.job(draft.slot)
    if queued is None or draft.state != scratch.SILENT or not job or job in queued:
        return draft
    return replace(draft, state=scratch.DEAD)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of `python -m experiments runs`."""
    parser = Parser(
        prog="python -m experiments runs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=[*COMMANDS, "drafts"], metavar="command")
    parser.add_argument("words", nargs="*", help="as above")
    return parser.run(argv, _main)


def _main(given: argparse.Namespace) -> int:
    if given.command == "drafts":
        words = " ".join(["python -m experiments runs attempts", *given.words])
        raise UserError(f"`drafts` is now `attempts`: `{words}`")
    try:
        return COMMANDS[given.command](given.words)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise UserError(
            f"cannot write or read{where} ({error.strerror}): correct that and run the same "
            "command again; what was done is kept"
        ) from error


def _verify(names: list[str]) -> int:
    count, problems = 0, []
    for path in finished(_known(names)):
        count += 1
        try:
            Run.at(path).verify()
        except UserError as error:
            problems.append(str(error))
    print(f"{count - len(problems)} of {count} runs are as they were written")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return USER_MISTAKE if problems else 0


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
            f"damaged there and not taken: {counted(len(merged.damaged), 'run')} "
            f"({', '.join(merged.damaged[:3])}): `python -m experiments runs verify` there says how"
        )
    return 0


def _attempts(names: list[str]) -> int:
    some = found(_known(names))
    print(table(some) if some else "no attempts: every run that was begun is finished")
    if some:
        print("\nremove the dead ones, checkpoints included: `python -m experiments runs clean`")
    return 0


def _clean(addresses: list[str]) -> int:
    removed = clean(found(_stored()), addresses)
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


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "verify": _verify,
    "pack": _pack,
    "merge": _merge,
    "attempts": _attempts,
    "clean": _clean,
}
