"""Convolutional networks for digits: a config builds its network from a seed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from methods.randomness import initial_values


@dataclass(frozen=True)
class SmallCNN:
    """All-convolutional and smooth, with 2,616 parameters: few enough to compute the whole Hessian.

    Koh & Liang (2017, arXiv:1703.04730), Sec. 4.2. Layers, tanh, unpadded convolutions and initial
    values are those of their released `all_CNN_c.py`, since the paper omits some.
    """

    image_shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)

    def build(self, seed: int, n_classes: int = 10) -> nn.Module:
        """The network with its initial parameters."""
        return _network(
            seed,
            lambda: [
                *_smooth(1, 8, 3),
                *_smooth(8, 8, 3, stride=2),
                *_smooth(8, 8, 3),
                *_smooth(8, 8, 3, stride=2),
                *_smooth(8, 8, 3),
                *_smooth(8, 10, 1),
                GlobalMean(),
                nn.Linear(10, n_classes),
            ],
            _koh_liang,
        )


@dataclass(frozen=True)
class LargeCNN:
    """The MNIST example of Flax: 824,458 parameters."""

    image_shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)

    def build(self, seed: int, n_classes: int = 10) -> nn.Module:
        """The network with its initial parameters."""
        return _network(
            seed,
            lambda: [
                nn.Conv2d(1, 32, 3, padding=1),
                nn.ReLU(),
                nn.AvgPool2d(2),
                nn.Conv2d(32, 64, 3, padding=1),
                nn.ReLU(),
                nn.AvgPool2d(2),
                nn.Flatten(),
                nn.Linear(64 * 7 * 7, 256),
                nn.ReLU(),
                nn.Linear(256, n_classes),
            ],
            _lecun,
        )


@dataclass(frozen=True)
class DigitsCNN:
    """SmallCNN for the 8 x 8 digits of scikit-learn: padded, two layers fewer, 1,448 parameters."""

    image_shape: ClassVar[tuple[int, int, int]] = (1, 8, 8)

    def build(self, seed: int, n_classes: int = 10) -> nn.Module:
        """The network with its initial parameters."""
        return _network(
            seed,
            lambda: [
                *_smooth(1, 8, 3, padding=1),
                *_smooth(8, 8, 3, stride=2, padding=1),
                *_smooth(8, 8, 3, stride=2, padding=1),
                *_smooth(8, 10, 1),
                GlobalMean(),
                nn.Linear(10, n_classes),
            ],
            _koh_liang,
        )


class GlobalMean(nn.Module):
    """(b, channels, height, width) to (b, channels)."""

    def forward(self, image: Tensor) -> Tensor:
        return image.mean((2, 3))


def _smooth(
    n_in: int, n_out: int, size: int, stride: int = 1, padding: int = 0
) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(n_in, n_out, size, stride=stride, padding=padding), nn.Tanh()


def _lecun(weight: Tensor) -> float:
    # Truncation at two deviations lowers the standard deviation by this factor, as in Flax.
    return math.sqrt(1 / weight[0].numel()) / 0.87962566103423978


def _koh_liang(weight: Tensor) -> float:
    return (2.0 if weight.ndim == 4 else 1.0) / math.sqrt(weight[0].numel())


def _network(
    seed: int, make: Callable[[], list[nn.Module]], deviation: Callable[[Tensor], float]
) -> nn.Module:
    """Normal weights truncated at two deviations, zero biases; torch's own state is unchanged."""
    with initial_values(seed) as draw:
        network = nn.Sequential(*make())
    for name, value in network.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(value)
        else:
            std = deviation(value)
            nn.init.trunc_normal_(value, 0.0, std, -2 * std, 2 * std, generator=draw)
    # Convolutions over a few channels run nearly twice as fast with channels last.
    return network.to(memory_format=torch.channels_last).eval()
