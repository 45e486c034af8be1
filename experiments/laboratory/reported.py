"""What a training tells of itself while someone watches: nothing here changes a number of it.

Loss, rate and throughput are known anyway. The norm of the gradient is read from the last step's,
and the accuracy is that of a sample, of one batch: together they may take SHARE of the time.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.laboratory import progress

SHARE = 0.05  # of the time of training, for what is computed for a watcher alone
now = time.perf_counter


@dataclass(eq=False)
class Reported:
    """Points of the lines of one training.

    module    one network, or K of them with `gradient_norms()`, (K,)
    accuracy  of each network on a sample, () or (K,), by a function that leaves no trace; None if
              there is no such thing
    """

    module: nn.Module
    accuracy: Callable[[], Tensor] | None

    def __post_init__(self) -> None:
        self.examples = 0  # since the last point
        self.since = now()
        self.spent = 0.0  # seconds on the last point of what is computed for a watcher
        self.paid = self.since  # from when on the next one may be computed

    def seen(self, count: int) -> None:
        """Count examples of one step, of all networks."""
        self.examples += count

    def tell(self, epoch: float, step: int, loss: Any, rate: float, measure: bool = True) -> None:
        """Report a point: the epoch, the steps so far, the mean loss and the learning rate.

        Where to `measure` is possible, also what is computed for it, if there is time for that.
        """
        if not progress.watched():
            return
        began = now()
        values: dict[str, Any] = {"epoch": epoch, "step": step, "loss": loss, "lr": rate}
        if began > self.since:
            values["examples_per_second"] = self.examples / (began - self.since)
        if measure and began >= self.paid:
            values |= self._measured()
            self.spent = now() - began
            self.paid = now() + self.spent / SHARE
        progress.report(**values)
        self.examples, self.since = 0, now()

    def _measured(self) -> dict[str, np.ndarray]:
        values = {"gradient_norm": gradient_norms(self.module)}
        if self.accuracy is not None:
            values["accuracy"] = self.accuracy()
        return {name: value.double().cpu().numpy() for name, value in values.items()}


@torch.no_grad()
def gradient_norms(module: nn.Module) -> Tensor:
    """|gradient|_2 of the last step's loss without weight decay, (), or (K,) of K networks."""
    own = getattr(module, "gradient_norms", None)
    if own is not None:
        return torch.as_tensor(own())
    return total_norm(module.parameters())


def total_norm(parameters: Any) -> Tensor:
    """The norm of all gradients of some parameters together, ()."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
