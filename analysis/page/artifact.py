"""An artifact: one table or figure of a paper, numbers from runs, then ink from the numbers alone.

results/artifacts/TIER/ID.csv         the numbers; all that is drawn and judged is in it
results/artifacts/TIER/ID.png, .pdf   the ink
results/artifacts/TIER/ID.json        where the numbers come from, and the verdict
"""

import argparse
import difflib
import hashlib
import json
import os
import platform
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.ink import style
from analysis.numbers.table import Row, from_csv, records, to_csv
from analysis.numbers.verdict import TIERS, Verdict, cap, conclude
from analysis.page.tables import latex, tables_of
from experiments.laboratory import runs
from experiments.laboratory.runs import MissingRuns, Parser, Run, UserError

# Files written whole or not at all.


ELSEWHERE = "free or permit that folder, or set RETRACE_RESULTS to another one"


def write(path: Path, content: bytes, remedy: str = ELSEWHERE) -> None:
    """Replace a file atomically, making its folder first.

    A folder that cannot be written or a full disk is a UserError that ends with `remedy` and
    leaves the old file.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        said = error.strerror or error
        raise UserError(f"cannot write {shown(path)}: {said}; {remedy}") from error


def read(path: Path, remedy: str) -> bytes:
    """A file's bytes; a missing one is a UserError that ends with `remedy`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {shown(path)}: {error.strerror}: {remedy}") from error


def shown(path: Path) -> str:
    """The path as a person at this prompt would type it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


# What the command lines of one artifact, of all and of the README's table have in common.


def add_options(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Add the options that one artifact and all of them have in common."""
    what = "every tier that has runs" if default is None else default
    parser.add_argument(
        "--preset", default=default, help=f"{', '.join(TIERS)} (default: {what})", metavar="TIER"
    )
    parser.add_argument(
        "--redraw", action="store_true", help="draw from the committed CSV alone, without runs"
    )
    parser.add_argument(
        "--partial", action="store_true", help="draw the runs there are, and say so on the figure"
    )


def known_tier(name: str) -> str:
    """The tier if there is one of that name, else name the nearest in a UserError."""
    if name in TIERS:
        return name
    nearest = difflib.get_close_matches(name, TIERS, n=1, cutoff=0.0)[0]
    raise UserError(
        f"there is no preset {name!r} to draw from: --preset {nearest}? ({', '.join(TIERS)})"
    )


def guarded(work: Callable[[], int]) -> int:
    """The exit code of `work`; what a user can mend ends in one line, not a traceback."""
    try:
        return work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted: finished artifacts stay", file=sys.stderr)
        return 130


# Runs of a second experiment that an artifact shows too, and where all its numbers come from.


@dataclass(frozen=True)
class Beside:
    """Another experiment, of whose runs a part of an artifact is made.

    Of the artifact's own tier if all that are needed are there, else of the highest below that has
    them; without any, that part of the artifact is `not run`.
    """

    experiment: str
    needs: Callable[[dict[str, Any]], bool] = field(default=lambda config: True, repr=False)

    def found(self, tiers: Sequence[str]) -> tuple[str, list[Run]]:
        """The tier, the first of `tiers` that has them all, and its runs; "" and none if none."""
        for tier in tiers:
            try:
                planned = runs.planned(self.experiment, tier)
            except runs.MissingRuns:
                continue
            wanted = {entry["key"] for entry in planned if self.needs(entry["config"])}
            there = [
                one for one in runs.load(self.experiment, tier, partial=True) if one.key in wanted
            ]
            if wanted and len(there) == len(wanted):
                return tier, there
        return "", []


def provenance(experiment: str, found: Sequence[Run], missing: int) -> dict[str, Any]:
    """Which runs numbers come from, made by which code, where and of which data."""
    metas = [run.meta for run in found]
    versions: dict[str, set[str]] = {}
    data: dict[str, Any] = {}
    for meta in metas:
        data |= meta.get("data") or {}
        for name, number in (meta.get("versions") or {}).items():
            versions.setdefault(name, set()).add(number)
    return {
        "experiment": experiment,
        "runs": [run.key for run in found],
        "missing": missing,
        "commits": sorted({_commit(meta) for meta in metas}),
        "devices": sorted({str(meta.get("device")) for meta in metas}),
        "seconds": round(sum(float(meta.get("seconds") or 0) for meta in metas), 1),
        "peak_memory_bytes": max(int(meta.get("peak_memory_bytes") or 0) for meta in metas),
        "versions": {name: sorted(numbers) for name, numbers in sorted(versions.items())},
        "data": dict(sorted(data.items())),
    }


def _commit(meta: Mapping[str, Any]) -> str:
    return f"{meta.get('commit') or 'unknown'}{' and changes' if meta.get('dirty') else ''}"


DRAWN_WITH = ("numpy", "scipy", "pandas", "matplotlib")


@dataclass(frozen=True)
class Built:
    """What building or redrawing an artifact left on disk."""

    id: str
    tier: str
    verdict: Verdict
    image: Path

    def __str__(self) -> str:
        return f"{self.id} {self.tier}: {self.verdict.word}  {shown(self.image)}"


@dataclass(frozen=True)
class Artifact:
    """A table or figure: `tabulate` makes numbers from runs, `draw` makes ink from the numbers.

    `tabulate` gets the finished runs it needs and returns rows of analysis.numbers.table. `draw`,
    `findings` and `judge` get what was read back from the CSV, with columns `tier` and `missing`.
    """

    id: str
    experiment: str
    tabulate: Callable[[list[Run]], pd.DataFrame] = field(repr=False)
    draw: Callable[[pd.DataFrame], Figure] = field(repr=False)
    rule: str = field(repr=False)
    """What the claims are and which tolerances apply, for `conclude`."""
    title: str
    claim: str
    paper: str
    deviations: tuple[str, ...] = ()
    tier_notes: Mapping[str, str] = field(default_factory=dict)
    """What else departs from the paper at one tier."""
    headline: tuple[str, str] = ("", "")
    """Method and quantity of the row that stands for it in the overview of the report.

    Without it that is the first printed number, else the first claim.
    """
    remarks: tuple[str, ...] = ()
    """Where we disagree with the paper: the likely cause, and what speaks for it."""
    findings: Callable[[pd.DataFrame], list[str]] = lambda table: []
    """The same in sentences made from the rows, so that they hold at every tier."""
    needs: Callable[[dict[str, Any]], bool] = lambda config: True
    """Which of a preset's runs it is made of, by their configs."""
    page: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    """The table on the report page, where it is not simply the rows."""
    beside: Beside | None = None
    """Another experiment that a part of it is made of: rows that say so in a column `experiment`.

    They have its tier in the column `of_tier`, and are judged as of that.
    """

    def judge(self, table: pd.DataFrame) -> Verdict:
        """The verdict on the rows by the declared rule."""
        return conclude(table, self.rule)

    def path(self, tier: str, suffix: str) -> Path:
        """Where a file of this artifact lies: `path("small", "csv")`."""
        return runs.results() / "artifacts" / tier / f"{self.id}.{suffix}"

    def command(self, tier: str) -> str:
        """The command that makes this artifact from nothing."""
        make = f"python -m experiments.{self.experiment} --preset {tier}"
        return f"{make} && {self.remake(tier)}"

    def remake(self, tier: str) -> str:
        """The command that makes this artifact from finished runs."""
        return f"python -m analysis.{self.id} --preset {tier}"

    def build(self, tier: str, partial: bool = False) -> Built:
        """Make the four files from the tier's runs.

        Missing runs are an error that prints the command that makes them; with `partial`, what is
        there is drawn and the figure says so.
        """
        planned = [e for e in runs.planned(self.experiment, tier) if self.needs(e["config"])]
        there = {run.key: run for run in runs.load(self.experiment, tier, partial=True)}
        found = [there[entry["key"]] for entry in planned if entry["key"] in there]
        missing = len(planned) - len(found)
        if not found or (missing and not partial):
            raise MissingRuns(self.experiment, tier, len(found), len(planned))
        other, more = self.beside.found(TIERS[TIERS.index(tier) :: -1]) if self.beside else ("", [])
        table = self.tabulate([*found, *more])
        if table.empty:
            raise UserError(
                f"none of the {len(found)} finished runs of {self.experiment}, preset {tier}, is"
                f" one that {self.id} shows: `python -m experiments.{self.experiment} --preset"
                f" {tier} --list` shows which runs there are"
            )
        table = table.assign(tier=tier, missing=missing)
        if self.beside:
            table["of_tier"] = [other if _second(row) else tier for row in records(table)]
        table["verdict"] = [_stamped(row, tier, missing) for row in records(table)]
        text = to_csv(table)
        write(self.path(tier, "csv"), text.encode())
        return self._finish(tier, text, provenance(self.experiment, [*found, *more], missing))

    def redraw(self, tier: str) -> Built:
        """Draw and judge again from the CSV alone; where its numbers come from is kept."""
        text, about = self._read(tier)
        return self._finish(tier, text, about["numbers"])

    def latex(self, tier: str) -> str:
        """The tables that were built, in LaTeX."""
        text, about = self._read(tier)
        return latex(about, tables_of(from_csv(text), self.page))

    def _read(self, tier: str) -> tuple[str, dict[str, Any]]:
        """The CSV and what is said about it, if they fit each other."""
        remedy = f"`{self.remake(tier)}` makes it from runs"
        text = read(self.path(tier, "csv"), remedy).decode()
        about = json.loads(read(self.path(tier, "json"), remedy))
        if about["csv_sha256"] != _sha256(text):
            raise UserError(
                f"{shown(self.path(tier, 'csv'))} was changed after its provenance was"
                f" written: {remedy}, `git checkout` brings a committed one back"
            )
        return text, about

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command line of one artifact and return its exit code."""
        parser = Parser(
            prog=f"python -m analysis.{self.id}", description=f"{self.title}. {self.claim}"
        )
        add_options(parser, default="smoke")
        parser.add_argument(
            "--latex", action="store_true", help="print the tables of what was built, in LaTeX"
        )

        def work() -> int:
            options = parser.parse_args(arguments)
            tier = known_tier(options.preset)
            if options.latex:
                print(self.latex(tier), end="")
                return 0
            built = self.redraw(tier) if options.redraw else self.build(tier, options.partial)
            print(built)
            print(f"  {built.verdict.evidence}")
            return 0

        return guarded(work)

    def _finish(self, tier: str, text: str, numbers: dict[str, Any]) -> Built:
        table = from_csv(text)
        missing = int(records(table)[0]["missing"])
        verdict = self.judge(table)
        word = cap(verdict.word, tier, missing)
        verdict = Verdict(word, verdict.rule, verdict.evidence)
        with style.settings():
            figure = self.draw(table)
            style.stamp(figure, tier, missing)
            ink = style.ink(figure)
        about = {
            "id": self.id,
            "title": self.title,
            "paper": self.paper,
            "claim": self.claim,
            "tier": tier,
            "verdict": {
                "word": verdict.word,
                "rule": verdict.rule,
                "evidence": verdict.evidence,
            },
            "deviations": [*self.deviations, *_noted(self.tier_notes, tier)],
            "remarks": [*self.remarks, *self.findings(table)],
            "command": self.command(tier),
            "redraw": f"{self.remake(tier)} --redraw",
            "csv_sha256": _sha256(text),
            "drawn_with": {"python": platform.python_version()}
            | {name: version(name) for name in DRAWN_WITH},
            "numbers": numbers,
        }
        for kind, content in ink.items():
            write(self.path(tier, kind), content)
        # Last: an interrupted build leaves a provenance that does not fit its CSV, and is noticed.
        write(self.path(tier, "json"), (json.dumps(about, indent=1) + "\n").encode())
        return Built(self.id, tier, verdict, self.path(tier, "png"))


def _stamped(row: Row, tier: str, missing: int) -> str:
    """The row's word at a tier; the smoke tier's other data is not held against a paper."""
    compared = row["kind"] in ("number", "aside") and row["n"] > 0
    tier = row.get("of_tier", tier)
    return "" if compared and tier == TIERS[0] else cap(row["verdict"], tier, missing)


def _second(row: Row) -> bool:
    """Whether a row is made of the runs of the experiment beside the artifact's own."""
    return isinstance(row.get("experiment"), str)


def _noted(notes: Mapping[str, str], tier: str) -> list[str]:
    return [notes[tier]] if tier in notes else []


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
