"""Which checkpoints to trace: mislabelled digits found by TracIn on parts of a training run.

Tests Sec. D of TracIn's appendix (Pruthi et al., 2020), which gives advice and no experiment:
take checkpoints where the loss decreases steadily, more of them where it falls faster, none while
it fluctuates at the beginning, few after it has converged, more than the last one. Where those
phases are is read off the training loss alone, by methods/checkpoints.py; 20% of the labels are
wrong before training, and no set of checkpoints knows which.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from experiments.dense_checkpoints import Dense, traced
from experiments.digit_models import LARGE, SMOKE, Data
from experiments.experiment import Experiment
from experiments.training import Fit
from methods.checkpoints import Phases, evenly, phases, propose
from methods.randomness import numpy_generator

COUNT = 5  # checkpoints proposed; as many at random, and evenly spaced, are the controls


@dataclass(frozen=True)
class All:
    """Every checkpoint there is."""


@dataclass(frozen=True)
class Last:
    """The last one alone."""


@dataclass(frozen=True)
class Early:
    """Those before the loss has settled."""


@dataclass(frozen=True)
class Steady:
    """Those of the steady decrease."""


@dataclass(frozen=True)
class Converged:
    """Those after the loss has converged."""


@dataclass(frozen=True)
class Unconverged:
    """All but those after the loss has converged."""


@dataclass(frozen=True)
class Proposed:
    """`count` of the steady decrease, densest where the loss falls fastest."""

    count: int = COUNT


@dataclass(frozen=True)
class Random:
    """`count` of all, at random: a control of `Proposed`."""

    count: int = COUNT
    draw: int = 0


@dataclass(frozen=True)
class Even:
    """`count` evenly spaced in steps, to the last, as is usual: another control of `Proposed`."""

    count: int = COUNT


Choice = All | Last | Early | Steady | Converged | Unconverged | Proposed | Random | Even


@dataclass(frozen=True)
class Config:
    dense: Dense
    choice: Choice = All()


def run(config: Config, scratch: Path) -> dict[str, Any]:
    kept = traced(config.dense)
    curve, steps = kept.array("train_loss"), kept.array("steps")
    found = phases(curve, steps)
    chosen = positions(config, curve, steps, found)
    own, losses = (np.array(kept.array(name)) for name in ("self_influence", "loss"))
    corrupted = np.array(kept.array("corrupted"))
    outcome = {
        "method": display(config.choice),
        "n_checkpoints": len(chosen),
        "settled": found.settled,
        "converged": found.converged,
        "chance_ap": float(corrupted.mean()),
        "accuracy_true": kept.metrics["accuracy_true"],
        "positions": chosen,
        "train_loss": np.array(curve),
        "steps": np.array(steps),
        "self_influence_mean": own.mean(1),
        "ap_each": np.array([average_precision_score(corrupted, one) for one in own]),
    }
    if len(chosen):
        for name, values in (("", own), ("loss_", losses)):
            scores = values[chosen].sum(0)
            outcome[f"{name}auc"] = float(roc_auc_score(corrupted, scores))
            outcome[f"{name}ap"] = float(average_precision_score(corrupted, scores))
    return outcome


def positions(config: Config, curve: np.ndarray, steps: np.ndarray, found: Phases) -> np.ndarray:
    """Which checkpoints a choice takes, ascending; none where the loss has no such phase."""
    n, choice = len(curve), config.choice
    everything = np.arange(n)
    match choice:
        case All():
            return everything
        case Last():
            return everything[-1:]
        case Early():
            return everything[: found.settled]
        case Steady():
            return everything[found.settled : found.converged]
        case Converged():
            return everything[found.converged :]
        case Unconverged():
            return everything[: found.converged]
        case Proposed():
            return propose(curve, choice.count, steps)
        case Even():
            return evenly(steps, choice.count)
        case Random():
            draw = numpy_generator(config.dense.model.seed, "checkpoints", choice.draw)
            return np.sort(draw.choice(n, choice.count, replace=False))


def display(choice: Choice) -> str:
    """The name of a choice in tables and figures."""
    names = {
        All: "all",
        Last: "last",
        Early: "early",
        Steady: "steady decrease",
        Converged: "after convergence",
        Unconverged: "all before convergence",
    }
    if isinstance(choice, Proposed | Random | Even):
        return f"{type(choice).__name__.lower()} {choice.count}"
    return names[type(choice)]


def table(dense: Dense, seeds: int, draws: int) -> list[Config]:
    """Every choice on every seed, and `draws` random sets of each."""
    choices: list[Choice] = [All(), Last(), Early(), Steady(), Converged(), Unconverged()]
    choices += [Proposed(), Even(), *(Random(draw=draw) for draw in range(draws))]
    models = [replace(dense, model=replace(dense.model, seed=seed)) for seed in range(seeds)]
    return [Config(model, choice) for model in models for choice in choices]


PLAIN = Fit(epochs=61, batch_size=128, lr=0.5, momentum=0.0, every=3)
TENTH = Dense(replace(LARGE, fit=PLAIN), apart=3)
WHOLE = Dense(replace(LARGE, fit=PLAIN, data=Data(n_train=60_000, n_eval=0)), apart=27)
BUNDLED = Dense(
    replace(
        SMOKE,
        data=Data("digits", n_train=500, n_eval=500),
        fit=Fit(epochs=40, batch_size=20, lr=0.5, momentum=0.0, every=2),
    )
)
PRESETS: dict[str, list[Config]] = {
    "smoke": table(BUNDLED, 3, 2),
    "small": table(TENTH, 3, 5),
    "paper": table(WHOLE, 5, 10),
}

EXPERIMENT = Experiment(
    "mnist_checkpoints",
    run,
    PRESETS,
    summary="mislabelled digits by TracIn's self-influence on parts of training: AUC and AP",
    columns=("auc", "ap", "loss_ap", "n_checkpoints"),
    seconds={"smoke": 14.0, "small": 1_250},
)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
