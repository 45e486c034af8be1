"""The tasks of a preset in stages: what several tasks need is made once, in one before them.

A task has the cells that share a part, such as the trained model. A run that only one task needs is
made within it; one that several need, or that computes on a GPU for cells that do not, is a task of
an earlier stage. A cell that does no more than read such a run stands for it.
"""

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from experiments.cluster import needs
from experiments.cluster.graph import Graph, Node, graph, shares
from experiments.cluster.plan import Plan, Target, Task, bundled
from experiments.laboratory import cost, runs
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.table import aligned, counted

MOST_TASKS = 1_000  # of a stage and a kind of device, unless `tasks` says more
LONGEST = 4 * 3_600.0  # counted seconds of a task's cells, beyond which they are halved
SHORTEST = 60.0  # counted seconds that are worth the start of a task


def divide(
    entries: Sequence[Mapping[str, Any]],
    shared: str,
    tasks: int | None = None,
    seconds: Sequence[float] = (),
) -> list[list[int]]:
    """Indices of the cells of each task, from the entries that runs.entries makes.

    Cells whose part `shared` is the same form one task, or more if they take long. If `tasks` asks
    for more tasks than that, the largest are halved until every cell is alone.
    """
    groups: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        groups.setdefault(entry["parts"].get(shared, f"cell {index}"), []).append(index)
    divided: list[list[int]] = []
    waiting = list(groups.values())
    while waiting:
        group = waiting.pop()
        total = sum(seconds[i] for i in group) if seconds else 0.0
        long = len(group) > 1 and LONGEST < total < math.inf
        (waiting if long else divided).extend(_halves(group) if long else [group])
    divided.sort()
    while len(divided) < min(tasks or 0, len(entries)):
        largest = max(divided, key=len)
        place = divided.index(largest)
        divided[place : place + 1] = _halves(largest)
    return sorted(divided)


def _halves(group: list[int]) -> list[list[int]]:
    return [group[: len(group) // 2], group[len(group) // 2 :]]


def merged(groups: Sequence[list[Any]], most: int) -> list[list[Any]]:
    """The groups, or if there are more than `most`, whole ones joined to so many of like size."""
    if len(groups) <= most:
        return [list(group) for group in groups]
    loads: list[list[Any]] = [[] for _ in range(most)]
    for group in sorted(groups, key=lambda group: -len(group)):
        min(loads, key=len).extend(group)
    return [load for load in loads if load]


def staged(experiment: Experiment, preset: str, tasks: int | None = None, pack: int = 1) -> Plan:
    """The plan of a preset.

    tasks  how many tasks a stage has at most, if it has that many cells. By default tasks that
           share a model are joined, and those of less than SHORTEST seconds
    pack   how many tasks share a GPU at the same time
    """
    cells = experiment.cells(preset)
    works, entries = experiment.works(preset, cells), runs.entries(cells)
    known = graph(experiment, works)
    addresses = [f"{experiment.name}/{entry['key']}" for entry in entries]
    seconds = () if tasks else shares(known, addresses)
    groups = divide(entries, experiment.shared, tasks, seconds)
    try:
        made = _Division(known, addresses, groups).tasks(tasks)
    except CycleError:  # two groups need each other; cells never do
        alone = [[cell] for cell in range(len(cells))]
        made = _Division(known, addresses, alone).tasks(tasks)
    _, estimate = experiment.estimate(preset, works)
    sized = [needs.sized(task, nodes, estimate) for task, nodes in made]
    keys = tuple(entry["key"] for entry in entries)
    return Plan(experiment.name, preset, keys, tuple(sized), bundled(sized, pack))


class _Division:
    """The runs of a graph, each owned by a task."""

    def __init__(self, known: Graph, cells: Sequence[str], groups: Iterable[list[int]]) -> None:
        self.graph, self.gpu = known, dict[str, bool]()
        self.owner: dict[str, int] = {}
        self.lists: list[list[Target]] = []
        repeated = self._repeated(cells)
        for cell in cells:
            self.gpu[cell] = known[repeated.get(cell, cell)].gpu
        for group in groups:
            for on_gpu in (True, False):
                if some := [i for i in group if self.gpu[cells[i]] == on_gpu]:
                    self._add([Target(cells[i], i, True) for i in some])
        for cell, part in repeated.items():
            self.owner[part] = self.owner[cell]
        self._promote()

    def _repeated(self, cells: Sequence[str]) -> dict[str, str]:
        """By cell that only repeats a run: that run, for which the first such cell stands."""
        found: dict[str, str] = {}
        for cell in cells:
            node = self.graph[cell]
            if (
                node.only_repeats
                and node.parts[0] not in found
                and not self._is_cell(node.parts[0])
            ):
                found[node.parts[0]] = cell
        return {cell: part for part, cell in found.items()}

    def _is_cell(self, address: str) -> bool:
        return self.graph[address].is_cell

    def _add(self, targets: list[Target]) -> int:
        self.lists.append(targets)
        self.owner.update({target.address: len(self.lists) - 1 for target in targets})
        return len(self.lists) - 1

    def _on_gpu(self, task: int) -> bool:
        return any(self.gpu[target.address] for target in self.lists[task])

    def _promote(self) -> None:
        """Give a task of its own to what several tasks need, or what needs another device."""
        users: dict[str, set[int]] = collections.defaultdict(set)
        for address, node in reversed(self.graph.items()):
            using = users[address]
            if address in self.owner:
                using = {self.owner[address]}
            elif len(using) > 1 or (node.gpu and not all(map(self._on_gpu, using))):
                self.gpu[address] = node.gpu
                using = {self._add([Target(address, node.cell, False)])}
            for part in node.parts:
                users[part] |= using

    def _own(self, task: int) -> tuple[list[str], set[int]]:
        """The runs that a task may make, and the tasks that make others for it before."""
        waiting = [target.address for target in self.lists[task]]
        mine, before = dict.fromkeys(waiting), set()
        while waiting:
            for part in self.graph[waiting.pop()].parts:
                owner = self.owner.get(part, task)
                if owner != task:
                    before.add(owner)
                elif part not in mine:
                    mine[part] = None
                    waiting.append(part)
        return list(mine), before

    def _most(self, tasks: Sequence[Sequence[int]], own: Sequence[tuple[list[str], Any]]) -> int:
        """How many tasks of one kind are worth their starts; all, if their seconds are unknown."""
        seconds = [self.graph[address].seconds for one in tasks for address in own[one[0]][0]]
        if not all(math.isfinite(one) for one in seconds):
            return MOST_TASKS
        return min(MOST_TASKS, max(1, math.ceil(sum(seconds) / SHORTEST)))

    def tasks(self, most: int | None) -> list[tuple[Task, list[Any]]]:
        """The tasks stage by stage, at most so many of each kind, with the nodes they may make."""
        own = [self._own(task) for task in range(len(self.lists))]
        order = TopologicalSorter({task: before for task, (_, before) in enumerate(own)})
        stage: dict[int, int] = {}
        for task in order.static_order():
            stage[task] = max((stage[one] + 1 for one in own[task][1]), default=0)
        kinds: dict[tuple[int, bool], list[list[int]]] = {}
        for task in sorted(stage):
            kinds.setdefault((stage[task], not self._on_gpu(task)), []).append([task])
        loads = [
            (kind, sorted(load))
            for kind in sorted(kinds)
            for load in sorted(merged(kinds[kind], most or self._most(kinds[kind], own)))
        ]
        place = {task: i for i, (_, load) in enumerate(loads) for task in load}
        return [
            (
                Task(
                    tuple(target for task in load for target in self.lists[task]),
                    number,
                    not on_cpu,
                    tuple(sorted({place[one] for task in load for one in own[task][1]})),
                ),
                [self.graph[address] for task in load for address in own[task][0]],
            )
            for (number, on_cpu), load in loads
        ]


def card(
    experiment: Experiment, preset: str, workers: int | None = None, speed: str | None = None
) -> str:
    """The stages of a preset as a table, with what is missing of each and what it takes."""
    return described(experiment, staged(experiment, preset, workers), speed)


def described(experiment: Experiment, plan: Plan, speed: str | None = None) -> str:
    """The stages of a plan as a table: tasks, what is missing of each, and what it takes."""
    works = experiment.works(plan.preset, experiment.cells(plan.preset))
    nodes = graph(experiment, works)
    rate, estimate = experiment.estimate(plan.preset, works, speed=speed)
    wanted = {t.address for i in plan.todo() for t in plan.missing(i)}
    owned = {target.address for task in plan.tasks for target in task.runs}
    kinds: dict[tuple[int, bool], list[int]] = {}
    for index, task in enumerate(plan.tasks):
        kinds.setdefault((task.stage, task.gpu), []).append(index)
    rows, seen = [], set[str]()
    for (stage, gpu), members in kinds.items():
        some = [plan.tasks[index] for index in members]
        targets = [target for task in some for target in task.runs]
        left = [target for target in targets if target.address in wanted]
        todo = {task.runs[0].address for task in some if any(t in left for t in task.runs)}
        made = _made([t.address for t in left], nodes, owned, seen)
        each = [estimate.seconds_of(work, rate) for node in made for work in node.works]
        known = [seconds for seconds in each if seconds is not None]
        rows.append(
            [
                str(stage + 1),
                _names(targets, plan.name),
                str(len(left)),
                str(len(todo)),
                "1 GPU" if gpu else counted(max(t.cores for t in some), "core"),
                needs.gigabytes(max(t.memory for t in some)),
                needs.gigabytes(max(t.gpu_memory for t in some)) if gpu else "",
                cost.hours(sum(known)) if len(known) == len(each) else "unknown",
            ]
        )
    header = ["stage", "runs", "missing", "tasks", "each on", "memory", "of the GPU", "hours left"]
    return aligned(header, rows)


def _made(addresses: Sequence[str], nodes: Graph, owned: set[str], seen: set[str]) -> list[Node]:
    """Runs with those that are made within them; those `seen` before are left out, then added."""
    waiting, made = list(addresses), []
    while waiting:
        address = waiting.pop()
        if address not in seen:
            seen.add(address)
            made.append(nodes[address])
            inside = [part for part in nodes[address].parts if part not in owned]
            waiting += [part for part in inside if not runs.present(part)]
    return made


def _names(targets: Sequence[Target], name: str) -> str:
    """What a stage makes, in words: `3 cells`, or `4 digit_model`."""
    kinds = collections.Counter(
        "cell" if target.whole else target.address.split("/")[0] for target in targets
    )
    return ", ".join(
        counted(count, "cell") if kind == "cell" else f"{count} {kind}"
        for kind, count in kinds.items()
    )
