"""Tasks of a plan as processes of one machine, each with a log: in order, as many as there is room.

A GPU is divided into slots of equal memory. A task takes as many as its measured memory needs, and
is held to them. If this process ends, however it ends, the tasks save and stop.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments.cluster.devices import Gpu
from experiments.cluster.plan import Plan
from experiments.laboratory import process
from experiments.laboratory.errors import USER_MISTAKE
from experiments.laboratory.process import GPU_SHARE

LOOK = 0.2  # seconds between two looks at the processes
PATIENCE = process.GRACE + 5.0  # seconds for a task to save and stop
CRASHED = 1


@dataclass
class _Place:
    """A GPU with free slots; without one, the machine."""

    gpu: Gpu | None
    free: int


@dataclass(frozen=True)
class _Running:
    process: subprocess.Popen[bytes]
    place: _Place
    slots: int


@dataclass(frozen=True)
class Failure:
    """A task whose runs are not all there: why, and the log that says more."""

    task: int
    code: int
    reason: str
    log: Path


@dataclass
class Pool:
    """Computes tasks by at most `most` processes, which share the GPUs and the `cores`.

    `say` gets a line when a task begins and ends. After `finished` is through, `failures` has the
    tasks that failed.
    """

    plan: Plan
    tasks: Sequence[int]
    gpus: Sequence[Gpu]
    most: int
    cores: int
    say: Callable[[str], None] = lambda line: None
    failures: list[Failure] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.slots = -(-self.most // max(1, len(self.gpus)))
        self.on_gpu = [_Place(gpu, self.slots) for gpu in self.gpus]
        self.anywhere = _Place(None, self.most)
        self.waiting = list(self.tasks)
        self.running: dict[int, _Running] = {}

    @property
    def code(self) -> int:
        """The exit code: 0, or 2 if users' mistakes alone made tasks fail, else 1."""
        codes = {failure.code for failure in self.failures}
        return 0 if not codes else USER_MISTAKE if codes == {USER_MISTAKE} else CRASHED

    def finished(self) -> Iterator[int]:
        """Compute all; yield a number for each cell that is there since."""
        cells = [t for task in self.tasks for t in self.plan.tasks[task].runs if t.whole]
        left = {target.address: target.cell for target in cells}
        left = {address: cell for address, cell in left.items() if self._lacks(address)}
        self.plan.logs.mkdir(parents=True, exist_ok=True)
        try:
            while self.waiting or self.running:
                process.stop_if_requested()
                self._start_what_can()
                if self.running:
                    time.sleep(LOOK)
                self._end_what_has_ended()
                for address in [one for one in left if not self._lacks(one)]:
                    yield left.pop(address)
        finally:
            self._stop()

    def _lacks(self, address: str) -> bool:
        return not self.plan.has(address)

    def _start_what_can(self) -> None:
        unfinished = {*self.waiting, *self.running}
        for task in list(self.waiting):
            if len(self.running) >= self.most:
                return
            if unfinished & set(self.plan.tasks[task].needs):
                continue
            if reason := self.plan.blocked(task):
                self.waiting.remove(task)
                unfinished.remove(task)
                self.failures.append(Failure(task, CRASHED, reason, self.plan.log(task)))
            elif (found := self._place(task)) is not None:
                self.waiting.remove(task)
                self._start(task, *found)

    def _place(self, task: int) -> tuple[_Place, int] | None:
        """Where a task has room, and how many slots it takes there."""
        if not self.plan.tasks[task].gpu or not self.on_gpu:
            return self.anywhere, 1
        place = max(self.on_gpu, key=lambda one: one.free)
        assert place.gpu is not None
        each = place.gpu.memory / self.slots
        slots = min(self.slots, max(1, -(-self.plan.tasks[task].gpu_memory // max(1, int(each)))))
        return (place, slots) if place.free >= slots else None

    def _start(self, task: int, place: _Place, slots: int) -> None:
        place.free -= slots
        environment = os.environ | {"OMP_NUM_THREADS": str(max(1, self.cores // self.most))}
        where = "the CPU"
        if place.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = place.gpu.id
            where = f"GPU {place.gpu.id}"
            if self.slots > 1:
                environment[GPU_SHARE] = f"{slots / self.slots:.4f}"
                where += f", {slots} of its {self.slots} slots"
        elif self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        words = [sys.executable, "-m", "experiments", "array", self.plan.name, self.plan.preset]
        words += [f"--plan={self.plan.id}", f"--task={task}", "--with-parent"]
        with self.plan.log(task).open("ab") as log:
            log.write(f"== task {task} on {where}, {time.strftime('%F %T')}\n".encode())
            log.flush()
            # Of a session of its own: an interrupt from the keyboard reaches this process alone.
            started = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self.running[task] = _Running(started, place, slots)
        self.say(f"task {task} on {where}: {self.plan.log(task)}")

    def _end_what_has_ended(self) -> None:
        for task, one in list(self.running.items()):
            code = one.process.poll()
            if code is None:
                continue
            self._forget(task)
            if code and self.plan.missing(task):
                reason = _reason(self.plan.log(task), code)
                failure = Failure(task, code if code > 0 else CRASHED, reason, self.plan.log(task))
                self.failures.append(failure)
                self.say(f"task {task} failed: {reason}")
            else:
                self.say(f"task {task} ended")

    def _forget(self, task: int) -> None:
        one = self.running.pop(task)
        one.place.free += one.slots
        assert one.process.stdin is not None
        one.process.stdin.close()

    def _stop(self) -> None:
        """Let the processes save and stop; those that do not soon, or at a second request, end."""
        some = [one.process for one in self.running.values()]
        for one in some:
            one.terminate()
        try:
            deadline = time.monotonic() + PATIENCE
            for one in some:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    one.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for one in some:
                if one.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(one.pid, signal.SIGKILL)
                    one.wait()
            for task in list(self.running):
                self._forget(task)


def _reason(log: Path, code: int) -> str:
    """Why a task failed, from the end of its log."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"it was killed by {name}: if memory ran out, use fewer workers"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    own = lines[max((i for i, line in enumerate(lines) if line.startswith("== ")), default=0) :]
    errors = [line for line in own if line.startswith("error: ")]
    return (errors or [line for line in own if line] or ["no reason is in its log"])[-1]
