"""A multilayer perceptron for regression."""

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from methods.randomness import initial_values


@dataclass(frozen=True)
class HousingMLP:
    """Fully connected layers with tanh between them, and one output."""

    hidden: tuple[int, ...] = (64, 64)

    def build(self, n_inputs: int, seed: int) -> nn.Module:
        """The network with its initial parameters: normal weights of variance 1/n, zero biases."""
        sizes = (n_inputs, *self.hidden, 1)
        with initial_values(seed) as draw:
            layers = [nn.Linear(m, n) for m, n in pairwise(sizes)]
        for layer in layers:
            nn.init.normal_(layer.weight, 0.0, layer.in_features**-0.5, generator=draw)
            nn.init.zeros_(layer.bias)
        stacked: list[nn.Module] = []
        for layer in layers[:-1]:
            stacked += [layer, nn.Tanh()]
        return nn.Sequential(*stacked, layers[-1], nn.Flatten(0)).eval()
