"""The runs of mnist_mislabel as a tidy frame, for the artifacts of mislabel retrieval."""

from collections.abc import Callable, Collection
from typing import Any

import pandas as pd

from analysis.numbers.frame import (
    Frame,
    Method,
    Observation,
    checkpoint_epochs,
    draw_of,
    method_of,
    numbers,
)
from analysis.numbers.statistics import Interval, geometric
from analysis.numbers.table import records, written
from experiments.laboratory.runs import Run

FULL_DATA = "Arnoldi on full data,"
STAND_IN = "DigitsCNN"  # takes the place of either network at the smoke tier
RETRIEVAL = {"AUC": "auc", "AP": "ap"}
NOISE = 0.2  # share of the labels that are wrong before training
ACCURACY = {"corrupted labels": "accuracy_corrupted", "true labels": "accuracy_true"}
PERCENT = {*RETRIEVAL.values(), *ACCURACY.values(), "chance_ap"}  # as the paper prints them

TIER_NOTES = {
    "smoke": (
        "Smoke tier: the 1,797 digits of 8 x 8 pixels that scikit-learn ships and a network of one"
        " or two thousand parameters stand in for MNIST and the paper's network: the numbers"
        " cannot be compared with the printed ones; at best their order can."
    ),
    "small": (
        "Small tier: fewer seeds and draws, smaller samples or fewer iterations than at the paper"
        " tier: `python -m experiments.mnist_mislabel --preset small --list` shows which."
    ),
}


def config_method(config: dict[str, Any]) -> Method:
    """The method of a run's config; an Arnoldi basis of products over all examples is its own."""
    found = method_of(config["method"], checkpoint_epochs(config["model"]["fit"]))
    basis = (config["method"].get("inverse") or {}).get("basis") or {}
    whole = "sample" in basis and basis["sample"] is None
    return Method(FULL_DATA, found.dim) if whole else found


def needs(
    network: str, method: Callable[[Method], bool] = lambda method: True, noise: float = NOISE
) -> Callable[[dict[str, Any]], bool]:
    """Which configs `observe` takes for a network, of the methods and wrong labels wanted."""
    return lambda config: (
        config["model"]["network"]["type"] in (network, STAND_IN)
        and config["model"]["data"]["noise"] == noise
        and method(config_method(config))
    )


def observe(runs: list[Run], network: str) -> list[Observation]:
    """The runs on a network; at the smoke tier, those on the stand-in."""
    for wanted in (network, STAND_IN):
        chosen = [run for run in runs if run.config["model"]["network"]["type"] == wanted]
        if chosen:
            return [observation(run) for run in chosen]
    return []


def observation(run: Run, share: float = 1.0, percent: Collection[str] = PERCENT) -> Observation:
    """One run, its values in the paper's unit.

    `fit_ratio` is the once-per-model time in passes of TracIn[1], as `ratio` is the scoring's.
    """
    config, values = run.config, numbers(run.metrics, percent)
    if "fit_seconds" in values and "pass_seconds" in values:
        values["fit_ratio"] = values["fit_seconds"] / values["pass_seconds"]
    seed, draw = int(config["model"]["seed"]), draw_of(config["method"])
    return Observation(seed, config_method(config), run, values, draw, share)


def cost(frame: Frame, method: Method, metric: str = "ratio") -> Interval:
    """The interval of a method's time in passes of TracIn[1], timed in the same run."""
    return frame.estimate(metric, method, geometric)


def comparison_with_loss(table: pd.DataFrame) -> list[str]:
    """A sentence that compares the plain loss, our control, with the methods at their best."""
    rows = [r for r in records(table) if r["quantity"] in RETRIEVAL and r["kind"] != "claim"]
    parts = []
    for name in RETRIEVAL:
        measured = [r for r in rows if r["quantity"] == name and r["n"] > 0]
        best = {r["method"]: r for r in sorted(measured, key=lambda row: row["ours"])}
        loss = best.pop("Loss", None)
        if loss is None or not best:
            continue
        top = max(best.values(), key=lambda row: row["ours"])
        above = sum(row["ours"] > loss["ours"] for row in best.values())
        parts.append(
            f"{name} {written(loss, '.1f')}, which {above} of {len(best)} methods exceed (the best"
            f" mean is {top['method']}'s, {written(top, '.1f')})"
        )
    opening = (
        "The plain training loss, which needs no gradient and is in no table of the paper, has"
    )
    return [f"{opening} {' and '.join(parts)}."] if parts else []
