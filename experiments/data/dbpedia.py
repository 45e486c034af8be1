"""DBpedia-14: titles and first paragraphs of articles of 14 classes (Zhang, Zhao & LeCun, 2015).

The subset needs no network: `dbpedia/test.subset.csv` under the data folder, 7,600 rows of the
original test file (class 1 to 14, title, content; no header), with `classes.txt`. Hugging Face's
`datasets` reads the whole data set: 560,000 rows for training and 70,000 for testing.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.laboratory import data_folder
from experiments.laboratory.errors import UserError, quoted

N_SUBSET, N_CLASSES = 7_600, 14
N_WHOLE = {"train": 560_000, "test": 70_000}
HUB = "fancyzhx/dbpedia_14"


@dataclass(frozen=True)
class Articles:
    """Labels (n,) from 0, a title and a content each, and the names of the classes."""

    label: np.ndarray
    title: list[str]
    content: list[str]
    classes: tuple[str, ...]

    def take(self, index: np.ndarray) -> "Articles":
        """The articles at `index`, in that order."""
        titles, contents = ([text[i] for i in index] for text in (self.title, self.content))
        return Articles(self.label[index], titles, contents, self.classes)


def load_subset() -> Articles:
    """The 7,600 rows of the subset, in the order of the file."""
    folder = data_folder.root() / "dbpedia"
    names = _read(folder / "classes.txt").split("\n")
    classes = tuple(name.strip() for name in names if name.strip())
    if len(classes) != N_CLASSES:
        raise UserError(
            f"{quoted(folder / 'classes.txt')} has {len(classes)} of {N_CLASSES} names: "
            "replace it by a "
            "complete copy with one name a line"
        )
    path = folder / "test.subset.csv"
    remedy = data_folder.replace(path)
    try:
        rows = list(csv.reader(_read(path).splitlines(), strict=True))
    except csv.Error as error:
        raise UserError(
            f"{quoted(path)} is not a table of quoted values ({error}): {remedy}"
        ) from error
    if len(rows) != N_SUBSET:
        raise UserError(f"{quoted(path)} has {len(rows):,} of {N_SUBSET:,} rows: {remedy}")
    for number, row in enumerate(rows, start=1):
        known = len(row) == 3 and re.fullmatch("[0-9]{1,2}", row[0])
        if not known or not 1 <= int(row[0]) <= N_CLASSES:
            raise UserError(
                f"{quoted(path)}, line {number}, is not a class from 1 to {N_CLASSES}, a "
                "title and a "
                f"content: {remedy}"
            )
    label = np.array([int(row[0]) - 1 for row in rows], dtype=np.int64)
    return Articles(label, [row[1] for row in rows], [row[2] for row in rows], classes)


def _read(path: Path) -> str:
    if not path.exists():
        raise data_folder.missing(
            f"{path.name} is not in {quoted(path.parent)}",
            "this subset has no download",
            "put it there, take --preset paper, which downloads the whole data set",
            "dbpedia",
        )
    return data_folder.read_text(path, data_folder.replace(path))


def load_whole(split: str) -> Articles:
    """The `train` or `test` rows of the whole data set, downloaded if they are missing."""
    folder = data_folder.root() / "dbpedia" / "huggingface"

    def failure(reason: str) -> UserError:
        remedy = (
            "run the same command where there is a network and copy the folder, take --preset "
            "small, which needs only the subset of 7,600 rows"
        )
        what = f"{HUB} is not in {quoted(folder)}"
        return data_folder.missing(what, reason, remedy, "dbpedia/huggingface")

    def load(cache_dir: str) -> Articles:
        from datasets import load_dataset

        table = load_dataset(HUB, split=split, cache_dir=cache_dir)
        label = np.asarray(table["label"], dtype=np.int64)
        classes = tuple(str(name) for name in table.features["label"].names)
        return Articles(label, list(table["title"]), list(table["content"]), classes)

    articles = data_folder.from_hub(folder, load, failure)
    n, expected = len(articles.label), N_WHOLE[split]
    if n != expected:
        raise UserError(f"{HUB} has {n:,} of {expected:,} rows: `rm -r {quoted(folder)}`")
    texts = [*articles.title, *articles.content]
    if not all(isinstance(text, str) for text in texts):
        raise failure("an article has no title or no content")
    if not 0 <= int(articles.label.min()) <= int(articles.label.max()) < N_CLASSES:
        raise failure(f"a label is outside 0 to {N_CLASSES - 1}")
    data_folder.note_content(
        f"{HUB} {split}", articles.label.tobytes(), *(text.encode() for text in texts)
    )
    return articles
