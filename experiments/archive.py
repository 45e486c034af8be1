"""Stores moved between machines: packed as one file, and merged run by run.

A run is named by its whole config, so two stores cannot disagree on what a name means. Where both
have a run, ours stays: it may differ in its seconds, or in the last bits of another machine.
"""

import io
import re
import shutil
import tarfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from experiments import outcome, runs, scratch
from experiments.problems import UserError
from experiments.runs import Run

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
        return _merge(_Folder(source))
    try:
        with tarfile.open(source) as tar:
            return _merge(_Tar(tar))
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


def _merge(source: _Folder | _Tar) -> Merged:
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
                    scratch.write(path, file.read())
    return merged


def _take(source: _Folder | _Tar, files: dict[str, str], home: Path, key: str) -> bool:
    """Copy a run into a draft and give it its name if every byte of it is as it was written."""
    with scratch.claim(home, key) as slot:
        draft = slot.draft / key
        (draft / "arrays").mkdir(parents=True)
        for relative, full in files.items():
            with source.open(full) as one, (draft / PurePosixPath(relative)).open("wb") as other:
                shutil.copyfileobj(one, other)
                outcome.sync(other)
        try:
            Run.at(draft).verify()
        except UserError:
            return False
        try:
            draft.rename(home / key)
        except OSError:
            if not (home / key).is_dir():  # else somebody finished it meanwhile: theirs stays
                raise
        outcome.flush(home)
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
