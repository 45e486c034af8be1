"""HANS (McCoy, Pavlick & Linzen, 2019): pairs that fool heuristics; three slices of ten subcases.

Released are hans/heuristics_{train,evaluation}_set.txt. Where those are not there, the pairs drawn
anew from the published templates, hans_regenerated/, are read, and every run says so.
"""

import csv
import io
import urllib.request
from pathlib import Path
from typing import Literal

from experiments.data.pairs import TWO, Pairs, made, read
from experiments.laboratory import data_folder
from experiments.laboratory.data_folder import reachable
from experiments.laboratory.errors import UserError

Split = Literal["train", "evaluation"]

SLICES = ("lexical_overlap", "subsequence", "constituent")
N = 30_000
COLUMNS = ("gold_label", "sentence1", "sentence2", "heuristic", "subcase")
SERVER = "https://raw.githubusercontent.com"
ADDRESS = f"{SERVER}/tommccoy1/hans/master"


def load(split: Split) -> Pairs:
    """The 30,000 pairs of a split: `part` is the heuristic, two labels."""
    path = file(split)
    shown = f"{path.parent.name}/{path.name}" + (
        " (regenerated HANS)" if regenerated(split) else ""
    )
    mend = f"remove it with `rm {path}` and copy a whole one there"
    table = csv.DictReader(
        io.StringIO(read(path, shown, mend)), delimiter="\t", quoting=csv.QUOTE_NONE
    )
    missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
    if missing:
        raise UserError(f"{path} has no column {missing[0]}: {mend}")
    rows = [tuple(line[name] or "" for name in COLUMNS) for line in table]
    for number, (label, _, _, part, _) in enumerate(rows, start=2):
        if label not in TWO or part not in SLICES:
            raise UserError(
                f"{path}, line {number}, has label {label!r} and heuristic {part!r}: {mend}"
            )
    if len(rows) != N:
        raise UserError(f"{path} has {len(rows):,} of {N:,} pairs: {mend}")
    pairs = [(label, premise, hypothesis) for label, premise, hypothesis, *_ in rows]
    return made(pairs, TWO, [row[3] for row in rows], [row[4] for row in rows])


def file(split: Split) -> Path:
    """Where the pairs of a split are read from; the released ones first."""
    name = f"heuristics_{split}_set.txt"
    released, again = (
        data_folder.root() / folder / name for folder in ("hans", "hans_regenerated")
    )
    if not released.exists() and not again.exists():
        _download(released)
    return released if released.exists() else again


def regenerated(split: Split) -> bool:
    """Whether these are not the released pairs but ones drawn anew from their templates."""
    return file(split).parent.name == "hans_regenerated"


def _download(path: Path) -> None:
    reason = f"{SERVER} does not answer"
    if reachable(SERVER):
        try:
            with urllib.request.urlopen(f"{ADDRESS}/{path.name}", timeout=60) as answer:
                content = answer.read()
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(".draft")
            draft.write_bytes(content)
            draft.rename(path)
            return
        except OSError as error:
            reason = f"its download failed ({error})"
    raise UserError(
        f"{path.name} is neither in {path.parent} nor in hans_regenerated beside it, and {reason}: "
        f"get it from {ADDRESS}/{path.name}, or name another place with --data DIR or "
        "RETRACE_DATA=DIR"
    )
