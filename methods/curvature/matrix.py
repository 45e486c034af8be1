"""A symmetric matrix that one may only multiply by, and one that fits in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.precision import FullPrecision


class Operator(FullPrecision, ABC):
    """A symmetric matrix of `size` rows, known only by its products with vectors."""

    size: int

    @abstractmethod
    def apply(self, vectors: Tensor) -> Tensor:
        """Multiply each row of `vectors` (k, p), returning (k, p)."""

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Multiply columns: (p,) -> (p,), (p, k) -> (p, k)."""
        if vectors.shape[0] != self.size:
            raise MethodError(f"a vector of {vectors.shape[0]} times an operator of {self.size}")
        if vectors.ndim == 1:
            return self.apply(vectors[None])[0]
        return self.apply(vectors.T).T

    def dense(self, block: int = 256) -> Tensor:
        """The matrix itself, (p, p), by products with the unit vectors."""
        eye = torch.eye(self.size, dtype=self.dtype, device=self.device)
        return torch.cat([self.apply(rows) for rows in eye.split(block)])

    dtype: torch.dtype
    device: torch.device


class Matrix(Operator):
    """A symmetric matrix that fits in memory."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.size = matrix, len(matrix)
        self.dtype, self.device = matrix.dtype, matrix.device

    def apply(self, vectors: Tensor) -> Tensor:
        return vectors @ self.matrix.T
