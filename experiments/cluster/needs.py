"""What a task takes: memory as measured on finished runs like its own, else as it is counted."""

from collections.abc import Sequence
from dataclasses import replace

from experiments.cluster.graph import Node
from experiments.cluster.plan import Task
from experiments.laboratory.cost import Estimate
from experiments.laboratory.work import Work

GB = 10**9
PROGRAM, PROGRAM_ON_GPU = 2 * GB, 8 * GB  # of the machine: torch, its libraries and small data
CONTEXT = GB // 2  # of the GPU: CUDA's own
MARGIN = 1.3  # memory asked for over memory measured or counted


def sized(task: Task, nodes: Sequence[Node], estimate: Estimate) -> Task:
    """A task with the memory and the cores of the runs that it may make."""
    machine, gpu = _peaks(estimate)
    host = on_gpu = 0.0
    for work in (work for node in nodes for work in node.works):
        place = _place(work)
        least = PROGRAM_ON_GPU if task.gpu else PROGRAM
        kept = max(work.disk, 0.0 if task.gpu else work.memory)
        host = max(host, MARGIN * machine[place] if place in machine else least + MARGIN * kept)
        if task.gpu and work.gpu:
            on_gpu = max(on_gpu, CONTEXT + MARGIN * gpu.get(place, work.memory))
    cores = max((work.cores for node in nodes for work in node.works), default=1)
    return replace(task, memory=_whole(host), gpu_memory=_whole(on_gpu), cores=cores)


def gigabytes(count: float) -> str:
    """Bytes as sbatch and people read them."""
    return f"{count / GB:.0f} GB"


def _whole(count: float) -> int:
    """Bytes rounded up to whole gigabytes, so that near sizes are alike."""
    return int(-(-count // GB)) * GB


def _peaks(estimate: Estimate) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], float]]:
    """By experiment and label of work: the peaks of finished runs, on the machine and on GPUs."""
    machine: dict[tuple[str, str], float] = {}
    gpu: dict[tuple[str, str], float] = {}
    for item in estimate.items:
        if item.run is not None:
            place, meta = _place(item.work), item.run.meta
            machine[place] = max(machine.get(place, 0), meta.get("peak_memory_bytes") or 0)
            peak = (meta.get("gpu") or {}).get("peak_memory_bytes")
            if peak:
                gpu[place] = max(gpu.get(place, 0), peak)
    return machine, gpu


def _place(work: Work) -> tuple[str, str]:
    return work.name, work.label
