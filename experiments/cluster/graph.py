"""What the cells of a preset need: every run once, with the runs that it is made of."""

import collections
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.laboratory import runs
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.work import A100, LAPTOP, Work


@dataclass(frozen=True)
class Node:
    """A run: a cell, or a part that some cells need.

    works  what it takes itself; the work of its parts is theirs
    parts  addresses, NAME/KEY, of the runs that it uses
    cell   the first cell that is it, or comes to it on its way
    gpu    whether it computes on a GPU where there is one
    """

    address: str
    cell: int
    works: tuple[Work, ...]
    parts: tuple[str, ...]
    gpu: bool
    is_cell: bool

    @property
    def seconds(self) -> float:
        """What it takes itself by operations alone, the same on every machine; inf if unknown."""
        rate = A100 if self.gpu else LAPTOP
        each = [work.seconds(rate) for work in self.works]
        return sum(math.inf if seconds is None else seconds for seconds in each)

    @property
    def only_repeats(self) -> bool:
        """Whether it is a cell that does no more than read the one run that it needs."""
        return self.is_cell and len(self.parts) == 1 and not any(w.steps for w in self.works)


Graph = dict[str, Node]
"""Nodes by address, parts before what is made of them."""


def graph(experiment: Experiment, works: Sequence[Work]) -> Graph:
    """The runs of a preset's cells and those that they need."""
    return _Builder(experiment).build(works)


def shares(known: Graph, cells: Sequence[str]) -> list[float]:
    """Seconds of each cell, with its share of those of the parts that several cells need."""
    needed = [_reachable(known, cell) for cell in cells]
    users = collections.Counter(address for some in needed for address in some)
    return [sum(known[one].seconds / users[one] for one in some) for some in needed]


def _reachable(known: Graph, address: str) -> set[str]:
    """A run and all that it needs."""
    seen, waiting = {address}, [address]
    while waiting:
        new = set(known[waiting.pop()].parts) - seen
        seen |= new
        waiting += new
    return seen


class _Builder:
    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.nodes = experiment, Graph()
        self.known: dict[tuple[str, Any], str] = {}

    def build(self, works: Sequence[Work]) -> Graph:
        for cell, work in enumerate(works):
            self.visit(work, cell, is_cell=True)
        return self.nodes

    def visit(self, work: Work, cell: int, is_cell: bool = False) -> str:
        place = work.name, work.config
        address = self.known.get(place)
        if address is None or (is_cell and not self.nodes[address].is_cell):
            address = self.known[place] = f"{work.name}/{runs.key(work.config)}"
            own = tuple(_inside(work))
            needed = [part for one in own for part in one.parts if part.config is not None]
            parts = dict.fromkeys(self.visit(part, cell) for part in needed)
            gpu = self.experiment.gpu and _on_gpu(work.config, own, is_cell)
            self.nodes[address] = Node(address, cell, own, tuple(parts), gpu, is_cell)
        return address


def _inside(work: Work) -> Iterator[Work]:
    """A run's work, and what is within it without being a run."""
    yield work
    for part in work.parts:
        if part.config is None:
            yield from _inside(part)


def _on_gpu(config: Any, works: Sequence[Work], is_cell: bool) -> bool:
    if getattr(config, "device", "") == "cpu":
        return False
    computing = [work for work in works if work.steps or not (is_cell and work.parts)]
    return any(work.gpu for work in computing)
