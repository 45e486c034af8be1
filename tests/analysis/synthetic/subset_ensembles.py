"""Made-up runs of experiments/subset_ensembles.py: curves that rise with the number of models."""

from dataclasses import dataclass

import numpy as np

from tests.analysis.synthetic.shapes import write_made_up

SIZES, THRESHOLDS = (25, 100, 400), np.round(0.1 * np.arange(1, 8), 2)
KINDS = ("hard", "soft", "null", "hard_full", "soft_full", "hard_rest", "soft_rest")


@dataclass(frozen=True)
class DigitsMLP:
    pass


@dataclass(frozen=True)
class Data:
    source: str = "mnist"


@dataclass(frozen=True)
class Ensemble:
    network: DigitsMLP = DigitsMLP()
    data: Data = Data()


@dataclass(frozen=True)
class Train:
    first: int = 0


@dataclass(frozen=True)
class Halves:
    ensemble: Ensemble = Ensemble()
    splits: int = 3


@dataclass(frozen=True)
class Restarts:
    ensemble: Ensemble = Ensemble()
    n_models: int = 50


def level(kind: str, size: int, better: float) -> float:
    """About how high a curve is."""
    if kind == "null":
        return 0.02
    soft = {"soft": 0.05, "soft_full": -0.05}.get(kind, 0.0)
    return min(0.95, 0.05 + better * np.log(size / 25) / np.log(16)) + soft


def halves(splits: int, better: float) -> dict:
    draw = np.random.default_rng(splits)
    made = {
        "accuracy": 0.9,
        "memorized": 12,
        "thresholds": THRESHOLDS,
        "sizes": np.array(SIZES),
        "pairs_above": np.stack([300.0 * np.exp(-8 * THRESHOLDS)] * 2).round(),
    }
    for kind in KINDS:
        for some in ("all", "memorized"):
            shape = len(SIZES), splits, len(THRESHOLDS)
            curves = np.array([level(kind, size, better) for size in SIZES])[:, None, None]
            curves = curves + 0.01 * draw.normal(size=shape)
            curves[0, :, -1] = np.nan  # no pair is above
            made[f"{kind}_{some}"] = curves
    return made


def restarts() -> dict:
    curve = np.full(len(THRESHOLDS), 0.15)
    curve[-1] = np.nan
    names = [f"{kind}_{some}" for kind in ("same", "different") for some in ("all", "memorized")]
    return {"memorized": 12, "thresholds": THRESHOLDS, **dict.fromkeys(names, curve)}


def write(preset: str, seeds: int, *, better: float = 0.75) -> None:
    """Write a preset; with `better`, two estimates of 400 models agree by so much more."""
    made = {
        Train(): {"accuracy_query": 0.9},
        Halves(splits=seeds): halves(seeds, better),
        Restarts(): restarts(),
    }
    write_made_up("subset_ensembles", preset, [*made], made.__getitem__)
