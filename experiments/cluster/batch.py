"""What one submission sends to Slurm: arrays in the order of their stages, and a job after them."""

import collections
import os
import shlex
from collections.abc import Callable, Sequence

from experiments.cluster import limits, slurm
from experiments.cluster.jobs import (
    Resources,
    arrays,
    bundle_of,
    gather_comment,
    gather_submission,
    queued_bundles,
)
from experiments.cluster.plan import Plan
from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.table import counted


class Batch:
    """What one submission sends: some bundles of a plan, and the job after them."""

    def __init__(
        self,
        plan: Plan,
        resources: Resources,
        queued: Sequence[slurm.Queued],
        start: int,
        words: Sequence[str],
    ) -> None:
        self.plan, self.resources, self.words = plan, resources, words
        self.mine = queued_bundles(plan, queued)
        self.gathering = any(one.comment == gather_comment(plan) for one in queued)
        place = bundle_of(plan)
        waiting = {place[task] for task in plan.todo()} - set(self.mine)
        self.todo = sorted(bundle for bundle in waiting if bundle >= start)
        self.continues = start > 0  # this is the job that submits the rest, and is in the queue
        account, qos = _given(resources, "--account", "-A"), _given(resources, "--qos", "-q")
        self.limits = limits.asked(account, qos)
        room = self.limits.jobs - len(queued) - 1  # the last one is for the job that gathers
        self.now, self.later = self.todo[: max(0, room)], self.todo[max(0, room) :]
        if self.later and not self.now:
            raise UserError(
                f"{counted(len(queued), 'job')} of yours are in the queue, and Slurm takes "
                f"{self.limits.jobs}: submit the same again when some have ended"
            )

    @property
    def is_empty(self) -> bool:
        return not self.todo and not self.continues and (not self.mine or self.gathering)

    def describe(self) -> None:
        """Say what is in the queue and what comes."""
        if self.mine:
            states = collections.Counter(task.state.lower() for task in self.mine.values())
            in_words = ", ".join(f"{count} {state}" for state, count in states.items())
            print(f"in the queue already: {counted(len(self.mine), 'task')} ({in_words})")
        if self.todo:
            sent = [task for bundle in self.now for task in self.plan.bundles[bundle]]
            cells = sum(len(self.plan.tasks[task].cells) for task in sent)
            parts = sum(len(self.plan.tasks[task].runs) for task in sent) - cells
            needed = f" and {counted(parts, 'run')} that they need" if parts else ""
            print(
                f"to submit: {counted(len(self.now), 'task')} with {counted(cells, 'cell')}"
                f"{needed}, and a job that {'submits the rest' if self.later else 'gathers'}"
            )
        elif not self.mine:
            print(f"nothing to submit: `python -m analysis --preset {self.plan.preset}` draws it")
        elif self.gathering:
            print("nothing to submit: all missing cells are in the queue")
        if self.later:
            print(
                f"{counted(len(self.later), 'more task')} must wait: Slurm takes "
                f"{self.limits.jobs} jobs of yours at once"
            )

    def print_commands(self) -> int:
        """Print the commands instead of running them; ARRAY1 stands for the id of the first."""
        count = 0

        def send(words: Sequence[str]) -> str:
            nonlocal count
            count += 1
            print(shlex.join(["sbatch", *words]))
            return f"ARRAY{count}"

        self._send(send)
        return 0

    def submit(self, experiment: Experiment) -> int:
        """Send everything to Slurm; if it refuses one, what was taken stays in the queue."""
        if self.now:
            runs.plan(self.plan.name, self.plan.preset, experiment.cells(self.plan.preset))
            self.plan.save()
            self.plan.logs.mkdir(parents=True, exist_ok=True)

        def send(words: Sequence[str]) -> str:
            job = slurm.submit(words)
            if any(word.startswith("--array=") for word in words):
                print(f"submitted array {job}; logs in {self.plan.logs}")
            return job

        last = self._send(send)
        does = "submits the rest" if self.later else "gathers"
        print(f"submitted job {last}, which {does}")
        print(f"watch: squeue --me; python -m experiments status {self.plan.name}")
        return 0

    def _send(self, send: Callable[[Sequence[str]], str]) -> str:
        """Send the arrays, each after those it needs, then the job after all of them."""
        job = {bundle: task.array for bundle, task in self.mine.items()}
        before: tuple[int, bool] | None = None
        last: list[str] = []
        for array in arrays(self.plan, self.now, self.limits):
            after = [job[bundle] for bundle in sorted(array.needs()) if bundle in job]
            kind = self.plan.tasks[array.tasks[0]].stage, array.gpu
            if self.resources.throttle and kind == before:
                after += last  # so many at once, whatever the number of arrays
            before = kind
            sent = send(array.submission(self.resources, after))
            job.update(dict.fromkeys(array.bundles, sent))
            last = [sent]
        after_all = list(job.values())
        return send(gather_submission(self.plan, after_all, self.resources, self._rest()))

    def _rest(self) -> list[str]:
        """The words with which the job after these submits what must wait; none if nothing must."""
        if not self.later:
            return []
        words = [*self.words, "--"]
        own, extra = words[: words.index("--")], words[words.index("--") : -1]
        kept = [word for word in own if not word.startswith(("--of=", "--start="))]
        return [*kept, f"--of={self.plan.id}", f"--start={self.later[0]}", *extra]


def _given(resources: Resources, *names: str) -> str:
    """The value that the words for sbatch, or its variables, give an option."""
    words = list(resources.extra)
    for place, word in enumerate(words):
        name, _, value = word.partition("=")
        if name in names:
            return value or (words[place + 1] if place + 1 < len(words) else "")
    return os.environ.get(f"SBATCH_{names[0].strip('-').upper()}", "")
