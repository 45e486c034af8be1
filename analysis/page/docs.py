"""The README table of artifacts, from the committed results: `python -m analysis.readme`."""

import json
import sys
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from analysis.numbers.table import from_csv
from analysis.numbers.verdict import WORDS
from analysis.page import artifact
from analysis.page.artifact import guarded
from analysis.page.tables import tally
from experiments.laboratory import runs

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- artifacts: python -m analysis.readme -->\n", "<!-- end of artifacts -->"
SHOWN = ("paper", "small")  # the first of these tiers that an artifact has
PAPERS = (
    "TracIn", "FastIF", "Scaling Up Influence Functions",
    "How many trained neural networks are needed",
)  # fmt: skip
BEYOND = "Beyond the papers"
HEAD, RULE = "| artifact | what it shows | tier | verdict | command |", "|---|---|---|---|---|"


@dataclass(frozen=True)
class Line:
    """An artifact at its highest tier on disk, as the README shows it."""

    about: dict[str, Any]
    claims: str

    @property
    def source(self) -> str:
        """The paper it is of, or that it is of none."""
        named = (name for name in PAPERS if self.about["paper"].startswith(name))
        return next(named, BEYOND)

    @property
    def word(self) -> str:
        """The word of its verdict."""
        return str(self.about["verdict"]["word"])

    def __str__(self) -> str:
        about = self.about
        link = f"[{about['id']}](results/artifacts/{about['tier']}/{about['id']}.png)"
        missing = about["numbers"]["missing"]
        tier = f"{about['tier']}{f', {missing} runs missing' if missing else ''}"
        verdict = f"**{self.word}**{f', {self.claims}' if self.claims else ''}"
        return f"| {link} | {about['title']} | {tier} | {verdict} | `{about['command']}` |"


def table() -> str:
    """By paper: how many artifacts hold, then a line of Markdown each."""
    seen: dict[str, Line] = {}
    for tier in SHOWN:
        for path in sorted((runs.results() / "artifacts" / tier).glob("*.json")):
            about = json.loads(path.read_text())
            claims = tally(from_csv(path.with_suffix(".csv").read_text()))
            seen.setdefault(about["id"], Line(about, claims.rpartition(" ")[0]))
    lines = sorted(
        seen.values(), key=lambda line: ((*PAPERS, BEYOND).index(line.source), line.about["id"])
    )
    out = []
    for source, group in groupby(lines, key=lambda line: line.source):
        mine = list(group)
        out += [f"**{source}**: {_counted(mine)}", "", HEAD, RULE, *map(str, mine), ""]
    return "\n".join(out)


def _counted(lines: list[Line]) -> str:
    """How the artifacts of a paper fare, and how many of their claims hold."""
    words = [line.word for line in lines]
    fare = ", ".join(f"{words.count(word)} {word}" for word in WORDS if word in words)
    pairs = [line.claims.split()[0:3:2] for line in lines if line.claims]
    holding, tested = (sum(int(pair[place]) for pair in pairs) for place in (0, 1))
    return f"{fare}; {holding} of {tested} claims hold at least in direction."


def rewritten(text: str) -> str:
    """The README's text with the table of now."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


def main() -> int:
    """Write the table into the README and return the exit code."""

    def work() -> int:
        text = artifact.read(README, "run it in a checkout").decode()
        artifact.write(README, rewritten(text).encode(), "free or permit that folder")
        return 0

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
