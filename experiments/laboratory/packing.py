"""Runs on their way from one store to another: packed into a tar file, and merged from one.

Every byte has a checksum: those of a run are in its meta.json, and a packed store begins with
SHA256SUMS, the checksums of all its files, which `sha256sum -c` reads, too.
"""

import contextlib
import hashlib
import io
import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from experiments.laboratory import disk, presets, run_files, runs, scratch
from experiments.laboratory.errors import CorruptRun, UserError, one_line, quoted
from experiments.laboratory.run import Run, checking

SUMS = "SHA256SUMS"
KEY = re.compile(r"[0-9a-f]{16}")
FILE = re.compile(
    r"runs/(?P<name>\w+)/(?P<key>[0-9a-f]{16})/(?P<file>\w+\.json|arrays/\w[\w.-]*\.npy)"
)
PRESET = re.compile(r"runs/(?P<name>\w+)/presets/(?P<preset>\w+)\.json")
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_REGULAR = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)


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
    root, folders = runs.results(), list(finished(names))
    sums: dict[str, str] = {}
    lists: dict[str, bytes] = {}
    for path in folders:
        folder = path.relative_to(root)
        sums |= {(folder / name).as_posix(): checksum for name, checksum in Run.at(path).files()}
    for name in names:
        for path in sorted((root / "runs" / name).glob("presets/[!.]*.json")):
            runs.planned(name, path.stem)  # a UserError says how to write a broken one again
            lists[path.relative_to(root).as_posix()] = content = path.read_bytes()
            sums[path.relative_to(root).as_posix()] = disk.checksum(content)
    text = "".join(f"{checksum}  {name}\n" for name, checksum in sums.items())
    try:
        with disk.replacing(file) as temporary, tarfile.open(temporary, "w") as tar:
            _add(tar, SUMS, io.BytesIO(text.encode()), len(text))
            for name, checksum in sums.items():
                if name in lists:
                    _add(tar, name, io.BytesIO(lists[name]), len(lists[name]))
                else:
                    with _Checked(root / name, checksum) as opened:
                        _add(tar, name, opened, opened.size)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(
            f"cannot write {quoted(file)} ({reason}): name one on a disk with room"
        ) from error
    return len(folders)


def _add(tar: tarfile.TarFile, name: str, content: "io.BytesIO | _Checked", size: int) -> None:
    """Add a file without owner and time, so that the same runs always make the same bytes."""
    member = tarfile.TarInfo(name)
    member.size = size
    tar.addfile(member, content)


class _Checked(io.RawIOBase):
    """A file of a run that is compared with its checksum while it is read from end to end."""

    def __init__(self, path: Path, checksum: str) -> None:
        self.run = next(p for p in path.parents if KEY.fullmatch(p.name))
        self.name, self.checksum = path.relative_to(self.run).as_posix(), checksum
        self.sum = hashlib.sha256()
        with checking(self.run):
            self.file = path.open("rb")
            self.size = os.fstat(self.file.fileno()).st_size

    def read(self, size: int = -1) -> bytes:
        with checking(self.run):
            block = self.file.read(size)
            self.sum.update(block)
            if self.file.tell() >= self.size and self.sum.hexdigest() != self.checksum:
                raise ValueError(f"{self.name} was changed")
            if not block and size:
                raise ValueError(f"{self.name} is being cut off")
        return block

    def close(self) -> None:
        self.file.close()
        super().close()


@dataclass
class Merged:
    """Runs by NAME/KEY, and lists of presets by NAME/PRESET.

    Taken; here with the same numbers; here with others; taken as ours was corrupt; damaged there;
    corrupt here and damaged there. `summed` is whether the source has checksums of all its files.
    """

    taken: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    summed: bool = False


def merge(source: Path) -> Merged:
    """Take the runs that are missing here from a tar file or another results folder, each checked.

    The key of a run stands for its whole config, so two stores agree on what a key means. Where
    both have a run, ours stays: it may differ in its seconds, or in the last bits of its numbers.
    A run of ours that is corrupt is replaced.
    """
    if source.is_dir():
        return _merge(_Folder(source))
    try:
        with tarfile.open(source) as tar:
            return _merge(_Tar(tar))
    except FileNotFoundError as error:
        raise UserError(
            f"there is no {quoted(source)}: name a file made by `pack`, or a folder"
        ) from error
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise UserError(
            f"{quoted(source)} cannot be read ({one_line(error)}): pack it again"
        ) from error


class _Folder:
    """Another results folder: its files by path from its root. Links in it are refused."""

    def __init__(self, root: Path) -> None:
        self.root, self.sums = root, dict[str, str]()
        self.files = {path.relative_to(root).as_posix() for path in self._files()}

    def open(self, name: str) -> IO[bytes]:
        return os.fdopen(os.open(self.root / name, _REGULAR), "rb")

    def _files(self) -> Iterator[Path]:
        for name in self._inside(self.root / "runs"):
            for folder in self._inside(name):
                if KEY.fullmatch(folder.name) or folder.name == "presets":
                    for path in self._inside(folder):
                        files = self._inside(path) if path.name == "arrays" else [path]
                        yield from (file for file in files if file.is_file())

    def _inside(self, folder: Path) -> list[Path]:
        """What a folder holds; none if it is no folder."""
        if folder.is_symlink():
            raise UserError(
                f"{quoted(folder)} is a symbolic link, which could lead anywhere: copy what it "
                "points to in its place, or merge the folder that really has the runs"
            )
        if not folder.is_dir():
            return []
        paths = sorted(folder.iterdir())
        for path in paths:
            if path.is_symlink():
                self._inside(path)
        return paths


class _Tar:
    """The regular files of a tar file by path; everything else in it is ignored."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self.tar = tar
        self.members = {member.name: member for member in tar.getmembers() if member.isfile()}
        self.sums: dict[str, str] = {}
        if SUMS in self.members:
            lines = self.open(SUMS).read().decode().splitlines()
            self.sums = {match[2]: match[1] for match in map(_LINE.fullmatch, lines) if match}
        self.files = set(self.members)

    def open(self, name: str) -> IO[bytes]:
        opened = self.tar.extractfile(self.members[name])
        assert opened is not None, "only regular files are listed"
        return opened


Source = _Folder | _Tar


def _merge(source: Source) -> Merged:
    contents: dict[tuple[str, str], dict[str, str]] = {}
    for full in source.files | set(source.sums):
        if match := FILE.fullmatch(full):
            contents.setdefault((match["name"], match["key"]), {})[match["file"]] = full
    if not contents:
        raise UserError("there are no runs in it: give the results folder itself, or a packed one")
    merged = Merged(summed=bool(source.sums))
    for (name, key), files in sorted(contents.items()):
        _kind(source, files, runs.results() / "runs" / name / key, merged).append(f"{name}/{key}")
    for full in sorted(source.files | set(source.sums)):
        if match := PRESET.fullmatch(full):
            _merge_list(source, full, match["name"], match["preset"], merged)
    return merged


def _kind(source: Source, files: Mapping[str, str], path: Path, merged: Merged) -> list[str]:
    """Merge one run; return which of the lists it belongs to."""
    if not path.exists():
        return merged.taken if _take(source, files, path) else merged.damaged
    try:
        ours = Run.at(path)
        ours.verify()
    except CorruptRun:
        return merged.mended if _take(source, files, path) else merged.lost
    return merged.same if _same_numbers(source, files, ours) else merged.other


def _take(source: Source, files: Mapping[str, str], path: Path) -> bool:
    """Copy a run, and let it appear only if every byte is as it was written; replace ours."""
    with scratch.claim(path.parent, path.name) as slot:
        draft = slot.draft / path.parent.name / path.name
        (draft / "arrays").mkdir(parents=True)
        try:
            for relative in _needed(source, files, draft):
                _copy(source, files[relative], draft / PurePosixPath(relative))
            Run.at(draft).verify()
        except (UserError, ValueError, LookupError):
            return False
        if path.exists():
            path.rename(slot.path / "replaced")
        disk.publish(draft, path)
    return True


def _needed(source: Source, files: Mapping[str, str], draft: Path) -> list[str]:
    """The files of a run besides meta.json, which is copied first and names them."""
    _copy(source, files[run_files.META], draft / run_files.META)
    meta = run_files.read_meta((draft / run_files.META).read_bytes())
    return [*run_files.TEXTS, *(f"arrays/{name}.npy" for name in meta["arrays"])]


def _copy(source: Source, full: str, to: Path) -> None:
    """Copy a file; Damaged if the source has another checksum of it, or has it not."""
    if full not in source.files:
        raise disk.Damaged(f"{full} is missing")
    with source.open(full) as theirs, to.open("wb") as ours:
        shutil.copyfileobj(theirs, ours)
        disk.sync(ours)
    if source.sums.get(full, found := disk.file_checksum(to)) != found:
        raise disk.Damaged(f"{full} was changed")


def _same_numbers(source: Source, files: Mapping[str, str], ours: Run) -> bool:
    """Whether all files agree but meta.json, which has seconds and machines."""
    sums = {name: checksum for name, checksum in ours.files() if name != run_files.META}
    if set(files) - {run_files.META} != set(sums) or not set(files.values()) <= source.files:
        return False
    for relative, checksum in sums.items():
        with source.open(files[relative]) as theirs:
            if disk.stream_checksum(theirs) != checksum:
                return False
    return True


def _merge_list(source: Source, full: str, name: str, preset: str, merged: Merged) -> None:
    """Take a list of runs that is missing, or unreadable, here."""
    with contextlib.suppress(UserError):
        runs.planned(name, preset)
        return
    try:
        if full not in source.files:
            raise disk.Damaged(f"{full} is missing")
        with source.open(full) as file:
            content = file.read()
        if source.sums.get(full, found := disk.checksum(content)) != found:
            raise disk.Damaged(f"{full} was changed")
        presets.read(content)
    except ValueError:
        merged.damaged.append(f"{name}/presets/{preset}.json")
        return
    path = runs.results() / "runs" / name / "presets" / f"{preset}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.write_file(path, content)
