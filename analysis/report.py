"""The report: one self-contained page over every artifact on disk, read without any run."""

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from PIL import Image

from analysis import disk
from analysis.artifact import TIERS, Artifact
from analysis.table import Row, from_csv, records
from analysis.verdict import WORDS, claim_bounds
from experiments import runs

TEMPLATE = Path(__file__).with_name("report.html")
THUMBNAIL = (360, 260)
KNOWN_TABLES = {
    "Printed numbers": ("number", "aside"),
    "Claims": ("claim",),
    "Quantities without a printed number": ("curve",),
}
OPEN_UP_TO = 24  # rows; longer tables of curves start folded


@dataclass(frozen=True)
class Table:
    """A table as text, ready to be laid out."""

    title: str
    header: list[str]
    rows: list[list[str]]
    folded: bool = False

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers, to be set flush right."""
        return [
            name not in ("method", "quantity", "verdict", "claim", "required")
            for name in self.header
        ]


@dataclass(frozen=True)
class Shown:
    """One artifact at one tier, as its files say."""

    about: dict[str, Any]
    image: str
    thumbnail: str
    tables: list[Table]

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
    words = [one.about["verdict"]["word"] for one in found]
    page = _environment().get_template(TEMPLATE.name)
    text = page.render(
        groups=[
            [one for one in found if one.about["id"] == name]
            for name in order
            if any(one.about["id"] == name for one in found)
        ],
        found=found,
        absent=absent,
        tiers=TIERS,
        counts={word: words.count(word) for word in WORDS if word in words},
        slug=lambda word: word.replace(" ", "-"),
    )
    path = runs.results() / "report" / "index.html"
    disk.write(path, text.encode())
    return path


def _on_disk(tier: str, by_id: dict[str, Artifact]) -> list[Shown]:
    folder = runs.results() / "artifacts" / tier
    shown = []
    for path in sorted(folder.glob("*.json")):
        about = json.loads(path.read_text())
        again = f"`python -m analysis.{about['id']} --preset {tier}`"
        image = disk.read(path.with_suffix(".png"), again)
        table = from_csv(disk.read(path.with_suffix(".csv"), again).decode())
        known = by_id.get(about["id"])
        tables = _tables(table, known.page if known else None)
        shown.append(Shown(about, _embedded(image), _embedded(_thumbnail(image)), tables))
    return shown


def _tables(table: pd.DataFrame, page: Any) -> list[Table]:
    rows = records(table)
    tables = []
    if page is not None:
        wide = page(table)
        cells = [[str(value) for value in row.values()] for row in records(wide)]
        tables.append(Table("Methods", [str(name) for name in wide.columns], cells))
    for title, kinds in KNOWN_TABLES.items():
        chosen = [row for row in rows if row["kind"] in kinds]
        if not chosen or (page is not None and "curve" in kinds):
            continue
        own = [name for name in ("step", "label") if any(_said(row.get(name)) for row in chosen)]
        header, lines = _claims(chosen) if "claim" in kinds else _numbers(chosen, own)
        folded = "curve" in kinds and len(chosen) > OPEN_UP_TO
        tables.append(Table(title, header, lines, folded))
    return tables


def _numbers(rows: list[Row], own: list[str]) -> tuple[list[str], list[list[str]]]:
    printed = any(not math.isnan(row["paper"]) for row in rows)
    compared = ["paper", "ours", "difference"] if printed else ["ours"]
    verdict = ["verdict"] if printed else []
    header = ["method", "quantity", *own, *compared, "95% interval", "n", *verdict]
    lines = []
    for row in rows:
        quantity = f"{row['quantity']} ({row['unit']})" if row["unit"] else row["quantity"]
        values = [_number(row[name]) for name in compared]
        cells = [row["method"], quantity, *(_said(row[name]) for name in own), *values]
        lines.append([*cells, _interval(row), str(row["n"]), *(row[name] for name in verdict)])
    return header, lines


def _claims(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    header = ["claim", "quantity", "required", "paper", "ours", "95% interval", "n", "verdict"]
    lines = []
    for row in rows:
        quantity = f"{row['quantity']} ({row['unit']})" if row["unit"] else row["quantity"]
        bounds = claim_bounds(row["at_least"], row["at_most"])
        values = [_number(row["paper"]), _number(row["ours"]), _interval(row), str(row["n"])]
        lines.append([row["method"], quantity, bounds, *values, row["verdict"]])
    return header, lines


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    written = f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return written.replace("-", "−")


def _interval(row: Row) -> str:
    if math.isnan(row["low"]):
        return "–"
    return f"{_number(row['low'])} to {_number(row['high'])}"


def _said(value: Any) -> str:
    """Return a cell that may be a number, text, or nothing at all."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _thumbnail(image: bytes) -> bytes:
    small, page = Image.open(io.BytesIO(image)).convert("RGB"), io.BytesIO()
    small.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    small.save(page, "png", optimize=True)
    return page.getvalue()


def _embedded(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
