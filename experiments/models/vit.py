"""Vision Transformers (Dosovitskiy et al., 2021, arXiv:2010.11929) of plain layers.

Attention is written out: the fused kernels have no second derivatives, forward over reverse. Class
token and positions are embeddings, so that all parameters belong to layers whose gradients stay
factored.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.laboratory.errors import UserError
from methods.randomness import initial_values


@dataclass(frozen=True)
class ViT:
    """Pre-norm blocks over patches and a class token; the default is ViT-L/32 at 224 pixels.

    resolution  side in pixels of the images that are cut into patches; others are resampled
    """

    depth: int = 24
    width: int = 1024
    heads: int = 16
    patch: int = 32
    resolution: int = 224
    channels: int = 3
    num_classes: int = 10

    def __post_init__(self) -> None:
        for name in ("depth", "width", "heads", "patch", "resolution", "channels"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} of a ViT is {getattr(self, name)}: give 1 or more")
        if self.width % self.heads:
            raise UserError(
                f"{self.heads} heads do not divide a width of {self.width}: give a divisor of it"
            )
        if self.resolution % self.patch:
            raise UserError(
                f"patches of {self.patch} do not divide {self.resolution} pixels: give a divisor"
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.channels, self.resolution, self.resolution

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return (self.resolution // self.patch) ** 2 + 1

    def build(self, seed: int) -> "VisionTransformer":
        """The network with its initial parameters: normal, of variance 1 / inputs."""
        with initial_values(seed) as draw:
            network = VisionTransformer(self)
        for part in network.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, 0.0, 1 / math.sqrt(part.in_features), generator=draw)
                nn.init.zeros_(part.bias)
            elif isinstance(part, nn.Embedding):
                nn.init.normal_(part.weight, 0.0, 0.02, generator=draw)
        return network.eval()


class VisionTransformer(nn.Module):
    """Images (b, channels, height, width) in [0, 1] to logits (b, num_classes)."""

    def __init__(self, size: ViT) -> None:
        super().__init__()
        self.size, width = size, size.width
        self.patch = nn.Linear(size.channels * size.patch**2, width)
        self.token = nn.Embedding(1, width)
        self.position = nn.Embedding(size.tokens, width)
        self.blocks = nn.ModuleList(Block(width, size.heads) for _ in range(size.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, size.num_classes)

    def features(self, image: Tensor) -> Tensor:
        """The class token after the last block, normalised, (b, width)."""
        patches = self.patch(self._patches(image))
        # Indices have an axis of examples too, so that gradients are factored by example.
        first = torch.zeros(len(image), 1, dtype=torch.long, device=image.device)
        index = torch.arange(self.size.tokens, device=image.device).expand(len(image), -1)
        x = torch.cat([self.token(first), patches], dim=1) + self.position(index)
        for block in self.blocks:
            x = block(x)
        normal: Tensor = self.norm(x[:, 0])
        return normal

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(image))
        return logits

    def _patches(self, image: Tensor) -> Tensor:
        """Pixels in [-1, 1] of each patch, row by row, (b, patches, channels patch^2)."""
        size, side = self.size.resolution, self.size.patch
        if image.shape[-2:] != (size, size):
            image = F.interpolate(image, (size, size), mode="bilinear", antialias=True)
        tiles = (2 * image - 1).unfold(2, side, side).unfold(3, side, side)
        return tiles.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


class Block(nn.Module):
    """Attention, then two linear layers, each normalised first and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.outer(F.gelu(self.inner(self.norm2(x))))


class Attention(nn.Module):
    """Softmax attention among the tokens of an image."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (query @ key.mT * self.scale).softmax(3)
        out: Tensor = self.out((weights @ value).transpose(1, 2).flatten(2))
        return out


def from_the_top(network: nn.Module, share: float) -> tuple[list[str], float]:
    """Names of the parameters of the last layers, and their share of all parameters.

    These are whole layers from the output down, as many as bring that share nearest to `share`.
    """
    if not 0 < share <= 1:
        raise UserError(f"a share {share:g} of the parameters: give more than 0 and at most 1")
    total = sum(value.numel() for value in network.parameters())
    names: list[str] = []
    count = 0
    for layer in _layers_down(network):
        more = sum(dict(network.named_parameters())[name].numel() for name in layer)
        if names and abs((count + more) / total - share) > abs(count / total - share):
            break
        names, count = [*layer, *names], count + more
    return names, count / total


def _layers_down(network: nn.Module) -> Iterator[list[str]]:
    """The parameters' names, layer by layer from the output down."""
    layers: dict[str, list[str]] = {}
    for name, _ in network.named_parameters():
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    yield from reversed(layers.values())
