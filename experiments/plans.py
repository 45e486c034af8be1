"""How a network is trained: epochs, batches and rates, and the optimizer they describe."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Adam:
    """Adam's decay rates; weight decay stays part of the gradient, as an L2 penalty is."""

    beta1: float = 0.9
    beta2: float = 0.999


@dataclass(frozen=True)
class Fit:
    """Minibatch descent on mean loss + weight_decay/2 |params|^2: momentum, or Adam if given.

    `every` is the number of epochs between checkpoints; the last epoch always ends with one.
    """

    epochs: int = 10
    batch_size: int = 100
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    every: int = 1
    adam: Adam | None = None

    def rate(self, epoch: int) -> float:
        """The learning rate in force in an epoch, counted from 0."""
        return self.lr


@dataclass(frozen=True)
class Stepped(Fit):
    """The same with the learning rate divided by `factor` after these shares of the epochs.

    As He et al. (2016, arXiv:1512.03385, Sec. 4.2) train on CIFAR-10: 64k steps of 128 examples
    with drops at half and at three quarters of them, momentum 0.9 and weight decay 1e-4.
    """

    drops: tuple[float, ...] = (0.5, 0.75)
    factor: float = 10.0

    def rate(self, epoch: int) -> float:
        """The learning rate in force in an epoch, counted from 0."""
        passed = sum(epoch >= round(share * self.epochs) for share in self.drops)
        return self.lr / self.factor**passed


def optimizer(module: nn.Module, plan: Fit) -> torch.optim.Optimizer:
    """The optimizer of a plan; it treats every number of a parameter alike."""
    shared: dict[str, Any] = {"lr": plan.lr, "weight_decay": plan.weight_decay, "fused": True}
    if plan.adam is not None:
        betas = (plan.adam.beta1, plan.adam.beta2)
        return torch.optim.Adam(module.parameters(), betas=betas, **shared)
    return torch.optim.SGD(module.parameters(), momentum=plan.momentum, **shared)
