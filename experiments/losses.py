"""Training losses, one value an example, as tasks want them."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(model: Callable[[Tensor], Tensor], batch: dict[str, Tensor]) -> Tensor:
    """Negative log-likelihood of the given labels in nats, (b,)."""
    return F.cross_entropy(model(batch["image"]), batch["label"], reduction="none")


def negative_log_odds(model: Callable[[Tensor], Tensor], batch: dict[str, Tensor]) -> Tensor:
    """Minus log p / (1 - p) of the given label, (b,): a measurement that does not saturate."""
    logits, label = model(batch["image"]), batch["label"][:, None]
    others = logits.scatter(1, label, float("-inf")).logsumexp(1)
    return others - logits.gather(1, label)[:, 0]
