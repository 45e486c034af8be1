"""Whether fast influence agrees with full influence, and with plain gradients (Sec. 5.3)."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import nli_points
from experiments.hidden import Sample
from experiments.nli_curvature import Plan
from experiments.nli_models import Model, Trained, trained
from experiments.nli_scores import along, check_counts, told
from experiments.pieces import kept
from methods.fastif import FastIF, inverted, neighbours, query_gradients
from methods.workers import here


@dataclass(frozen=True)
class Agreement:
    """Scores by systems that differ in how s_test is estimated, each with draws of its own.

    full      no kNN, a large B
    fast      a small B; estimated anew for each k, as two runs of FastIF are
    few       to the same damping in as few steps as its own scale takes, if given

    Processes started together divide the repeats of each among them.
    """

    sample: Sample = Sample("mnli dev")
    n_points: int = 6
    ks: tuple[int, ...] = (1_000, 10_000)
    full: Plan = Plan(k=None, sample=32, repeats=4)
    fast: Plan = Plan(repeats=2)
    few: Plan | None = None

    def plans(self) -> dict[str, Plan]:
        """Every system by name; seeds set their minibatches apart."""
        fast = {f"fast_{k}": replace(self.fast, k=k, seed=1 + i) for i, k in enumerate(self.ks)}
        few = {} if self.few is None else {"few": replace(self.few, k=None, seed=1 + len(fast))}
        return {"full": replace(self.full, k=None, seed=0), **fast, **few}

    def run(self, model: Model, scratch: Path) -> dict[str, Any]:
        """`scores_NAME` (n_points, n_train) of each system and of `gradients`, `neighbours`.

        neighbours (n_points, max(ks)) are the candidates, nearest first; `error_NAME` (n_points,)
        the relative error of s_test by the spread of its repeats, nan where there is one.
        """
        there = trained(model)
        check_counts(len(there.pairs), ks=self.ks)
        index = nli_points.balanced(model, self.sample, self.n_points)
        gradients = query_gradients(there.task, nli_points.examples(model, self.sample, index))
        settings = {name: plan.settle(model) for name, plan in self.plans().items()}
        s_tests = {
            name: kept(scratch, name, partial(_s_test, there, gradients, one), here().all)
            for name, one in settings.items()
        }
        directions = [torch.from_numpy(one["mean"]) for one in s_tests.values()]
        scores = along(there.task, there.train, torch.cat([*directions, gradients]))
        blocks = dict(zip([*settings, "gradients"], scores.split(len(index)), strict=True))
        found: dict[str, Any] = {"work": "agreement", "n_train": len(there.pairs)}
        found["result"] = "Pearson with full over all pairs: " + ", ".join(
            f"{name} {_correlation(block, blocks['full']):.4f}"
            for name, block in blocks.items()
            if name != "full"
        )
        found |= {f"scores_{name}": block.numpy() for name, block in blocks.items()}
        for name, one in settings.items():
            found |= told(one, f"{name}_")
            found[f"error_{name}"] = s_tests[name]["error"]
        features = nli_points.features(model, self.sample)[index]
        near = neighbours(features, nli_points.features(model, model.train), max(self.ks))
        right = nli_points.predicted(model, self.sample)[1][index]
        return {**found, "neighbours": near.numpy(), "points": index, "right": right}


def _s_test(there: Trained, gradients: Tensor, settings: FastIF) -> dict[str, np.ndarray]:
    found = inverted(there.task, there.train, gradients, settings, here())
    return {"mean": found.mean.numpy(), "error": found.relative_error.numpy()}


def _correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's correlation of two rows, the mean over rows."""
    rows = zip(one, other, strict=True)
    return float(np.mean([float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in rows]))
