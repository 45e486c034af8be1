"""How many of the most influential training pairs are among the nearest (Sec. 5.1)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import nli_points
from experiments.hidden import Sample
from experiments.nli_curvature import Plan
from experiments.nli_models import Model
from experiments.nli_scores import check_counts, influences, told
from experiments.pieces import kept
from methods.fastif import neighbours

KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "harmful": torch.neg,
    "helpful": torch.clone,
    "unsigned": torch.abs,
}
BLOCK = 25  # points whose s_test are held at once: half a GB of them at 5.5M parameters
SELECTORS = ("kNN", "H = I")


@dataclass(frozen=True)
class Recall:
    """R@m over `n_points` pairs, half of them predicted rightly.

    The truth is the influence over the whole training set, its s_test by `plan`. Among the first k
    by distance of features (kNN) and by size of the inner product of gradients (H = I).
    """

    sample: Sample = Sample("mnli dev")
    n_points: int = 100
    ks: tuple[int, ...] = (10, 100, 163, 1_000, 1_631, 5_000, 10_000)
    ms: tuple[int, ...] = (10, 100, 1_000)
    plan: Plan = Plan(k=None, sample=32, repeats=2)

    def run(self, model: Model, scratch: Path) -> dict[str, Any]:
        """`recall` (selectors, kinds, ms, ks, n_points) and the scores it is made of."""
        seen = nli_points.features(model, model.train)
        check_counts(len(seen), ks=self.ks, ms=self.ms)
        index = nli_points.balanced(model, self.sample, self.n_points)
        settings = self.plan.settle(model)
        blocks = []
        for place, some in enumerate(np.split(index, range(BLOCK, len(index), BLOCK))):
            query = nli_points.examples(model, self.sample, some)
            compute = partial(influences, model, query, settings)
            blocks.append(kept(scratch, f"block-{place}", compute))
        scores, similarity = (
            torch.from_numpy(np.concatenate([block[name] for block in blocks]))
            for name in ("scores", "similarity")
        )
        features = nli_points.features(model, self.sample)[index]
        orders = (
            neighbours(features, seen, max(self.ks)),
            similarity.abs().topk(max(self.ks)).indices,
        )
        recall = np.stack([recalls(scores, order, self.ks, self.ms) for order in orders])
        right = nli_points.predicted(model, self.sample)[1][index]
        return {
            "work": "recall",
            "recall": recall,
            "scores": scores.numpy(),
            "similarity": similarity.numpy(),
            "points": index,
            "right": right,
            "n_train": len(seen),
            "result": self._told(recall),
            "relative_error": np.concatenate([block["relative_error"] for block in blocks]),
            **told(settings),
        }

    def _told(self, recall: np.ndarray) -> str:
        shares = recall[0, -1, -1].mean(1)
        listed = ", ".join(f"{100 * x:.0f}% at {k:,}" for k, x in zip(self.ks, shares, strict=True))
        return f"R@{self.ms[-1]:,} of kNN, unsigned: {listed}"


def recalls(scores: Tensor, order: Tensor, ks: tuple[int, ...], ms: tuple[int, ...]) -> np.ndarray:
    """R@m of the first k of an order of candidates, (kinds, ms, ks, n_points).

    scores (n_points, n) are the truth; order (n_points, >= max(ks)) has positions, best first.
    """
    n_points, n = scores.shape
    rank = torch.full((n_points, n), n)
    rank.scatter_(1, order, torch.arange(order.shape[1]).expand(n_points, -1))
    out = np.empty((len(KINDS), len(ms), len(ks), n_points))
    for kind, turned in enumerate(KINDS.values()):
        for place, m in enumerate(ms):
            ranks = rank.gather(1, turned(scores).topk(m).indices)
            for at, k in enumerate(ks):
                out[kind, place, at] = (ranks < k).double().mean(1).numpy()
    return out
