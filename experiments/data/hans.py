"""HANS (McCoy, Pavlick & Linzen, 2019): pairs that fool heuristics; three slices of ten subcases.

Published are hans/heuristics_{train,evaluation}_set.txt. Where they are missing, the pairs in
hans_regenerated/ are read, drawn anew from the published templates, and every run says so.
"""

import csv
import io
import urllib.request
from pathlib import Path
from typing import Literal

from experiments.data.pairs import TWO, Pairs, from_rows
from experiments.laboratory import data_folder
from experiments.laboratory.errors import UserError, quoted

Split = Literal["train", "evaluation"]

SLICES = ("lexical_overlap", "subsequence", "constituent")
N = 30_000
COLUMNS = ("gold_label", "sentence1", "sentence2", "heuristic", "subcase")
ADDRESS = "https://raw.githubusercontent.com/tommccoy1/hans/master"


def load(split: Split) -> Pairs:
    """The 30,000 pairs of a split: `part` is the heuristic, two labels."""
    path = file(split)
    remedy = data_folder.replace(path)
    text = data_folder.read_text(path, remedy, "regenerated HANS" if regenerated(split) else "")
    table = csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
        if missing:
            raise UserError(f"{quoted(path)} has no column {missing[0]}: {remedy}")
        lines = list(table)
    except csv.Error as error:
        raise UserError(f"{quoted(path)} is not a table with tabs ({error}): {remedy}") from error
    rows = [tuple(line[name] for name in COLUMNS) for line in lines]
    for number, row in enumerate(rows, start=2):
        if None in row:
            raise UserError(f"{quoted(path)}, line {number}, has too few cells: {remedy}")
    for number, (label, _, _, part, _) in enumerate(rows, start=2):
        if label not in TWO or part not in SLICES:
            raise UserError(
                f"{quoted(path)}, line {number}, has label {label!r} and heuristic {part!r}: "
                f"{remedy}"
            )
    if len(rows) != N:
        raise UserError(f"{quoted(path)} has {len(rows):,} of {N:,} pairs: {remedy}")
    pairs = [(label, premise, hypothesis) for label, premise, hypothesis, *_ in rows]
    return from_rows(pairs, TWO, [row[3] for row in rows], [row[4] for row in rows])


def file(split: Split) -> Path:
    """The file of a split; the published one if both are there."""
    name = f"heuristics_{split}_set.txt"
    published, regenerated = (
        data_folder.root() / folder / name for folder in ("hans", "hans_regenerated")
    )
    if not published.exists() and not regenerated.exists():
        _download(published)
    return published if published.exists() else regenerated


def regenerated(split: Split) -> bool:
    """Whether these are not the published pairs but ones drawn anew from their templates."""
    return file(split).parent.name == "hans_regenerated"


def _download(path: Path) -> None:
    address = f"{ADDRESS}/{path.name}"

    def fetch(folder: str) -> None:
        with urllib.request.urlopen(address, timeout=60) as answer:
            Path(folder, path.name).write_bytes(answer.read())

    def failure(reason: str) -> UserError:
        what = f"{path.name} is neither in {quoted(path.parent)} nor in hans_regenerated beside it"
        return data_folder.missing(what, reason, f"get it from {address}", f"hans/{path.name}")

    data_folder.download(path.parent, [address], fetch, path.name, failure)
