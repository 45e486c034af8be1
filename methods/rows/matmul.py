"""Matrix products at the rate of the processor.

torch's own float32 product on a CPU may run at half the rate of oneDNN's, which torch uses for
convolutions and packed linear layers only. `product` uses oneDNN for plain products too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

SMALLEST = 1 << 20  # multiply-adds below which a product is not worth preparing


def product(a: Tensor, b: Tensor) -> Tensor:
    """A b^T, (n, m), of a (n, k) and b (m, k), in their own precision."""
    large = len(a) * b.numel() >= SMALLEST
    if large and a.dtype == b.dtype == torch.float32 and a.device.type == b.device.type == "cpu":
        fast = _onednn()
        differentiated = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
        if fast is not None and not differentiated:
            return fast(a, b)
    return a @ b.T


def count_product(a: Tensor, b: Tensor) -> Tensor:
    """A b, (n, m) int32, of a (n, k) and b (k, m), both int8 of zeros and ones, exactly.

    On a CPU with 8-bit integer products it runs at four times the rate of float32. Elsewhere
    float32 is as exact below k = 2**24.
    """
    integer = _integer() if a.device.type == "cpu" else None
    return (a.float() @ b.float()).int() if integer is None else integer(a, b)


@cache
def _onednn() -> Callable[[Tensor, Tensor], Tensor] | None:
    """oneDNN's product if this torch has it and it is right; the operator is not public."""

    def fast(a: Tensor, b: Tensor) -> Tensor:
        return operator(a.contiguous(), b.contiguous(), None, "none", [], "")

    if not torch.backends.mkldnn.is_available():
        return None
    try:
        operator = torch.ops.mkldnn._linear_pointwise
        a = torch.linspace(-1, 1, 6).view(2, 3)
        same = torch.allclose(fast(a, a), a @ a.T, rtol=1e-5)
    except (AttributeError, RuntimeError, TypeError):
        return None
    return fast if same else None


@cache
def _integer() -> Callable[[Tensor, Tensor], Tensor] | None:
    """torch's 8-bit product if this torch has it and it is right; the operator is not public."""
    try:
        operator = torch._int_mm
        a = torch.ones(17, 8, dtype=torch.int8)
        right = torch.equal(operator(a, a.T.contiguous()), torch.full((17, 17), 8).int())
    except (AttributeError, RuntimeError, TypeError):
        return None
    return operator if right else None
