"""Made-up runs of the retrieval of shuffled translations, about as the paper prints them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.analysis.synthetic._methods import attributor
from tests.analysis.synthetic.shapes import write_made_up

N, CORRUPTED = 64, 4
SEEN = {  # AUC and AP by family, layers and dimension
    ("RandSelect", None): {10: (0.67, 0.12), 100: (0.79, 0.20)},
    ("RandProj", None): {10: (0.85, 0.28), 20: (0.86, 0.31)},
    ("Arnoldi", None): {10: (0.92, 0.48), 20: (0.94, 0.54)},
    ("RandSelect", 3): {100: (0.78, 0.20), 1000: (0.81, 0.22)},
    ("RandProj", 3): {10: (0.80, 0.23), 20: (0.82, 0.25)},
    ("Arnoldi", 3): {10: (0.82, 0.26), 20: (0.84, 0.28)},
    ("TracIn", None): {0: (0.90, 0.40)},
    ("TracIn", 3): {0: (0.88, 0.36)},
    ("Loss", None): {0: (0.91, 0.44)},
}


@dataclass(frozen=True)
class Network:
    layers: int = 6


@dataclass(frozen=True)
class Model:
    network: Network = Network()
    seed: int = 0


@dataclass(frozen=True)
class Translation:
    pass


@dataclass(frozen=True)
class Fold:
    index: int


@dataclass(frozen=True)
class Config:
    model: Model
    method: Any
    part: int | None
    fold: Fold
    name: str
    draw: int = 0


def cells(folds: int) -> list[Config]:
    made = [Config(Model(), Translation(), None, Fold(0), "BLEU")]
    for fold in range(folds):
        for (family, part), dims in SEEN.items():
            for draw in range(2 if family.startswith("Rand") and fold == 0 else 1):
                method = attributor(f"{family} {max(dims)}" if max(dims) else family, draw)
                made.append(Config(Model(), method, part, Fold(fold), family, draw))
    return made


def write(preset: str, seeds: int, *, arnoldi: float = 0.0) -> None:
    """Write a preset of so many folds, Arnoldi's AUC and AP moved by a number."""
    write_made_up("wmt_retrieval", preset, cells(seeds), lambda cell: result(cell, arnoldi))


def result(cell: Config, arnoldi: float) -> dict[str, Any]:
    name = cell.name
    if name == "BLEU":
        signature = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
        texts = np.array(["A dog.", "Two cats."])
        return {"method": name, "test": "newstest2016", "bleu": 35.4, "signature": signature,
                "translations": texts}  # fmt: skip
    seen = SEEN[name, cell.part]
    noise = 0.004 * np.random.default_rng([cell.fold.index, 3]).normal()
    draw = np.random.default_rng([cell.fold.index, cell.draw, *name.encode()])
    moved = noise + 0.001 * draw.normal() + (arnoldi if name == "Arnoldi" else 0.0)
    auc, ap = (np.array([value[i] + moved for value in seen.values()]) for i in (0, 1))
    return {
        "method": name,
        "layers": "all" if cell.part is None else "last",
        "auc": auc,
        "ap": ap,
        "dims": np.array(list(seen)),
        "chance_ap": CORRUPTED / N,
        "negative_share": 0.1 if name == "Arnoldi" else 0.0,
        "auc_length": 0.5 + 0.01 * noise,
    }
