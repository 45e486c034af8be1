"""A mirror sends the runs of one preset to one tracker, each once; a marker records which."""

import contextlib
import hashlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from experiments.laboratory import disk, lists, runs
from experiments.laboratory.errors import one_line
from experiments.laboratory.runs import MissingRuns, Run
from experiments.laboratory.tracking import content, pages
from experiments.laboratory.tracking.interface import Ended, Sheet, Tracker

Again = Literal["never", "lost", "always"]


class Mirror:
    """Sends what is not there yet, or what was `lost` there, or all of it `again`.

    If the tracker fails, one line says so, and nothing more is sent: `off` says why.
    """

    def __init__(self, name: str, preset: str, tracker: Tracker, again: Again = "never") -> None:
        self.name, self.preset, self.tracker, self.again = name, preset, tracker, again
        self._sent: set[Path] = set()
        self._sheet: Sheet | None = None
        self._watched = ""  # the key of the run whose page is open
        self.off = tracker.off()
        if self.off:
            print(f"{tracker.label}: off, {self.off}", file=sys.stderr)

    @property
    def sent(self) -> int:
        """How many pages were sent."""
        return len(self._sent)

    def watch(self, key: str, config: Mapping[str, Any]) -> None:
        """Open the page of a cell that is now computed; stopped and requeued, it has the same."""
        if not self.off and self._unsent(self.name, key):
            with self._safely():
                self._sheet = self.tracker.open(pages.of_cell(self.name, self.preset, key, config))
                self._watched = key

    def log(self, lines: Mapping[str, float]) -> None:
        """Add points to the lines of the page that is open."""
        if self._sheet is not None:
            with self._safely():
                self._sheet.log(lines)

    def leave(self, ended: Ended) -> None:
        """Close the page of a cell that was not finished."""
        sheet, self._sheet = self._sheet, None
        if sheet is not None:
            with self._safely():
                sheet.close(ended)

    def send(self, key: str) -> None:
        """Send a finished cell, after the runs it is made of, such as the models it trained."""
        with self._safely():
            self._send(Run.at(runs.results() / "runs" / self.name / key), "score")

    def finish(self) -> None:
        """Send a complete preset as one page: a table of its runs, and their artifacts."""
        if self.off or self.preset == lists.CUSTOM:
            return
        try:
            finished = runs.load(self.name, self.preset)
        except MissingRuns:
            return
        with self._safely():
            page, marker = pages.of_preset(self.name, self.preset), f"summary-{self.preset}"
            drawn = content.drawn(self.name, self.preset).values()
            digest = _digest([run.key for run in finished] + [one["csv_sha256"] for one in drawn])
            path = self._marker(self.name, marker)
            if self._unsent(self.name, marker, page.id) or path.read_text() != digest:
                sheet = self.tracker.open(page)
                with _closing(sheet):
                    sheet.show(page.title, content.of_preset(self.name, self.preset, finished))
                self._done(path, digest)

    def _send(self, run: Run, job: str) -> None:
        if self.off or not self._unsent(run.name, run.key):
            return
        for part in run.meta["parts"]:
            self._send_part(runs.results() / "runs" / part["name"] / part["key"])
        sheet, self._sheet = self._sheet, None
        watched = sheet is not None and self._watched == run.key
        page = pages.of_run(run, self.preset, job, self.name)
        sheet = sheet or self.tracker.open(page)
        with _closing(sheet):
            sheet.show(page.title, content.of_run(run, watched))
        self._done(self._marker(run.name, run.key), "sent")

    def _send_part(self, path: Path) -> None:
        """Send a run that another is made of, unless its folder is gone."""
        if path.is_dir():
            ours, self._sheet = self._sheet, None
            try:
                part = Run.at(path)
                self._send(part, pages.kind(part))
            finally:
                self._sheet = ours

    @contextlib.contextmanager
    def _safely(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # no error of a tracker may end an experiment
            self._sheet = None
            self.off = f"{type(error).__name__}: {one_line(error)[:200]}"
            again = f"python -m experiments track replay {self.name}"
            print(
                f"{self.tracker.label}: off from here, {self.off}; later: `{again}`",
                file=sys.stderr,
            )

    def _unsent(self, name: str, marked: str, page_id: str | None = None) -> bool:
        marker = self._marker(name, marked)
        if marker in self._sent:
            return False
        if self.again == "always" or not marker.is_file():
            return True
        return self.again == "lost" and self.tracker.lost(name, page_id or marked)

    def _marker(self, name: str, marked: str) -> Path:
        file = f"{marked}.{self.tracker.destination}"
        return runs.results() / "runs" / name / "tracked" / file

    def _done(self, marker: Path, written: str) -> None:
        marker.parent.mkdir(exist_ok=True)
        disk.write_file(marker, written.encode())
        self._sent.add(marker)


@contextlib.contextmanager
def _closing(sheet: Sheet) -> Iterator[None]:
    try:
        yield
    except BaseException:
        sheet.close("failed")
        raise
    sheet.close("finished")


def _digest(texts: list[str]) -> str:
    return hashlib.sha256("".join(texts).encode()).hexdigest()
