"""What is shown of finished runs: their numbers, what a person can look at, and what made them."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.laboratory import privacy, runs
from experiments.laboratory.run import Run
from experiments.laboratory.table import flatten
from experiments.laboratory.tracking import pages, sources
from experiments.laboratory.tracking.interface import Content, Picture, Table
from experiments.laboratory.tracking.lines import lines

TABLE_ROWS = 1_000  # longer arrays are shown as a histogram
IMAGES = 30
FACTS = (
    "commit", "dirty", "device", "gpu", "precision", "deterministic", "seconds",
    "peak_memory_bytes", "data", "slurm", "resumed",
)  # fmt: skip


def of_run(run: Run, watched: bool = False) -> Content:
    """A finished run; of a model that nobody watched, also the curve of its training."""
    tables, histograms, pictures = _arrays(run)
    facts = {f"meta/{name}": run.meta.get(name) for name in FACTS} | _cost(run)
    return Content(
        lines=[] if watched else list(curve(run)),
        numbers=privacy.scrubbed(run.metrics),
        facts=privacy.scrubbed(facts),
        tables=tables,
        histograms=histograms,
        pictures=pictures,
        used=[*sources.of_data(run), *sources.of_parts(run)],
        made=[sources.of_run(run)],
    )


def of_preset(name: str, preset: str, finished: Sequence[Run]) -> Content:
    """A complete preset: a table of its runs, and its artifacts with their verdicts."""
    rows = [privacy.scrubbed(flatten(run.config) | run.metrics) for run in finished]
    tables, pictures, facts, made = {"runs": _table(rows)}, {}, {}, []
    for image, about in drawn(name, preset).items():
        word = about["verdict"]["word"]
        pictures[f"figures/{image.stem}"] = [Picture(image, f"{about['title']}: {word}")]
        facts[f"verdict/{image.stem}"] = word
        if image.with_suffix(".csv").exists():
            tables[f"numbers/{image.stem}"] = _read(image.with_suffix(".csv"))
        made.append(sources.of_artifact(image, about, finished))
    used = [sources.of_run(run) for run in finished] if sources.limit() else []
    return Content(tables=tables, pictures=pictures, facts=facts, used=used, made=made)


def drawn(name: str, preset: str) -> dict[Path, dict[str, Any]]:
    """The figures made of a preset's runs, with their provenance."""
    return {
        path: about
        for about in pages.artifacts(name, preset).values()
        if (path := runs.results() / "artifacts" / preset / f"{about['id']}.png").exists()
    }


def curve(run: Run) -> Iterator[dict[str, float]]:
    """The training loss by epoch, from 1 on, and the learning rate where it was kept."""
    if pages.kind(run) != "train":
        return
    losses = run.array(pages.CURVE)
    rates = _rates(run, len(losses))
    for epoch, loss in enumerate(losses, start=1):
        yield lines({"epoch": epoch, "loss": loss, **rates.get(epoch, {})})


def _rates(run: Run, epochs: int) -> dict[int, dict[str, float]]:
    """The learning rate at the end of each epoch that has a checkpoint."""
    if not {"steps", "lrs"} <= run.meta["arrays"].keys():
        return {}
    steps, rates = run.array("steps"), run.array("lrs")
    if len(steps) != len(rates) or not len(steps) or steps[-1] <= 0:
        return {}
    where = np.round(steps * epochs / steps[-1]).astype(int).tolist()
    return {epoch: {"lr": float(rate)} for epoch, rate in zip(where, rates, strict=True)}


def _cost(run: Run) -> dict[str, float]:
    gpu = run.meta.get("gpu") or {}
    cost = {"cost/hours": run.meta["seconds"] / 3600}
    if gpu.get("seconds") is not None:
        cost["cost/gpu_hours"] = gpu["seconds"] / 3600
    if gpu.get("peak_memory_bytes") is not None:
        cost["cost/gpu_memory_gib"] = gpu["peak_memory_bytes"] / 2**30
    return cost


def _arrays(run: Run) -> tuple[dict[str, Table], dict[str, np.ndarray], dict[str, list[Picture]]]:
    """The arrays that a person can look at."""
    columns: dict[int, dict[str, np.ndarray]] = {}
    histograms, pictures = {}, {}
    for name in run.meta["arrays"]:
        array = run.array(name)
        if array.ndim == 1 and 0 < len(array) <= TABLE_ROWS:
            columns.setdefault(len(array), {})[name] = array
        elif array.ndim == 1 and array.dtype.kind in "biuf":
            histograms[f"histograms/{name}"] = array[np.isfinite(array)].astype(np.float64)
        elif array.ndim == 3 and array.dtype == np.uint8:
            pictures[f"images/{name}"] = [Picture(np.asarray(image)) for image in array[:IMAGES]]
    tables = {}
    for length, arrays in columns.items():
        rows = zip(*(array.tolist() for array in arrays.values()), strict=True)
        tables[f"tables/{length}_rows"] = Table(
            list(arrays), privacy.scrubbed([list(row) for row in rows])
        )
    return tables, histograms, pictures


def _read(path: Path) -> Table:
    with path.open(newline="") as file:
        return _table([{k: _value(v) for k, v in row.items()} for row in csv.DictReader(file)])


def _table(records: Sequence[dict[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for record in records for name in record))
    kinds = {name: {type(r[name]) for r in records if r.get(name) is not None} for name in names}
    plain = {name for name, kind in kinds.items() if len(kind) == 1 and list not in kind}

    def cell(record: dict[str, Any], name: str) -> Any:
        # A column of W&B has one type: values of several types become text.
        value = record.get(name)
        return value if value is None or name in plain else str(value)

    return Table(names, [[cell(record, name) for name in names] for record in records])


def _value(text: str) -> float | str | None:
    try:
        return float(text) if text else None
    except ValueError:
        return text
