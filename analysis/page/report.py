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
class Shown:
    """One artifact at one tier, as its files say."""

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
        """The most that one of its runs took, as far as it was noted."""
        held = self.about["numbers"].get("peak_memory_bytes", 0)
        return f"{held / 2**30:.1f} GiB" if held else "–"

    @property
    def alt(self) -> str:
        """What the picture shows, for who cannot see it."""
        verdict = self.about["verdict"]["word"]
        return (
            f"{self.about['title']}, {self.about['tier']} tier. Claim: {self.about['claim']}"
            f" Verdict: {verdict}. The numbers are in the tables of this section."
        )


def build(artifacts: Sequence[Artifact]) -> Path:
    """Write results/report/index.html and return its path.

    It shows what is on disk, committed artifacts included, and lists the known ones that are not.
    """
    by_id = {one.id: one for one in artifacts}
    found = [shown for tier in reversed(TIERS) for shown in _on_disk(tier, by_id)]
    order = list(dict.fromkeys([*by_id, *(one.about["id"] for one in found)]))
    found.sort(key=lambda one: order.index(one.about["id"]))
    absent = [one for one in artifacts if one.id not in {shown.about["id"] for shown in found}]
    best = {one.about["id"]: one.about["verdict"]["word"] for one in reversed(found)}
    words = list(best.values())
    page = _environment().get_template(TEMPLATE.name)
    text = page.render(
        groups=[
            [one for one in found if one.about["id"] == name]
            for name in order
            if any(one.about["id"] == name for one in found)
        ],
        found=found,
        differing=[one for one in found if one.about["verdict"]["word"] == "not reproduced"],
        absent=absent,
        tiers=TIERS,
        counts={word: words.count(word) for word in WORDS if word in words},
        slug=lambda word: word.replace(" ", "-"),
    )
    path = runs.results() / "report" / "index.html"
    artifact.write(path, text.encode())
    return path


def _on_disk(tier: str, by_id: dict[str, Artifact]) -> list[Shown]:
    folder = runs.results() / "artifacts" / tier
    shown = []
    for path in sorted(folder.glob("*.json")):
        about = json.loads(path.read_text())
        again = f"`python -m analysis.{about['id']} --preset {tier}`"
        image = artifact.read(path.with_suffix(".png"), again)
        table = from_csv(artifact.read(path.with_suffix(".csv"), again).decode())
        known = by_id.get(about["id"])
        tables = tables_of(table, known.page if known else None)
        line = headline(table, known.headline) if known else headline(table)
        shown.append(Shown(about, *_pictures(image), tables, line, tally(table)))
    return shown


def _pictures(image: bytes) -> tuple[str, str]:
    """A picture and its thumbnail as addresses that hold them: WebP, half of PNG, nothing lost."""
    large = Image.open(io.BytesIO(image)).convert("RGB")
    small = large.copy()
    small.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    return _embedded(large, lossless=True), _embedded(small, quality=85)


def _embedded(image: Image.Image, **options: Any) -> str:
    packed = io.BytesIO()
    image.save(packed, "webp", **options)
    return "data:image/webp;base64," + base64.b64encode(packed.getvalue()).decode()


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
