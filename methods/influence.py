"""Influence functions (Koh and Liang, 2017), with any inverse Hessian."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from methods.attributor import Attributor, State
from methods.curvature.curvature import Curvature
from methods.curvature.kronecker import KroneckerFunction
from methods.curvature.operators import Hessian
from methods.errors import MethodError, kind, within
from methods.examples import Examples
from methods.fitted.embedded import Bilinear, Embedded
from methods.fitted.inverted import FittedInverse
from methods.fitted.kronecker import FittedKronecker
from methods.fitted.scoring import Fitted
from methods.ihvp.cg import CG
from methods.ihvp.inverse import Inverse
from methods.task import Task


@dataclass(frozen=True)
class Prepare:
    """The settings that the state of an influence function depends on."""

    inverse: object
    damping: float


@dataclass(frozen=True)
class PrepareOther(Prepare):
    """The same for another curvature than the Hessian, so that no state of another is taken."""

    curvature: str


@dataclass(frozen=True)
class Influence(Attributor):
    """<H^-1 grad query, grad candidate>: positive for proponents.

    inverse    one of methods.ihvp
    damping    added to the Hessian's diagonal, in addition to the task's weight decay, and in its
               unit: that of the loss over that of a parameter squared
    curvature  what stands for the Hessian. `GaussNewton` leaves out what the network's own second
               derivative adds (Bae et al., 2022, arXiv:2209.05364, Sec. 3 and Eq. 8): for a loss
               that is convex in the model's outputs it has no negative eigenvalues, so that any
               positive damping makes every inverse exist. KFAC and EKFAC have a curvature of their
               own, and ask this one for its diagonal alone.

    The Hessian holds the task's weight decay; whether a candidate's gradient holds its share of the
    regulariser is `Task.regularised`.
    """

    inverse: Inverse = CG()
    damping: float = 0.0
    curvature: type[Curvature] = field(default=Hessian, kw_only=True, metadata={"later": True})

    def __post_init__(self) -> None:
        within("[0, inf)", damping=self.damping)
        if not isinstance(self.inverse, Inverse):
            found = getattr(self.inverse, "__name__", kind(self.inverse))
            raise MethodError(f"inverse is {found}: give one of methods.ihvp, such as CG()")
        if isinstance(self.curvature, Inverse):
            name = type(self.curvature).__name__
            raise MethodError(f"curvature is {name}, which is an inverse: Influence({name}())")
        if not (isinstance(self.curvature, type) and issubclass(self.curvature, Curvature)):
            found = getattr(self.curvature, "__name__", kind(self.curvature))
            raise MethodError(f"curvature is {found}: give a class, Hessian or GaussNewton")

    @property
    def reads_train(self) -> bool:
        return self.inverse.reads_train

    @property
    def state_settings(self) -> Prepare:
        settings = self.inverse.state_settings, self.damping
        if self.curvature is Hessian:
            return Prepare(*settings)
        return PrepareOther(*settings, self.curvature.__name__)

    def hessian(self, task: Task, train: Examples) -> Curvature:
        """The damped curvature over `train` that the inverse works on."""
        return self.curvature(task, train, self.damping, self.inverse.sample, self.inverse.seed)

    def state(self, task: Task, train: Examples) -> State:
        return self.inverse.state(self.hessian(task, train))

    def fitted(self, task: Task, state: State, train: Examples | None) -> Fitted:
        if train is None:
            inverted = self.inverse.invert(_NoProducts(task, self.damping), state)
        else:
            inverted = self.inverse.invert(self.hessian(task, train), state)
        if isinstance(inverted, Bilinear):
            return Embedded(task, inverted)
        if isinstance(inverted, KroneckerFunction):
            return FittedKronecker(task, inverted)
        return FittedInverse(task, inverted)


class _NoProducts(Hessian):
    """The size and shift of a Hessian, all that an inverse restored from a state needs."""

    def __init__(self, task: Task, damping: float) -> None:
        self.task, self.damping = task, damping
        self.size, self.dtype, self.device = task.size, task.dtype, task.device

    def apply(self, vectors: Tensor, draw: int | None = None) -> Tensor:
        raise MethodError("a Hessian product needs the training examples: give them to `fit`")
