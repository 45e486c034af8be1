"""Made-up runs of mnist_mislabel and mnist_sketch, and of all other experiments at once."""

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.analysis.synthetic._methods import attributor
from tests.analysis.synthetic.shapes import write_made_up

N, CLASSES = 300, 10


@dataclass(frozen=True)
class LargeCNN:
    pass


@dataclass(frozen=True)
class SmallCNN:
    pass


@dataclass(frozen=True)
class DigitsCNN:
    pass


@dataclass(frozen=True)
class Fit:
    epochs: int
    every: int = 1


@dataclass(frozen=True)
class Data:
    noise: float = 0.2


FITS = {LargeCNN: Fit(10), SmallCNN: Fit(25), DigitsCNN: Fit(5)}


@dataclass(frozen=True)
class Model:
    network: LargeCNN | SmallCNN | DigitsCNN
    seed: int
    fit: Fit
    data: Data = Data()


@dataclass(frozen=True)
class Config:
    model: Model
    method: Any
    name: str
    draw: int = 0


@dataclass(frozen=True)
class Sketch:
    batch_size: int
    seed: int


TABLE = {  # AUC, AP, seconds, draws: about what the paper prints
    "LiSSA r=10": (0.985, 0.94, 700.0, 1),
    "LiSSA r=100": (0.984, 0.93, 6000.0, 1),
    "TracIn[1]": (0.983, 0.935, 1.0, 1),
    "TracIn[10]": (0.997, 0.988, 9.0, 1),
    "RandProj 10": (0.97, 0.88, 0.05, 3),
    "RandProj 100": (0.984, 0.93, 0.1, 3),
    "RandSelect 10": (0.55, 0.32, 0.04, 3),
    "RandSelect 100": (0.91, 0.72, 0.06, 3),
    "Arnoldi 10": (0.95, 0.83, 0.05, 1),
    "Arnoldi 100": (0.98, 0.92, 0.1, 1),
    "Loss": (0.96, 0.90, 0.02, 1),
}
CHECKPOINTS = (1, 4, 10)
GRID = (5, 10, 20, 50, 100)


def table_cells(network: type, seeds: Iterable[int], methods: Iterable[str]) -> list[Config]:
    """Single checkpoints are of models with fewer wrong labels, as TracIn's Figure 8 is."""
    return [
        Config(
            Model(network(), seed, FITS[network], Data(0.1 if "@" in name else 0.2)),
            attributor(name, draw),
            name,
            draw,
        )
        for seed in seeds
        for name in methods
        for draw in range(TABLE.get(name, (0, 0, 0, 1))[3])
    ]


def grid_methods() -> list[str]:
    families = [f"{one} {p}" for one in ("Arnoldi", "RandProj", "GHG^T") for p in GRID]
    return [*families, "Exact", "LiSSA r=2000", "TracIn[25]"]


def mislabel_cells(preset: str) -> list[Config]:
    """The cells of a preset: the stand-in network at smoke, both networks of the paper else."""
    large = [*TABLE, *(f"TracIn@{epoch}" for epoch in CHECKPOINTS)]
    if preset == "smoke":
        few = ["TracIn[1]", "TracIn[5]", "RandProj 10", "Arnoldi 10", "GHG^T 10", "Exact"]
        return table_cells(DigitsCNN, range(2), [*few, "TracIn@1", "TracIn@5"])
    return [
        *table_cells(LargeCNN, range(3), large),
        *table_cells(SmallCNN, range(3), grid_methods()),
    ]


def write_mislabel(
    preset: str,
    cells: list[Config] | None = None,
    leave_out: int = 0,
    rename: dict[str, str] | None = None,
) -> None:
    """Write a preset's plan and its runs, all but the last `leave_out`.

    `rename` gives a method the numbers of another under its own name.
    """
    cells = mislabel_cells(preset) if cells is None else cells

    def made(cell: Config) -> dict:
        acted = replace(cell, name=(rename or {}).get(cell.name, cell.name))
        return mislabel_result(acted) | {"method": cell.name}

    write_made_up("mnist_mislabel", preset, cells, made, cells[: len(cells) - leave_out])


def write_rest(preset: str, seeds: int = 3, only: Sequence[str] | None = None) -> None:
    """Write the runs of every other experiment, or of these: `write(preset, seeds)` of each."""
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        if only is not None and path.stem not in only:
            continue
        module = importlib.import_module(f"tests.analysis.synthetic.{path.stem}")
        if hasattr(module, "write"):
            module.write(preset, seeds)


def write_sketch(preset: str, final_error: float = 0.04, seeds: int = 3) -> None:
    """Write a preset of two batch sizes, whose error ends near `final_error`."""
    cells = [Sketch(batch, seed) for batch in (64, 512) for seed in range(seeds)]
    write_made_up("mnist_sketch", preset, cells, lambda cell: sketch_result(cell, final_error))


def sketch_result(cell: Sketch, final_error: float) -> dict:
    noise = np.random.default_rng([cell.seed, cell.batch_size]).normal(size=101)
    steps = np.arange(0, 2001, 20)
    error = final_error + np.exp(-steps / 200 + 0.05 * noise)
    return {"steps": steps, "error": error, "damping": 0.0, "fit_seconds": 3.0}


def mislabel_result(cell: Config) -> dict:
    name, seed = cell.name, cell.model.seed
    model = np.random.default_rng([seed, 7])
    true = model.integers(CLASSES, size=N)
    corrupted = np.zeros(N, dtype=bool)
    corrupted[model.permutation(N)[: N // 5]] = True
    given = np.where(corrupted, (true + model.integers(1, CLASSES, size=N)) % CLASSES, true)
    draw = np.random.default_rng([seed, cell.draw, *name.encode()])
    dimension = int(name.split()[-1]) if name.split()[-1].isdigit() else 0
    shape = (*_curve(name, dimension), 1.0, 1)
    on_large = isinstance(cell.model.network, LargeCNN)
    auc, ap, seconds, _ = TABLE.get(name, shape) if on_large else shape
    jitter = 0.002 * model.normal() + 0.0005 * draw.normal()
    machine = 0.5 + draw.random()  # how slow it happened to be
    scores = draw.random(N) + 0.35 * corrupted + _preference(name, given)
    top = np.argsort(-scores)[:30]
    result = {
        "method": name,
        "auc": min(auc + jitter, 1.0),
        "ap": min(ap + 3 * jitter, 1.0),
        "seconds": seconds * machine,
        "pass_seconds": machine,
        "ratio": seconds * (1 + 0.1 * draw.random()),
        "fit_seconds": 70.0 * machine,
        "chance_ap": 0.2,
        "accuracy_corrupted": 0.75 + jitter,
        "accuracy_true": 0.945 + jitter,
        "gradient_norm": 1e-6 * (1 + draw.random()),
        "num_params": 2616,
        "proj_dim": dimension,
        "self_influence": scores,
        "corrupted": corrupted,
        "given": given,
        "true": true,
        "index": np.arange(N),
        "top": top,
        "top_images": np.stack([_digit(label, draw) for label in true[top]]),
    }
    if name.startswith("LiSSA"):
        result["scale"] = 400.0
    eigenvalues = _eigenvalues(name, dimension, seed)
    if eigenvalues is not None:
        result |= {"eigenvalues": eigenvalues, "negative_share": 0.001}
    return result


def _curve(name: str, dimension: int) -> tuple[float, float]:
    if name.startswith("Arnoldi"):
        return 0.80 + 0.03 * np.log(dimension), 0.55 + 0.06 * np.log(dimension)
    if name.startswith("RandProj"):
        return 0.80 + 0.015 * np.log(dimension), 0.50 + 0.04 * np.log(dimension)
    return 0.90 + 0.002 * len(name), 0.72 + 0.004 * len(name)


def _preference(name: str, given: np.ndarray) -> np.ndarray:
    """Single checkpoints prefer some classes to others, each its own."""
    if "@" not in name:
        return np.zeros(len(given))
    return 1.5 * np.cos(given + int(name[7:]))


def _eigenvalues(name: str, dimension: int, seed: int) -> np.ndarray | None:
    exact = np.geomspace(20 + seed, 1e-3, 200)
    if name == "Exact":
        return exact
    if name.startswith("Arnoldi"):
        return exact[:dimension] * 1.01
    return exact[:dimension] * 0.3 if name.startswith("GHG^T") else None


def _digit(label: int, draw: np.random.Generator) -> np.ndarray:
    image = draw.integers(0, 60, size=(12, 12)).astype(np.uint8)
    image[label + 1, 1:-1] = 255
    return image
