"""The estimate of Feldman and Zhang from many trained models, beside numpy."""

import numpy as np
import torch
from torch import Tensor

from experiments.timing.peers.beside import Beside, Call, Way
from methods.ensembles.masks import Packed, draw_masks
from methods.ensembles.subset import Sums


def subsets(n: int = 25_000, queries: int = 2_000, models: int = 2_000) -> Beside:
    """The influence of n examples on the outcomes of queries, right or wrong."""
    masks = draw_masks(models, n, round(0.7 * n), 0)
    right = torch.rand(models, queries, generator=torch.Generator().manual_seed(0)) < 0.8
    packed = Packed.of(masks), Packed.of(right)

    def plain() -> Call:
        outcomes = right.numpy()

        def influence() -> Tensor:
            taken, correct = masks.astype(np.float32), outcomes.astype(np.float32)
            number, within = taken.sum(0), correct.T @ taken
            without = correct.sum(0)[:, None] - within
            return torch.from_numpy(within / number - without / (models - number))

        return influence

    return Beside(
        f"subset estimate, {n * queries:.0e} pairs, {models:,} models",
        "million pairs",
        n * queries // 1_000_000 or 1,
        lambda: torch.as_tensor(Sums.of(*packed).influence()),
        {"numpy": Way("one product in float32", plain)},
    )
