"""The contract of a device: every method gives there the numbers that it gives on the CPU.

Methods, inverses and projections are found in their folders, so that a new one is checked too.
"""

import importlib
import inspect
import math
import pkgutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import methods
import methods.ihvp
from experiments.models.mnist_cnn import DigitsCNN
from experiments.training.plans import CrossEntropy
from methods.attributor import Attributor
from methods.checkpoints import Checkpoint
from methods.curvature.operators import GaussNewton
from methods.examples import Examples, take
from methods.fastif import FastIF
from methods.ihvp.arnoldi import Arnoldi, Krylov
from methods.ihvp.cg import CG
from methods.ihvp.compressed import Compressed
from methods.ihvp.deflated import Deflated
from methods.ihvp.exact import Exact
from methods.ihvp.inverse import Inverse
from methods.ihvp.lissa import LiSSA
from methods.ihvp.sketch import Sketch
from methods.influence import Influence
from methods.logra import LoGra
from methods.random_projection import RandomProjection
from methods.relatif import RelatIF
from methods.representer import Representer
from methods.rows.projections import SJLT, Gaussian, Projection
from methods.task import Task
from methods.trak import TRAK
from methods.unrolling import Unrolling

DIM = 8  # of projections and bases, which keeps all of it quick
DAMPING = 4.0
N_TRAIN, N_QUERY, FEW = 24, 6, 3
WHOLE = Krylov(12, None, 0, DIM)
QUICK: dict[type, Any] = {  # settings with which a class is quick and well conditioned
    Arnoldi: Arnoldi(4, WHOLE),
    CG: CG(tolerance=1e-6),
    Compressed: Compressed(Gaussian(DIM)),
    Deflated: Deflated(4, WHOLE),
    Exact: Exact(),
    LiSSA: LiSSA(depth=6, sample=12, scale=30.0),
    Sketch: Sketch(Gaussian(4), steps=6, sample=12),
    LoGra: LoGra(4, 4),
    RelatIF: RelatIF(Influence(Deflated(4, WHOLE), DAMPING)),
    TRAK: TRAK(SJLT(DIM)),
    Unrolling: Unrolling(steps=40, segments=2, damping=0.1),
    FastIF: FastIF(k=8, lissa=LiSSA(depth=6, sample=12, scale=30.0), damping=DAMPING),
}


def found(kind: type) -> list[type]:
    """The concrete classes of a kind in the library, by name."""
    for package in (methods, methods.ihvp):
        for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(info.name)
    waiting, seen = [kind], dict[str, type]()
    while waiting:
        one = waiting.pop()
        waiting += one.__subclasses__()
        ours = one.__module__.startswith("methods.") and not one.__name__.startswith("_")
        if ours and not inspect.isabstract(one):
            seen[one.__name__] = one
    return [seen[name] for name in sorted(seen)]


def quick(kind: type) -> Any:
    """An instance with quick settings; its defaults if none are known."""
    return QUICK[kind] if kind in QUICK else kind()


def checked() -> Iterator[tuple[str, Attributor]]:
    """Every method, with every inverse and every projection, by name; the quickest come first."""
    for kind in reversed(found(Attributor)):
        if kind is Influence:
            for inverse in sorted(found(Inverse), key=lambda one: one in (LiSSA, CG, Exact)):
                name = f"Influence, {inverse.__name__}"
                try:
                    yield name, Influence(quick(inverse), DAMPING)
                except TypeError:  # a step between two inverses, such as Dominant
                    continue
            whole = Influence(quick(Deflated), DAMPING, curvature=GaussNewton)
            yield "Influence, GaussNewton", whole
        elif kind is RandomProjection:
            for projection in found(Projection):
                drawn = replace(quick(projection), dim=DIM)
                yield f"RandomProjection, {projection.__name__}", RandomProjection(drawn)
        else:
            yield kind.__name__, quick(kind)


def examples(n: int, seed: int) -> Examples:
    """n random images of the bundled digits' shape, with labels of ten classes."""
    draw = torch.Generator().manual_seed(seed)
    image = torch.rand(n, *DigitsCNN().image_shape, generator=draw)
    return {"image": image, "label": torch.randint(0, 10, (n,), generator=draw)}


def task(device: torch.device) -> Task:
    """A small network with two checkpoints on a device."""
    module = DigitsCNN().build(0).to(device).requires_grad_(False)
    params = {name: value.clone() for name, value in module.named_parameters()}
    moments = tuple(
        Checkpoint({name: scale * value for name, value in params.items()}, 0.1)
        for scale in (0.9, 1.0)
    )
    return Task.of(module, CrossEntropy(), weight_decay=1e-3, checkpoints=moments)


def results(method: Attributor, device: torch.device) -> list[Tensor]:
    """Scores (n_query, n_train), and self-influence of a few where the method has it."""
    here, train, query = task(device), examples(N_TRAIN, 0), examples(N_QUERY, 1)
    fitted = method.fit(here, train)
    made = [fitted.scores(query, train)]
    if not isinstance(method, Representer):
        made.append(fitted.self_influence(take(train, slice(0, FEW))))
    return [one.double().cpu() for one in made]


FAR = 1e30  # the distance of what failed or is no number: runs keep finite numbers alone


def difference(method: Attributor, device: torch.device) -> float:
    """The largest relative distance of results on a device from those on the CPU."""
    pairs = zip(results(method, device), results(method, torch.device("cpu")), strict=True)
    each = [float((one - other).norm() / other.norm()) for one, other in pairs]
    return max(each) if all(map(math.isfinite, each)) else FAR
