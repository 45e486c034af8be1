"""Trajectories of error correction (FastIF, Figure 7): one line per run and step."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.numbers.statistics import NONE, Interval, over_seeds
from experiments.laboratory.runs import Run

BY_RULE, PAPER_RATE = "rate by rule", "lr 0.0001"
DAMPED = 5e3  # the effective damping of the released settings for HANS
RELEASED = ", released damping"  # of an arm
SOURCES = {"mnli train": "MultiNLI", "hans train": "HANS"}
MNLI, HANS = SOURCES.values()
PARTS = {part: part.replace("_", " ") for part in ("lexical_overlap", "subsequence", "constituent")}
SIDES = {"gain_entailed": "gain, entailed", "gain_other": "gain, not entailed", "auc": "AUC"}
START = "start"  # the model before any step
RUN_KEYS = ["rate", "source", "part", "arm", "seed", "repeat"]
LOSS = "change of loss over all slices"


def observe(runs: list[Run]) -> pd.DataFrame:
    """One line per run and step: RUN_KEYS, `step`, `accuracy` and `gain` in points, `loss_change`.

    Anchors are the same whichever pool the other arms draw from, so they appear under each.
    """
    frames = []
    for run in runs:
        config, arm = run.config, run.config["arm"]
        names = ("accuracy", "loss", "accuracy_entailed", "accuracy_other", "auc")
        accuracy, loss, entailed, other, auc = (np.asarray(run.array(name)) for name in names)
        columns = {
            "step": np.arange(len(accuracy)),
            "accuracy": 100 * accuracy,
            "gain": 100 * (accuracy - accuracy[0]),
            "gain_entailed": 100 * (entailed - entailed[0]),
            "gain_other": 100 * (other - other[0]),
            "auc": 100 * (auc - auc[0]),
            "loss_change": loss - loss[0],
            "rate": _rate(config["rate"]),
            "part": PARTS[config["part"]],
            "arm": _arm(config),
            "seed": int(config["model"]["seed"]),
            "repeat": int(config["repeat"]),
            "own_slice": run.metrics.get("own_slice", np.nan),
            "entailed": run.metrics.get("entailed", np.nan),
            "cosine": float(np.asarray(run.array("cosine"))[0]),
        }
        pools = [SOURCES[arm["pool"]["which"]]] if "pool" in arm else SOURCES.values()
        frames += [pd.DataFrame(columns | {"source": pool}) for pool in pools]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _rate(config: dict[str, Any]) -> str:
    return f"lr {config['lr']:g}" if config["type"] == "Fixed" else BY_RULE


def _arm(config: dict[str, Any]) -> str:
    arm = config["arm"]
    name = str(arm.get("side") or arm["type"].lower())
    return name + (RELEASED if "side" in arm and config["plan"]["damping"] == DAMPED else "")


def last_steps(steps: pd.DataFrame) -> pd.DataFrame:
    """The last step of every trajectory."""
    return steps[steps["step"] == steps.groupby(RUN_KEYS)["step"].transform("max")]


def over_models(rows: pd.DataFrame, column: str) -> Interval:
    """The interval over models of a column, first averaged over what else varies."""
    return NONE if rows.empty else over_seeds(rows.groupby("seed")[column].mean())


def gap(last: pd.DataFrame, one: str, other: str, column: str = "gain") -> Interval:
    """The interval of one arm minus another, paired by model, draw of anchors and slice.

    START is the model before any step, from which gains are measured.
    """
    first, second = (
        last[last["arm"] == arm].set_index(["seed", "repeat", "part"])[column]
        for arm in (one, other)
    )
    gaps = first if other == START else (first - second).dropna()
    return over_models(gaps.reset_index(), column)
