"""The trackers that `--track` names, told of every cell: W&B if nothing is said."""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from experiments.laboratory import process, progress, runs
from experiments.laboratory.errors import UserError, nearest
from experiments.laboratory.run import Run
from experiments.laboratory.tracking import relay, sources
from experiments.laboratory.tracking.csv_files import CsvFiles
from experiments.laboratory.tracking.interface import Ended, Tracker
from experiments.laboratory.tracking.lines import Machine, lines
from experiments.laboratory.tracking.mirror import Mirror
from experiments.laboratory.tracking.tensorboard_events import TensorBoard
from experiments.laboratory.tracking.wandb_pages import WandB

TRACK, NONE, DEFAULT = "RETRACE_TRACK", "none", "wandb"
PLACES: dict[str, Callable[[], Tracker]] = {
    "csv": CsvFiles, "tensorboard": TensorBoard, "wandb": WandB,
}  # fmt: skip


class _Told(Protocol):
    """A mirror, in this process or in another."""

    off: str

    def watch(self, key: str, config: Mapping[str, Any]) -> None: ...
    def log(self, lines: Mapping[str, float]) -> None: ...
    def leave(self, ended: Ended) -> None: ...
    def send(self, key: str) -> None: ...
    def finish(self) -> None: ...


def chosen() -> list[str]:
    """The words of $RETRACE_TRACK, which `--track` sets; none if it says so."""
    words = [word.strip() for word in (os.environ.get(TRACK) or DEFAULT).split(",")]
    for word in words:
        if word not in (*PLACES, NONE):
            raise UserError(f"--track {word}: {nearest(word, [*PLACES, NONE])}")
    return [word for word in dict.fromkeys(words) if word != NONE]


def options(parser: argparse.ArgumentParser) -> None:
    """Options that say where runs are shown, for this process and those that it starts."""
    parser.add_argument(
        "--track",
        metavar="T",
        help=f"show runs in {', '.join(PLACES)}: one, or several as csv,wandb; or none "
        f"(default: $RETRACE_TRACK, or {DEFAULT})",
    )
    parser.add_argument(
        "--track-files",
        metavar="SIZE",
        help="W&B Artifacts with lineage, and the files of each run up to this size, as 200MB "
        "(default: $RETRACE_TRACK_FILES, or no Artifacts)",
    )


def hand_down(given: argparse.Namespace) -> None:
    """Put these options where the trackers are made; a UserError if they say nothing."""
    if given.track is not None:
        os.environ[TRACK] = given.track
    if given.track_files is not None:
        os.environ[sources.FILES] = given.track_files
    chosen()
    sources.limit()


class Trackers:
    """What an experiment tells of the cells of a preset; a context, at whose end all is sent."""

    def __init__(self, name: str, preset: str) -> None:
        self._name = name
        self._told: list[_Told] = []
        self._relays: list[relay.Relay] = []
        if not process.is_first():
            return  # of several processes of a cell, the first shows it
        for word in chosen():
            if word == "wandb":
                self._told.append(relay.started(name, preset))
            else:
                self._told.append(Mirror(name, preset, PLACES[word]()))

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._told:
            if isinstance(each, relay.Relay):
                each.close()

    @contextlib.contextmanager
    def watching(self, config: Any) -> Iterator[None]:
        """Show a cell while it is computed: its reported numbers, and the load of the machine.

        A cell that is stopped and requeued continues on the same page.
        """
        if not self._told or runs.find(self._name, config):
            yield
            return
        for each in self._told:
            each.watch(runs.key(config), runs.describe(config))
        machine = Machine()

        def log(values: dict[str, Any]) -> None:
            for each in self._told:
                each.log(lines(values) | machine.lines())

        try:
            with progress.watched_by(log):
                yield
        except BaseException as error:
            for each in self._told:
                each.leave("preempted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise

    def send(self, run: Run) -> None:
        """Show a finished cell, after the runs it is made of, such as the models it trained."""
        for each in self._told:
            each.send(run.key)

    def finish(self) -> None:
        """Show a complete preset: a table of its runs, and their artifacts."""
        for each in self._told:
            each.finish()
