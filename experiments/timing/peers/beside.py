"""A task done by ours and by other libraries: what is called, and when their numbers agree."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from experiments.laboratory.errors import UserError

Call = Callable[[], Tensor]

MODULES = {  # what the package of a library is called where it is imported
    "backpack-for-pytorch": "backpack",
    "curvlinops-for-pytorch": "curvlinops",
    "pyDVL": "pydvl",
    "traker": "trak",
}


def difference(theirs: Tensor, ours: Tensor) -> float:
    """The distance of theirs from ours, relative to ours."""
    if theirs.shape != ours.shape:
        return float("inf")
    theirs, ours = theirs.detach().double().cpu(), ours.detach().double().cpu()
    return float((theirs - ours).norm() / ours.norm())


@dataclass(frozen=True)
class Way:
    """One library's way to do a task.

    settings  those chosen, in words: the fastest found that give the same numbers
    make      prepares it (data in its form, wrapped networks), and returns what is timed
    count     units a call does, where that is not the task's number
    """

    settings: str
    make: Callable[[], Call]
    count: int = 0


@dataclass(frozen=True)
class Beside:
    """A task on one network and examples.

    name       of the task, with its sizes
    unit       what is counted: an example, a product, a step
    count      units that a call of ours does
    ours       what is timed
    ways       how each library does it, by the name of its package
    agree      the distance of two results; by default that of the numbers
    tolerance  the most that results may differ, or no times are compared
    same       ours on as little as a library that does less (`Way.count`), to compare results
    """

    name: str
    unit: str
    count: int
    ours: Call
    ways: Mapping[str, Way]
    tolerance: float = 1e-3
    agree: Callable[[Tensor, Tensor], float] = difference
    same: Call | None = None


def installed(library: str) -> str | None:
    """The version of a library that can be imported here; None if there is none."""
    module = MODULES.get(library, library)
    if importlib.util.find_spec(module) is None:
        return None
    return str(getattr(importlib.import_module(module), "__version__", "")) or version(library)


def compared(task: Beside, library: str) -> tuple[Call, float]:
    """The library's call, warm, and how far its result is from ours; an error if that is far."""
    way = task.ways[library]
    theirs = way.make()
    ours = task.same if way.count and task.same else task.ours
    gap = task.agree(theirs(), ours())
    if not gap <= task.tolerance:
        raise UserError(
            f"{task.name}: {library} and ours differ by {gap:.1%}, so their times are not compared:"
            " check that both compute the same"
        )
    return theirs, gap


def pairs(batch: Mapping[str, Tensor]) -> Any:
    """A batch of images as a data set of (image, label)."""
    return torch.utils.data.TensorDataset(batch["image"], batch["label"])
