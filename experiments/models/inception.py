"""The small Inception network of Feldman & Zhang (2020), from Zhang et al. (2017), Appendix A."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from methods.randomness import initial_values

BLOCKS = ((32, 32), (32, 48), 80, (112, 48), (96, 64), (80, 80), (48, 96), 96, (176, 160))


@dataclass(frozen=True)
class SmallInception:
    """A convolution, blocks of parallel branches, two of them halving, mean and a linear layer.

    BLOCKS has the channels of the 1 x 1 and the 3 x 3 branch, or of the convolution that halves in
    parallel to pooling; the last block comes twice. Batch normalisation and ReLU follow each
    convolution.
    """

    num_classes: int = 100

    image_shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)

    def build(self, seed: int) -> nn.Module:
        """The network with its initial parameters: He's normal values."""
        with initial_values(seed) as draw:
            network = _network(self.num_classes)
        for value in network.parameters():
            if value.ndim > 1:  # normalisation starts at 1 and 0, the last bias uniform
                gain = 2.0 if value.ndim == 4 else 1.0
                nn.init.normal_(value, 0.0, (gain / value[0].numel()) ** 0.5, generator=draw)
        return network.to(memory_format=torch.channels_last).eval()


class _Parallel(nn.Module):
    """Branches on the same input, their channels concatenated."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([branch(image) for branch in self.branches], dim=1)


class _GlobalMean(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.mean((2, 3))


def _convolution(n_in: int, n_out: int, size: int, stride: int = 1) -> nn.Module:
    padding = size // 2 if stride == 1 else 0
    layer = nn.Conv2d(n_in, n_out, size, stride=stride, padding=padding, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(n_out), nn.ReLU())


def _network(num_classes: int) -> nn.Module:
    layers: list[nn.Module] = [_convolution(3, 96, 3)]
    channels = 96
    for block in (*BLOCKS, BLOCKS[-1]):
        if isinstance(block, int):
            halving = _convolution(channels, block, 3, stride=2)
            layers.append(_Parallel(halving, nn.MaxPool2d(3, stride=2)))
            channels += block
        else:
            one, three = block
            branches = _convolution(channels, one, 1), _convolution(channels, three, 3)
            layers.append(_Parallel(*branches))
            channels = one + three
    return nn.Sequential(*layers, _GlobalMean(), nn.Linear(channels, num_classes))
