"""What error correction on HANS found: accuracies along the steps, and gaps between arms."""

import numpy as np
import pandas as pd

from analysis.statistics import NONE, Interval, over_seeds
from experiments.runs import Run

PAPER_LR = 1e-4
SOURCES = {"mnli train": "MultiNLI", "hans train": "HANS"}
PARTS = {
    "lexical_overlap": "lexical overlap",
    "subsequence": "subsequence",
    "constituent": "constituent",
}
ARMS = ("helpful", "harmful", "random", "anchors", "similar", "nearest")
LOSS = "change of loss over all slices"
START = "start"  # the model before any step
KEYS = ["lr", "source", "part", "arm", "seed", "repeat"]


def observe(found: list[Run]) -> pd.DataFrame:
    """A line a run and step: KEYS, `step`, `accuracy` and `gain` in points, `loss_change`.

    Anchors are the same whichever pool the other arms draw from, so they appear under each.
    """
    frames = []
    for run in found:
        arm, pool = named(run)
        accuracy, loss = (np.asarray(run.array(name)) for name in ("accuracy", "loss"))
        steps = {
            "step": np.arange(len(accuracy)),
            "accuracy": 100 * accuracy,
            "gain": 100 * (accuracy - accuracy[0]),
            "loss_change": loss - loss[0],
        }
        about = {
            "lr": float(run.config["lr"]),
            "part": PARTS[run.config["part"]],
            "arm": arm,
            "seed": int(run.config["model"]["seed"]),
            "repeat": int(run.config["repeat"]),
            **{name: run.metrics.get(name, np.nan) for name in ("own_slice", "entailed")},
            "cosine": float(np.asarray(run.array("cosine"))[0]),
        }
        pools = SOURCES.values() if pool is None else [pool]
        frames += [pd.DataFrame(steps).assign(**about, source=source) for source in pools]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def named(run: Run) -> tuple[str, str | None]:
    """An arm's name and the data set that it draws from; None for the anchors."""
    arm = run.config["arm"]
    pool = SOURCES[arm["pool"]["which"]] if "pool" in arm else None
    return str(arm.get("side") or arm["type"].lower()), pool


def ends(seen: pd.DataFrame) -> pd.DataFrame:
    """The last step of every trajectory."""
    return seen[seen["step"] == seen.groupby(KEYS)["step"].transform("max")]


def over(rows: pd.DataFrame, column: str) -> Interval:
    """The interval over models of a column, first averaged over what else varies."""
    if rows.empty:
        return NONE
    return over_seeds(rows.groupby("seed")[column].mean().to_numpy())


def gap(last: pd.DataFrame, one: str, other: str, column: str = "gain") -> Interval:
    """The interval of one arm minus another, paired by model, draw of anchors and slice.

    START is the model before any step, from which gains are measured.
    """
    by = [
        last[last["arm"] == arm].set_index(["seed", "repeat", "part"])[column]
        for arm in (one, other)
    ]
    apart = by[0] if other == START else (by[0] - by[1]).dropna()
    return over(apart.reset_index(), column)
