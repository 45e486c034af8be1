"""From data to tables: what each page was made from and what it made, and the files of it.

They are sent as W&B's Artifacts, and only where a size is given for the files of one of them.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.laboratory import privacy, runs
from experiments.laboratory.errors import UserError
from experiments.laboratory.run import Run
from experiments.laboratory.tracking import pages
from experiments.laboratory.tracking.interface import Source

FILES = "RETRACE_TRACK_FILES"
_UNITS = {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def limit() -> int:
    """The most bytes of files that are sent of one run, by $RETRACE_TRACK_FILES; 0 for none."""
    return size(os.environ.get(FILES) or "0")


def size(text: str) -> int:
    """A number of bytes, written as 200MB."""
    found = re.fullmatch(r"\s*(\d+)\s*(|kB|MB|GB)\s*", text)
    if not found:
        raise UserError(f"{FILES} is {text!r}: give a size as 200MB, 2GB, or 0 for none")
    return int(found[1]) * _UNITS[found[2]]


def of_data(run: Run) -> list[Source]:
    """The files of data sets that a run has read: their names and checksums alone."""
    if not limit():
        return []
    return [
        Source(_name("data", file), "dataset", privacy.scrubbed({"file": file, "checksum": said}))
        for file, said in sorted((run.meta.get("data") or {}).items())
    ]


def of_parts(run: Run) -> list[Source]:
    """The runs that a run is made of, those that are still here."""
    if not limit():
        return []
    paths = [runs.results() / "runs" / part["name"] / part["key"] for part in run.meta["parts"]]
    return [of_run(Run.at(path)) for path in paths if path.is_dir()]


def of_run(run: Run) -> Source:
    """A run: its settings and numbers, and its arrays if they are small enough together."""
    arrays = run.meta["arrays"]
    small = sum(facts["bytes"] for facts in arrays.values()) <= limit()
    files = {f"{name}.npy": run.path / "arrays" / f"{name}.npy" for name in arrays} if small else {}
    facts = {
        "key": run.key,
        "config": run.config,
        "metrics": run.metrics,
        "commit": run.meta.get("commit"),
        "arrays": {name: about["sha256"] for name, about in arrays.items()},
    }
    made_from = [*(run.meta.get("data") or {})]
    return Source(
        _name(run.name, run.key),
        "model" if pages.kind(run) == "train" else "run",
        privacy.scrubbed(facts),
        files,
        tuple(_name("data", file) for file in sorted(made_from))
        + tuple(_name(part["name"], part["key"]) for part in run.meta["parts"]),
    )


def of_artifact(image: Path, about: Mapping[str, Any], finished: Sequence[Run]) -> Source:
    """A table or figure: its picture and its numbers."""
    both = (image, image.with_suffix(".csv"))
    facts = {
        "title": about["title"],
        "verdict": about["verdict"]["word"],
        "tier": image.parent.name,
    }
    return Source(
        _name(image.stem, image.parent.name),
        "table",
        privacy.scrubbed(facts),
        {path.name: path for path in both if path.exists()},
        tuple(_name(run.name, run.key) for run in finished),
    )


def _name(*words: str) -> str:
    """A name as servers allow it."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join(words)).strip("_")[:120]


def as_text(facts: Mapping[str, Any]) -> str:
    """Facts as a file that is the same whenever they are."""
    return json.dumps(facts, indent=1, sort_keys=True) + "\n"
