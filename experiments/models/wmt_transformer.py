"""The Transformer of Vaswani et al. (2017, arXiv:1706.03762), for timing Hessian products.

Each block normalises its input first, and one matrix embeds source and target and gives the logits,
as in the WMT example of Flax that Schioppa et al. (2022) use. Only its shapes matter here.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.randomness import initial_values


@dataclass(frozen=True)
class WmtTransformer:
    """Encoder and decoder; the default is the base size over 32,000 word pieces."""

    layers: int = 6
    width: int = 512
    inner: int = 2048
    heads: int = 8
    vocabulary: int = 32_000

    def build(self, seed: int) -> nn.Module:
        """The network with its initial parameters: normal, of variance 1 / inputs."""
        with initial_values(seed) as draw:
            network = TranslationNetwork(self)
        for part in network.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                inputs = part.weight.shape[1]
                nn.init.normal_(part.weight, 0.0, 1 / math.sqrt(inputs), generator=draw)
            if isinstance(part, nn.Linear):
                nn.init.zeros_(part.bias)
        return network.eval()


def sentence_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Sum of the cross-entropies of a sentence's next word pieces, (b,).

    The first piece of a target is a start symbol.
    """
    target = batch["target"]
    logits = model(batch["source"], target[:, :-1])
    losses = F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), reduction="none")
    return losses.view(len(target), -1).sum(1)


class TranslationNetwork(nn.Module):
    """Word pieces of source and target to the logits of the target's next pieces."""

    def __init__(self, size: WmtTransformer) -> None:
        super().__init__()
        self.embed = nn.Embedding(size.vocabulary, size.width)
        self.encoder = nn.ModuleList(_Layer(size, reads=False) for _ in range(size.layers))
        self.decoder = nn.ModuleList(_Layer(size, reads=True) for _ in range(size.layers))
        self.encoded, self.decoded = nn.LayerNorm(size.width), nn.LayerNorm(size.width)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits of each next word piece, (b, T, vocabulary), of word pieces (b, S) and (b, T)."""
        memory = self._embedded(source)
        for layer in self.encoder:
            memory = layer(memory)
        memory, x = self.encoded(memory), self._embedded(target)
        length = target.shape[1]
        ahead = torch.full((length, length), -1e9, dtype=x.dtype, device=x.device).triu(1)
        for layer in self.decoder:
            x = layer(x, ahead, memory)
        return F.linear(self.decoded(x), self.embed.weight)

    def _embedded(self, pieces: Tensor) -> Tensor:
        x = self.embed(pieces)
        width = x.shape[-1]
        at = torch.arange(pieces.shape[1], dtype=x.dtype, device=x.device)[:, None]
        rate = torch.exp(torch.arange(0, width, 2, dtype=x.dtype, device=x.device) / -width * 9.21)
        waves = torch.cat([(at * rate).sin(), (at * rate).cos()], 1)
        return x * math.sqrt(width) + waves


class _Layer(nn.Module):
    """Attention within the sequence, to the encoded source if `reads`, and two linear layers."""

    def __init__(self, size: WmtTransformer, reads: bool) -> None:
        super().__init__()
        self.norm1, self.own = nn.LayerNorm(size.width), _Attention(size)
        self.norm2 = nn.LayerNorm(size.width)
        if reads:
            self.norm3, self.other = nn.LayerNorm(size.width), _Attention(size)
        self.inner = nn.Linear(size.width, size.inner)
        self.outer = nn.Linear(size.inner, size.width)

    def forward(
        self, x: Tensor, bias: Tensor | None = None, memory: Tensor | None = None
    ) -> Tensor:
        normal = self.norm1(x)
        x = x + self.own(normal, normal, bias)
        if memory is not None:
            x = x + self.other(self.norm3(x), memory, None)
        return x + self.outer(self.inner(self.norm2(x)).relu())


class _Attention(nn.Module):
    """Attention written out: the fused kernels have no second derivatives, forward over reverse."""

    def __init__(self, size: WmtTransformer) -> None:
        super().__init__()
        self.heads = size.heads
        self.query, self.key, self.value, self.out = (
            nn.Linear(size.width, size.width) for _ in range(4)
        )

    def forward(self, attending: Tensor, attended: Tensor, bias: Tensor | None) -> Tensor:
        inputs = ((self.query, attending), (self.key, attended), (self.value, attended))
        query, key, value = (
            linear(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for linear, x in inputs
        )
        logits = query @ key.mT / math.sqrt(query.shape[-1])
        weights = (logits if bias is None else logits + bias).softmax(3)
        out: Tensor = self.out((weights @ value).transpose(1, 2).flatten(2))
        return out
