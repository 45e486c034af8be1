"""What there is to look at in finished runs: every query, with what each method found for it.

Shown is the lowest seed. Runs that were made before all of it was kept have nothing to look at.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.numbers.found import IMAGE, SIDES, TEXT, Best, Query, as_example, assembled
from analysis.numbers.influence_graph import MODELS, SLICES
from experiments.laboratory.runs import Run

ROLES = dict(zip(SIDES, ("proponent", "opponent"), strict=True))
PAIR = " ▸ "  # between premise and hypothesis


def images(runs: Sequence[Run], classes: Sequence[str]) -> list[Query]:
    """Queries of runs of experiments.images.proponents, by number in their pool."""
    first = _first(runs, "found_images", "all_query_images")
    if not first:
        return []
    query, about = first[0], {}
    for run in first:
        for role in ROLES.values():
            facts = (run.array(f"{role}_{name}") for name in ("index", "label", "predicted"))
            for number, label, predicted in zip(*(one.ravel() for one in facts), strict=True):
                about[int(number)] = {"label": classes[label], "predicted": classes[predicted]}
        pictures = zip(run.array("found"), run.array("found_images"), strict=True)
        for number, pixels in pictures:
            about[int(number)][IMAGE] = pixels
    columns = ("query_index", "label", "predicted", "all_query_images")
    asked = {
        int(number): {"label": classes[label], "predicted": classes[predicted], IMAGE: pixels}
        for number, label, predicted, pixels in zip(*map(query.array, columns), strict=True)
    }
    sides = {str(run.metrics["method"]): _sides(run, query.array("query_index")) for run in first}
    return _assembled(sides, asked, about)


def articles(runs: Sequence[Run]) -> list[Query]:
    """Queries of runs of the experiment dbpedia, by number in their part."""
    names = {"TracIn": "TracIn", "NearestFeatures": "Nearest features"}
    first, sides = _first(runs, "texts", "query_index"), {}
    texts: dict[str, dict[int, Any]] = {"train": {}, "test": {}}
    for run in first:
        for part, some in _texts(run).items():
            texts[part] |= some
        sides[names[run.config["method"]["type"]]] = _sides(run, run.array("query_index"))
    for some in texts.values():
        for one in some.values():
            one[TEXT] = f"{one.pop('title')}. {one[TEXT]}"
    return _assembled(sides, texts["test"], texts["train"]) if first else []


def pairs(runs: Sequence[Run]) -> list[Query]:
    """Wrongly predicted pairs of runs of the experiment mnli_effects, model by model."""
    queries = []
    for run in _first(runs, "texts", "query", "proponent_index"):
        texts, model = _texts(run), MODELS[run.config["model"]["train"]["which"]]
        for some in texts.values():
            for one in some.values():
                one[TEXT] = f"{one.pop('premise')}{PAIR}{one.pop('hypothesis')}"
                one["part"] = SLICES.get(one["part"], one["part"])
        for one in texts["query"].values():
            one["model of"] = model
        if len(run.array("query")):
            sides = {"FastIF": _sides(run, run.array("query"))}
            queries += _assembled(sides, texts["query"], texts["train"])
    return queries


def _first(runs: Sequence[Run], *names: str) -> list[Run]:
    """The runs of the lowest seed, if all of them have these arrays."""
    lowest = min((int(run.config["model"]["seed"]) for run in runs), default=0)
    first = [run for run in runs if int(run.config["model"]["seed"]) == lowest]
    whole = all(name in getattr(run, "kept", run.meta["arrays"]) for run in first for name in names)
    return first if whole else []


def _texts(run: Run) -> dict[str, dict[int, dict[str, str]]]:
    """Texts and facts by part and number, which a run keeps as the bytes of JSON."""
    parts = json.loads(np.asarray(run.array("texts")).tobytes())
    return {part: {int(n): one for n, one in some.items()} for part, some in parts.items()}


def _sides(run: Run, queries: np.ndarray) -> dict[str, Best]:
    return {
        side: Best(queries, run.array(f"{role}_score"), run.array(f"{role}_index"))
        for side, role in ROLES.items()
    }


def _assembled(
    sides: dict[str, dict[str, Best]], asked: dict[int, Any], about: dict[int, Any]
) -> list[Query]:
    return assembled(
        sides,
        lambda number: as_example(number, asked[number], f"query {number}"),
        lambda number: as_example(number, about[number], f"candidate {number}"),
    )
