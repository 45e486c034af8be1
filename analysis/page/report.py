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

from analysis.numbers.table import from_csv
from analysis.numbers.verdict import TIERS, WORDS
from analysis.page import artifact
from analysis.page.artifact import Artifact
from analysis.page.tables import Table, headline, tables_of, tally
from experiments.laboratory import runs

TEMPLATE = Path(__file__).with_name("report.html")
THUMBNAIL = (360, 260)


@dataclass(frozen=True)
class Entry:
    """One artifact at one tier, read from its files."""

    about: dict[str, Any]
    image: str
    thumbnail: str
    tables: list[Table]
    headline: dict[str, str]
    tally: str

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
            f" {about['verdict']['word']}. The numbers are in the tables of this section."
        )


def build(artifacts: Sequence[Artifact]) -> Path:
    """Write results/report/index.html and return its path.

    It shows what is on disk, committed artifacts included, and lists the known ones that are not.
    """
    by_id = {one.id: one for one in artifacts}
    entries = [entry for tier in reversed(TIERS) for entry in _on_disk(tier, by_id)]
    groups: dict[str, list[Entry]] = {name: [] for name in by_id}
    for entry in entries:
        groups.setdefault(entry.about["id"], []).append(entry)
    drawn = [group for group in groups.values() if group]
    words = [group[0].about["verdict"]["word"] for group in drawn]  # of the highest tier
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
        differing=[one for one in entries if one.about["verdict"]["word"] == "not reproduced"],
        absent=[one for one in artifacts if not groups[one.id]],
        tiers=TIERS,
        counts={word: words.count(word) for word in WORDS if word in words},
        slug=lambda word: word.replace(" ", "-"),
    )
    path = runs.results() / "report" / "index.html"
    artifact.write(path, text.encode())
    return path


def _on_disk(tier: str, by_id: dict[str, Artifact]) -> list[Entry]:
    entries = []
    for path in sorted((runs.results() / "artifacts" / tier).glob("*.json")):
        about = json.loads(path.read_text())
        again = f"`python -m analysis.{about['id']} --preset {tier}`"
        image = artifact.read(path.with_suffix(".png"), again)
        table = from_csv(artifact.read(path.with_suffix(".csv"), again).decode())
        known = by_id.get(about["id"])
        tables = tables_of(table, known.page if known else None)
        line = headline(table, known.headline) if known else headline(table)
        entries.append(Entry(about, *_pictures(image), tables, line, tally(table)))
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
