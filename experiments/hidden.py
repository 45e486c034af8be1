"""Hidden states under the trained layers, computed once: a run whose array is a column."""

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from experiments import runs
from experiments.data import grammar, hans, mnli
from experiments.data.pairs import Pairs
from experiments.models.bert import Network
from experiments.problems import UserError
from experiments.runs import Run
from experiments.seeds import Purpose, generator
from methods.progress import track
from methods.task import Examples

BATCH = 128
GENERATED = {"mnli train": 0, "mnli dev": 1, "hans train": 2, "hans evaluation": 3}
Source = Literal["subset", "whole", "generated"]
Which = Literal["mnli train", "mnli dev", "hans train", "hans evaluation"]


@dataclass(frozen=True)
class Sample:
    """Some pairs of a data set: `n` drawn at random, or all; of HANS as many from each subcase.

    The draw depends on nothing but these settings: every model of an experiment sees the same.
    """

    which: Which = "mnli train"
    source: Source = "subset"
    n: int | None = None

    def load(self) -> Pairs:
        """The pairs, in the order of the data set, without final stops where `subset` has none."""
        if self.n is not None and self.n < 1:
            raise UserError(f"{self.n} pairs of {self.which}: give n = 1 or more, or None for all")
        if self.source == "generated":
            if self.n is None:
                raise UserError("generated pairs need a number: set n")
            make = grammar.hans if self.which.startswith("hans") else grammar.mnli
            return make(self.n, GENERATED[self.which])
        whole = self._whole()
        pairs = whole.without_stops() if self.source == "subset" else whole
        return pairs if self.n is None else pairs.take(self._drawn(whole, self.n))

    def _whole(self) -> Pairs:
        if self.which == "hans train":
            return hans.load("train")
        if self.which == "hans evaluation":
            return hans.load("evaluation")
        source: mnli.Source = "subset" if self.source == "subset" else "whole"
        return mnli.load(source, "train" if self.which == "mnli train" else "dev_matched")

    def _drawn(self, pairs: Pairs, n: int) -> np.ndarray:
        names, group = np.unique(pairs.subcase, return_inverse=True)
        each = n // len(names)
        if n % len(names) or not 0 < each <= np.bincount(group).min():
            raise UserError(
                f"{n} pairs of {self.which}: give a multiple of its {len(names)} subcases, at most "
                f"{np.bincount(group).min() * len(names):,}"
            )
        order = generator(0, Purpose.SPLIT).permutation(len(pairs))
        chosen = [order[group[order] == one][:each] for one in range(len(names))]
        return np.sort(np.concatenate(chosen))


@dataclass(frozen=True)
class Hidden:
    """What the hidden states of a sample depend on."""

    network: Network
    sample: Sample


def column(network: Network, sample: Sample) -> tuple[Examples, Pairs]:
    """Examples with `hidden` (n, T, width), mapped from disk, `length` and `label` (n,); the pairs.

    The pairs carry the labels of their data set; the examples those too.
    """
    pairs = sample.load()
    config = Hidden(network, sample)
    run = runs.once("nli_hidden", config, lambda scratch: _compute(config, pairs, scratch))
    _check_weights(network, run)
    if len(run.array("length")) != len(pairs):
        raise UserError(f"{run.path} is of other pairs: remove it with `rm -r {run.path}`")
    return {
        "hidden": _mapped(run.array("hidden")),
        "length": torch.from_numpy(np.array(run.array("length"))),
        "label": torch.from_numpy(np.array(pairs.label)),
    }, pairs


def _compute(config: Hidden, pairs: Pairs, scratch: Path) -> dict[str, Any]:
    encoder = config.network.open()
    tokens = encoder.tokens(pairs)
    n, width = tokens["ids"].shape
    size = 4 * n * width * encoder.width
    free = shutil.disk_usage(scratch).free
    if 2 * size > free:
        raise UserError(
            f"hidden states of {n:,} pairs take {size / 1e9:.1f} GB, twice while they are written, "
            f"and {free / 1e9:.1f} GB are free at {scratch}: lower `length` or `n`, or set "
            "RETRACE_RESULTS to a folder on another disk"
        )
    hidden = np.lib.format.open_memmap(
        scratch / "hidden.npy", mode="w+", dtype=np.float32, shape=(n, width, encoder.width)
    )
    order = tokens["length"].argsort()
    for rows in track(list(order.split(BATCH)), "hidden states"):
        longest = int(tokens["length"][rows].max())
        some = {k: v[rows] if v.ndim == 1 else v[rows, :longest] for k, v in tokens.items()}
        hidden[rows.numpy(), :longest] = encoder.trunk(some).numpy()
    return {
        "hidden": hidden,
        "length": tokens["length"].numpy(),
        "weights": config.network.weights(),
    }


def _check_weights(network: Network, run: Run) -> None:
    if run.metrics["weights"] != network.weights():
        raise UserError(
            f"{run.path} was computed with other weights than are in "
            f"{getattr(network, 'folder', network)} now: put those back, or remove what was made "
            f"with them, `rm -r {run.path.parent}`"
        )


def _mapped(array: np.ndarray) -> Tensor:
    """A read-only array on disk as a tensor, without a copy; nothing here writes to columns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))
