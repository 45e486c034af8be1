"""An artifact: one table or figure of a paper, numbers from runs, then ink from the numbers alone.

results/artifacts/TIER/ID.csv         the numbers; all that is drawn and judged is in it
results/artifacts/TIER/ID.png, .pdf   the ink
results/artifacts/TIER/ID.json        where the numbers come from, and the verdict
"""

import argparse
import contextlib
import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.ink import style
from analysis.numbers.claims import Claim, judge_claims
from analysis.numbers.found import Query
from analysis.numbers.table import Row, from_csv, records, to_csv
from analysis.numbers.verdict import Verdict, conclude
from analysis.page import comparison
from analysis.page.tables import latex, plain, stated, tables_of
from experiments.laboratory import lists, runs
from experiments.laboratory import records as recorded
from experiments.laboratory.lists import TIERS
from experiments.laboratory.runs import MissingRuns, Once, Parser, Run, UserError, guarded

ELSEWHERE = "free or permit that folder, or set RETRACE_RESULTS to another one"
DRAWN_WITH = ("numpy", "scipy", "pandas", "matplotlib")


def write(path: Path, content: bytes, remedy: str = ELSEWHERE) -> None:
    """Replace a file atomically, making its folder first.

    A folder that cannot be written or a full disk is a UserError that ends with `remedy` and
    leaves the old file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        runs.write_file(path, content)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {shown_path(path)}: {reason}; {remedy}") from error


def read(path: Path, remedy: str) -> bytes:
    """A file's bytes; a missing one is a UserError that ends with `remedy`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {shown_path(path)}: {error.strerror}: {remedy}") from error


def shown_path(path: Path) -> str:
    """The path as a person at this prompt would type it."""
    here = Path.cwd()
    return runs.quoted(path.relative_to(here) if path.is_relative_to(here) else path)


def add_options(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Add the options of `python -m analysis.NAME` that `python -m analysis` has as well."""
    tiers = f"{', '.join(TIERS)}, or a kept list (default: {default or 'each that has runs'})"
    parser.add_argument("--preset", action=Once, default=default, help=tiers, metavar="TIER")
    for option, what in (
        ("--redraw", "draw from the committed CSV alone, without runs"),
        ("--partial", "draw the runs there are, and say so on the figure"),
    ):
        parser.add_argument(option, action="store_true", help=what)


def known_tier(name: str, known: Sequence[str]) -> str:
    """The tier or kept list of that name; a UserError names the nearest if there is none."""
    if name in known:
        return name
    raise UserError(f"no preset {name!r} to draw from: {runs.nearest(name, known)}")


class Unfit(UserError):
    """A kept list whose cells are not those that an artifact is made of."""


@dataclass(frozen=True)
class SecondExperiment:
    """Another experiment that some rows of an artifact are made from.

    Its runs are those of the artifact's own tier if all that are needed are finished, else of the
    highest tier below that has them all. Without any, those rows are `not run`.
    """

    experiment: str
    needs: Callable[[dict[str, Any]], bool] = field(default=lambda config: True, repr=False)

    def load(self, tiers: Sequence[str]) -> tuple[str, list[Run]]:
        """The first of `tiers` whose runs are all finished, and those runs; ("", []) if none."""
        for tier in tiers:
            try:
                planned = recorded.planned(self.experiment, tier)
            except MissingRuns:
                continue
            wanted = {entry["key"] for entry in planned if self.needs(entry["config"])}
            finished = recorded.load(self.experiment, tier)
            chosen = [run for run in finished if run.key in wanted]
            if wanted and len(chosen) == len(wanted):
                return tier, chosen
        return "", []


def provenance(experiment: str, sources: Sequence[Run], missing: int) -> dict[str, Any]:
    """Which runs the numbers come from: their keys, code, devices, versions and data.

    Numbers that are kept although the protocol has changed since say so in `earlier`: sentences
    that come first among the deviations, and go when runs of the new protocol are tabulated.
    """
    metas = [run.meta for run in sources]
    versions: dict[str, set[str]] = {}
    data: dict[str, Any] = {}
    for meta in metas:
        data |= meta.get("data") or {}
        for name, number in (meta.get("versions") or {}).items():
            versions.setdefault(name, set()).add(number)
    return {
        "experiment": experiment,
        "runs": [run.key for run in sources],
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


@dataclass(frozen=True)
class Built:
    """An artifact that was built or redrawn, as it is on disk."""

    id: str
    tier: str
    verdict: Verdict
    image: Path

    def __str__(self) -> str:
        return f"{self.id} {self.tier}: {self.verdict}  {shown_path(self.image)}"


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
    claims: tuple[Claim, ...] = field(repr=False)
    """The paper's sentences and ours, to which the rows of kind `claim` belong."""
    title: str
    claim: str
    paper: str
    deviations: tuple[str, ...] = ()
    tier_notes: Mapping[str, str] = field(default_factory=dict)
    """Further deviations from the paper, by tier."""
    notes: str = field(default="", repr=False)
    """What further belongs to the rule of its verdict: tolerances, and what intervals are over."""
    headline: tuple[str, str] = ("", "")
    """Method and quantity of the row that stands for it in the overview of the report.

    Without it that is the first printed number, else the first claim.
    """
    remarks: tuple[str, ...] = ()
    """Where we disagree with the paper: the likely cause, and what speaks for it."""
    findings: Callable[[pd.DataFrame], list[str]] = lambda table: []
    """The same in sentences made from the rows, so that they hold at every tier."""
    needs: Callable[[dict[str, Any]], bool] = lambda config: True
    """Which of a preset's runs it needs, by their configs."""
    presets: Mapping[str, str] = field(default_factory=dict)
    """The preset of the experiment that a tier is made from, where it has another name."""
    page: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    """The table on the report page, where it is not simply the rows."""
    look: Callable[[Run], dict[str, bytes]] | None = None
    """Files that show people one run, by their names below results/ID: `--look KEY` writes them."""
    explore: Callable[[Sequence[Run], str], list[Query]] | None = None
    """Every query of the runs of a tier, for a page of their own beside the report."""
    explored: str = ""
    """What the queries of that page are."""
    second: SecondExperiment | None = None
    """Another experiment that some rows are made from: those with text in the column `experiment`.

    The column `of_tier` has the tier of their runs, by which they are judged.
    """

    def tiers(self) -> list[str]:
        """The tiers, and the lists of cells that are kept of its experiment."""
        return [*TIERS, *lists.kept(self.experiment)]

    def size(self, tier: str) -> str:
        """The tier that says how large the cells are: itself, or that which a list was made of."""
        if tier in TIERS:
            return tier
        preset = lists.of(self.experiment, tier)
        named = {preset: tier for tier, preset in self.presets.items()}
        size = named.get(preset, preset)
        return size if size in TIERS else TIERS[-1]

    def judge(self, table: pd.DataFrame) -> Verdict:
        """The verdict on the rows by the declared rule."""
        return conclude(table, self.claims, self.notes)

    def path(self, tier: str, suffix: str) -> Path:
        """Where a file of this artifact lies: `path("small", "csv")`."""
        return runs.results() / "artifacts" / tier / f"{self.id}.{suffix}"

    def command(self, tier: str) -> str:
        """The command that makes this artifact, runs included."""
        preset = self.presets.get(tier, tier)
        return f"python -m experiments.{self.experiment} --preset {preset} && {self.remake(tier)}"

    def remake(self, tier: str) -> str:
        """The command that makes this artifact from finished runs."""
        return f"python -m analysis.{self.id} --preset {tier}"

    def build(self, tier: str, partial: bool = False) -> Built:
        """Make the four files from the tier's runs, or from its record where they are not here.

        Missing runs are an error that prints the command that makes them; with `partial`, finished
        runs are drawn and the figure says how many are missing.
        """
        text, numbers = self.measure(tier, partial)
        write(self.path(tier, "csv"), text.encode())
        return self._finish(tier, text, numbers)

    def measure(self, tier: str, partial: bool = False) -> tuple[str, dict[str, Any]]:
        """The CSV and the provenance of its numbers, from the tier's runs or its record."""
        preset = self.presets.get(tier, tier)
        planned = [e for e in recorded.planned(self.experiment, preset) if self.needs(e["config"])]
        finished = {run.key: run for run in recorded.load(self.experiment, preset)}
        sources = [finished[entry["key"]] for entry in planned if entry["key"] in finished]
        missing = len(planned) - len(sources)
        if not sources or (missing and not partial):
            raise MissingRuns(self.experiment, preset, len(sources), len(planned))
        size = self.size(tier)
        below = list(dict.fromkeys([tier, *TIERS[TIERS.index(size) :: -1]]))
        second_tier, others = self.second.load(below) if self.second else ("", [])
        runs.tell([*sources, *others])
        with runs.reading() as read, self._fitting(tier):
            table = self.tabulate([*sources, *others])
        if table.empty:
            raise UserError(
                f"none of the {len(sources)} finished runs of {self.experiment}, preset {tier}, is"
                f" one that {self.id} shows: `python -m experiments.{self.experiment} --preset"
                f" {tier} --list` shows which runs there are"
            )
        table = table.assign(tier=size, missing=missing)
        if self.second:
            is_second = [isinstance(row.get("experiment"), str) for row in records(table)]
            theirs = size if second_tier == tier else second_tier
            table["of_tier"] = [theirs if other else size for other in is_second]
        table["verdict"] = [_compared(row, size) for row in records(table)]
        numbers = provenance(self.experiment, [*sources, *others], missing)
        numbers["second"] = (
            [(self.second.experiment, second_tier)] if self.second and others else []
        )
        numbers["arrays"] = {key: sorted(names) for key, names in sorted(read.items())}
        return to_csv(table), numbers

    @contextlib.contextmanager
    def _fitting(self, tier: str) -> Iterator[None]:
        """Make one line of what fails on a list, whose cells no artifact was written for."""
        try:
            yield
        except (UserError, OSError):
            raise
        except Exception as error:
            if tier in TIERS:
                raise
            reason = " ".join(str(error).split())
            raise Unfit(
                f"{self.id} needs other cells of {self.experiment} than those of {tier} "
                f"({type(error).__name__}: {reason}): `python -m experiments.{self.experiment} "
                f"--preset {tier} --list` shows them"
            ) from error

    def redraw(self, tier: str) -> Built:
        """Draw and judge again from the CSV alone; the provenance of its numbers stays."""
        text, about = self._read(tier)
        return self._finish(tier, text, about["numbers"])

    def latex(self, tier: str) -> str:
        """The tables of a built artifact, in LaTeX."""
        text, about = self._read(tier)
        return latex(about, tables_of(from_csv(text), self.page, about["claims"]))

    def compare(self, tiers: Sequence[str]) -> str:
        """The rows of several built tiers side by side, as text, and their verdicts."""
        chosen = [known_tier(tier, self.tiers()) for tier in tiers]
        if len(set(chosen)) < max(2, len(chosen)):
            raise UserError("--compare needs two tiers or more, each once: --compare smoke small")
        read = {tier: self._read(tier) for tier in chosen}
        tables = {tier: from_csv(text) for tier, (text, _) in read.items()}
        verdicts = {tier: stated(about["verdict"]) for tier, (_, about) in read.items()}
        return plain(comparison.side_by_side(tables, verdicts))

    def _read(self, tier: str) -> tuple[str, dict[str, Any]]:
        """The CSV and its provenance; a UserError if the CSV was changed since."""
        remedy = f"`{self.remake(tier)}` makes it from runs"
        text = read(self.path(tier, "csv"), remedy).decode()
        about = json.loads(read(self.path(tier, "json"), remedy))
        if about["csv_sha256"] != _sha256(text):
            raise UserError(
                f"{shown_path(self.path(tier, 'csv'))} was changed after its provenance was"
                f" written: {remedy}, `git checkout` brings a committed one back"
            )
        return text, about

    def show(self, key: str) -> list[Path]:
        """Write what people look at of one run, and return where."""
        address = f"{self.experiment}/{key}"
        if self.look is None or not runs.present(address):
            raise UserError(
                f"there is no run {address}: `python -m experiments status {self.experiment}` shows"
                " which runs there are"
            )
        with style.settings():
            files = self.look(Run.at(runs.results() / "runs" / address))
        for name, content in files.items():
            write(runs.results() / self.id / name, content)
        return [runs.results() / self.id / name for name in files]

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command line of one artifact and return its exit code."""
        description = f"{self.title}. {self.claim}"
        parser = Parser(prog=f"python -m analysis.{self.id}", description=description)
        add_options(parser, default="smoke")
        latex_help = "print the tables of what was built, in LaTeX"
        parser.add_argument(
            "--runs", metavar="PRESET", help="make the tier of the runs of another preset"
        )
        parser.add_argument("--latex", action="store_true", help=latex_help)
        parser.add_argument(
            "--compare",
            nargs="+",
            metavar="TIER",
            help="print what was built of these tiers and kept lists side by side",
        )
        if self.look:
            parser.add_argument("--look", metavar="KEY", help="show one run, of any preset")

        def work() -> int:
            options = parser.parse_args(arguments)
            tier_of = {preset: tier for tier, preset in self.presets.items()}
            if self.look and options.look:
                print("\n".join(shown_path(path) for path in self.show(options.look)))
                return 0
            if options.compare:
                print(self.compare([tier_of.get(tier, tier) for tier in options.compare]))
                return 0
            tier = known_tier(tier_of.get(options.preset, options.preset), self.tiers())
            if options.latex:
                print(self.latex(tier), end="")
                return 0
            one = self
            if options.runs:  # of the same experiment, such as those of released files
                one = replace(self, presets={**self.presets, tier: options.runs})
            built = one.redraw(tier) if options.redraw else one.build(tier, options.partial)
            print(f"{built}\n  {built.verdict.evidence}")
            return 0

        return guarded(work)

    def _finish(self, tier: str, text: str, numbers: dict[str, Any]) -> Built:
        table = from_csv(text)
        missing = int(records(table)[0]["missing"])
        size = self.size(tier)
        with self._fitting(tier), style.settings():
            verdict = self.judge(table)
            figure = self.draw(table)
            style.stamp(figure, tier, missing)
            ink = style.ink(figure)
            claims = [one.about() for one in judge_claims(table, self.claims)]
            findings = self.findings(table)
        notes = [self.tier_notes[size]] if size in self.tier_notes else []
        if tier != size:
            notes.append(f"Made of the cells kept as {tier}, which are not those of a preset.")
        about = {
            "id": self.id,
            "title": self.title,
            "paper": self.paper,
            "claim": self.claim,
            "tier": tier,
            "verdict": asdict(verdict),
            "claims": claims,
            "deviations": [*numbers.get("earlier", []), *self.deviations, *notes],
            "remarks": [*self.remarks, *findings, *numbers.get("notes", [])],
            "command": self.command(tier),
            "redraw": f"{self.remake(tier)} --redraw",
            "csv_sha256": _sha256(text),
            "drawn_with": {"python": platform.python_version()}
            | {name: version(name) for name in DRAWN_WITH},
            "numbers": numbers,
        }
        if tier != size:
            about["size"] = size
        for kind, content in ink.items():
            write(self.path(tier, kind), content)
        # Last, so that an interrupted build leaves a CSV that its provenance does not fit.
        write(self.path(tier, "json"), (json.dumps(about, indent=1) + "\n").encode())
        return Built(self.id, tier, verdict, self.path(tier, "png"))


def _compared(row: Row, tier: str) -> str:
    """The row's word; at the smoke tier no number is compared with a printed one."""
    compared = row["kind"] in ("number", "aside") and row["n"] > 0
    return "" if compared and row.get("of_tier", tier) == TIERS[0] else row["verdict"]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
