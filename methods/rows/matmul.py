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


def product(a: Tensor, b: Tensor, bits: int = 24) -> Tensor:
    """A b^T, (n, m), of a (n, k) and b (m, k), in their own precision.

    With a in float32 and b in bfloat16, which `takes_bfloat16` allows, the result is in float32,
    of the first 8, 16 or all 24 bits of a.
    """
    if b.dtype == torch.bfloat16 and a.dtype == torch.float32:
        kept = pieces(a)[: bits // 8]
        return _summed(torch.cat(kept), b).view(len(kept), len(a), len(b)).sum(0)
    large = len(a) * b.numel() >= SMALLEST
    if large and a.dtype == b.dtype == torch.float32 and a.device.type == b.device.type == "cpu":
        fast = _onednn()
        differentiated = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
        if fast is not None and not differentiated:
            return fast(a, b)
    return a @ b.T


def pieces(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Three bfloat16 numbers for each float32 one, whose sum it is: 8 bits of the 24 in each."""
    high = a.bfloat16()
    rest = a - high
    middle = rest.bfloat16()
    return high, middle, (rest - middle).bfloat16()


def _summed(a: Tensor, b: Tensor) -> Tensor:
    """A b^T of bfloat16 matrices with sums, and a result, in float32."""
    return torch.mm(a, b.T, out_dtype=torch.float32)


@cache
def takes_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 numbers with float32 results are to be had, and are right.

    On a GPU, three of them take less than one of float32. A CPU rounds the result to bfloat16.
    """
    try:
        a = torch.tensor([[1.0, 2**-9], [1.0, 1.0]], device=device)
        ones = torch.ones_like(a)
        return torch.equal(product(a, ones.bfloat16()), a @ ones.T)
    except (NotImplementedError, RuntimeError, TypeError):
        return False


def count_product(a: Tensor, b: Tensor) -> Tensor:
    """A b, (n, m) int32, of a (n, k) and b (k, m), both int8 of zeros and ones, exactly.

    On a CPU with 8-bit integer products it runs at four times the rate of float32. Elsewhere
    float32 is as exact below k = 2**24.
    """
    integer = integer_product() if a.device.type == "cpu" else None
    return (a.float() @ b.float()).int() if integer is None else integer(a, b, None)


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
def integer_product() -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    """a, b -> a b, (n, m) int32, of int8 on the CPU, into a given tensor if any.

    None if this torch has no such product or it is wrong; the operator is not public.
    """

    def multiply(a: Tensor, b: Tensor, out: Tensor | None) -> Tensor:
        return operator(a, b) if out is None else operator(a, b, out=out)

    try:
        operator = torch._int_mm
        a = torch.full((17, 8), -128, dtype=torch.int8)
        b = torch.full((17, 8), 64, dtype=torch.int8)
        sums = torch.empty(17, 17, dtype=torch.int32)
        right = torch.equal(multiply(a, b.T, sums), torch.full((17, 17), -(8 << 13)).int())
    except (AttributeError, RuntimeError, TypeError):
        return None
    return multiply if right else None
