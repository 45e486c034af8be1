"""A disk that breaks at one operation: every file operation of a command, each in turn.

    python -m tests.experiments.laboratory.broken_disk FOLDER COMMAND    # writes FOLDER/report

A command is carried out in copies of a prepared store. At its n-th operation on a file of the store
the disk refuses, or the process is killed; then the same command is given again, undisturbed. An
operation is whatever Python asks of the system by name (opened, renamed, made, removed, listed,
touched, looked at), and every flush, after which a killed file may also be torn in half.
"""

import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.laboratory import runs, store
from tests.experiments.laboratory.code_copy import contents
from tests.experiments.laboratory.tiny import EXPERIMENT

REFUSALS = (errno.EIO, errno.ENOSPC, errno.ESTALE, errno.EROFS, errno.EACCES, errno.EDQUOT)
KINDS = ("refused", "killed", "torn")
EVENTS = {
    "open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.listdir", "os.scandir",
    "os.utime", "os.link", "os.symlink", "os.truncate", "os.chmod",
}  # fmt: skip
LOOKS = ("stat", "lstat")


@dataclass
class Disk:
    """Breaks at operation `at` below `root`; counts them all."""

    root: Path
    at: int = 0
    kind: str = KINDS[0]
    count: int = 0
    places: list[str] = field(default_factory=list)

    def install(self) -> None:
        """Watch this process from now on: for a forked one, which has no other end."""
        sys.addaudithook(self._heard)
        for name in LOOKS:
            setattr(os, name, self._looked(getattr(os, name)))
        sync = os.fsync

        def fsync(descriptor: int) -> None:
            sync(descriptor)
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            self.operation("fsync", path, path)

        os.fsync = fsync  # type: ignore[assignment]

    def operation(self, what: str, path: Any, written: str = "") -> None:
        """Count one; break if it is the one. `written` is a file that may be torn."""
        if not isinstance(path, str | os.PathLike) or not str(path).startswith(str(self.root)):
            return
        self.count += 1
        self.places.append(f"{what} {Path(path).name}")
        if self.count != self.at:
            return
        if self.kind == "refused":
            number = REFUSALS[self.at % len(REFUSALS)]
            named = (path,) if self.at % 2 else ()  # of some systems and calls, no name is given
            raise OSError(number, os.strerror(number), *named)
        if self.kind == "torn" and os.path.isfile(written):
            os.truncate(written, os.path.getsize(written) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    def _heard(self, event: str, given: tuple[Any, ...]) -> None:
        if event in EVENTS:
            self.operation(event, given[0])

    def _looked(self, look: Callable[..., Any]) -> Callable[..., Any]:
        def looked(path: Any, *args: Any, **kwargs: Any) -> Any:
            self.operation(look.__name__, path)
            return look(path, *args, **kwargs)

        return looked


def train(home: Path) -> int:
    return EXPERIMENT.main(["--preset", "smoke"])


def pack(home: Path) -> int:
    return store.main(["pack", str(home / "packed.tar")])


def merge(home: Path) -> int:
    return store.main(["merge", str(home / "theirs.tar")])


def record(home: Path) -> int:
    return store.main(["record"])


COMMANDS = {command.__name__: command for command in (train, pack, merge, record)}


def prepared(home: Path, command: str) -> None:
    """The store as it is before a command: with what it needs, and a run that is to be kept."""
    os.environ["RETRACE_RESULTS"] = str(home)
    home.mkdir(parents=True)
    if command == "train":  # a model and its two cells are missing
        EXPERIMENT.main(["--preset", "smoke", *(f"--cell={i}" for i in range(4))])
        return
    EXPERIMENT.main(["--preset", "smoke"])
    if command == "merge":
        store.main(["pack", str(home / "theirs.tar")])
        shutil.rmtree(home / "runs")
        EXPERIMENT.main(["--preset", "smoke", "--cell", "5"])
    if command == "record":
        keys = [run.key for run in runs.load("tiny", "smoke")]
        numbers = {"experiment": "tiny", "runs": keys, "second": []}
        numbers["arrays"] = {key: ["score"] for key in keys}
        (home / "artifacts" / "small").mkdir(parents=True)
        about = home / "artifacts" / "small" / "table.json"
        about.write_text(json.dumps({"numbers": numbers}))
        (home / "runs" / "tiny" / "presets" / "smoke.json").rename(
            home / "runs" / "tiny" / "presets" / "small.json"
        )


def kept(home: Path) -> dict[str, bytes]:
    """Every byte that a command leaves and that must be the same; what is left over by name."""
    found = contents(home)
    files = [*home.glob("packed.tar"), *home.glob("records/*/*"), *home.glob("runs/*/presets/*")]
    files += [path for hidden in home.rglob(".*") for path in (hidden, *hidden.rglob("*"))]
    return found | {
        str(path.relative_to(home)): path.read_bytes() for path in files if path.is_file()
    }


def clean(home: Path) -> int:
    """Remove what a killed process could not, as the user is told to."""
    for path in home.rglob(".*.????????"):  # a file that was being written beside its old self
        path.unlink()
    return store.main(["clean"])


def in_a_process(home: Path, command: str, disk: Disk | None = None) -> tuple[int, str]:
    """Exit code (or minus the signal) and stderr of a command in a fork of this process."""
    told = home.parent / "told"
    child = os.fork()
    if child == 0:
        os.environ["RETRACE_RESULTS"] = str(home)
        with told.open("w") as err, open(os.devnull, "w") as out:
            sys.stdout, sys.stderr = out, err
            code = 70
            try:
                if disk is not None:
                    disk.install()
                code = {**COMMANDS, "clean": clean}[command](home)
            except BaseException:
                import traceback

                traceback.print_exc(file=err)
            err.flush()
            if disk is not None:
                (home.parent / "places").write_text(json.dumps(disk.places))
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), told.read_text()


def _wrong(kind: str, code: int, told: str) -> list[str]:
    """What is wrong with the end of a command whose disk broke."""
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    wrong = ["a traceback"] if "Traceback" in told else []
    if kind == "refused" and (code, len(errors)) not in ((0, 0), (2, 1)):
        wrong.append(f"exit code {code} and {len(errors)} lines of errors")
    if kind != "refused" and code != -signal.SIGKILL:
        wrong.append(f"exit code {code}, not killed")
    if any("rm -r" in line for line in errors):
        wrong.append("a run is to be removed that was never changed")
    return wrong


def mistakes(folder: Path, command: str) -> Iterator[dict[str, Any]]:
    """What went wrong, with the operation at which it did; the last entry has their number."""
    before, wanted = folder / "before", folder / "undisturbed"
    prepared(before, command)
    shutil.copytree(before, wanted)
    code, told = in_a_process(wanted, command, Disk(wanted))
    assert code == 0, told
    places = json.loads((folder / "places").read_text())
    right = kept(wanted)
    for number, place in enumerate(places, 1):
        for kind in KINDS:
            if kind == "torn" and not place.startswith("fsync"):
                continue
            home = folder / "torn"
            shutil.copytree(before, home)
            first = in_a_process(home, command, Disk(home, number, kind))
            wrong = _wrong(kind, *first)
            for step in (command, "clean"):
                code, told = in_a_process(home, step)
                wrong += [f"{step} afterwards: {code} {told}"] if code else []
            after = kept(home)
            names = {name for name in {*after, *right} if after.get(name) != right.get(name)}
            wrong += [f"other bytes: {sorted(names)[:3]}"] if names else []
            if wrong:
                yield {"at": f"{number} {place}", "kind": kind, "wrong": wrong, "told": first[1]}
            shutil.rmtree(home)
    yield {"operations": len(places)}


if __name__ == "__main__":
    os.environ["WANDB_MODE"] = "disabled"
    report = [json.dumps(line) for line in mistakes(Path(sys.argv[1]).resolve(), sys.argv[2])]
    Path(sys.argv[1], "report").write_text("\n".join(report))
