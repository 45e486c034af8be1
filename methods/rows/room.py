"""Buffers in memory that was touched before: to touch fresh memory takes longer than a sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Room:
    """A buffer for each use, of any content; it is overwritten at the next call for that use."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def __call__(
        self, use: str, shape: Sequence[int], kind: torch.dtype, device: torch.device
    ) -> Tensor:
        size = torch.Size(shape).numel()
        held = self._held.get(use)
        if held is None or len(held) < size or (held.dtype, held.device) != (kind, device):
            self._held[use] = held = torch.empty(size, dtype=kind, device=device)
        return held[:size].view(shape)
