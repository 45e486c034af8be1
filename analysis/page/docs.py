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

from analysis.numbers.bounds import FAILS, HOLDS, NOT_RUN, OUTCOMES
from analysis.numbers.table import from_csv
from analysis.numbers.verdict import GOALS, WORDS
from analysis.page import artifact
from analysis.page.papers import BEYOND, PAPERS, source
from analysis.page.tables import stated
from experiments.laboratory.runs import UserError, guarded, quoted

ROOT = Path(__file__).parents[2]
BEGIN = "<!-- {} of the artifacts: `python -m analysis docs` writes this -->\n"
END = "<!-- end of what is generated -->\n"
DRAWN = [word for word in WORDS if word != NOT_RUN]
SHOWN = ("paper", "small")  # the first of these tiers that an artifact has
COLUMNS = ("artifact", "what it shows", "experiment", "tier", "verdict", "what does not hold")
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"
NUMBER = re.compile(r'\[(-?[\d,.]+)\]\(([\w./]*?results/artifacts/\w+/\w+\.csv) "(.+?) \| (.+?)"\)')


@dataclass(frozen=True)
class Line:
    """An artifact at its highest tier on disk, as a line of a table shows it.

    outcomes  one of OUTCOMES for each claim and printed number that its verdict counts
    """

    about: dict[str, Any]
    outcomes: list[str]
    amiss: str

    @property
    def word(self) -> str:
        """Its verdict."""
        return str(self.about["verdict"]["word"])

    @property
    def source(self) -> str:
        """The short name of the paper, or BEYOND if there is no paper."""
        return source(self.about["paper"])

    def __str__(self) -> str:
        about, numbers = self.about, self.about["numbers"]
        link = f"[{about['id']}](../results/artifacts/{about['tier']}/{about['id']}.png)"
        missing = f", {numbers['missing']} runs missing" if numbers["missing"] else ""
        verdict = stated(about["verdict"]).replace(self.word, f"**{self.word}**", 1)
        earlier = ", earlier protocol" if numbers.get("earlier") else ""
        tier = about["tier"] + earlier + missing
        cells = (link, about["title"], numbers["experiment"], tier, verdict, self.amiss)
        return f"| {' | '.join(cells)} |"


def committed() -> dict[str, list[Line]]:
    """The committed artifacts by paper, each at its highest tier."""
    seen: dict[str, Line] = {}
    for tier in SHOWN:
        for path in sorted((ROOT / "results" / "artifacts" / tier).glob("*.json")):
            about = json.loads(path.read_text())
            table = from_csv(path.with_suffix(".csv").read_text())
            seen.setdefault(about["id"], _line(about, table))
    lines = sorted(seen.values(), key=lambda line: line.about["id"])
    by_paper = {name: [one for one in lines if one.source == name] for name in (*PAPERS, BEYOND)}
    return {name: mine for name, mine in by_paper.items() if mine}


def _line(about: dict[str, Any], table: pd.DataFrame) -> Line:
    """The outcomes that an artifact's verdict counts, and those that do not hold by name."""
    goal = not any(claim["papers"] for claim in about["claims"])
    claims = [claim for claim in about["claims"] if goal or claim["papers"]]
    printed = list(table.loc[(table["kind"] == "number") & (table["verdict"] != ""), "verdict"])
    parts = [
        f"{word}: {'; '.join(_named(claim) for claim in claims if claim['verdict'] == word)}"
        for word in OUTCOMES
        if word != HOLDS and any(claim["verdict"] == word for claim in claims)
    ]
    if off := printed.count(FAILS):
        parts.append(f"{off} of {len(printed)} printed numbers are out of tolerance")
    amiss = ". ".join(f"{part[:1].upper()}{part[1:]}" for part in parts).replace("|", "\\|")
    return Line(about, [*(claim["verdict"] for claim in claims), *printed], amiss)


def _named(claim: dict[str, Any]) -> str:
    """A claim with its number and what was required."""
    if claim["mean"] is None:
        return str(claim["claim"])
    more = "".join(f"; {claim[name]}" for name in ("would_decide", "note") if claim[name])
    mean = round(claim["mean"], 9)
    return f"{claim['claim']} ({mean:.3g}, required {claim['required']}{more})"


def summary() -> str:
    """One line of Markdown per paper: its verdicts, and how many claims and numbers hold."""
    by_paper = {name: mine for name, mine in committed().items() if name in PAPERS}
    words = {line.word for mine in by_paper.values() for line in mine}
    used = [word for word in DRAWN if word in words]
    lines = [f"| {name} | {_counts(mine, used)} |" for name, mine in by_paper.items()]
    head = f"| paper | {' | '.join(used)} | claims and numbers that hold |"
    return "\n".join([head, "|---" * (len(used) + 2) + "|", *lines])


def _counts(lines: list[Line], used: list[str]) -> str:
    words = [line.word for line in lines]
    outcomes = [word for line in lines for word in line.outcomes]
    counts = [str(words.count(word) or "") for word in used]
    return " | ".join([*counts, f"{outcomes.count(HOLDS)} of {len(outcomes)}"])


def goals() -> str:
    """One line of Markdown on our own goals, which are no reproductions."""
    words = [line.word for line in committed().get(BEYOND, [])]
    named = [GOALS.get(word, word) for word in DRAWN]
    counts = [f"{words.count(word)} {word}" for word in named if word in words]
    return f"Of {len(words)} goals of our own are {', '.join(counts)}."


def tables() -> str:
    """One table of Markdown per paper with one line per artifact."""
    by_paper = committed().items()
    return "\n".join("\n".join([f"## {name}", "", HEAD, *map(str, m), ""]) for name, m in by_paper)


GENERATED: dict[str, Callable[[], str]] = {"summary": summary, "goals": goals, "tables": tables}


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
            f"{page.name}: {quoted(path)} has {len(judged)} rows {method!r} | {quantity!r}, "
            "not one: "
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
