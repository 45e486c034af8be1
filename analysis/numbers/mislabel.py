"""What the artifacts of mislabel retrieval share: one observation per run of mnist_mislabel."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.numbers.statistics import Interval, difference, geometric, over_seeds, per_seed, ratio
from analysis.numbers.table import records, written
from experiments.laboratory.runs import Run

STAND_IN = "DigitsCNN"  # takes the place of either network at the smoke tier
RETRIEVAL = {"AUC": "auc", "AP": "ap"}
ACCURACY = {"corrupted labels": "accuracy_corrupted", "true labels": "accuracy_true"}
PERCENT = {*RETRIEVAL.values(), *ACCURACY.values(), "chance_ap"}  # as the paper prints them

TIER_NOTES = {
    "smoke": (
        "Smoke tier: the 1,797 digits of 8 x 8 pixels that scikit-learn ships and a network of one"
        " or two thousand parameters stand in for MNIST and the paper's network: the numbers are"
        " not comparable with the printed ones, at best their order is."
    ),
    "small": (
        "Small tier: fewer seeds and draws, smaller samples or fewer iterations than at the paper"
        " tier: `python -m experiments.mnist_mislabel --preset small --list` shows which."
    ),
}


@dataclass(frozen=True)
class Observation:
    """One run: a method on the model of one seed. A projection has several per seed."""

    seed: int
    method: str
    run: Run

    def metric(self, name: str) -> float:
        """A metric in the paper's unit; nan if the run has none of that name.

        `fit_ratio` is the once-per-model time in passes of TracIn[1], as `ratio` is the scoring's.
        """
        metrics = self.run.metrics
        if name == "fit_ratio":
            unit = metrics.get("pass_seconds", math.nan)
            return float(metrics.get("fit_seconds", math.nan)) / float(unit)
        value = float(metrics.get(name, math.nan))
        return 100 * value if name in PERCENT else value


def on(
    network: str, method: Callable[[dict[str, Any]], bool] = lambda method: True
) -> Callable[[dict[str, Any]], bool]:
    """Whether a config is one of the runs that `observe` takes, of methods as wanted."""
    return lambda config: (
        config["model"]["network"]["type"] in (network, STAND_IN) and method(config["method"])
    )


def inverse(method: dict[str, Any]) -> str:
    """The name of the inverse in a method's config; "" where there is none."""
    return str((method.get("inverse") or {}).get("type", ""))


def observe(found: list[Run], network: str) -> list[Observation]:
    """The runs on a network, or where there are none, those on the smoke tier's stand-in."""
    for wanted in (network, STAND_IN):
        seen = [
            Observation(int(run.config["model"]["seed"]), str(run.metrics["method"]), run)
            for run in found
            if run.config["model"]["network"]["type"] == wanted
        ]
        if seen:
            return seen
    return []


def names(seen: list[Observation]) -> list[str]:
    """The methods' display names, each once, in the order of the runs."""
    return list(dict.fromkeys(one.method for one in seen))


def by_dimension(seen: list[Observation], family: str) -> dict[int, str]:
    """The methods of a family by projected dimension: {10: "Arnoldi 10", ...}."""
    found = {name: re.fullmatch(rf"{re.escape(family)} (\d+)", name) for name in names(seen)}
    return dict(sorted((int(match.group(1)), name) for name, match in found.items() if match))


def by_seed(seen: list[Observation], method: str, metric: str) -> pd.Series:
    """A method's metric by seed, the draws of one seed averaged."""
    mine = [one for one in seen if one.method == method and not math.isnan(one.metric(metric))]
    return per_seed([one.metric(metric) for one in mine], [one.seed for one in mine])


def measured(seen: list[Observation], method: str, metric: str) -> Interval:
    """The interval over seeds of a method's metric."""
    return over_seeds(by_seed(seen, method, metric))


def of_models(seen: list[Observation], metric: str) -> Interval:
    """The interval over seeds of what describes the trained model, not the method."""
    there = [one for one in seen if not math.isnan(one.metric(metric))]
    return over_seeds(per_seed([one.metric(metric) for one in there], [o.seed for o in there]))


def compared(seen: list[Observation], one: str, other: str, metric: str) -> Interval:
    """The interval of one method's metric minus another's on the same models."""
    return over_seeds(difference(by_seed(seen, one, metric), by_seed(seen, other, metric)))


def beside_the_loss(table: pd.DataFrame) -> list[str]:
    """A sentence on the plain loss, the control, and the methods, each where it is best."""
    rows = [r for r in records(table) if r["quantity"] in RETRIEVAL and r["kind"] != "claim"]
    said = []
    for name in RETRIEVAL:
        there = [r for r in rows if r["quantity"] == name and r["n"] > 0]
        mine = {r["method"]: r for r in sorted(there, key=lambda row: row["ours"])}  # the best
        loss = mine.pop("Loss", None)
        if loss is None or not mine:
            continue
        best = max(mine.values(), key=lambda row: row["ours"])
        above = sum(row["ours"] > loss["ours"] for row in mine.values())
        said.append(
            f"{name} {written(loss, '.1f')}, which {above} of {len(mine)} methods exceed (the best"
            f" mean is {best['method']}'s, {written(best, '.1f')})"
        )
    opening = (
        "The plain training loss, which needs no gradient and is in no table of the paper, has"
    )
    return [f"{opening} {' and '.join(said)}."] if said else []


def cost(seen: list[Observation], method: str, metric: str = "ratio") -> Interval:
    """The interval of a method's time in passes of TracIn[1], timed in the same run."""
    return geometric(by_seed(seen, method, metric))


def relative_cost(seen: list[Observation], one: str, other: str) -> Interval:
    """The interval of one method's scoring time over another's on the same models."""
    return geometric(ratio(by_seed(seen, one, "ratio"), by_seed(seen, other, "ratio")))
