"""Made-up runs of experiments/ground_truth.py: influence functions above gradients, noise apart."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.ensembles.attributions import GRADIENT, Chance, display
from methods.ihvp.deflated import Deflated
from methods.influence import Influence
from methods.tracin import TracIn
from tests.analysis.synthetic._methods import attributor
from tests.analysis.synthetic.shapes import write_made_up
from tests.analysis.synthetic.subset_ensembles import Ensemble

METHODS = (Influence(Deflated()), TracIn(), GRADIENT, attributor("RandProj 20"), Chance())
LEVEL = {"Influence": 0.3, "TracIn": 0.2, "Gradients": 0.1, "RandProj 20": 0.08, "Random": 0.0}
ESTIMATE = {3: 0.02, 50: 0.15, 1_000: 0.5}  # LDS by models
N_TRAIN = 40


@dataclass(frozen=True)
class Division:
    ensemble: Ensemble = Ensemble()


@dataclass(frozen=True)
class Train:
    count: int = 3


@dataclass(frozen=True)
class Attribution:
    method: Any
    division: Division = Division()


@dataclass(frozen=True)
class Estimate:
    division: Division = Division()


def attribution(name: str, n: int, gain: float) -> dict:
    """Of n networks and n queries; an average over all is better by `gain`."""
    draw = np.random.default_rng([n, *name.encode()])
    counts = (1, n) if n > 1 else (1,)
    means = [LEVEL[name] + gain * (count > 1) * (name != "Random") for count in counts]
    made = {"method": name, "ap_chance": 0.1, "counts": np.array(counts)}
    made["choosing_trainings"] = 200 if name == "Influence" else 0
    made |= {"damping": 0.1} if name == "Influence" else {}
    for key, scale, start in (("lds", 1.0, 0.0), ("pairs", 0.5, 0.0), ("area", 1.0, 0.5)):
        each = start + scale * (LEVEL[name] + 0.02 * draw.normal(size=(n, n)))
        mean = start + scale * (np.array(means)[:, None] + 0.02 * draw.normal(size=(len(means), n)))
        made |= {f"{key}_each": each, f"{key}_mean": mean}
    for key in ("own", "ap") if name != "Gradients" else ():
        each = 2 * LEVEL[name] + 0.02 * draw.normal(size=n)
        made |= {f"{key}_each": each, f"{key}_mean": 2 * np.array(means)}
    return made


def estimate(n: int) -> dict:
    draw = np.random.default_rng([n, 9])
    lds = np.array([*ESTIMATE.values()])[:, None] + 0.02 * draw.normal(size=(len(ESTIMATE), n))
    pairs = lds.copy()
    pairs[-1] = np.nan  # models in common with the truth
    return {
        "of_noise": np.array([0.03, 0.12, 0.45]),
        "reliability": 0.36 + 0.02 * draw.normal(size=n),
        "contested": np.arange(n) < max(1, n // 2),
        "memorized": 4,
        "strong_pairs": 9,
        "sizes": np.array([*ESTIMATE]),
        "lds_mean": lds,
        "pairs_mean": pairs,
        "area_mean": 0.5 + pairs,
    }


def write(preset: str, seeds: int, *, gain: float = 0.1) -> None:
    """Write a preset of as many networks and queries; `gain` is what averaging brings."""
    cells = [Train(), Estimate(), *map(Attribution, METHODS)]

    def made(cell: Train | Estimate | Attribution) -> dict:
        if isinstance(cell, Attribution):
            return attribution(display(cell.method), seeds, gain)
        return estimate(seeds) if isinstance(cell, Estimate) else {"accuracy_query": 0.9}

    write_made_up("ground_truth", preset, cells, made)
