"""Multilayer perceptrons for digits: cheap enough to train thousands of."""

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from methods.randomness import initial_values


@dataclass(frozen=True)
class DigitsMLP:
    """Linear layers with ReLU between them, on images of one shape; He's initial values."""

    hidden: tuple[int, ...] = (64,)
    image_shape: tuple[int, int, int] = (1, 28, 28)

    def build(self, seed: int) -> nn.Module:
        """The network with its initial parameters."""
        sizes = [math.prod(self.image_shape), *self.hidden, 10]
        layers: list[nn.Module] = [nn.Flatten()]
        with initial_values(seed) as draw:
            for n_in, n_out in pairwise(sizes):
                layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        network = nn.Sequential(*layers[:-1])
        for name, value in network.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(value)
            else:
                nn.init.normal_(value, 0.0, math.sqrt(2 / value.shape[1]), generator=draw)
        return network.eval()
