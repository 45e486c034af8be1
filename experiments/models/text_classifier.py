"""A text classifier: the weighted mean of word embeddings, and a linear layer."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.data.words import PADDING
from methods.randomness import Purpose, torch_seeds


@dataclass(frozen=True)
class TextClassifier:
    """Embeddings of `width` numbers, which start with the standard deviation `spread`."""

    width: int = 64
    spread: float = 0.1

    def build(self, rarity: Tensor, n_classes: int, seed: int) -> "BagOfWords":
        """The network with its initial parameters; `rarity` (n_words,) weighs the words."""
        with torch.random.fork_rng(devices=[]):  # torch draws its own first values from there
            network = BagOfWords(rarity, n_classes, self.width)
        draw = torch.Generator().manual_seed(torch_seeds(seed, Purpose.INITIAL)[0])
        nn.init.normal_(network.words.weight, 0.0, self.spread, generator=draw)
        nn.init.normal_(network.head.weight, 0.0, self.width**-0.5, generator=draw)
        nn.init.zeros_(network.head.bias)
        return network.eval()


class BagOfWords(nn.Module):
    """Numbers of words (b, length), padded at the end, to one logit a class, (b, n_classes).

    Embedding and mean as one product with the text's bag of words: the function and gradient of
    `nn.Embedding(padding_idx=0)`, whose rows would be sums of `length` outer products, each of
    which would meet each of another text's; as a layer of one input the row is one product.
    """

    rarity: Tensor

    def __init__(self, rarity: Tensor, n_classes: int, width: int) -> None:
        super().__init__()
        weights = rarity.clone()
        weights[PADDING] = 0
        self.register_buffer("rarity", weights, persistent=False)  # is data, never learned
        self.words = nn.Linear(len(rarity), width, bias=False)
        self.head = nn.Linear(width, n_classes)

    def bag(self, words: Tensor) -> Tensor:
        """Counts of words times their rarity, of unit length, (b, n_words)."""
        empty = self.rarity.new_zeros(len(words), len(self.rarity))
        return F.normalize(empty.scatter_add(1, words, self.rarity[words]))

    def features(self, words: Tensor) -> Tensor:
        """What the last layer sees, (b, width)."""
        return self.words(self.bag(words))

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.features(words))
