"""What is random in training, as a network trained alone draws it."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from experiments.plans import Fit
from experiments.seeds import Purpose, generator, torch_seeds


class Draws(Protocol):
    """Which examples each step takes, and the noise of it."""

    @property
    def count(self) -> int:
        """Examples of an epoch, of one network."""

    @property
    def name(self) -> str:
        """All that the numbers depend on."""

    def batches(self, plan: Fit, train: dict[str, Tensor], epoch: int) -> list[Tensor]:
        """Rows of the training set for each step, (b,), or (K, b) of a stack of K networks."""

    def noise(self, epoch: int, n_steps: int) -> list[int]:
        """A seed of torch's generators for each step."""


@dataclass(frozen=True)
class Shuffled:
    """All `count` examples, in another order every epoch."""

    seed: int
    count: int

    @property
    def name(self) -> str:
        return f"{self.seed}"

    def batches(self, plan: Fit, train: dict[str, Tensor], epoch: int) -> list[Tensor]:
        return plan.batches(train, generator(self.seed, Purpose.ORDER, epoch))

    def noise(self, epoch: int, n_steps: int) -> list[int]:
        return torch_seeds(self.seed, Purpose.NOISE, epoch, n_steps)


@dataclass(frozen=True)
class Cycled:
    """Budgets in steps: an "epoch" is `count` examples, from one random order of `n` after another.

    Training sets of different sizes thus get the same number of steps.
    """

    seed: int
    n: int
    count: int

    @property
    def name(self) -> str:
        return f"{self.seed}, {self.count} of {self.n} after {self.n}"

    def batches(self, plan: Fit, train: dict[str, Tensor], epoch: int) -> list[Tensor]:
        start, end = epoch * self.count, (epoch + 1) * self.count
        pieces = []
        for turn in range(start // self.n, -(-end // self.n)):
            order = generator(self.seed, Purpose.ORDER, turn).permutation(self.n)
            pieces.append(order[max(0, start - turn * self.n) : end - turn * self.n])
        rows = torch.from_numpy(np.concatenate(pieces))
        some = {"length": train["length"].cpu()[rows]}
        chosen = plan.batches(some, generator(self.seed, Purpose.BATCHES, epoch))
        return [rows[batch] for batch in chosen]

    def noise(self, epoch: int, n_steps: int) -> list[int]:
        return torch_seeds(self.seed, Purpose.NOISE, epoch, n_steps)
