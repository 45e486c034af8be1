"""Made-up runs of mnli_effects: few strong helpful edges, many weak harmful ones, shared hubs."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.analysis.synthetic.shapes import write_made_up

SLICES = ("lexical_overlap", "subsequence", "constituent")
QUERIES, K, N_TRAIN = 40, 60, 600


@dataclass(frozen=True)
class Sample:
    which: str


@dataclass(frozen=True)
class Model:
    train: Sample
    seed: int


@dataclass(frozen=True)
class Config:
    model: Model
    part: str


def cells(seeds: int) -> list[Config]:
    return [
        Config(Model(Sample(which), seed), part)
        for seed in range(seeds)
        for which in ("mnli train", "hans train")
        for part in ("mnli", *SLICES)
    ]


def write(preset: str, seeds: int, *, sign: float = 1.0, none_wrong: str = "") -> None:
    """Write a preset; a negative sign makes helpful harmful; one slice of HANS may be all right."""

    def made(cell: Config) -> dict[str, Any]:
        empty = cell.part == none_wrong and cell.model.train.which == "hans train"
        return result(cell, 0 if empty else QUERIES, sign)

    write_made_up("mnli_effects", preset, cells(seeds), made)


def found(candidates: np.ndarray, scores: np.ndarray, parts: np.ndarray) -> dict[str, Any]:
    """The most helpful and most harmful pairs of each query, and sentences."""
    order = np.argsort(-scores, axis=1)
    ends = {"proponent": order[:, :3], "opponent": order[:, ::-1][:, :3]}
    made = {}
    for role, places in ends.items():
        made[f"{role}_index"] = np.take_along_axis(candidates, places, axis=1)
        made[f"{role}_score"] = np.take_along_axis(scores, places, axis=1)
    pair = {"premise": "A dog runs.", "hypothesis": "It sleeps.", "label": "entailment"}
    texts = {
        "train": {i: {**pair, "part": str(part)} for i, part in enumerate(parts)},
        "query": {i: {**pair, "part": "mnli", "predicted": "neutral"} for i in range(len(scores))},
    }
    return {**made, "texts": np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8)}


def result(cell: Config, n: int, sign: float) -> dict[str, Any]:
    """Slices of HANS share half of their candidates, whose influence is alike on all of them."""
    on_hans = cell.model.train.which == "hans train"
    place = ("mnli", *SLICES).index(cell.part)
    draw = np.random.default_rng([cell.model.seed, place, on_hans])
    model = np.random.default_rng([cell.model.seed, 99, on_hans])
    effect = np.where(model.random(N_TRAIN) < 0.1, 3.0, -0.3) * (0.5 + model.random(N_TRAIN))
    parts = np.array(SLICES)[np.arange(N_TRAIN) % 3] if on_hans else np.full(N_TRAIN, "mnli")
    if on_hans:
        effect *= np.where(parts == "lexical_overlap", 3.0, 1.0)
    if not place:
        effect = 0.5 * effect + 0.5 * model.permutation(effect)
    own = np.arange(N_TRAIN) // 150 == place
    if place:  # of HANS: half from what all of its slices are near
        own |= np.arange(N_TRAIN) < 100
    near = np.flatnonzero(own)
    candidates = np.stack([draw.permutation(near)[:K] for _ in range(n)] or [np.zeros(K)])[:n]
    candidates = candidates.astype(np.int32)
    noise = 0.1 * draw.normal(size=candidates.shape)
    scores = sign * (1 + 9 * (place == 0)) * (effect[candidates] + noise)
    return {
        **found(candidates, scores, parts),
        "accuracy": 1 - n / 1_000,
        "n_wrong": 3 * n,
        "n_queries": n,
        "query": np.arange(n),
        "train_part": parts,
        "train_label": np.zeros(N_TRAIN, dtype=np.int64),
        "candidates": candidates,
        "scores": scores,
        "similarity": 0.9 * scores + 0.05 * noise,
        "cosine": np.full(n, 0.97),
    }
