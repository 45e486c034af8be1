"""Logistic regressions that each lack one example, trained by hundreds at a time.

All see the others in the order of the file, so that a step of any of them takes its examples from
one more than a batch: the products of all of them are one product of matrices.
"""

import numpy as np
import torch
from torch import Tensor, nn

from experiments.laboratory.errors import Diverged
from experiments.training.plans import Fit
from methods.examples import Examples


@torch.no_grad()
def fit_without(
    module: nn.Module, train: Examples, removed: np.ndarray, plan: Fit
) -> tuple[list[nn.Module], np.ndarray]:
    """Train copies of a linear classifier of images, the k-th without example `removed[k]`.

    module  Flatten and one Linear, where all of them start
    Plain descent on the mean cross-entropy, without momentum or weight decay.
    Returns the networks and their mean training loss in each epoch, (epochs, K): to rounding, those
    of `fit_stack` with a plan that keeps the order.
    """
    layer = next(one for one in module.modules() if isinstance(one, nn.Linear))
    image, label = train["image"].flatten(1), train["label"]
    image = torch.cat([image, image.new_ones(len(image), 1)], dim=1)  # for the bias
    lacks = torch.from_numpy(removed).to(image.device)
    start = torch.cat([layer.weight, layer.bias[:, None]], dim=1)
    weights = start.T[:, None].repeat(1, len(lacks), 1).flatten(1)  # (features, K classes)
    classes, n = len(start), len(image) - 1
    losses = torch.zeros(plan.epochs, len(lacks), dtype=torch.float64, device=image.device)
    for epoch in range(plan.epochs):
        for begin in range(0, n, plan.batch_size):
            end = min(begin + plan.batch_size, n)
            some, right = image[begin : end + 1], label[begin : end + 1]
            inside = _inside(begin, end, lacks)
            logits = (some @ weights).view(len(some), len(lacks), classes)
            chosen = right[:, None, None].expand(-1, len(lacks), 1)
            slope = logits.log_softmax(2)
            losses[epoch] += (-slope.gather(2, chosen)[..., 0] * inside).sum(0)
            slope = slope.exp_()
            slope.scatter_add_(2, chosen, slope.new_full(chosen.shape, -1.0))
            slope *= inside[..., None]
            weights.addmm_(some.T, slope.flatten(1), alpha=-plan.lr / (end - begin))
    if not bool(weights.isfinite().all()):
        raise Diverged(f"training diverged: lower lr, which is {plan.lr:g}")
    found = weights.view(-1, len(lacks), classes).permute(1, 2, 0)
    return [_network(module, one) for one in found], (losses / n).cpu().numpy()


def _inside(begin: int, end: int, lacks: Tensor) -> Tensor:
    """Which of the rows `begin` to `end` each network sees in a step, (end + 1 - begin, K) bool."""
    row = torch.arange(begin, end + 1, device=lacks.device)[:, None]
    place = row - (row > lacks).long()  # in the order of the network that lacks an earlier one
    return (row != lacks) & (begin <= place) & (place < end)


def _network(module: nn.Module, weights: Tensor) -> nn.Module:
    """The network with weights (classes, features) whose last column is the bias."""
    layers = [nn.Linear(weights.shape[1] - 1, len(weights), device=weights.device)]
    layers[0].weight.copy_(weights[:, :-1])
    layers[0].bias.copy_(weights[:, -1])
    return nn.Sequential(nn.Flatten(), *layers).eval()
