"""Classifiers for data of one's own: their inputs and outputs have the shape that the data has."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.laboratory.device import device
from experiments.models.bert import Bert
from methods.precision import full_precision
from methods.progress import track
from methods.randomness import initial_values

TOGETHER = 64  # texts that are encoded at a time


@dataclass(frozen=True)
class Linear:
    """One layer on features, on pixels, or on how often words are in a text."""

    def build(self, shape: tuple[int, ...], n_classes: int, seed: int) -> nn.Module:
        """The network with its initial parameters."""
        return MLP(()).build(shape, n_classes, seed)


@dataclass(frozen=True)
class MLP:
    """The same with hidden layers and ReLU between; He's initial values."""

    hidden: tuple[int, ...] = (64,)

    def build(self, shape: tuple[int, ...], n_classes: int, seed: int) -> nn.Module:
        """The network with its initial parameters."""
        layers: list[nn.Module] = [nn.Flatten()]
        with initial_values(seed) as draw:
            for n_in, n_out in pairwise([math.prod(shape), *self.hidden, n_classes]):
                layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        return _initialised(nn.Sequential(*layers[:-1]), draw)


@dataclass(frozen=True)
class CNN:
    """Convolutions of stride 2 with ReLU on images of any size, their mean, and a linear layer.

    The mean is over 4 x 4 parts of the image.
    """

    channels: tuple[int, ...] = (32, 64)

    def build(self, shape: tuple[int, ...], n_classes: int, seed: int) -> nn.Module:
        """The network with its initial parameters."""
        layers: list[nn.Module] = []
        with initial_values(seed) as draw:
            for n_in, n_out in pairwise([shape[0], *self.channels]):
                layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), nn.ReLU()]
            layers += [Parts(4), nn.Flatten(), nn.Linear(16 * self.channels[-1], n_classes)]
        return _initialised(nn.Sequential(*layers), draw).to(memory_format=torch.channels_last)


class Parts(nn.Module):
    """Means over side x side parts of an image of any size."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, image: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(image, self.side)


def _initialised(network: nn.Module, draw: torch.Generator) -> nn.Module:
    for name, value in network.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(value)
        else:
            nn.init.normal_(value, 0.0, math.sqrt(2 / value[0].numel()), generator=draw)
    return network.eval()


@dataclass(frozen=True)
class Encoder(Linear):
    """A pretrained encoder of texts, frozen, and one layer that is trained.

    folder  a Hugging Face folder of the BERT architecture, as a path or under the data folder
    length  tokens of a text that are read
    """

    folder: str = "models/all-MiniLM-L6-v2"
    length: int = 64

    def weights(self) -> str:
        """A checksum of the encoder."""
        return Bert(self.folder).weights()

    def features(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """The features of rows of one or more columns of texts, (n, d).

        A column has the mean of its tokens' last hidden states, of length 1. Two columns, u and v,
        have |u - v| and u v beside them, as their relation may be what the label is of.
        """
        each = [self._column(column) for column in texts]
        if len(each) == 2:
            each += [(each[0] - each[1]).abs(), each[0] * each[1]]
        return torch.cat(each, dim=1)

    @full_precision()
    @torch.no_grad()
    def _column(self, texts: Sequence[str]) -> Tensor:
        tokenizer, model = Bert(self.folder).read()
        model.to(device())
        means = []
        for start in track(range(0, len(texts), TOGETHER), "encoding"):
            tokens = tokenizer(
                list(texts[start : start + TOGETHER]),
                truncation=True,
                max_length=self.length,
                padding=True,
                return_tensors="pt",
            ).to(device())
            hidden, mask = model(**tokens).last_hidden_state, tokens["attention_mask"][..., None]
            means.append(F.normalize((hidden * mask).sum(1) / mask.sum(1)).cpu())
        return torch.cat(means)
