"""Pages as plain files, for those who read them with other programs: results/track/NAME/ID/.

    page.json        title, tags, settings, numbers, facts
    lines.csv        the points of every line, one row each, while they come
    NAME.csv         each table; of a long array, its histogram
Pictures stay where they are, among the artifacts and in the arrays of a run.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from experiments.laboratory import disk, runs
from experiments.laboratory.tracking.interface import Content, Ended, Page

BINS = 64


class CsvFiles:
    """Plain files in the folder of results."""

    label, destination = "CSV", "csv"

    def off(self) -> str:
        return ""

    def lost(self, name: str, page_id: str) -> bool:
        return not (folder(name, page_id) / "page.json").is_file()

    def open(self, page: Page) -> "_Sheet":
        return _Sheet(page)


def folder(name: str, page_id: str) -> Path:
    """The files of one page."""
    return runs.results() / "track" / name / page_id


class _Sheet:
    def __init__(self, page: Page) -> None:
        self._folder = folder(page.name, page.id)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._about: dict[str, Any] = asdict(page) | {"ended": None}
        self._write_about()
        self._lines = self._folder / "lines.csv"
        self._columns: list[str] = []
        if page.watched and self._lines.is_file():  # it was preempted, and goes on
            self._columns = next(csv.reader([_first_line(self._lines)]), [])
        else:
            self._lines.unlink(missing_ok=True)

    def log(self, lines: Mapping[str, float]) -> None:
        if added := [name for name in lines if name not in self._columns]:
            self._widen(added)
        with self._lines.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(
                [lines.get(name, "") for name in self._columns]
            )

    def show(self, title: str, content: Content) -> None:
        for point in content.lines:
            self.log(point)
        for name, table in content.tables.items():
            self._write_table(name, table.columns, table.rows)
        for name, values in content.histograms.items():
            counts, edges = np.histogram(values, bins=BINS)
            rows = zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
            self._write_table(name, ["from", "to", "count"], rows)
        self._about |= {"title": title, "numbers": content.numbers, "facts": content.facts}
        self._about["made_from"] = [source.name for source in content.used]

    def close(self, ended: Ended) -> None:
        self._about["ended"] = ended
        self._write_about()

    def _widen(self, added: Sequence[str]) -> None:
        """Write the rows that are there again, with empty fields for new columns."""
        before = []
        if self._lines.is_file():
            with self._lines.open(newline="") as file:
                before = list(csv.reader(file))[1:]
        self._columns += added
        rows = [row + [""] * (len(self._columns) - len(row)) for row in before]
        disk.write_file(self._lines, _as_csv([self._columns, *rows]))

    def _write_table(
        self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
    ) -> None:
        path = self._folder / f"{name}.csv"
        path.parent.mkdir(exist_ok=True)
        disk.write_file(path, _as_csv([columns, *rows]))

    def _write_about(self) -> None:
        content = json.dumps(self._about, indent=1) + "\n"
        disk.write_file(self._folder / "page.json", content.encode())


def _first_line(path: Path) -> str:
    with path.open(newline="") as file:
        return file.readline()


def _as_csv(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
