"""The report: one self-contained page over every artifact on disk, read without any run."""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from analysis.numbers.bounds import MEANING, NOT_RUN
from analysis.numbers.table import from_csv
from analysis.numbers.verdict import (
    CONTRADICTS,
    GOALS,
    INCOMPLETE,
    NOT_REPRODUCED,
    SIZES,
    VERDICTS,
    WORDS,
)
from analysis.page import artifact, explorers
from analysis.page.artifact import Artifact
from analysis.page.papers import BEYOND, PAPERS, source
from analysis.page.pictures import embedded
from analysis.page.tables import Table, headline, stated, tables_of
from experiments.laboratory import runs
from experiments.laboratory.lists import TIERS

TEMPLATE = Path(__file__).with_name("report.html")
WIDTH, THUMBNAIL = 960, (240, 180)  # pixels of a figure at most, and of its thumbnail
LONGEST = 5_000  # pixels of its height
ROWS = 40  # of a folded table on the page; its CSV has them all
DIFFERING = (NOT_REPRODUCED, CONTRADICTS)
BY_TIER = tuple(reversed(TIERS))  # the largest first
DEMO = "digits_suspicious"  # what a newcomer checks by eye; it is no result, and comes last


@dataclass(frozen=True)
class Entry:
    """One artifact at one tier, read from its files."""

    about: dict[str, Any]
    image: str
    thumbnail: str
    tables: list[Table]
    headline: dict[str, str]
    explorer: str

    @property
    def goal(self) -> bool:
        """Whether no claim of it is a paper's, so that it is no reproduction."""
        return not any(claim["papers"] for claim in self.about["claims"])

    @property
    def is_list(self) -> bool:
        """Whether it was made of cells that a user kept as a list, and not of a tier."""
        return self.about["tier"] not in TIERS

    @property
    def size(self) -> str:
        """How large its cells are, in words."""
        if self.is_list:
            return f"a list of cells, {SIZES[self.about['size']]}"
        return SIZES[self.about["tier"]]

    @property
    def count(self) -> str:
        """How many claims and printed numbers hold: `5 of 8`."""
        verdict = self.about["verdict"]
        return f"{verdict['holding']} of {verdict['counted']}" if verdict["counted"] else ""

    @property
    def left_out(self) -> int:
        """How many claims that count were not run, unless its verdict says so."""
        if self.about["verdict"]["word"] in (INCOMPLETE, NOT_RUN):
            return 0
        counted = [one for one in self.about["claims"] if self.goal or one["papers"]]
        return sum(one["verdict"] == NOT_RUN for one in counted)

    @property
    def place(self) -> str:
        """Its anchor on the page."""
        return f"{self.about['id']}-{self.about['tier']}"

    @property
    def file(self) -> str:
        """Its files as the page links them, without what they end with."""
        return f"../artifacts/{self.about['tier']}/{self.about['id']}"

    @property
    def memory(self) -> str:
        """The largest peak memory of its runs, where it was recorded."""
        peak = self.about["numbers"].get("peak_memory_bytes", 0)
        return f"{peak / 2**30:.1f} GiB" if peak else "–"

    @property
    def alt(self) -> str:
        """A description of the picture, for readers who cannot see it."""
        about = self.about
        return (
            f"{about['title']}, {about['tier']} tier. Claim: {about['claim']} Verdict:"
            f" {stated(about['verdict'])}. The numbers are in the tables of this section."
        )


@dataclass(frozen=True)
class Shown:
    """An artifact with its tiers, the largest first; none if it was not run."""

    id: str
    title: str
    paper: str
    claim: str
    command: str
    tiers: list[Entry]

    @property
    def by_tier(self) -> dict[str, Entry]:
        """Its entries by tier, without those of lists."""
        return {one.about["tier"]: one for one in self.tiers if not one.is_list}

    @property
    def lists(self) -> list[Entry]:
        """Its entries that were made of lists of cells."""
        return [one for one in self.tiers if one.is_list]

    @property
    def word(self) -> str:
        """Its verdict at the largest tier."""
        largest = next(iter(self.by_tier.values()), None)
        return str(largest.about["verdict"]["word"]) if largest else NOT_RUN


@dataclass(frozen=True)
class Chapter:
    """The artifacts of a paper, or those beyond the papers."""

    name: str
    heading: str
    place: str
    shown: list[Shown] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """How many artifacts have each verdict."""
        words = [one.word for one in self.shown]
        known = [*WORDS, *(word for word in GOALS.values() if word not in WORDS)]
        return {word: words.count(word) for word in known if word in words}

    @property
    def holding(self) -> str:
        """How many claims and printed numbers hold, at the largest tiers: `11 of 23`."""
        largest = [next(iter(one.by_tier.values())) for one in self.shown if one.by_tier]
        verdicts = [one.about["verdict"] for one in largest]
        return f"{sum(v['holding'] for v in verdicts)} of {sum(v['counted'] for v in verdicts)}"


def build(artifacts: Sequence[Artifact]) -> Path:
    """Write results/report/index.html and return its path.

    It shows what is on disk, committed artifacts included, and lists the known ones that are not.
    """
    by_id = {one.id: one for one in artifacts}
    entries = [entry for tier in [*BY_TIER, *_lists()] for entry in _on_disk(tier, by_id)]
    chapters = _chapters(artifacts, entries)
    entries = [one for chapter in chapters for shown in chapter.shown for one in shown.tiers]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template(TEMPLATE.name).render(
        chapters=chapters,
        entries=entries,
        differing=[one for one in entries if one.about["verdict"]["word"] in DIFFERING],
        tiers=[tier for tier in BY_TIER if any(one.about["tier"] == tier for one in entries)],
        words=[w for w in (*WORDS, *GOALS.values()) if any(w in c.counts for c in chapters)],
        sizes=SIZES,
        meanings=MEANING,
        verdicts=VERDICTS,
        most_rows=ROWS,
        slug=lambda word: word.replace(" ", "-"),
    )
    path = runs.results() / "report" / "index.html"
    artifact.write(path, text.encode())
    return path


def _lists() -> list[str]:
    """The lists of cells that artifacts were made of."""
    folders = (runs.results() / "artifacts").glob("*/")
    return sorted(folder.name for folder in folders if folder.name not in TIERS)


def _chapters(artifacts: Sequence[Artifact], entries: Sequence[Entry]) -> list[Chapter]:
    """The papers in order, then what no paper claims, the demo last."""
    tiers: dict[str, list[Entry]] = {one.id: [] for one in artifacts}
    for entry in entries:
        tiers.setdefault(entry.about["id"], []).append(entry)
    by_id = {one.id: one for one in artifacts}
    chapters = {
        name: Chapter(name, f"{name}: {one.title} ({one.authors})", f"paper-{name.lower()}")
        for name, one in PAPERS.items()
    } | {BEYOND: Chapter("Goals of our own", BEYOND, "goals")}
    for name, group in sorted(tiers.items(), key=lambda one: _order(one[0])):
        if group:
            about = group[0].about
            said = (about["title"], about["paper"], about["claim"], about["command"])
        else:
            one = by_id[name]
            said = (one.title, one.paper, one.claim, one.command(TIERS[0]))
        chapters[source(said[1])].shown.append(Shown(name, *said, group))
    return [chapter for chapter in chapters.values() if chapter.shown]


def _order(name: str) -> tuple[bool, list[tuple[int, str]]]:
    """Where an artifact comes: numbers by their size, the demo last."""
    parts = re.findall(r"\d+|\D+", name)
    return name == DEMO, [(int(part), "") if part.isdigit() else (0, part) for part in parts]


def _on_disk(tier: str, by_id: dict[str, Artifact]) -> list[Entry]:
    entries = []
    for path in sorted((runs.results() / "artifacts" / tier).glob("*.json")):
        about = json.loads(path.read_text())
        again = f"`python -m analysis.{about['id']} --preset {tier}`"
        image = artifact.read(path.with_suffix(".png"), again)
        table = from_csv(artifact.read(path.with_suffix(".csv"), again).decode())
        known = by_id.get(about["id"])
        tables = tables_of(table, known.page if known else None, about["claims"])
        line = headline(table, known.headline) if known else headline(table)
        explorer = explorers.page(about["numbers"]["experiment"], tier)
        link = explorer.name if explorer.exists() else ""
        entries.append(Entry(about, *_pictures(image), tables, line, link))
    return entries


def _pictures(image: bytes) -> tuple[str, str]:
    """A picture, small enough for a page of many, and its thumbnail; the PNG is linked."""
    large = Image.open(io.BytesIO(image)).convert("RGB")
    large.thumbnail((WIDTH, LONGEST), Image.Resampling.LANCZOS)
    small = large.copy()
    small.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    return embedded(large, quality=60), embedded(small, quality=60)
