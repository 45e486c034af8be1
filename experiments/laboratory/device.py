"""Where experiments compute: the one place that chooses between CPU and GPU."""

from collections.abc import Mapping

import torch
from torch import Tensor


def device() -> torch.device:
    """The GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def on_device(examples: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The columns of some examples, moved to that device."""
    return {name: column.to(device()) for name, column in examples.items()}
