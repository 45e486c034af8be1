"""How pages are called: titles that people read, tags to sort by, settings to filter by."""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.laboratory import privacy, runs
from experiments.laboratory.errors import UserError
from experiments.laboratory.provenance import REPOSITORY
from experiments.laboratory.run import Run
from experiments.laboratory.table import flatten, varying
from experiments.laboratory.tracking.interface import Page

CURVE = "train_loss"  # the loss of each epoch, by experiments.training: only trained models have it
LONGEST = 120  # characters of a title


def of_cell(name: str, preset: str, key: str, config: Mapping[str, Any]) -> Page:
    """The page of a cell that is now computed."""
    return _page(name, preset, key, config, "score", title(name, preset, config), watched=True)


def of_run(run: Run, preset: str, job: str, experiment: str) -> Page:
    """The page of a finished cell of an experiment, or of a run that one is made of."""
    return _page(run.name, preset, run.key, run.config, job, titled(run, preset), experiment)


def of_preset(name: str, preset: str) -> Page:
    """The page of a preset whose cells are all there."""
    return _page(name, preset, f"{name}-{preset}", {}, "artifact", f"{name} {preset}")


def kind(run: Run) -> str:
    """The job of a run that cells are made of: `train` if it is a trained model."""
    return "train" if CURVE in run.meta["arrays"] else "score"


def titled(run: Run, preset: str) -> str:
    """The title of a finished run, which knows what its method is called."""
    method = run.metrics.get("method")
    return title(run.name, preset, run.config, method if isinstance(method, str) else None)


def title(name: str, preset: str, config: Mapping[str, Any], method: str | None = None) -> str:
    """As "mnist_mislabel paper TracIn[10] seed 3": what tells a cell of a preset from the others.

    Without the name of the method, its class and what varies of its settings stand for it.
    """
    settings = flatten(config)
    words = [name, preset]
    if method or "method" in settings:
        words.append(method or str(settings["method"]))
    seeds = [setting for setting in settings if setting.rpartition(".")[2] == "seed"]
    for setting in _varying(name, preset, settings.get("method")):
        of_method = setting == "method" or (method and setting.startswith("method."))
        if setting in settings and setting not in seeds[:1] and not of_method:
            short = " ".join(setting.split(".")[-2:]) if setting in seeds else setting
            words.append(f"{short.rpartition('.')[2]} {settings[setting]}")
    words += [f"seed {settings[setting]}" for setting in seeds[:1]]
    text = privacy.scrubbed(" ".join(words))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def artifacts(name: str, tier: str | None = None) -> dict[str, dict[str, Any]]:
    """The artifacts made of an experiment's runs, of one tier or of all: what is known of each."""
    return {
        about["id"]: about
        for about in all_artifacts()
        if about["numbers"].get("experiment") == name and tier in (None, about["tier"])
    }


def all_artifacts() -> Iterator[dict[str, Any]]:
    """What is known of every artifact in the repository, and of every one that was built here."""
    for folder in dict.fromkeys((REPOSITORY / "results", runs.results())):
        for path in sorted((folder / "artifacts").glob("*/*.json")):
            now = path.stat()
            about = _about(path, (now.st_mtime_ns, now.st_ctime_ns, now.st_size))
            if about is not None:
                yield about


def paper(about: Mapping[str, Any]) -> str:
    """The short name of an artifact's paper, as `Arnoldi`; "" if it is of no paper."""
    name = str(about.get("paper", "")).partition(" (")[0]
    return "" if name.startswith("no paper") else name


def _page(
    name: str,
    preset: str,
    page_id: str,
    config: Mapping[str, Any],
    job: str,
    shown: str,
    experiment: str | None = None,
    watched: bool = False,
) -> Page:
    known = {"key": page_id} if config else {}
    settings = flatten(config) | known | {"experiment": name, "preset": preset}
    return Page(
        page_id, name, shown, f"{experiment or name}/{preset}", job,
        _tags(experiment or name, preset), privacy.scrubbed(settings), watched,
    )  # fmt: skip


def _tags(name: str, preset: str) -> tuple[str, ...]:
    made = artifacts(name)
    papers = sorted({found for about in made.values() if (found := paper(about))})
    return (
        f"tier:{preset}",
        *(f"paper:{one}"[:64] for one in papers),
        *(f"artifact:{one}"[:64] for one in made),
    )


def _varying(name: str, preset: str, method: Any) -> Sequence[str]:
    """The settings in which the cells of a preset with this class of method differ."""
    try:
        settings = [flatten(entry["config"]) for entry in runs.planned(name, preset)]
    except UserError:  # of a model, which has no presets
        return ()
    return varying([each for each in settings if each.get("method") == method])


@functools.lru_cache(maxsize=1024)
def _about(path: Path, _version: tuple[int, ...]) -> dict[str, Any] | None:
    try:
        about = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    known = isinstance(about, dict) and isinstance(about.get("numbers"), dict)
    return {**about, "id": path.stem, "tier": path.parent.name} if known else None
