"""What is random in training, as a network trained alone draws it."""

from dataclasses import dataclass
from typing import Protocol

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
