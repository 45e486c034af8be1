"""Arnoldi iteration (Schioppa et al., 2022): dominant eigenvectors, kept for reuse."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.attributor import State
from methods.curvature.curvature import Curvature
from methods.curvature.krylov_basis import Basis, BFloat16, Native, Storage, check_room
from methods.curvature.matrix import Operator
from methods.errors import MethodError, at_least
from methods.fitted.embedded import Bilinear
from methods.ihvp.inverse import NOT_FINITE, Inverse
from methods.progress import track
from methods.randomness import torch_generator
from methods.rows.maps import Directions

log = logging.getLogger(__name__)

# Of the largest eigenvalue, times the root of the number of parameters: what overlaps of vectors in
# bfloat16 make of an eigenvalue of 0 (measured: up to 2^-4 of 40 parameters, 2^-6 of 20,000).
ROUNDED = 2.0**-4


def krylov(operator: Operator, iterations: int, seed: int) -> tuple[Tensor, Tensor]:
    """The basis (n, p) and the projected matrix (n, n) after n iterations.

    Modified Gram-Schmidt with one re-orthogonalisation; Algorithm 1 of the paper computes all
    coefficients before subtracting (classical Gram-Schmidt). Fewer where the rest of the spectrum
    is one repeated eigenvalue.
    """
    basis, projected, _ = iterate(operator, iterations, seed, Native())
    return basis.rows[: basis.count], projected


def iterate(
    operator: Operator, iterations: int, seed: int, storage: Storage, keep: int = 0
) -> tuple[Basis, Tensor, float]:
    """`krylov` with its basis in a `storage`, and the length of what the last product leaves.

    That length is 0 where the space is invariant. It bounds the errors of `residuals`.

    A basis that does not fit together with the `keep` eigenvectors made of it is refused at once.

    Where eigenvalues repeat, the space that a start vector generates is invariant, and the
    iteration goes on from another random vector, orthogonal to it. Once such a vector is an
    eigenvector, so is everything else, of the same eigenvalue: no more products are needed, and the
    basis is filled with random vectors up to `keep` of them.
    """
    n = min(iterations, operator.size)
    about = operator.size, operator.dtype, operator.device
    basis = Basis(storage, n, *about, check_room(storage, n, min(keep, n), *about))
    projected = torch.zeros(n, n, dtype=operator.dtype, device=operator.device)

    def random(purpose: str, number: int) -> Tensor:
        draw = torch_generator(seed, purpose, number)
        start = torch.randn(operator.size, generator=draw, dtype=operator.dtype)
        return (start / start.norm()).to(operator.device)

    basis.append(random("arnoldi start", 0))
    first, largest, left = (
        0,
        0.0,
        0.0,
    )  # the last random vector, and the length of the longest product
    for i in track(range(n), "Arnoldi iteration"):
        vector = operator.apply(basis.row(i)[None])[0]
        before = vector.norm()
        projected[: i + 1, i] = basis.clear(vector)
        size, left = torch.stack([before, vector.norm()]).tolist()  # one look at the device
        if not size < float("inf"):
            raise MethodError(NOT_FINITE)
        if i + 1 == n:
            break
        largest = max(largest, size)
        if left > 100 * torch.finfo(operator.dtype).eps * (largest if first else size):
            projected[i + 1, i] = left
            basis.append(vector / left)
            continue
        most = min(n, keep) if first == i else i + 2
        for j in range(i + 1, most):
            vector = random("arnoldi restart", j)
            basis.clear(vector)
            vector /= vector.norm()
            basis.clear(vector)
            basis.append(vector / vector.norm())
            projected[j, j] = projected[i, i]  # replaced by a product unless this is the end
        if first == i:
            return basis, projected[: basis.count, : basis.count], 0.0
        first = i + 1
    return basis, projected, left


def distill(
    basis: Tensor | Basis, projected: Tensor, keep: int, damping: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The `keep` eigenvalues largest in absolute value, (k,), and eigenvectors (k, p).

    The eigenvalues contain `damping`; the absolute values that they are chosen by do not.

    The projected matrix is symmetric up to the noise of fresh minibatches; its symmetric part
    is decomposed, in float64.
    """
    values, vectors = _decomposed(projected, damping)
    turn = vectors[:, :keep].T.to(projected)
    return values[:keep].to(projected), (
        basis.combine(turn) if isinstance(basis, Basis) else turn @ basis
    )


def ritz_values(projected: Tensor) -> Tensor:
    """All eigenvalues of the projected matrix, (n,) in float64, by descending absolute value."""
    return _decomposed(projected)[0]


def residuals(projected: Tensor, left: float, keep: int) -> Tensor:
    """|H v - value v| of the pairs that `distill` keeps, (k,) in float64.

    Every eigenvector of the projected matrix misses what the last product `left` outside the basis,
    by its last component. A pair whose residual exceeds its value has not converged: its value may
    be anything near zero. About half of the pairs of a basis have converged, the largest first.
    """
    _, vectors = _decomposed(projected)
    return left * vectors[-1, :keep].abs()


def _decomposed(projected: Tensor, damping: float = 0.0) -> tuple[Tensor, Tensor]:
    double = projected.double().cpu()
    values, vectors = torch.linalg.eigh((double + double.T) / 2)
    order = (values - damping).abs().argsort(descending=True, stable=True)
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
    """A `Krylov` whose basis takes less memory: it is in bfloat16, wherever it fits, or on disk."""

    storage: Storage = BFloat16()


@dataclass(frozen=True)
class Dominant(Inverse):
    """An inverse by the `num_eigen` eigenvalues largest in absolute value, from a Krylov basis.

    The absolute values are those of the Hessian with its weight decay, without damping.
    """

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

    def state(self, hessian: Curvature) -> State:
        """Eigenvalues (k,) of the Hessian with weight decay and damping, and eigenvectors (k, p).

        If the products are over all examples, also the pairs' `residuals` (k,). With a StoredKrylov
        also all n eigenvalues of the projected matrix, as `spectrum`.
        """
        if self.num_eigen > self.basis.keep:
            raise MethodError(
                f"num_eigen {self.num_eigen} of a basis that keeps {self.basis.keep}: raise `keep`"
            )
        plan = self.basis
        storage = plan.storage if isinstance(plan, StoredKrylov) else Native()
        basis, projected, left = iterate(hessian, plan.iterations, plan.seed, storage, plan.keep)
        values, vectors = distill(basis, projected, plan.keep, hessian.damping)
        state = {"eigenvalues": values, "eigenvectors": vectors}
        if plan.sample is None:  # a sampled product leaves the noise of its examples, too
            state["residuals"] = residuals(projected, left, plan.keep).to(values)
        if isinstance(plan, StoredKrylov):
            state["spectrum"] = ritz_values(projected)
        return state

    def leading(self, state: State) -> tuple[Tensor, Tensor]:
        """The eigenvalues (num_eigen,) and eigenvectors (num_eigen, p) in a state."""
        values, vectors = state["eigenvalues"], state["eigenvectors"]
        if len(values) < self.num_eigen:
            whole = len(values) == vectors.shape[1]
            advice = "raise the basis' `iterations` and `keep`, or lower num_eigen"
            raise MethodError(
                f"{len(values)} eigenvalues for num_eigen={self.num_eigen}: "
                + ("there are no more parameters, lower num_eigen" if whole else advice)
            )
        return values[: self.num_eigen], vectors[: self.num_eigen]

    def check_converged(self, divisors: Tensor, state: State) -> None:
        """Refuse to divide by a value that its residual exceeds; older states do not say."""
        if "residuals" not in state:
            return
        found = state["residuals"][: len(divisors)].to(divisors)
        wrong = (found > divisors.abs()).nonzero()
        if len(wrong):
            at = int(wrong[0, 0])
            raise MethodError(
                f"num_eigen is {self.num_eigen}, but eigenvalue {at + 1} of the basis, "
                f"{float(divisors[at]):.1e}, has not converged (residual {float(found[at]):.1e}): "
                f"lower num_eigen to {at or 1}, or raise the basis' `iterations`, now "
                f"{self.basis.iterations}, to more than twice num_eigen"
            )

    def check(self, divisors: Tensor, largest: float, hessian: Curvature) -> None:
        """Refuse to divide by rounding noise next to the `largest` eigenvalue.

        divisors (k,) are what is divided by, in the order of the eigenvalues. Beyond the Hessian's
        rank they are noise. The noise of a basis in bfloat16 is only said: it is an estimate.
        """
        noise = torch.finfo(hessian.dtype).eps * largest
        real = _before(divisors, noise)
        advice = f"lower num_eigen to {real}, or raise `damping`" if real else "raise `damping`"
        if real < len(divisors):
            raise MethodError(
                f"num_eigen is {self.num_eigen}, but eigenvalue {real + 1} is "
                f"{float(divisors[real]):.1e}, which is rounding noise next to {largest:.1e}: "
                + advice
            )
        if isinstance(self.basis, StoredKrylov) and isinstance(self.basis.storage, BFloat16):
            noise = ROUNDED / hessian.size**0.5 * largest
            if (real := _before(divisors, noise)) < len(divisors):
                log.warning(
                    "%s divides by eigenvalue %d, %.1e, and a basis in bfloat16 resolves %.1e next "
                    "to %.1e: lower num_eigen, raise `damping`, or store the basis on disk",
                    type(self).__name__,
                    real + 1,
                    float(divisors[real]),
                    noise,
                    largest,
                )


def _before(divisors: Tensor, noise: float) -> int:
    """How many come before the first that is noise."""
    small = (divisors.abs() <= noise).nonzero()
    return int(small[0, 0]) if len(small) else len(divisors)


@dataclass(frozen=True)
class Arnoldi(Dominant):
    """H^-1 on the span of `num_eigen` dominant eigenvectors, zero outside it.

    positive_only  drop the negative ones among them, as the paper does for ViT
    """

    positive_only: bool = False

    def invert(self, hessian: Curvature, state: State) -> Bilinear:
        values, vectors = self.leading(state)
        self.check(values, float(state["eigenvalues"].abs().max()), hessian)
        self.check_converged(values, state)
        if self.positive_only:
            values, vectors = values[values > 0], vectors[values > 0]
        if len(values) == 0:
            raise MethodError(
                "no eigenvalue left to invert: raise num_eigen, or keep negative ones"
            )
        directions = Directions(vectors.to(hessian.device, hessian.dtype), hessian.task)
        return Bilinear(directions, directions, 1 / values.to(hessian.device, hessian.dtype))
