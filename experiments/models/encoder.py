"""An encoder of the BERT architecture cut in two: a trunk that is frozen, a top that is trained.

What enters the trained layers is the same at every step, so it is computed once; training and
every influence computation then touch the top alone (experiments/hidden.py keeps it).
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from experiments.data.pairs import Pairs
from experiments.problems import UserError
from experiments.seeds import Purpose, torch_seeds

Tokens = Callable[[Sequence[str], Sequence[str]], tuple[list[list[int]], list[list[int]]]]
"""Premises and hypotheses to the numbers of their tokens, and which sentence each is of."""


class Encoder:
    """A pretrained model with the tokens of its pairs: `trunk` once, `top` to train."""

    def __init__(self, model: Any, frozen: int, length: int, tokens: Tokens) -> None:
        self.model, self.frozen, self.length, self._tokens = model, frozen, length, tokens
        self.model.requires_grad_(False)

    @property
    def width(self) -> int:
        return int(self.model.config.hidden_size)

    def tokens(self, pairs: Pairs) -> dict[str, Tensor]:
        """ids, types (n, T) and length (n,); T is the longest pair, at most `length`."""
        ids, types = self._tokens(pairs.premise, pairs.hypothesis)
        lengths = torch.tensor([len(one) for one in ids])
        width = int(lengths.max())
        padded = [[[*row, *([0] * (width - len(row)))] for row in of] for of in (ids, types)]
        return {"ids": torch.tensor(padded[0]), "types": torch.tensor(padded[1]), "length": lengths}

    def tuned(self, top: "Top", frozen: int) -> "Encoder":
        """This encoder with the layers of a trained top for its own, more of them frozen."""
        layers = len(self.model.encoder.layer)
        if not self.frozen <= frozen < layers:
            raise UserError(
                f"{frozen} frozen layers of {layers}, of which {self.frozen} were frozen before: "
                f"choose from {self.frozen} to {layers - 1}"
            )
        for own, trained in zip(self.model.encoder.layer[self.frozen :], top.layers, strict=True):
            own.load_state_dict(trained.state_dict())
        self.model.pooler.load_state_dict(top.pooler.state_dict())
        return Encoder(self.model, frozen, self.length, self._tokens)

    @torch.no_grad()
    def trunk(self, tokens: dict[str, Tensor]) -> Tensor:
        """Hidden states that enter the first trained layer, (b, T, width)."""
        hidden = self.model.embeddings(tokens["ids"], tokens["types"])
        bias = attention_bias(tokens["length"], hidden)
        for layer in self.model.encoder.layer[: self.frozen]:
            hidden = _layer(layer, hidden, bias, nn.Softmax(3))
        return hidden

    def top(self, num_labels: int, dropout: float, seed: int) -> "Top":
        """The trained layers with a new classifier, in evaluation mode; the seed draws that."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seeds(seed, Purpose.INITIAL)[0])
            classifier = nn.Linear(self.width, num_labels)
            nn.init.normal_(classifier.weight, std=self.model.config.initializer_range)
            nn.init.zeros_(classifier.bias)
        layers = deepcopy(self.model.encoder.layer[self.frozen :])
        top = Top(layers, deepcopy(self.model.pooler), classifier, dropout)
        return top.requires_grad_(True).eval()


class Top(nn.Module):
    """The trained layers: hidden states to logits, as BertForSequenceClassification has them.

    The pooler reads the first token alone, so the last layer computes no other: its keys and
    values are needed of all tokens, the rest of it, ten twelfths of its weights, of one.
    """

    def __init__(
        self, layers: nn.ModuleList, pooler: nn.Module, classifier: nn.Linear, dropout: float
    ) -> None:
        super().__init__()
        self.layers, self.pooler, self.classifier = layers, pooler, classifier
        self.dropout = nn.Dropout(dropout)
        self.weigh = nn.Softmax(3)  # of attention: a layer, so that its tangents can be its own
        for part in self.layers.modules():
            if isinstance(part, nn.Dropout):
                part.p = dropout

    def first(self, hidden: Tensor, length: Tensor) -> Tensor:
        """What the pooler sees of each pair: its first token after the last layer, (b, width)."""
        hidden = hidden[:, : longest(length, hidden.shape[1])]
        bias = attention_bias(length, hidden)
        for layer in self.layers[:-1]:
            hidden = _layer(layer, hidden, bias, self.weigh)
        return _layer(self.layers[-1], hidden, bias, self.weigh, first=1)[:, 0]

    def features(self, hidden: Tensor, length: Tensor) -> Tensor:
        """What the classifier sees of each pair, (b, width)."""
        pooled: Tensor = self.pooler(self.first(hidden, length)[:, None])
        return pooled

    def forward(self, hidden: Tensor, length: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(self.features(hidden, length)))
        return logits


def _layer(
    layer: Any, hidden: Tensor, bias: Tensor, weigh: nn.Module, first: int | None = None
) -> Tensor:
    """One encoder layer at the `first` tokens, or all, by attention written out.

    Second derivatives, forward over reverse, do not exist for the fused kernels.
    """
    own, asked = layer.attention.self, hidden[:, :first]
    heads = (own.num_attention_heads, own.attention_head_size)
    query, key, value = (
        linear(of).unflatten(2, heads).transpose(1, 2)
        for linear, of in ((own.query, asked), (own.key, hidden), (own.value, hidden))
    )
    weights = own.dropout(weigh(query @ key.mT * own.scaling + bias))
    met = (weights @ value).transpose(1, 2).flatten(2)
    out: Tensor = layer.feed_forward_chunk(layer.attention.output(met, asked))
    return out


def attention_bias(length: Tensor, hidden: Tensor) -> Tensor:
    """Zero at the tokens of each pair, and as good as minus infinity behind, (b, 1, 1, T)."""
    behind = torch.arange(hidden.shape[1], device=hidden.device) >= length[:, None]
    return behind.to(hidden.dtype)[:, None, None] * torch.finfo(hidden.dtype).min


def longest(length: Tensor, most: int) -> int:
    """Tokens of the longest pair of a batch: what is behind it need not be computed."""
    try:
        return int(length.max())
    except RuntimeError:  # under vmap no shape can depend on an example
        return most
