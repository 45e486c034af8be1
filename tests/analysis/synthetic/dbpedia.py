"""Made-up runs of the experiment on DBpedia."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.analysis.synthetic.shapes import write_made_up

QUERIES, LISTED = 80, 5
ROLES = ("example", "proponent 1", "proponent 2", "opponent 1")


@dataclass(frozen=True)
class Model:
    seed: int


@dataclass(frozen=True)
class TracIn:
    pass


@dataclass(frozen=True)
class NearestFeatures:
    pass


@dataclass(frozen=True)
class Config:
    model: Model
    method: TracIn | NearestFeatures = TracIn()


def cells(seeds: int) -> list[Config]:
    methods = (TracIn(), NearestFeatures())
    return [Config(Model(seed), method) for seed in range(seeds) for method in methods]


def write(preset: str, seeds: int, *, share: float = 0.97) -> None:
    """Write a preset in which a `share` of the proponents is of the query's class."""
    write_made_up("dbpedia", preset, cells(seeds), lambda cell: result(cell, share))


def found(draw: np.random.Generator) -> dict[str, Any]:
    """The ends of each query's list, and the texts of queries and of what was found."""
    about = {"title": "A <b>title</b>", "label": "Plant", "predicted": "Animal"}
    texts = {
        part: {i: {**about, "text": f"{part} text {i}"} for i in range(QUERIES)}
        for part in ("train", "test")
    }
    ends = {
        f"{role}_index": draw.integers(QUERIES, size=(QUERIES, LISTED))
        for role in ("proponent", "opponent")
    }
    scores = {name.replace("index", "score"): draw.normal(size=ends[name].shape) for name in ends}
    packed = np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8)
    return {"query_index": draw.permutation(QUERIES), **ends, **scores, "texts": packed}


def result(cell: Config, share: float) -> dict[str, Any]:
    draw = np.random.default_rng([cell.model.seed, isinstance(cell.method, TracIn)])
    same = draw.random((QUERIES, LISTED)) < share
    twin = draw.random((QUERIES, LISTED)) < 0.1
    distinct = same.astype(np.int8)
    distinct[0, -1] = -1  # a list that ends early
    texts = [f'{role}, a "text" of $5 with, commas ' * 30 for role in ROLES]
    return {
        **found(draw),
        "accuracy_test": 0.95 + 0.01 * draw.random(),
        "same_label": same,
        "same_label_and_prediction": same & (draw.random((QUERIES, LISTED)) < 0.99),
        "twin": twin,
        "distinct_same_label": distinct,
        "chance": np.full(QUERIES, 1 / 14),
        "opponent_same_label": draw.random((QUERIES, LISTED)) < 0.05,
        "query_correct": np.arange(QUERIES) % 10 > 0,
        "twin_of": np.array(["One river", "Another"]),
        "twin_title": np.array(["One river more", "Another one"]),
        "twin_likeness": np.array([0.7, 0.8]),
        "shown_role": np.array(ROLES),
        "shown_label": np.array(["Plant", "Plant", "Plant", "EducationalInstitution"]),
        "shown_prediction": np.array(["Plant", "Plant", "Animal", "EducationalInstitution"]),
        "shown_title": np.array([f"The {role}" for role in ROLES]),
        "shown_content": np.array(texts),
        "shown_score": np.array([0.0, 0.2, 0.1, -0.3]),
    }
