"""What a page of W&B shows of a run, of a preset and of its artifacts."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import runs
from experiments.runs import Run
from experiments.table import flatten

TABLE_ROWS = 1_000  # longer arrays are sent as a histogram
IMAGES = 30
FACTS = ("commit", "dirty", "device", "seconds", "peak_memory_bytes", "data", "slurm", "resumed")
CURVE = "train_loss"  # what experiments.training keeps of its epochs: a run that has it is a model


def kind(run: Run) -> str:
    """The job type of what cells are made of: a model is trained, the rest prepares scores."""
    return "train" if CURVE in run.meta["arrays"] else "score"


def curve(run: Run) -> Iterator[dict[str, float]]:
    """The loss of a training by epoch, from 1 on."""
    if kind(run) == "train":
        for epoch, loss in enumerate(run.array(CURVE).tolist(), start=1):
            yield {"training/epoch": epoch, "training/loss": loss}


def media(wandb: Any, run: Run) -> dict[str, Any]:
    """The arrays of a run that a person can look at: tables, histograms and images."""
    found: dict[str, Any] = {}
    columns: dict[int, dict[str, np.ndarray]] = {}
    for name in run.meta["arrays"]:
        array = run.array(name)
        if array.ndim == 1 and 0 < len(array) <= TABLE_ROWS:
            columns.setdefault(len(array), {})[name] = array
        elif array.ndim == 1 and array.dtype.kind in "biuf":
            values = array[np.isfinite(array)].astype(np.float64)
            counted = np.histogram(values, bins=64)
            found[f"histograms/{name}"] = wandb.Histogram(np_histogram=counted)
        elif array.ndim == 3 and array.dtype == np.uint8:
            found[f"images/{name}"] = [wandb.Image(np.asarray(image)) for image in array[:IMAGES]]
    for length, arrays in columns.items():
        rows = zip(*(array.tolist() for array in arrays.values()), strict=True)
        table = wandb.Table(columns=list(arrays), data=[list(row) for row in rows])
        found[f"tables/{length}_rows"] = table
    return found


def overview(wandb: Any, found: Sequence[Run]) -> Any:
    """Settings and metrics of many runs as one table."""
    return _table(wandb, [flatten(run.config) | run.metrics for run in found])


def artifacts(name: str, preset: str) -> dict[Path, dict[str, Any]]:
    """The figures made of a preset's runs, with their provenance."""
    found = {}
    for path in sorted((runs.results() / "artifacts" / preset).glob("*.json")):
        about = json.loads(path.read_bytes())
        if about["numbers"]["experiment"] == name and path.with_suffix(".png").exists():
            found[path.with_suffix(".png")] = about
    return found


def artifact(wandb: Any, image: Path, about: dict[str, Any]) -> dict[str, Any]:
    """One artifact: its figure, captioned with title and verdict, and its numbers as a table."""
    caption = f"{about['title']}: {about['verdict']['word']}"
    found = {f"figures/{image.stem}": wandb.Image(str(image), caption=caption)}
    if image.with_suffix(".csv").exists():
        with image.with_suffix(".csv").open(newline="") as file:
            records = [{k: _value(v) for k, v in row.items()} for row in csv.DictReader(file)]
        found[f"numbers/{image.stem}"] = _table(wandb, records)
    return found


def _table(wandb: Any, records: Sequence[dict[str, Any]]) -> Any:
    names = list(dict.fromkeys(name for record in records for name in record))
    kinds = {name: {type(r[name]) for r in records if r.get(name) is not None} for name in names}
    plain = {name for name, kind in kinds.items() if len(kind) == 1 and list not in kind}
    # A column of W&B has one type: what varies is written out.
    rows = [
        [
            None if r.get(name) is None else r[name] if name in plain else str(r[name])
            for name in names
        ]
        for r in records
    ]
    return wandb.Table(columns=names, data=rows)


def _value(text: str) -> float | str | None:
    try:
        return float(text) if text else None
    except ValueError:
        return text
