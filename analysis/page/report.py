"""The report: one self-contained page over every artifact on disk, read without any run."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from analysis.numbers.bounds import MEANING
from analysis.numbers.table import from_csv
from analysis.numbers.verdict import CONTRADICTS, GOALS, NOT_REPRODUCED, SIZES, VERDICTS, WORDS
from analysis.page import artifact
from analysis.page.artifact import Artifact
from analysis.page.tables import Table, headline, stated, tables_of
from experiments.laboratory import runs
from experiments.laboratory.lists import TIERS

TEMPLATE = Path(__file__).with_name("report.html")
THUMBNAIL = (360, 260)
DIFFERING = (NOT_REPRODUCED, CONTRADICTS)
GOAL_WORDS = [GOALS.get(word, word) for word in WORDS]


@dataclass(frozen=True)
class Entry:
    """One artifact at one tier, read from its files."""

    about: dict[str, Any]
    image: str
    thumbnail: str
    tables: list[Table]
    headline: dict[str, str]

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
        """How many claims and printed numbers hold: `5 of 8 hold`."""
        verdict = self.about["verdict"]
        return f"{verdict['holding']} of {verdict['counted']} hold" if verdict["counted"] else ""

    @property
    def place(self) -> str:
        """Its anchor on the page."""
        return f"{self.about['id']}-{self.about['tier']}"

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


def build(artifacts: Sequence[Artifact]) -> Path:
    """Write results/report/index.html and return its path.

    It shows what is on disk, committed artifacts included, and lists the known ones that are not.
    """
    by_id = {one.id: one for one in artifacts}
    entries = [entry for tier in [*reversed(TIERS), *_lists()] for entry in _on_disk(tier, by_id)]
    groups: dict[str, list[Entry]] = {name: [] for name in by_id}
    for entry in entries:
        groups.setdefault(entry.about["id"], []).append(entry)
    drawn = [group for group in groups.values() if group]
    words = {  # of the highest tier
        goal: [
            group[0].about["verdict"]["word"]
            for group in drawn
            if group[0].goal == goal and not group[0].is_list
        ]
        for goal in (False, True)
    }
    entries = [entry for group in drawn for entry in group]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template(TEMPLATE.name).render(
        groups=drawn,
        entries=entries,
        reproductions=[one for one in entries if not one.goal],
        goals=[one for one in entries if one.goal],
        differing=[one for one in entries if one.about["verdict"]["word"] in DIFFERING],
        absent=[one for one in artifacts if not groups[one.id]],
        tiers=TIERS,
        sizes=SIZES,
        meanings=MEANING,
        verdicts=VERDICTS,
        counts={word: words[False].count(word) for word in WORDS if word in words[False]},
        goal_counts={word: words[True].count(word) for word in GOAL_WORDS if word in words[True]},
        slug=lambda word: word.replace(" ", "-"),
    )
    path = runs.results() / "report" / "index.html"
    artifact.write(path, text.encode())
    return path


def _lists() -> list[str]:
    """The lists of cells that artifacts were made of."""
    folders = (runs.results() / "artifacts").glob("*/")
    return sorted(folder.name for folder in folders if folder.name not in TIERS)


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
        entries.append(Entry(about, *_pictures(image), tables, line))
    return entries


def _pictures(image: bytes) -> tuple[str, str]:
    """A picture, as lossless WebP, and its thumbnail, as data addresses for the page."""
    large = Image.open(io.BytesIO(image)).convert("RGB")
    small = large.copy()
    small.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    return _embedded(large, lossless=True), _embedded(small, quality=85)


def _embedded(image: Image.Image, **options: Any) -> str:
    packed = io.BytesIO()
    image.save(packed, "webp", **options)
    return "data:image/webp;base64," + base64.b64encode(packed.getvalue()).decode()
