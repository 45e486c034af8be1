"""On a real Slurm: whatever happens to its tasks, a preset ends as if run undisturbed."""

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.laboratory import runs, scratch
from tests.experiments.cluster import slurm_cluster
from tests.experiments.cluster.slurm_cluster import until
from tests.experiments.laboratory import tiny
from tests.experiments.laboratory.code_copy import Laboratory, contents

ABSENT = slurm_cluster.missing()
pytestmark = pytest.mark.skipif(bool(ABSENT), reason=ABSENT)


class Cluster:
    """A laboratory on a cluster, and what one asks of both."""

    def __init__(self, laboratory: Laboratory, environment: dict[str, str], gate: Path) -> None:
        self.laboratory, self.environment, self.gate = laboratory, environment, gate

    def run(self, *words: str) -> subprocess.CompletedProcess:
        return self.laboratory.run(*words, **self.environment)

    def submit(self, *options: str) -> str:
        done = self.run("slurm/submit", *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def states(self) -> dict[str, str]:
        """By task, 12_0, or job, 13: its state in the queue, with the reason it waits for."""
        form = "--format=%i %T %r"
        lines = self.run("squeue", "--noheader", "--array", form).stdout.splitlines()
        return {line.split()[0]: line.split(" ", 1)[1] for line in lines}

    def is_idle(self) -> bool:
        return not self.states()

    def walkers(self, seed: int) -> list[int]:
        """The processes that have saved some steps of the walk of a seed, and are still at it."""
        key = runs.key(tiny.Model(seed, steps=12))
        saved = self.laboratory.results.glob(f"runs/tiny_model/.scratch/{key}/*/work/state.json")
        slots = [path.parent.parent for path in saved]
        living = [slot for slot in slots if scratch.state(slot) == scratch.LIVING]
        return [int(slot.name.split(".")[1]) for slot in living]

    def hurry(self, task: str) -> None:
        """Wait until a task is requeued, and let it start soon: Slurm gives it two minutes."""
        self.until(lambda: self.states().get(task, "").startswith("PENDING"), f"{task} is requeued")
        # Within the second in which it ended, its old credentials and its new ones are the same.
        soon = self.run("scontrol", "update", f"JobId={task}", "StartTime=now+3")
        assert soon.returncode == 0, soon.stderr

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something holds; what did not is told with the queue."""
        try:
            until(holds, what)
        except AssertionError as error:
            raise AssertionError(f"{error}, with {self.states()} in the queue") from error

    def log(self, name: str) -> str:
        return (self.laboratory.results / "runs" / "tiny" / "logs" / name).read_text()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    with slurm_cluster.started(folder) as environment:
        laboratory = Laboratory.built(tmp_path_factory.mktemp("laboratory"))
        gate = folder / "gate"
        yield Cluster(laboratory, environment | {"TINY_GATE": str(gate)}, gate)


def jobs(output: str) -> list[str]:
    """The array and the gathering job that were submitted."""
    return re.findall(r"submitted (?:array|job) (\d+)", output)


def test_requeued_killed_cancelled_and_resubmitted_a_preset_ends_as_if_undisturbed(
    cluster, tmp_path
):
    home = cluster.laboratory.results
    words = ["experiments.tiny", "--preset", "small"]
    local = cluster.laboratory.python(*words, RETRACE_RESULTS=str(tmp_path))
    assert local.returncode == 0, local.stderr

    output = cluster.submit("tiny", "small", "--gpus", "0", "--dry-run")
    assert "to submit: 3 tasks with 6 cells" in output
    assert "--array=0-2" in output
    assert cluster.is_idle()
    assert not home.exists()

    first, gather = jobs(cluster.submit("tiny", "small", "--gpus", "0", "--time", "10"))
    assert set(cluster.states()) == {f"{first}_{task}" for task in range(3)} | {gather}
    again = cluster.submit("tiny", "small", "--gpus", "0")
    assert "nothing to submit: all missing cells are in the queue" in again
    assert len(cluster.states()) == 4

    cluster.until(lambda: all(map(cluster.walkers, range(3))), "every task has saved a step")
    status = cluster.laboratory.python("experiments", "status", "tiny").stdout
    assert re.search(r"tiny +small +6 +0 +3 +0 +3", status), status
    cluster.run("scontrol", "requeue", f"{first}_0")
    os.kill(cluster.walkers(1)[0], signal.SIGKILL)
    cluster.run("scancel", f"{first}_2")
    cluster.hurry(f"{first}_0")
    ended = {f"{first}_1", f"{first}_2"}
    cluster.until(lambda: not ended & set(cluster.states()), "two tasks have ended")

    output = cluster.submit("tiny", "small", "--gpus", "0")
    second, last = jobs(output)
    assert "to submit: 2 tasks with 4 cells" in output
    assert {f"{second}_1", f"{second}_2"} <= set(cluster.states())
    assert f"{second}_0" not in cluster.states()
    cluster.until(lambda: cluster.walkers(1) and cluster.walkers(2), "both are at work again")
    cluster.run("scancel", "--batch", "--signal=USR1", f"{second}_1")  # as before a time limit
    cluster.hurry(f"{second}_1")
    assert f"{second}_1 saved and requeued" in cluster.log(f"small-{second}_1.log")
    cluster.gate.touch()
    cluster.until(cluster.is_idle, "the queue is empty")

    assert contents(home) == contents(tmp_path)
    assert len(contents(home)) == 9 * 3  # six cells and three models: array, metrics, config
    assert not list(home.glob("runs/*/.scratch"))
    models = [runs.Run.at(path.parent) for path in home.glob("runs/tiny_model/*/meta.json")]
    assert all(model.meta["resumed"] for model in models)
    assert "start 2" in cluster.log(f"small-{first}_0.log")
    assert "walk_figure small: direction" in cluster.log(f"small-gather-{last}.log")
    assert (home / "artifacts" / "small" / "walk_figure.png").exists()
    assert "nothing to submit: `python -m analysis" in cluster.submit("tiny", "small")


def test_a_task_with_gpus_runs_a_cell_in_as_many_processes_and_a_mistake_is_not_requeued(cluster):
    cluster.submit("pair", "smoke", "--gpus", "2", "--tasks", "1")
    wrong, gather = jobs(cluster.submit("pair", "small", "--gpus", "1"))
    cluster.until(cluster.is_idle, "the queue is empty")
    home = cluster.laboratory.results / "runs" / "pair"
    computed = [runs.Run.at(path.parent).metrics for path in home.glob("*/meta.json")]
    assert sorted(metrics["total"] for metrics in computed) == [3.0, 6.0]
    assert {metrics["processes"] for metrics in computed} == {2}
    log = (home / "logs" / f"small-{wrong}_0.log").read_text()
    assert log.count("== ") == 1, "it began once"
    assert "error: size is 3: lower size" in log
    assert "Traceback" not in log
    named = (home / "logs" / f"small-gather-{gather}.log").read_text()
    assert "slurm/submit pair small" in named
    assert not (home.parent.parent / "artifacts" / "small" / "pair.png").exists()
