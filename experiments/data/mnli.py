"""MultiNLI (Williams, Nangia & Bowman, 2018): premise, hypothesis, one of three labels.

subset  multinli/multinli_1.0_train.subset.jsonl, 12,808 of the training pairs, and all matched
        pairs of the development set, multinli_1.0_dev_matched.jsonl
whole   the files of the published archive, multinli_1.0/*.jsonl, or, where they are not there,
        Hugging Face's `datasets`
"""

import json
from pathlib import Path
from typing import Literal

import numpy as np

from experiments.data.pairs import THREE, Pairs, made, read
from experiments.laboratory import data_folder
from experiments.laboratory.data_folder import reachable
from experiments.laboratory.errors import UserError
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
HUB, SERVER = "nyu-mll/multi_nli", "https://huggingface.co"
HUB_SPLIT = {"train": "train", "dev_matched": "validation_matched"}


def load(source: Source, split: Split) -> Pairs:
    """The labelled pairs of a split, in the order of the source, with three labels.

    Pairs without a gold label, on which annotators did not agree, are left out, as everywhere.
    """
    path = data_folder.root() / FILES[source][split]
    if path.exists():
        rows = _lines(path, FILES[source][split])
    elif source == "subset":
        raise UserError(
            f"{path.name} is not in {path.parent}, and this choice of pairs has no download: put "
            "it there, name another place with --data DIR or RETRACE_DATA=DIR, where DIR has "
            "multinli, or take --preset paper, which downloads the whole data set"
        )
    else:
        rows = _hub(split)
    if len(rows) != N[source][split]:
        raise UserError(
            f"MultiNLI {split} has {len(rows):,} of {N[source][split]:,} labelled pairs: remove "
            f"the incomplete copy and put a whole one at {path}"
        )
    n = len(rows)
    return made(rows, THREE, ["mnli"] * n, ["mnli"] * n)


def _lines(path: Path, shown: str) -> list[tuple[str, str, str]]:
    mend = f"remove it with `rm {path}` and copy a whole one there"
    rows = []
    for number, line in enumerate(read(path, shown, mend).splitlines(), start=1):
        try:
            found = json.loads(line)
            row = (found["gold_label"], found["sentence1"], found["sentence2"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}, is not a pair with gold_label, sentence1 and sentence2: "
                f"{mend}"
            ) from error
        if row[0] in THREE:
            rows.append(row)
        elif row[0] != "-":
            raise UserError(
                f"{path}, line {number}, has the label {row[0]!r}, MultiNLI has "
                f"{', '.join(THREE)}: {mend}"
            )
    return rows


def _hub(split: Split) -> list[tuple[str, str, str]]:
    folder = data_folder.root() / "multinli" / "huggingface"
    if not folder.exists() and not reachable(SERVER):
        raise _unavailable(folder, f"{SERVER} does not answer")
    try:
        from datasets import load_dataset

        table = load_dataset(HUB, split=HUB_SPLIT[split], cache_dir=str(folder))
        label = np.asarray(table["label"])
        names = [str(name) for name in table.features["label"].names]
        premise, hypothesis = list(table["premise"]), list(table["hypothesis"])
    except Exception as error:  # whatever it was: the remedy is the same
        raise _unavailable(folder, f"it could not be read: {error}") from error
    note("data", {f"{HUB} {split}": f"{len(label)} pairs"})
    columns = zip(label, premise, hypothesis, strict=True)
    return [(names[one], p, h) for one, p, h in columns if one >= 0]


def _unavailable(folder: Path, reason: str) -> UserError:
    return UserError(
        f"MultiNLI is neither in {data_folder.root() / 'multinli_1.0'} nor in {folder}, "
        f"and {reason}: "
        "unpack multinli_1.0.zip in the data folder, or run the same command where there is a "
        "network, or name another place with --data DIR or RETRACE_DATA=DIR"
    )
