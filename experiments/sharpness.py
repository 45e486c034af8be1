"""Sharpness-aware minimisation (Foret et al., 2021, arXiv:2010.01412): what it does in a step."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from experiments.problems import UserError


def sharpen(module: nn.Module, rho: float, loss: Callable[[], Tensor]) -> None:
    """Replace the gradient g that parameters have by that of the mean of `loss()` at
    params + rho g / |g| (their Eqs. 2 and 3); the parameters stay as they are, to the last bit.

    `loss()` is of the same batch, (b,): seed what is random in it as it was before.
    """
    params = [value for value in module.parameters() if value.grad is not None]
    kept = [value.detach().clone() for value in params]
    gradients = [value.grad.detach() for value in params if value.grad is not None]
    norm = torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt()
    with torch.no_grad():
        for value, gradient in zip(params, gradients, strict=True):
            value.add_(gradient * (rho / norm.clamp_min(torch.finfo(torch.float32).tiny)))
            value.grad = None
    values = loss()
    if values.ndim != 1:
        raise UserError(
            "sharpness-aware minimisation of a stack of networks would mix their gradients: train "
            "them one after another"
        )
    values.mean().backward()
    with torch.no_grad():
        for value, before in zip(params, kept, strict=True):
            value.copy_(before)
