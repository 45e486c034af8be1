"""A text classifier: the weighted mean of word embeddings, and a linear layer."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from experiments.data.words import PADDING
from methods.randomness import initial_values


@dataclass(frozen=True)
class TextClassifier:
    """Embeddings of `width` numbers, with initial standard deviation `spread`."""

    width: int = 64
    spread: float = 0.1

    def build(self, rarity: Tensor, n_classes: int, seed: int) -> "BagOfWords":
        """The network with its initial parameters; `rarity` (n_words,) weighs the words."""
        with initial_values(seed) as draw:
            network = BagOfWords(rarity, n_classes, self.width)
        nn.init.normal_(network.words.weight, 0.0, self.spread, generator=draw)
        nn.init.normal_(network.head.weight, 0.0, self.width**-0.5, generator=draw)
        nn.init.zeros_(network.head.bias)
        return network.eval()


class BagOfWords(nn.Module):
    """Numbers of words (b, length), padded at the end, to logits (b, n_classes).

    Embedding and mean are one product with the text's bag of words. Function and gradient are those
    of `nn.Embedding(padding_idx=0)`, but there a row would be a sum of `length` outer products, and
    an inner product of two rows would need all pairs of them; here a row is one outer product.
    """

    rarity: Tensor

    def __init__(self, rarity: Tensor, n_classes: int, width: int) -> None:
        super().__init__()
        weights = rarity.clone()
        weights[PADDING] = 0
        self.register_buffer("rarity", weights, persistent=False)  # data, not learned
        self.words = nn.Linear(len(rarity), width, bias=False)
        self.head = nn.Linear(width, n_classes)

    def bag(self, words: Tensor) -> Tensor:
        """Counts of words times their rarity, scaled to unit length, (b, n_words)."""
        empty = self.rarity.new_zeros(len(words), len(self.rarity))
        return F.normalize(empty.scatter_add(1, words, self.rarity[words]))

    def features(self, words: Tensor) -> Tensor:
        """The inputs of the last layer, (b, width)."""
        return self.words(self.bag(words))

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.features(words))
