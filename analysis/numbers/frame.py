"""Runs as a tidy frame: a line per run and metric, with numbers as numbers; names are made last.

What was run is read from the configs of the runs, never from names for people.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from analysis.numbers.statistics import Interval, difference, over_seeds, per_seed
from experiments.laboratory.runs import Run

COLUMNS = ["seed", "family", "dim", "draw", "share", "metric", "value"]
FORMS = {  # names for people that are not `family dim`
    "LiSSA": "LiSSA r={}",
    "TracIn": "TracIn[{}]",
    "TracIn@": "TracIn@{}",
    "Arnoldi positive": "Arnoldi {} positive",
}
Key = TypeVar("Key")
FORMER_DRAWS = (
    "The committed numbers are of random directions drawn by torch's Mersenne Twister. The present"
    " code draws others, by Philox, which are the same on every device."
)
PROJECTIONS = {"Gaussian": "RandProj", "Select": "RandSelect"}


@dataclass(frozen=True, order=True)
class Method:
    """A method and the size it was run at; its string is its name in tables and figures.

    dim  directions of a projection or a basis, steps of LiSSA, checkpoints of TracIn, the epoch of
         TracIn at a single checkpoint (family "TracIn@"); 0 where there is none
    """

    family: str
    dim: int = 0

    def __str__(self) -> str:
        if not self.dim:
            return self.family
        return FORMS.get(self.family, f"{self.family} {{}}").format(self.dim)

    @property
    def directions(self) -> float:
        """The projected dimension in tables: nan where nothing is projected."""
        return self.dim if self.dim and self.family not in FORMS else math.nan


def read_name(name: str) -> Method:
    """The method of a name that `str` made.

    For drawing alone: a figure is drawn from its CSV without any run, and a CSV has names.
    """
    for family, form in FORMS.items():
        before, after = form.split("{}")
        dim = name.removeprefix(before).removesuffix(after)
        if dim.isdigit() and name == form.format(dim):
            return Method(family, int(dim))
    family, _, dim = name.rpartition(" ")
    return Method(family, int(dim)) if dim.isdigit() else Method(name)


def of_family(rows: pd.DataFrame, family: str) -> pd.DataFrame:
    """The rows of a table whose method is of a family, by its name."""
    return rows[rows["method"].map(lambda name: read_name(name).family == family).astype(bool)]


def method_of(config: Mapping[str, Any], epochs: Sequence[int] = ()) -> Method:
    """The method that an attributor's config describes; `epochs` are those of its checkpoints."""
    kind = str(config["type"])
    if kind == "RandomProjection":
        drawn = config["projection"]
        return Method(PROJECTIONS.get(drawn["type"], drawn["type"]), int(drawn["dim"]))
    if kind == "Influence":
        return method_of(config["inverse"])
    if kind == "TracIn" and epochs:
        chosen = config["checkpoints"]
        if chosen in (None, [-1]):
            return Method("TracIn", len(epochs) if chosen is None else 1)
        return Method("TracIn@", epochs[chosen[0]])
    if kind == "LiSSA":
        return Method("LiSSA", int(config["depth"]))
    if kind == "Compressed":
        return Method("GHG^T", int(config["projection"]["dim"]))
    if kind == "Arnoldi":
        family = "Arnoldi positive" if config["positive_only"] else "Arnoldi"
        return Method(family, int(config["num_eigen"]))
    return Method(kind)


def draw_of(config: Mapping[str, Any]) -> int:
    """Which draw of a random projection an attributor's config describes; 0 where none is drawn."""
    inner = config.get("inverse") or config
    return int((inner.get("projection") or {}).get("seed", 0))


def checkpoint_epochs(fit: Mapping[str, Any]) -> list[int]:
    """The epochs after which a training plan saves a checkpoint."""
    return [*range(fit["every"], fit["epochs"], fit["every"]), fit["epochs"]]


@dataclass(frozen=True)
class Observation:
    """One run: the seed of its model or its data, what was run, and the values it measured.

    share   of the parameters or of the examples that the run is about
    values  by metric, in the paper's unit
    """

    seed: int
    method: Method
    run: Run
    values: Mapping[str, float]
    draw: int = 0
    share: float = 1.0


def grouped(runs: Iterable[Run], key: Callable[[Run], Key]) -> dict[Key, list[Run]]:
    """The runs by key, keys and runs in the order in which they come."""
    groups: dict[Key, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups


def numbers(metrics: Mapping[str, Any], percent: Collection[str] = ()) -> dict[str, float]:
    """The metrics that are numbers; those in `percent` times 100, as the papers print them."""
    return {
        name: 100 * float(value) if name in percent else float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float)
    }


@dataclass(frozen=True, eq=False)
class Frame:
    """A line per observation and metric, with COLUMNS; nan values are left out."""

    lines: pd.DataFrame

    def where(self, chosen: Callable[[pd.DataFrame], pd.Series]) -> "Frame":
        """The lines for which a condition on the columns holds."""
        return Frame(self.lines[chosen(self.lines)])

    def by_share(self) -> dict[float, "Frame"]:
        """The lines of each share, in order."""
        return {float(share): Frame(lines) for share, lines in self.lines.groupby("share")}

    def methods(self) -> list[Method]:
        """The methods, each once, in the order of the runs."""
        pairs = zip(self.lines["family"], self.lines["dim"], strict=True)
        return [Method(family, int(dim)) for family, dim in dict.fromkeys(pairs)]

    def dims(self, family: str) -> list[int]:
        """The sizes that a family was run at, in order."""
        return sorted({one.dim for one in self.methods() if one.family == family})

    def by_seed(self, metric: str, method: Method | None = None) -> pd.Series:
        """A metric of one method, or of all, by seed: the draws of one seed are averaged."""
        lines = self._of(metric, method)
        return per_seed(lines["value"], lines["seed"].to_numpy())

    def draws(self, metric: str, method: Method) -> list[np.ndarray]:
        """The values of a method's draws, one array per seed."""
        groups = self._of(metric, method).groupby("seed", sort=False)["value"]
        return [values.to_numpy() for _, values in groups]

    def estimate(
        self,
        metric: str,
        method: Method | None = None,
        interval: Callable[[pd.Series], Interval] = over_seeds,
    ) -> Interval:
        """The mean and interval over seeds of a metric, of one method or of all."""
        return interval(self.by_seed(metric, method))

    def paired(
        self,
        metric: str,
        one: Method,
        other: Method,
        compare: Callable[[pd.Series, pd.Series], pd.Series] = difference,
        interval: Callable[[pd.Series], Interval] = over_seeds,
    ) -> Interval:
        """The interval of one method's metric minus another's, paired by seed."""
        return interval(compare(self.by_seed(metric, one), self.by_seed(metric, other)))

    def _of(self, metric: str, method: Method | None) -> pd.DataFrame:
        lines = self.lines[self.lines["metric"] == metric]
        if method is None:
            return lines
        return lines[(lines["family"] == method.family) & (lines["dim"] == method.dim)]


def tidy(observations: Iterable[Observation]) -> Frame:
    """The frame of some observations."""
    lines = [
        (one.seed, one.method.family, one.method.dim, one.draw, one.share, metric, value)
        for one in observations
        for metric, value in one.values.items()
        if not math.isnan(value)
    ]
    return Frame(pd.DataFrame(lines, columns=pd.Index(COLUMNS)))
