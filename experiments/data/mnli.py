"""MultiNLI (Williams, Nangia & Bowman, 2018): premise, hypothesis, one of three labels.

subset  multinli/multinli_1.0_train.subset.jsonl, 12,808 of the training pairs, and all matched
        pairs of the development set, multinli_1.0_dev_matched.jsonl
whole   the files of the published archive, multinli_1.0/*.jsonl, or Hugging Face's `datasets`
        if they are missing
"""

import json
from pathlib import Path
from typing import Literal

from experiments.data.pairs import THREE, Pairs, from_rows
from experiments.laboratory import data_folder
from experiments.laboratory.errors import UserError, quoted
from experiments.laboratory.runs import note

Source = Literal["subset", "whole"]
Split = Literal["train", "dev_matched"]

FILES: dict[Source, dict[Split, str]] = {
    "subset": {
        "train": "multinli/multinli_1.0_train.subset.jsonl",
        "dev_matched": "multinli/multinli_1.0_dev_matched.jsonl",
    },
    "whole": {
        "train": "multinli_1.0/multinli_1.0_train.jsonl",
        "dev_matched": "multinli_1.0/multinli_1.0_dev_matched.jsonl",
    },
}
N: dict[Source, dict[Split, int]] = {
    "subset": {"train": 12_808, "dev_matched": 9_815},
    "whole": {"train": 392_702, "dev_matched": 9_815},
}
HUB = "nyu-mll/multi_nli"
HUB_SPLIT = {"train": "train", "dev_matched": "validation_matched"}


def load(source: Source, split: Split) -> Pairs:
    """The labelled pairs of a split, in the order of the source, with three labels.

    Pairs without a gold label, on which annotators disagreed, are left out, as is usual.
    """
    path = data_folder.root() / FILES[source][split]
    if path.exists():
        rows = _from_file(path)
    elif source == "subset":
        raise data_folder.missing(
            f"{path.name} is not in {quoted(path.parent)}",
            "this subset has no download",
            "put it there, take --preset paper, which downloads the whole data set",
            "multinli",
        )
    else:
        rows = _from_hub(split)
    n, expected = len(rows), N[source][split]
    if n != expected:
        raise UserError(
            f"MultiNLI {split} has {n:,} of {expected:,} labelled pairs: remove the incomplete "
            f"copy and put a complete one at {quoted(path)}"
        )
    return from_rows(rows, THREE, ["mnli"] * n, ["mnli"] * n)


def _from_file(path: Path) -> list[tuple[str, str, str]]:
    remedy = data_folder.replace(path)
    rows = []
    lines = data_folder.read_text(path, remedy).removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            fields = json.loads(line)
            row = (fields["gold_label"], fields["sentence1"], fields["sentence2"])
            if not all(isinstance(cell, str) for cell in row):
                raise ValueError("a cell is no text")
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{quoted(path)}, line {number}, is not a pair with gold_label, sentence1 and "
                "sentence2: "
                f"{remedy}"
            ) from error
        if row[0] in THREE:
            rows.append(row)
        elif row[0] != "-":
            raise UserError(
                f"{quoted(path)}, line {number}, has the label {row[0]!r}, MultiNLI has "
                f"{', '.join(THREE)}: {remedy}"
            )
    return rows


def _from_hub(split: Split) -> list[tuple[str, str, str]]:
    folder = data_folder.root() / "multinli" / "huggingface"

    def failure(reason: str) -> UserError:
        what = (
            f"MultiNLI is neither in {quoted(data_folder.root() / 'multinli_1.0')} nor in "
            f"{quoted(folder)}"
        )
        remedy = (
            "unpack multinli_1.0.zip in the data folder, or run the same command where there is a "
            "network"
        )
        return data_folder.missing(what, reason, remedy, "multinli_1.0")

    def load(cache_dir: str) -> list[tuple[str, str, str]]:
        from datasets import load_dataset

        table = load_dataset(HUB, split=HUB_SPLIT[split], cache_dir=cache_dir)
        names = [str(name) for name in table.features["label"].names]
        columns = zip(table["label"], table["premise"], table["hypothesis"], strict=True)
        return [(names[label], p, h) for label, p, h in columns if label >= 0]

    rows = data_folder.from_hub(folder, load, failure)
    if wrong := [i for i, row in enumerate(rows) if not all(isinstance(c, str) for c in row)]:
        raise failure(f"pair {wrong[0]} has a sentence that is no text")
    note("data", {f"{HUB} {split}": f"{len(rows)} pairs"})
    return rows
