"""The classifiers of dattri's benchmark (Deng et al., 2024): logistic regression and an MLP."""

import math
from dataclasses import dataclass

from torch import nn

from methods.randomness import initial_values


@dataclass(frozen=True)
class BenchmarkMLP:
    """Linear layers, after each hidden one ReLU and dropout; without hidden ones, regression.

    Initial values are torch's own. Dropout is off in evaluation, so that attributions see none.
    """

    hidden: tuple[int, ...] = ()
    image_shape: tuple[int, int, int] = (1, 28, 28)
    dropout: float = 0.1

    def build(self, seed: int) -> nn.Module:
        """The network with its initial parameters."""
        size = math.prod(self.image_shape)
        layers: list[nn.Module] = [nn.Flatten()]
        with initial_values(seed):
            for width in self.hidden:
                layers += [nn.Linear(size, width), nn.ReLU(), nn.Dropout(self.dropout)]
                size = width
            layers.append(nn.Linear(size, 10))
        return nn.Sequential(*layers).eval()
