"""Made-up runs of filtering, in the paper's order."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.translation.filters import Arm, Chance, Everything, Lowest, Rules
from tests.analysis.synthetic.shapes import write_made_up

BLEU = {  # early, late
    "None 100%": (9.9, 17.8), "Pre-filtering": (11.7, 22.6),
    "RandProj 1%": (7.7, 8.7), "Arnoldi 1%": (17.8, 19.6), "Loss 1%": (16.0, 19.0),
    "RandProj 10%": (21.3, 28.6), "Arnoldi 10%": (25.0, 30.8), "Loss 10%": (24.0, 30.0),
    "Random 10%": (9.5, 17.0),
}  # fmt: skip
CLEAN = {"None 100%": (30.0, 36.3), "Arnoldi 75%": (31.0, 37.4), "Arnoldi 50%": (31.0, 37.2)}
KINDS = ("clean", "foreign", "near copy")
UNSHARED = ("Pre-filtering",)
ROLES = ("lowest 1", "lowest 2", "highest 1", "highest 2")


@dataclass(frozen=True)
class Crawl:
    share: float = 1.0


@dataclass(frozen=True)
class Polluted:
    share: float


@dataclass(frozen=True)
class Config:
    arm: Arm
    pool: Crawl | Polluted
    seed: int
    name: str


def arm(name: str) -> Arm:
    family, _, share = name.partition(" ")
    special = {"None": Everything(), "Pre-filtering": Rules()}
    if family in special:
        return special[family]
    part = float(share.rstrip("%")) / 100
    return Chance(part) if family == "Random" else Lowest(family, part)


def cells(preset: str, seeds: int) -> list[Config]:
    noisy = Crawl() if preset == "paper" else Polluted(0.6)
    return [
        Config(arm(name), pool, seed, name)
        for seed in range(seeds)
        for pool, names in ((noisy, BLEU), (Polluted(0.0), CLEAN))
        for name in names
    ]


def write(preset: str, seeds: int, *, arnoldi: float = 0.0) -> None:
    """Write a preset, the BLEU of Arnoldi's arms moved by a number."""
    made = cells(preset, seeds)
    write_made_up("wmt_filtering", preset, made, lambda cell: result(cell, arnoldi))


def result(cell: Config, arnoldi: float) -> dict[str, Any]:
    name, share = cell.name, getattr(cell.arm, "share", 0.14 if cell.name in UNSHARED else 1.0)
    clean = isinstance(cell.pool, Polluted) and cell.pool.share == 0
    early, late = (CLEAN if clean else BLEU)[name]
    draw = np.random.default_rng([cell.seed, *name.encode()])
    moved = 0.05 * draw.normal() + (arnoldi if name.startswith("Arnoldi") else 0.0)
    made = {
        "arm": name,
        "pool": "clean" if clean else "noisy",
        "bleu_early": early + moved,
        "bleu_late": late + moved,
        "signature": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0",
        "steps_early": 10_000,
        "steps_late": 200_000,
        "n_pool": 1_000,
        "n_kept": round(1_000 * share),
        "selected": share,
    }
    if isinstance(cell.pool, Polluted):
        noise_left = 0.0 if clean else 0.6 - 0.3 * (late / 30)
        made |= {
            "noise": cell.pool.share,
            "noise_kept": noise_left,
            "kinds": np.array(KINDS),
            "of_kind": np.array([400, 300, 300 if not clean else 0]),
            "kept_of_kind": np.array([50, 20, 10 if not clean else 0]),
        }
    if name.startswith("Arnoldi"):
        unknown = isinstance(cell.pool, Crawl)
        kinds = ["not known"] * 4 if unknown else ["clean", "clean", "foreign", "near copy"]
        made |= {
            "shown_role": np.array(ROLES),
            "shown_source": np.array(["Ein Hund mit $5, und Kommas."] * 4),
            "shown_target": np.array(["A dog with $5 and commas."] * 4),
            "shown_kind": np.array(kinds),
            "shown_score": np.array([0.001, 0.002, 40.0, 30.0]),
        }
    return made
