"""DBpedia-14: titles and first paragraphs of articles of 14 classes (Zhang, Zhao & LeCun, 2015).

At hand without a network is `dbpedia/test.subset.csv` under the data folder, 7,600 rows of the
original test file (class 1 to 14, title, content; no header), with `classes.txt`. The whole,
560,000 rows for training and 70,000 for testing, is read by Hugging Face's `datasets`.
"""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.laboratory import data_folder
from experiments.laboratory.data_folder import reachable
from experiments.laboratory.errors import UserError
from experiments.laboratory.runs import note

N_SUBSET, N_CLASSES = 7_600, 14
N_WHOLE = {"train": 560_000, "test": 70_000}
WHOLE, SERVER = "fancyzhx/dbpedia_14", "https://huggingface.co"


@dataclass(frozen=True)
class Articles:
    """Labels (n,) from 0, and a title and a content each; names of the classes."""

    label: np.ndarray
    title: list[str]
    content: list[str]
    classes: tuple[str, ...]

    def take(self, index: np.ndarray) -> "Articles":
        """The articles at `index`, in that order."""
        titles, contents = ([text[i] for i in index] for text in (self.title, self.content))
        return Articles(self.label[index], titles, contents, self.classes)


def load_subset() -> Articles:
    """The 7,600 rows at hand, in the order of the file."""
    folder = data_folder.root() / "dbpedia"
    names = _read(folder / "classes.txt").split("\n")
    classes = tuple(name.strip() for name in names if name.strip())
    if len(classes) != N_CLASSES:
        raise UserError(
            f"{folder / 'classes.txt'} has {len(classes)} of {N_CLASSES} names: copy a whole one "
            "there, a name a line"
        )
    path = folder / "test.subset.csv"
    mend = f"remove it with `rm {path}` and copy a whole one there"
    try:
        lines = list(csv.reader(_read(path).splitlines(), strict=True))
    except csv.Error as error:
        raise UserError(f"{path} is not a table of quoted values ({error}): {mend}") from error
    if len(lines) != N_SUBSET:
        raise UserError(f"{path} has {len(lines):,} of {N_SUBSET:,} rows: {mend}")
    label = np.empty(len(lines), dtype=np.int64)
    for number, line in enumerate(lines):
        known = len(line) == 3 and line[0].isdigit() and 1 <= int(line[0]) <= N_CLASSES
        if not known:
            raise UserError(
                f"{path}, line {number + 1}, is not a class from 1 to {N_CLASSES}, a title and a "
                f"content: {mend}"
            )
        label[number] = int(line[0]) - 1
    return Articles(label, [line[1] for line in lines], [line[2] for line in lines], classes)


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(
            f"{path.name} is not in {path.parent}, and this choice of 7,600 rows has no download: "
            "put it there, name another place with --data DIR or RETRACE_DATA=DIR, where DIR has "
            "dbpedia, or take --preset paper, which downloads the whole data set"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    note("data", {f"dbpedia/{path.name}": f"md5 {digest}"})
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: copy a whole one there") from error


def load_whole(split: str) -> Articles:
    """The `train` or `test` rows of the whole data set, downloaded if they are not there."""
    from datasets import load_dataset

    folder = data_folder.root() / "dbpedia" / "huggingface"
    if not folder.exists() and not reachable(SERVER):
        raise _unavailable(folder, f"{SERVER} does not answer")
    try:
        table = load_dataset(WHOLE, split=split, cache_dir=str(folder))
        label = np.asarray(table["label"], dtype=np.int64)
        title, content = list(table["title"]), list(table["content"])
        classes = tuple(str(name) for name in table.features["label"].names)
    except Exception as error:  # whatever it was: the remedy is the same
        raise _unavailable(folder, f"it could not be read: {error}") from error
    if len(label) != N_WHOLE[split]:
        raise UserError(f"{WHOLE} has {len(label):,} of {N_WHOLE[split]:,} rows: `rm -r {folder}`")
    digest = hashlib.md5(label.tobytes(), usedforsecurity=False)
    for text in (*title, *content):
        digest.update(text.encode())
    note("data", {f"{WHOLE} {split}": f"md5 {digest.hexdigest()}"})
    return Articles(label, title, content, classes)


def _unavailable(folder: Path, reason: str) -> UserError:
    return UserError(
        f"{WHOLE} is not in {folder} and {reason}: run the same command where there is a network "
        "and copy the folder, or name another place with --data DIR or RETRACE_DATA=DIR, where "
        "DIR has dbpedia/huggingface; --preset small needs the 7,600 rows at hand alone"
    )
