"""The Transformer (Vaswani et al., 2017), encoder and decoder, of layers whose rows stay factored.

Attention is written out: the fused kernels have no second derivatives, forward over reverse. Each
block normalises its input first, and encoder and decoder their output, as in the Flax example that
Schioppa et al. train; one matrix embeds both languages and is the output layer too.
"""

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.laboratory.errors import UserError
from methods.randomness import initial_values

PADDING = 0
Cache = dict[str, Tensor]


@dataclass(frozen=True)
class Transformer:
    """Sizes of the network; the defaults are those of Transformer Base."""

    width: int = 512
    heads: int = 8
    layers: int = 6
    inner: int = 2_048
    dropout: float = 0.1
    longest: int = 256

    def build(self, n_words: int, seed: int) -> "Seq2Seq":
        """The network with its initial parameters, in evaluation mode."""
        if self.width % self.heads or self.width % 2:
            raise UserError(
                f"width {self.width} with {self.heads} heads: give an even multiple of the heads"
            )
        with initial_values(seed):
            network = Seq2Seq(self, n_words)
        return network.eval()

    def last_layers(self, count: int) -> tuple[str, ...]:
        """Patterns of the parameters of the last `count` decoder layers.

        Neither the norm that follows them nor the output layer, which is the embedding, is theirs.
        """
        if not 1 <= count <= self.layers:
            raise UserError(f"{count} of {self.layers} decoder layers: give 1 to {self.layers}")
        return tuple(f"decoder.{self.layers - 1 - i}.*" for i in range(count))


class Attention(nn.Module):
    """Scaled dot-product attention of several heads, written out."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.dropout = nn.Dropout(dropout)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the attended positions, (b, heads, T, width / heads) both."""
        return self.split(self.key(x)), self.split(self.value(x))

    def forward(self, x: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        query = self.split(self.query(x))
        weights = (query @ key.mT * query.shape[3] ** -0.5 + bias).softmax(3)
        attended = (self.dropout(weights) @ value).transpose(1, 2).flatten(2)
        out: Tensor = self.out(attended)
        return out


class Feed(nn.Module):
    """Two linear layers at each position."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.dropout(self.up(x).relu()))
        return out


class EncoderLayer(nn.Module):
    """Attention within the source, then a feed-forward block."""

    def __init__(self, plan: Transformer) -> None:
        super().__init__()
        self.own = Attention(plan.width, plan.heads, plan.dropout)
        self.feed = Feed(plan.width, plan.inner, plan.dropout)
        self.first, self.last = nn.LayerNorm(plan.width), nn.LayerNorm(plan.width)
        self.dropout = nn.Dropout(plan.dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        normal = self.first(x)
        x = x + self.dropout(self.own(normal, *self.own.keys(normal), bias))
        return x + self.dropout(self.feed(self.last(x)))


class DecoderLayer(nn.Module):
    """Attention within the target so far, attention to the source, a feed-forward block."""

    def __init__(self, plan: Transformer) -> None:
        super().__init__()
        self.own, self.cross = (Attention(plan.width, plan.heads, plan.dropout) for _ in range(2))
        self.feed = Feed(plan.width, plan.inner, plan.dropout)
        self.first, self.middle, self.last = (nn.LayerNorm(plan.width) for _ in range(3))
        self.dropout = nn.Dropout(plan.dropout)

    def forward(
        self, x: Tensor, future: Tensor, source: tuple[Tensor, Tensor], padded: Tensor
    ) -> Tensor:
        normal = self.first(x)
        x = x + self.dropout(self.own(normal, *self.own.keys(normal), future))
        return self.rest(x, source, padded)

    def step(
        self, x: Tensor, before: Cache, source: tuple[Tensor, Tensor], padded: Tensor
    ) -> Tensor:
        """Only the next position, (b, 1, width); appends its key and value to those `before`."""
        normal = self.first(x)
        key, value = self.own.keys(normal)
        if before:
            key = torch.cat([before["key"], key], 2)
            value = torch.cat([before["value"], value], 2)
        before["key"], before["value"] = key, value
        none = x.new_zeros(1, 1, 1, 1)
        return self.rest(x + self.dropout(self.own(normal, key, value, none)), source, padded)

    def rest(self, x: Tensor, source: tuple[Tensor, Tensor], padded: Tensor) -> Tensor:
        """Attention to the source and the feed-forward block."""
        x = x + self.dropout(self.cross(self.middle(x), *source, padded))
        return x + self.dropout(self.feed(self.last(x)))


class Seq2Seq(nn.Module):
    """Subword numbers of two sentences, padded at the end, to a logit per subword and position."""

    places: Tensor

    def __init__(self, plan: Transformer, n_words: int) -> None:
        super().__init__()
        self.words = nn.Embedding(n_words, plan.width, padding_idx=PADDING)
        self.encoder = nn.ModuleList(EncoderLayer(plan) for _ in range(plan.layers))
        self.decoder = nn.ModuleList(DecoderLayer(plan) for _ in range(plan.layers))
        self.encoded, self.decoded = nn.LayerNorm(plan.width), nn.LayerNorm(plan.width)
        self.head = nn.Linear(plan.width, n_words, bias=False)
        self.dropout = nn.Dropout(plan.dropout)
        self.register_buffer("places", positions(plan.longest, plan.width), persistent=False)
        for part in self.modules():
            if isinstance(part, nn.Linear) and part is not self.head:
                nn.init.xavier_uniform_(part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        nn.init.normal_(self.words.weight, std=plan.width**-0.5)
        with torch.no_grad():
            self.words.weight[PADDING] = 0
        self.head.weight = self.words.weight

    @property
    def decoders(self) -> list[DecoderLayer]:
        """The decoder's layers, lowest first."""
        return [layer for layer in self.decoder if isinstance(layer, DecoderLayer)]

    @property
    def longest(self) -> int:
        """The number of positions."""
        return len(self.places)

    def embed(self, words: Tensor, first: int = 0) -> Tensor:
        """Embeddings of words at positions from `first` on, (b, T, width)."""
        scaled = self.words(words) * self.places.shape[1] ** 0.5
        out: Tensor = self.dropout(scaled + self.places[first : first + words.shape[1]])
        return out

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """The encoded source, (b, S, width), and the bias of its padding, (b, 1, 1, S)."""
        padded = padding_bias(source, self.places.dtype)
        x = self.embed(source)
        for layer in self.encoder:
            x = layer(x, padded)
        return self.encoded(x), padded

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits of the word after each of `target` (b, T), (b, T, n_words)."""
        memory, padded = self.encode(source)
        x = self.embed(target)
        ahead = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        future = ahead.to(x.dtype)[None, None] * torch.finfo(x.dtype).min
        for layer in self.decoders:
            x = layer(x, future, layer.cross.keys(memory), padded)
        logits: Tensor = self.head(self.decoded(x))
        return logits


def positions(count: int, width: int) -> Tensor:
    """Sines and cosines of geometric wavelengths, (count, width) (Vaswani et al., Sec. 3.5)."""
    at = torch.arange(count)[:, None] * torch.exp(
        torch.arange(0, width, 2) * (-log(10_000.0) / width)
    )
    return torch.stack([at.sin(), at.cos()], 2).flatten(1)


def padding_bias(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Zero at words and the most negative number at padding, (b, 1, 1, T)."""
    return (words == PADDING).to(dtype)[:, None, None] * torch.finfo(dtype).min


def trimmed(*several: Tensor) -> tuple[Tensor, ...]:
    """Words without the columns that are padding in every row, which need not be computed."""
    longest = torch.stack([(words != PADDING).sum(1).max() for words in several])
    try:
        widths = longest.tolist()  # the only wait for the device
    except RuntimeError:  # under vmap shapes cannot depend on examples
        return several
    return tuple(words[:, :width] for words, width in zip(several, widths, strict=True))


@dataclass(frozen=True)
class TranslationLoss:
    """Label-smoothed negative log-likelihood in nats per subword, mean over a sentence, (b,)."""

    smoothing: float = 0.0

    def __call__(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        source, target = trimmed(batch["source"].long(), batch["target"].long())
        logits = model(source, target[:, :-1])
        wanted = target[:, 1:]
        losses = F.cross_entropy(
            logits.flatten(0, 1), wanted.flatten(), reduction="none", label_smoothing=self.smoothing
        ).view(wanted.shape)
        is_word = (wanted != PADDING).to(losses.dtype)
        return (losses * is_word).sum(1) / is_word.sum(1)
