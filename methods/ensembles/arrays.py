"""numpy's view of what callers have: arrays, lists, or tensors on any device."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor


def array(values: ArrayLike | Tensor) -> np.ndarray:
    """The values in the CPU's memory, without a copy if they are there."""
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
