"""The generated parts of README.md and docs/*.md: `python -m analysis docs` writes them.

Tables stand between two comments. A number in a sentence is a link to the CSV that it is from, with
its row in the title, as in `[4.7](../results/artifacts/small/ID.csv "method | quantity")`.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.numbers.table import from_csv, records
from analysis.numbers.verdict import WORDS, claim_bounds
from analysis.page import artifact
from analysis.page.artifact import guarded
from analysis.page.tables import tally
from experiments.laboratory.runs import UserError

ROOT = Path(__file__).parents[2]
BEGIN = "<!-- {} of the artifacts: `python -m analysis docs` writes this -->\n"
END = "<!-- end of what is generated -->\n"
DRAWN = [word for word in WORDS if word != "not run"]
SHOWN = ("paper", "small")  # the first of these tiers that an artifact has
PAPERS = {  # short name -> how Artifact.paper begins
    "TracIn": ("TracIn",),
    "FastIF": ("FastIF",),
    "Arnoldi": ("Arnoldi", "Scaling Up Influence Functions"),
    "Subsets": ("Subsets", "How many trained neural networks are needed"),
}
BEYOND = "Beyond the papers"
COLUMNS = ("artifact", "what it shows", "experiment", "tier", "verdict", "what fails")
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"
NAMED = 3  # failing claims that a line of a table names
NUMBER = re.compile(r'\[(-?[\d,.]+)\]\(([\w./]*?results/artifacts/\w+/\w+\.csv) "(.+?) \| (.+?)"\)')


@dataclass(frozen=True)
class Line:
    """An artifact at its highest tier on disk, as a line of a table shows it."""

    about: dict[str, Any]
    claims: str
    failing: str

    @property
    def source(self) -> str:
        """The short name of the paper, or BEYOND if there is no paper."""
        names = (name for name, starts in PAPERS.items() if self.about["paper"].startswith(starts))
        return next(names, BEYOND)

    def __str__(self) -> str:
        about, numbers = self.about, self.about["numbers"]
        link = f"[{about['id']}](../results/artifacts/{about['tier']}/{about['id']}.png)"
        missing = f", {numbers['missing']} runs missing" if numbers["missing"] else ""
        claims = f", {self.claims}" if self.claims else ""
        verdict = f"**{about['verdict']['word']}**{claims}"
        tier = about["tier"] + missing
        cells = (link, about["title"], numbers["experiment"], tier, verdict, self.failing)
        return f"| {' | '.join(cells)} |"


def committed() -> dict[str, list[Line]]:
    """The committed artifacts by paper, each at its highest tier."""
    seen: dict[str, Line] = {}
    for tier in SHOWN:
        for path in sorted((ROOT / "results" / "artifacts" / tier).glob("*.json")):
            about = json.loads(path.read_text())
            table = from_csv(path.with_suffix(".csv").read_text())
            claims = tally(table).rpartition(" ")[0]
            seen.setdefault(about["id"], Line(about, claims, _failing(table)))
    lines = sorted(seen.values(), key=lambda line: line.about["id"])
    by_paper = {name: [one for one in lines if one.source == name] for name in (*PAPERS, BEYOND)}
    return {name: mine for name, mine in by_paper.items() if mine}


def _failing(table: pd.DataFrame) -> str:
    """The first claims that fail, and how many judged printed numbers are off."""
    rows = records(table)
    wrong = [r for r in rows if r["verdict"] == "not reproduced" and r["kind"] == "claim"]
    parts = [
        f"{row['method']}, {row['quantity']}: {round(row['ours'], 9):.3g}, claimed"
        f" {claim_bounds(row['at_least'], row['at_most'])}"
        for row in wrong[:NAMED]
    ]
    if len(wrong) > NAMED:
        parts.append(f"and {len(wrong) - NAMED} more")
    judged = [row["verdict"] for row in rows if row["kind"] == "number" and row["verdict"]]
    if off := judged.count("not reproduced"):
        parts.append(f"{off} of {len(judged)} printed numbers are off")
    return "; ".join(parts).replace("|", "\\|")


def summary() -> str:
    """One line of Markdown per paper: its verdicts, and how many claims hold in the mean."""
    lines = [f"| {name} | {_counts(mine)} |" for name, mine in committed().items()]
    head = f"| paper | {' | '.join(DRAWN)} | claims that hold in the mean |\n|---|---|---|---|---|"
    return "\n".join([head, *lines])


def _counts(lines: list[Line]) -> str:
    words = [line.about["verdict"]["word"] for line in lines]
    pairs = [line.claims.split()[0:3:2] for line in lines if line.claims]
    holding, tested = (sum(int(pair[place]) for pair in pairs) for place in (0, 1))
    counts = [str(words.count(word) or "") for word in DRAWN]
    return " | ".join([*counts, f"{holding} of {tested}"])


def tables() -> str:
    """One table of Markdown per paper with one line per artifact."""
    by_paper = committed().items()
    return "\n".join("\n".join([f"## {name}", "", HEAD, *map(str, m), ""]) for name, m in by_paper)


GENERATED: dict[str, Callable[[], str]] = {"summary": summary, "tables": tables}


def pages() -> list[Path]:
    """README.md and the pages of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def rewritten(page: Path) -> str:
    """The text of a page with tables and numbers from the committed artifacts."""
    text = artifact.read(page, "run this in a checkout").decode()
    for name, make in GENERATED.items():
        before, begin, rest = text.partition(BEGIN.format(name))
        if begin:
            text = before + begin + make().strip("\n") + "\n" + END + rest.partition(END)[2]
    return NUMBER.sub(lambda match: _current(page, match), text)


def _current(page: Path, match: re.Match[str]) -> str:
    """A linked number as the CSV has it now, with as many decimals as it was written."""
    number, path, method, quantity = match.groups()
    rows = from_csv((page.parent / path).read_text())
    mine = rows[(rows["method"] == method) & (rows["quantity"] == quantity)]
    judged = mine[mine["kind"] != "curve"] if len(mine) > 1 else mine
    if len(judged) != 1:
        raise UserError(
            f"{page.name}: {path} has {len(judged)} rows {method!r} | {quantity!r}, not one: "
            "mend the title of that link"
        )
    decimals = len(number.partition(".")[2])
    return match[0].replace(f"[{number}]", f"[{judged['ours'].iat[0]:,.{decimals}f}]", 1)


def main() -> int:
    """Write every page whose generated parts have changed, and return the exit code."""

    def work() -> int:
        for page in pages():
            text = rewritten(page)
            if text.encode() != page.read_bytes():
                artifact.write(page, text.encode(), "free or permit that folder")
                print(f"wrote {artifact.shown_path(page)}")
        return 0

    return guarded(work)
