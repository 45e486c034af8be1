"""Made-up runs of the experiments on vision Transformers: retrieval, and Arnoldi's run time."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tests.analysis.synthetic._methods import attributor
from tests.analysis.synthetic.shapes import write_made_up

N, SIDE, QUERIES = 300, 6, 8
SHARES, DIMS = (0.1, 1.0), (10,)


@dataclass(frozen=True)
class Data:
    where: Literal["test", "train"]


@dataclass(frozen=True)
class Fit:
    epochs: int = 4
    every: int = 4


@dataclass(frozen=True)
class Model:
    data: Data
    seed: int
    fit: Fit = Fit()


@dataclass(frozen=True)
class Config:
    model: Model
    method: Any
    share: float
    queries: int
    name: str
    draw: int = 0


@dataclass(frozen=True)
class Native:
    pass


@dataclass(frozen=True)
class Timing:
    label: str
    again: int
    storage: Native = Native()


@dataclass(frozen=True)
class Precision:
    seed: int


@dataclass(frozen=True)
class Scaling:
    work: Timing | Precision


NETWORKS = {  # parameters, forward operations, whether it was run whole
    "ViT-Ti/32": (6e6, 3e8, False),
    "ViT-S/32": (23e6, 1.1e9, False),
    "ViT-B/32": (88e6, 4.4e9, False),
    "ResNet50": (25.6e6, 1.3e9, False),
    "Transformer base": (60e6, 3e9, False),
    "ViT 64": (308e3, 6e6, True),
}


def write(preset: str, seeds: int) -> None:
    """Write both experiments' runs, which agree with the paper."""
    write_retrieval(preset, seeds)
    write_scaling(preset, seeds)


def write_retrieval(preset: str, seeds: int, *, backwards: bool = False) -> None:
    """Write a preset in which Arnoldi is a little better than RandProj, or worse."""
    cells = [cell for seed in range(seeds) for cell in _cells(seed)]
    write_made_up("vit_mislabel", preset, cells, lambda cell: retrieval(cell, backwards))


def _cells(seed: int) -> list[Config]:
    cells = []

    def add(model: Model, name: str, share: float, queries: int = 0, draw: int = 0) -> None:
        cells.append(Config(model, attributor(name, draw), share, queries, name, draw))

    for where, shares in (("test", SHARES), ("train", (1.0,))):
        model = Model(Data(where), seed)
        add(model, "Loss", 1.0)
        for share in shares:
            queries_here = QUERIES if where == "train" else 0
            add(model, "TracIn[1]", share, queries_here)
            for dim in DIMS:
                queries = queries_here if dim == max(DIMS) else 0
                add(model, f"Arnoldi {dim} positive", share, queries)
                add(model, f"Arnoldi {dim}", share, queries)
                for draw in range(2):
                    add(model, f"RandProj {dim}", share, queries if not draw else 0, draw)
                    add(model, f"RandSelect {dim}", share, 0, draw)
    return cells


BASE = {"Arnoldi": 0.93, "RandProj": 0.92, "RandSelect": 0.7, "TracIn[1]": 0.94, "Loss": 0.95}


def retrieval(cell: Config, backwards: bool = False) -> dict[str, Any]:
    name, seed = cell.name, cell.model.seed
    shared = np.random.default_rng([seed, 5])
    draw = np.random.default_rng([seed, cell.draw, *name.encode(), int(100 * cell.share)])
    true = shared.integers(10, size=N)
    corrupted = shared.permutation(N) < N // 10
    given = np.where(corrupted, (true + 3) % 10, true)
    family = name.split()[0]
    height = BASE[family] - 0.01 * cell.share + 0.002 * shared.normal()
    if backwards and family == "Arnoldi":
        height -= 0.06 - 0.05 * cell.share
    scores = draw.random(N) + 2.0 * corrupted
    top = np.argsort(-scores)[:30]
    picture = draw.integers(0, 256, (30, SIDE, SIDE, 3)).astype(np.uint8)
    made: dict[str, Any] = {
        "method": name,
        "auc": height,
        "ap": height - 0.2,
        "chance_ap": 0.1,
        "seconds": 1.0,
        "share": {0.1: 0.109, 0.2: 0.217}.get(cell.share, cell.share),
        "proj_dim": int(name.split()[1]) if " " in name else 0,
        "accuracy_test": 0.97,
        "accuracy_train": 0.99,
        "self_influence": scores,
        "corrupted": corrupted,
        "given": given,
        "true": true,
        "top": top,
        "top_images": picture,
    }
    if family == "Arnoldi":
        made |= {"negative_share": 0.06 + 0.01 * shared.random(), "n_known": 100}
    return made | (_against(corrupted, draw, backwards) if cell.queries else {})


def _against(corrupted: np.ndarray, draw: np.random.Generator, backwards: bool) -> dict[str, Any]:
    wrong = np.flatnonzero(corrupted)
    opponents = draw.choice(wrong, (QUERIES, 10))
    share = 0.02 if backwards else 0.4
    return {
        "n_queries": QUERIES,
        "chance_mislabelled": 0.1,
        "chance_hard": 0.15,
        "given_probability": draw.random(len(corrupted)),
        **{f"{role}_mislabelled": share + 0.02 * draw.random() for role in ROLES},
        **{f"{role}_hard": share + 0.02 * draw.random() for role in ROLES},
        **dict.fromkeys(ROLES, opponents),
        "opponents_negative": 1.0,
        "accuracy_queries": 0.97,
        "shown": np.arange(3),
        "shown_labels": np.array([3, 1, 5]),
        "shown_images": draw.integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.uint8),
        "opponent_images": draw.integers(0, 256, (3, 8, SIDE, SIDE, 3)).astype(np.uint8),
    }


ROLES = ("opponents", "proponents")


def write_scaling(preset: str, seeds: int, *, power: float = 1.0, rough: float = 1e-4) -> None:
    """Write a preset whose time grows as a power of p; `rough` is the error of bfloat16."""
    cells = [Scaling(Timing(label, again)) for again in range(seeds) for label in NETWORKS]
    cells += [Scaling(Precision(seed)) for seed in range(seeds)]
    write_made_up("hessian_scaling", preset, cells, lambda cell: scaling(cell.work, power, rough))


def scaling(work: Timing | Precision, power: float, rough: float) -> dict[str, Any]:
    if isinstance(work, Precision):
        return _eigenvalues(work.seed, rough)
    p, operations, whole = NETWORKS[work.label]
    draw = np.random.default_rng([work.again, int(p)])
    product = 100 * (p / 1e8) ** power * np.exp(0.02 * draw.normal())
    orthogonal = 0.05 * 200 * product
    made = {
        "work": "Timing",
        "label": work.label,
        "num_params": int(p),
        "operations": operations,
        "product_seconds": np.array([product / 128, product / 32]),
        "vector_seconds": orthogonal / 20_100,
        "vector_bytes": int(4 * p),
        "wanted_seconds": product,
        "orthogonal_seconds": orthogonal,
        "total_seconds": 200 * product + orthogonal,
        "smallest_seconds": 200 * product / 128 + orthogonal,
    }
    return made | ({"whole_seconds": made["smallest_seconds"] * 1.05} if whole else {})


def _eigenvalues(seed: int, rough: float) -> dict[str, Any]:
    draw = np.random.default_rng([seed, 9])
    native = np.geomspace(30, 0.5, 20) * np.where(np.arange(20) % 6 == 5, -1, 1)
    errors = {"native": 0.0, "bfloat16": rough, "disk": 0.0, "another_start": 0.03}
    made: dict[str, Any] = {"work": "Precision", "label": "ViT", "num_params": 308_042}
    for name, error in errors.items():
        made[name] = native * (1 + error * (1 + 0.1 * draw.normal(size=20)))
        made[f"{name}_loss"] = 1e-6 if name != "bfloat16" else 1e-4
    return made
