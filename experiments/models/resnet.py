"""Residual networks for small colour images (He et al., 2016, arXiv:1512.03385, Sec. 4.2)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.laboratory.errors import UserError
from methods.randomness import initial_values

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10's training set


@dataclass(frozen=True)
class ResNet:
    """6n + 2 layers: a convolution, three stages of n blocks, a linear layer on the global mean.

    Stages have `width`, 2 and 4 times as many channels at full, half and a quarter of the
    resolution. Shortcuts are the paper's option A, without parameters: the identity, subsampled and
    padded with zero channels where the stage changes. 853,018 parameters at depth 56.
    """

    depth: int = 56
    width: int = 16
    num_classes: int = 10

    image_shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)

    def build(self, seed: int) -> nn.Module:
        """The network with its initial parameters."""
        blocks, rest = divmod(self.depth - 2, 6)
        if rest or blocks < 1:
            raise UserError(f"a ResNet of depth {self.depth}: give 6 n + 2, such as 8, 14 or 56")
        with initial_values(seed) as draw:
            network = _Network(blocks, self.width, self.num_classes)
        for value in network.parameters():
            if value.ndim > 1:  # normalisation starts at 1 and 0, biases at 0
                gain = 2.0 if value.ndim == 4 else 1.0
                nn.init.normal_(value, 0.0, math.sqrt(gain / value[0].numel()), generator=draw)
        nn.init.zeros_(network.head.bias)
        # Convolutions over a few channels run faster with channels last.
        return network.to(memory_format=torch.channels_last).eval()


class _Network(nn.Module):
    mean: Tensor
    deviation: Tensor

    def __init__(self, blocks: int, width: int, num_classes: int) -> None:
        super().__init__()
        shape = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(MEAN).view(shape), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(shape), persistent=False)
        self.first, self.norm = _convolution(3, width), nn.BatchNorm2d(width)
        stages, channels = [], width
        for stage in range(3):
            for block in range(blocks):
                wider = width * 2**stage
                stages.append(Block(channels, wider, 2 if stage and not block else 1))
                channels = wider
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels, num_classes)

    def features(self, image: Tensor) -> Tensor:
        """The inputs of the linear layer, (b, 4 width), for images (b, 3, height, width)."""
        x = F.relu(self.norm(self.first((image - self.mean) / self.deviation)))
        return self.stages(x).mean((2, 3))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image))


class Block(nn.Module):
    """Two 3 x 3 convolutions, each normalised, and a shortcut without parameters."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.stride, self.more = stride, n_out - n_in
        self.first, self.norm1 = _convolution(n_in, n_out, stride), nn.BatchNorm2d(n_out)
        self.second, self.norm2 = _convolution(n_out, n_out), nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.second(F.relu(self.norm1(self.first(x)))))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.more:
            x = F.pad(x, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return F.relu(x + inner)


def _convolution(n_in: int, n_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
