"""Whether numbers are finite, asked of a device once for all of them."""

from collections.abc import Iterable

import torch
from torch import Tensor


def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every number of some tensors on one device is finite.

    The host waits once, for the sum of all sums, which allocates nothing; a sum may overflow though
    every number is finite, so that a second look follows if it is not.
    """
    given = [each for each in tensors if each.is_floating_point()]
    if not given or bool(torch.stack([each.sum() for each in given]).sum().isfinite()):
        return True
    return bool(torch.stack([each.isfinite().all() for each in given]).all())
