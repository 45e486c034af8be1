"""Operations of networks and methods, counted from their settings.

A network's pass is counted by torch on the meta device, where nothing is computed; a method's work
in such passes, in products of the Hessian, and in inner products.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from experiments.laboratory.attribution import family
from experiments.laboratory.work import Step, Unit, Work
from methods.attributor import Attributor
from methods.curvature.krylov_basis import BFloat16, Disk
from methods.ihvp.arnoldi import Dominant
from methods.ihvp.cg import CG
from methods.ihvp.compressed import Compressed
from methods.ihvp.exact import Exact
from methods.ihvp.inverse import Inverse
from methods.ihvp.lissa import LiSSA
from methods.ihvp.sketch import Sketch
from methods.influence import Influence
from methods.random_projection import RandomProjection
from methods.representer import Representer
from methods.rows.projections import Projection, Select
from methods.tracin import TracIn

FLOAT = 4  # bytes
BATCH = 256  # examples of a batch of gradients
TOGETHER = 32  # vectors that share a Hessian product
SOLVED = 100  # products until conjugate gradients end, about
SCALED = 20  # products that find the largest eigenvalue
MOST = 4e9  # bytes that a chunk of gradients is cut to
REFITS = 30  # passes over the features that refit a last layer, about

Columns = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""The columns of an example: shape and dtype."""


class _Calls(TorchDispatchMode):
    """Counts the calls of torch."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def unit(
    build: Callable[[], nn.Module],
    loss: Callable[[Any, dict[str, Tensor]], Tensor],
    columns: Columns,
) -> Unit:
    """A pass of the network of `build()`; `loss(network, examples)` gives (b,)."""
    with torch.device("meta"):
        module = build().train().requires_grad_(True)
        examples = {
            name: torch.zeros(2, *shape, dtype=dtype) for name, (shape, dtype) in columns.items()
        }
    own = {value.untyped_storage()._cdata for value in module.parameters()}
    held: dict[int, int] = {}  # bytes by storage, of which several views may be kept

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in own:
            held[storage._cdata] = storage.nbytes()
        return value

    forward, whole, calls = FlopCounterMode(display=False), FlopCounterMode(display=False), _Calls()
    with torch.device("meta"), whole, calls:
        with forward, torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            total = loss(module, examples).sum()
        total.backward()
    return Unit(
        sum(value.numel() for value in module.parameters()),
        whole.get_total_flops() / 2,
        forward.get_total_flops() / 2,
        calls.count,
        sum(held.values()) / 2,
    )


@cache
def image_unit(network: Any, shape: tuple[int, ...], loss: Any) -> Unit:
    """A pass of the network that a config builds, over images of a shape (channels, h, w)."""
    columns = {"image": (shape, torch.float32), "label": ((), torch.int64)}
    return unit(lambda: network.build(0), loss, columns)


def forward(of: Unit, n: float) -> Step:
    """Forward passes over n examples."""
    return Step(of.forward * min(n, BATCH), of.kernels / 3, max(1, n / BATCH))


def gradients(of: Unit, n: float) -> Step:
    """The gradients of n examples."""
    return Step(of.operations * min(n, BATCH), 2 * of.kernels, max(1, n / BATCH))


def products(of: Unit, n: float, count: float, vectors: float = 1) -> Step:
    """`count` products of the Hessian of n examples, each with so many vectors at once.

    Along each vector, the derivative of a gradient takes twice the operations of the gradient.
    """
    operations = of.operations * (1 + 2 * vectors) * min(n, BATCH)
    return Step(operations, 4 * of.kernels, count * max(1, n / BATCH))


def dot(rows: float, size: float, columns: float) -> Step:
    """A product of matrices, rows x size and size x columns."""
    return Step(2 * rows * size * columns)


def recursion(of: Unit, lissa: LiSSA, vectors: float) -> Step:
    """LiSSA's products for some vectors, which share them as far as memory lasts."""
    at_once = min(vectors, TOGETHER)
    count = lissa.depth * lissa.repeats * vectors / at_once
    return products(of, lissa.sample or BATCH, count, at_once)


def once_per_model(name: str, config: Any, method: Any, of: Unit, n: int) -> Work | None:
    """The run with a method's work for a model of n training examples, if it has any."""
    inverse = method.inverse if isinstance(method, Influence) else None
    made = None if inverse is None else _prepared(inverse, of, n)
    if made is None:
        return None
    steps, memory, disk, scratch = made
    label = f"{family(method)}, once per model"
    return Work(label, steps, (), name, config, "scoring", memory, disk, scratch)


def _prepared(
    inverse: Inverse, of: Unit, n: int
) -> tuple[tuple[Step, ...], float, float, float] | None:
    """Steps; bytes of memory, kept on disk, and on disk meanwhile."""
    p, sample = of.size, inverse.sample or n
    steps: tuple[Step, ...]
    match inverse:
        case Dominant(basis=basis):
            k, storage = basis.iterations, getattr(basis, "storage", None)
            orthogonal = Step(4 * p * k, 8, k)  # twice against the vectors before it, k / 2 of them
            steps = products(of, min(n, basis.sample or n), k), orthogonal, dot(basis.keep, k, p)
            held = FLOAT * p * k / (2 if isinstance(storage, BFloat16) else 1)
            kept, on_disk = FLOAT * p * basis.keep, isinstance(storage, Disk)
            return steps, kept if on_disk else held, kept, held if on_disk else 0.0
        case Exact():
            square = FLOAT * float(p) ** 2
            steps = products(of, sample, p / TOGETHER, TOGETHER), dot(p, p, 2 * p)
            return steps, 3 * square, square, 0.0
        case Compressed() | Sketch():
            dim, count = inverse.projection.dim, 2 * getattr(inverse, "steps", 0) or 1
            steps = products(of, sample, count, dim), Step(4 * dim * p * dim, 2, count)
            return steps, 2.0 * FLOAT * dim * p, FLOAT * dim * dim, 0.0
        case LiSSA(scale=None):
            return (products(of, sample, SCALED),), FLOAT * p, FLOAT, 0.0
    return None


def scores(
    method: Any, of: Unit, n: float, queries: float = 0, checkpoints: int = 1
) -> tuple[Step, ...]:
    """Scores of n examples for some queries; without queries, their self-influence.

    What is no method of `methods`, such as a control, costs a forward pass.
    """
    p, both, asked = of.size, n + queries, max(1, queries)
    inner = min(p, of.forward)  # an inner product with a gradient is a derivative along a vector
    if not isinstance(method, Attributor):
        return (forward(of, both),)
    if isinstance(method, Representer):
        return forward(of, both), Step(of.forward, 8, REFITS), Step(2 * n * asked)
    if isinstance(method, TracIn):
        times = len(method.checkpoints or range(checkpoints))
        if method.layers:
            return (forward(of, times * both), Step(2 * n * asked, 1, times))
        return gradients(of, times * both), dot(times * n, inner, asked)
    steps, projection = [gradients(of, both)], None
    if isinstance(method, Influence):
        match method.inverse:
            case LiSSA() as lissa:
                steps.append(recursion(of, lissa, queries or n))
            case CG(sample=sample):
                steps.append(products(of, sample or n, SOLVED * asked / TOGETHER, TOGETHER))
            case Exact():
                steps.append(dot(queries or n, p, p))
            case Dominant(num_eigen=dim):
                return *steps, dot(both, p, dim), dot(n, dim, asked)
            case Compressed(projection=made) | Sketch(projection=made):
                projection = made
    if isinstance(method, RandomProjection):
        projection = method.projection
    if isinstance(projection, Projection):
        drawn = 0 if isinstance(projection, Select) else projection.dim
        return *steps, dot(both, p, drawn), dot(n, projection.dim, asked)
    return *steps, dot(n, inner, asked)


def attributed(
    method: Any,
    of: Unit,
    n: int,
    parts: tuple[Work | None, ...],
    queries: float = 0,
    checkpoints: int = 1,
    candidates: float | None = None,
) -> Work:
    """A cell that scores `candidates` (default: the n training examples) by a method.

    `parts` are the runs it needs; None among them is left out.
    """
    some = n if candidates is None else candidates
    steps = scores(method, of, some, queries, checkpoints)
    dim = getattr(getattr(method, "projection", None), "dim", 1)
    memory = FLOAT * of.size * (2 + dim + checkpoints) + min(of.held * BATCH, MOST)
    disk = FLOAT * (8 * some + 20 * queries)
    made = tuple(part for part in parts if part is not None)
    return Work(family(method), steps, made, memory=memory, disk=disk)
