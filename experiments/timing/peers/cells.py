"""The tasks on which libraries are compared, and the cell of each library: a line a task."""

import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.laboratory import clock
from experiments.laboratory.device import device
from experiments.laboratory.errors import UserError, nearest
from experiments.timing.peers import curvature, estimates, projections, scores
from experiments.timing.peers.beside import Beside, compared, installed
from methods.rows.projections import SJLT, Gaussian, Projection, Rademacher

MISSING = "`pip install -e .[peers]`, remove this run (`--list` names its key), and measure again"


@dataclass(frozen=True)
class Compared:
    """A task as a function of its number of examples, and the libraries that do it.

    `fewer` are the examples for libraries that would take minutes, `repeats` those of both sides.
    """

    make: Callable[[int], Beside]
    n: int
    libraries: Sequence[str]
    fewer: Mapping[str, int] = field(default_factory=dict)
    repeats: int = 5


def _digits(kind: type[Projection], dim: int) -> Callable[[int], Beside]:
    return lambda n: projections.digits(kind, dim, n)


def _two_sided(dim: int) -> Callable[[int], Beside]:
    return lambda n: projections.two_sided(dim, n)


def _resnet(kind: type[Projection], dim: int) -> Callable[[int], Beside]:
    return lambda n: projections.resnet(kind, dim, n)


TRACIN = ("opacus", "captum", "backpack-for-pytorch", "dattri")
PRODUCTS = ("torch", "pyDVL", "curvlinops-for-pytorch", "dattri")
TASKS: dict[str, Compared] = {
    "self-influence": Compared(scores.self_influence, 512, TRACIN, {"dattri": 128}),
    "scores": Compared(scores.scores, 1_000, ("kronfluence", "captum", "dattri"), {"dattri": 256}),
    "last layer": Compared(scores.last_layer, 6_000, ("captum",)),
    "directions": Compared(scores.directions, 64, ("pyDVL",)),
    "Hessian product": Compared(curvature.product, 512, PRODUCTS),
    "LiSSA, one": Compared(curvature.lissa, 1, ("torch", "pyDVL"), repeats=15),
    "LiSSA, 32": Compared(curvature.lissa, 32, ("torch", "pyDVL")),
    "whole Hessian": Compared(curvature.whole, 16, ("torch",), repeats=3),
    "Gaussian 512": Compared(_digits(Gaussian, 512), 128, ("traker",), repeats=3),
    "Rademacher 512": Compared(_digits(Rademacher, 512), 128, ("torch", "traker"), repeats=3),
    "SJLT 512": Compared(_digits(SJLT, 512), 128, ("traker",), repeats=3),
    "Rademacher 4096": Compared(_digits(Rademacher, 4_096), 32, ("traker",), repeats=2),
    "two-sided 512": Compared(_two_sided(512), 128, ("torch",)),
    "two-sided 4096": Compared(_two_sided(4_096), 128, ("torch",)),
    "ResNet-18 512": Compared(_resnet(Rademacher, 512), 8, ("traker",), repeats=2),
    "subsets": Compared(estimates.subsets, 25_000, ("numpy",)),
}


@dataclass(frozen=True)
class Peer:
    """A task by ours and by one other library."""

    task: str = "self-influence"
    library: str = "opacus"
    n: int = 512

    def measured(self, repeats: int) -> dict[str, Any]:
        """Milliseconds a unit of both in turns, their ratios, and how far the results are apart.

        Of this process's own CPU time, or of the GPU: other programs count little.
        A library that is not installed is measured too: as that.
        """
        if self.task not in TASKS:
            raise UserError(f"no task {self.task!r} to compare: {nearest(self.task, TASKS)}")
        about = {"task": self.task, "library": self.library}
        found = installed(self.library)
        if found is None:
            return {**about, "work": self.task, "installed": False, "remedy": MISSING}
        task = TASKS[self.task].make(self.n)
        if self.library not in task.ways:
            raise UserError(f"{self.task}: {nearest(self.library, task.ways)}")
        theirs, gap = compared(task, self.library)
        way = task.ways[self.library]
        calls = {"ours": task.ours, "theirs": theirs}
        seconds = clock.in_turns(calls, repeats, partial(clock.now, device().type), warm=True)
        ours = [1e3 * one / task.count for one in seconds["ours"]]
        others = [1e3 * one / (way.count or task.count) for one in seconds["theirs"]]
        ratios = np.array(others) / np.array(ours)
        return {
            **about,
            "work": task.name,
            "unit": task.unit,
            "installed": True,
            "version": found,
            "machine": machine(),
            "settings": way.settings,
            "difference": gap,
            "ours_ms": statistics.median(ours),
            "theirs_ms": statistics.median(others),
            "ratio": float(np.median(ratios)),
            "ratio_low": float(ratios.min()),
            "ratio_high": float(ratios.max()),
            "ratios": ratios,
        }


def machine() -> str:
    """The name of the processor that works, or of the GPU, and the version of torch."""
    if device().type == "cuda":
        name = torch.cuda.get_device_name()
    else:
        about = Path("/proc/cpuinfo")
        lines = about.read_text().splitlines() if about.exists() else []
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else platform.machine()
    return f"{name}, torch {torch.__version__}"


PEERS = [
    Peer(name, library, task.fewer.get(library, task.n))
    for name, task in TASKS.items()
    for library in task.libraries
]
TINY = [Peer("LiSSA, one", "torch", 1), Peer("subsets", "numpy", 2_000)]
