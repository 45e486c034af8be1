"""Influence as the released code computes it: plain autograd, nothing kept, one pair at a time."""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.data.pairs import Pairs
from experiments.models.encoder import Encoder, Top
from methods.task import Examples

Entering = Callable[[Tensor], tuple[Tensor, Tensor]]


def through_trunk(encoder: Encoder, pairs: Pairs) -> Entering:
    """From positions among some pairs to what enters the trained layers, through the frozen ones.

    Tokens are ready; the hidden states (b, T, width) and lengths (b,) are computed at each call.
    """
    tokens = encoder.tokens(pairs)

    def enter(index: Tensor) -> tuple[Tensor, Tensor]:
        length = tokens["length"][index]
        some = {name: tokens[name][index, : int(length.max())] for name in ("ids", "types")}
        return encoder.trunk({**some, "length": length}), length

    return enter


def from_column(examples: Examples) -> Entering:
    """The same from hidden states that were computed once."""

    def enter(index: Tensor) -> tuple[Tensor, Tensor]:
        length = examples["length"][index]
        return examples["hidden"][index, : int(length.max())], length

    return enter


class Plain:
    """Gradients and Hessian products of a classifier by autograd over its own parameters."""

    def __init__(self, top: Top, enter: Entering, label: Tensor) -> None:
        self.module = deepcopy(top).requires_grad_(True)
        self.params = list(self.module.parameters())
        self.enter, self.label = enter, label

    def loss(self, index: Tensor) -> Tensor:
        """The mean loss of the pairs at some positions."""
        return F.cross_entropy(self.module(*self.enter(index)), self.label[index])

    def scores(self, s_test: Tensor, index: Tensor) -> Tensor:
        """<s_test (p,), gradient> of the pairs at some positions, (n,), one after another."""
        parts = self.split(s_test)
        out = torch.empty(len(index))
        for place, one in enumerate(index):
            grads = torch.autograd.grad(self.loss(one[None]), self.params)
            out[place] = sum(float((g * s).sum()) for g, s in zip(grads, parts, strict=True))
        return out

    def product(self, vector: Tensor, index: Tensor) -> Tensor:
        """The Hessian of the mean loss at some positions times a vector (p,), undamped."""
        grads = torch.autograd.grad(self.loss(index), self.params, create_graph=True)
        parts = zip(grads, self.split(vector), strict=True)
        along = torch.stack([(g * v).sum() for g, v in parts]).sum()
        return torch.cat([p.flatten() for p in torch.autograd.grad(along, self.params)])

    def recursion(self, vector: Tensor, damp: float, scale: float, batches: list[Tensor]) -> Tensor:
        """The released recursion, h <- v + (1 - damp) h - H h / scale, over some minibatches."""
        h = vector.clone()
        for index in batches:
            h = vector + (1 - damp) * h - self.product(h, index) / scale
        return h / scale

    def split(self, flat: Tensor) -> list[Tensor]:
        """Views of (p,) in the shapes of the parameters."""
        parts = flat.split([p.numel() for p in self.params])
        return [part.view(p.shape) for part, p in zip(parts, self.params, strict=True)]
