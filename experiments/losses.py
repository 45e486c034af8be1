"""Training losses, one value an example, as tasks want them."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(model: Callable[[Tensor], Tensor], batch: dict[str, Tensor]) -> Tensor:
    """Negative log-likelihood of the given labels in nats, (b,)."""
    return F.cross_entropy(model(batch["image"]), batch["label"], reduction="none")
