"""Arnoldi iteration (Schioppa et al., 2022): dominant eigenvectors, kept for reuse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.attributor import Bilinear, State
from methods.curvature.krylov_basis import Basis, BFloat16, Native, Storage, check_room
from methods.curvature.operators import Hessian, Operator
from methods.errors import MethodError, at_least
from methods.ihvp.inverse import NOT_FINITE, Inverse
from methods.progress import track
from methods.randomness import torch_generator
from methods.rows.projections import Directions


def krylov(operator: Operator, iterations: int, seed: int) -> tuple[Tensor, Tensor]:
    """The basis (n, p) and the projected matrix (n, n) after n iterations.

    Modified Gram-Schmidt with one re-orthogonalisation; Algorithm 1 of the paper computes all
    coefficients before subtracting (classical Gram-Schmidt). Ends early on an invariant space.
    """
    basis, projected = iterate(operator, iterations, seed, Native())
    return basis.rows[: basis.count], projected


def iterate(
    operator: Operator, iterations: int, seed: int, storage: Storage, keep: int = 0
) -> tuple[Basis, Tensor]:
    """`krylov` with its basis in a `storage`.

    A basis that does not fit together with the `keep` eigenvectors made of it is refused at once.
    """
    n = min(iterations, operator.size)
    check_room(storage, n, min(keep, n), operator.size, operator.dtype, operator.device)
    basis = Basis(storage, n, operator.size, operator.dtype, operator.device)
    projected = torch.zeros(n, n, dtype=operator.dtype, device=operator.device)
    generator = torch_generator(seed, "arnoldi start")
    start = torch.randn(operator.size, generator=generator, dtype=operator.dtype)
    basis.append((start / start.norm()).to(operator.device))
    for i in track(range(n), "Arnoldi iteration"):
        vector = operator.apply(basis.row(i)[None])[0]
        size = float(vector.norm())
        if not size < float("inf"):
            raise MethodError(NOT_FINITE)
        projected[: i + 1, i] = basis.clear(vector)
        left = float(vector.norm())
        if i + 1 < n:
            if left <= 100 * torch.finfo(operator.dtype).eps * size:
                return basis, projected[: i + 1, : i + 1]
            projected[i + 1, i] = left
            basis.append(vector / left)
    return basis, projected


def distill(basis: Tensor | Basis, projected: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The `keep` eigenvalues largest in absolute value, (k,), and eigenvectors (k, p).

    The projected matrix is symmetric up to the noise of fresh minibatches; its symmetric part
    is decomposed, in float64.
    """
    values, vectors = _decomposed(projected)
    turn = vectors[:, :keep].T.to(projected)
    return values[:keep].to(projected), (
        basis.combine(turn) if isinstance(basis, Basis) else turn @ basis
    )


def ritz_values(projected: Tensor) -> Tensor:
    """All eigenvalues of the projected matrix, (n,) in float64, by descending absolute value."""
    return _decomposed(projected)[0]


def _decomposed(projected: Tensor) -> tuple[Tensor, Tensor]:
    double = projected.double().cpu()
    values, vectors = torch.linalg.eigh((double + double.T) / 2)
    order = values.abs().argsort(descending=True)
    return values[order], vectors[:, order]


@dataclass(frozen=True)
class Krylov:
    """Settings of a basis: iterations n, examples b of each fresh Hessian product, seed."""

    iterations: int = 200
    sample: int | None = 512
    seed: int = 0
    keep: int = 100

    def __post_init__(self) -> None:
        at_least(1, iterations=self.iterations, sample=self.sample, keep=self.keep)
        at_least(0, seed=self.seed)


@dataclass(frozen=True)
class StoredKrylov(Krylov):
    """A `Krylov` whose basis takes less memory: it is in bfloat16, or on disk."""

    storage: Storage = BFloat16()


@dataclass(frozen=True)
class Dominant(Inverse):
    """An inverse by the `num_eigen` eigenvalues largest in absolute value, from a Krylov basis."""

    num_eigen: int = 10
    basis: Krylov = Krylov()

    def __post_init__(self) -> None:
        at_least(1, num_eigen=self.num_eigen)

    @property
    def state_settings(self) -> Krylov:
        return self.basis

    @property
    def sample(self) -> int | None:  # type: ignore[override]
        return self.basis.sample

    @property
    def seed(self) -> int:  # type: ignore[override]
        return self.basis.seed

    def state(self, hessian: Hessian) -> State:
        """Eigenvalues (k,) of the Hessian with weight decay and damping, and eigenvectors (k, p).

        With a StoredKrylov also all n eigenvalues of the projected matrix, as `spectrum`.
        """
        if self.num_eigen > self.basis.keep:
            raise MethodError(
                f"num_eigen {self.num_eigen} of a basis that keeps {self.basis.keep}: raise `keep`"
            )
        plan = self.basis
        storage = plan.storage if isinstance(plan, StoredKrylov) else Native()
        basis, projected = iterate(hessian, plan.iterations, plan.seed, storage, plan.keep)
        values, vectors = distill(basis, projected, plan.keep)
        state = {"eigenvalues": values, "eigenvectors": vectors}
        if isinstance(plan, StoredKrylov):
            state["spectrum"] = ritz_values(projected)
        return state

    def leading(self, state: State) -> tuple[Tensor, Tensor]:
        """The eigenvalues (num_eigen,) and eigenvectors (num_eigen, p) in a state."""
        values, vectors = state["eigenvalues"], state["eigenvectors"]
        if len(values) < self.num_eigen:
            raise MethodError(
                f"{len(values)} eigenvalues for num_eigen={self.num_eigen}: raise the basis' "
                "`iterations` and `keep`, or lower num_eigen"
            )
        return values[: self.num_eigen], vectors[: self.num_eigen]


@dataclass(frozen=True)
class Arnoldi(Dominant):
    """H^-1 on the span of `num_eigen` dominant eigenvectors, zero outside it.

    positive_only  drop the negative ones among them, as the paper does for ViT
    """

    positive_only: bool = False

    def invert(self, hessian: Hessian, state: State) -> Bilinear:
        values, vectors = self.leading(state)
        if self.positive_only:
            values, vectors = values[values > 0], vectors[values > 0]
        if len(values) == 0 or float(values.abs().min()) == 0:
            raise MethodError(
                "no eigenvalue left to invert: raise num_eigen, or keep negative ones"
            )
        directions = Directions(vectors.to(hessian.device, hessian.dtype), hessian.task)
        return Bilinear(directions, directions, 1 / values.to(hessian.device, hessian.dtype))
