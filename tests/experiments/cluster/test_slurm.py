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
pytestmark = [pytest.mark.skipif(bool(ABSENT), reason=ABSENT), pytest.mark.long]


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


@pytest.fixture
def own(cluster, tmp_path):
    """The same cluster with results and a gate of its own; its jobs end with the test."""
    gate = tmp_path / "gate"
    laboratory = Laboratory(cluster.laboratory.code, tmp_path / "results")
    own = Cluster(laboratory, cluster.environment | {"TINY_GATE": str(gate)}, gate)
    yield own
    gate.touch()
    own.run("scancel", "--state=PENDING", "--me")
    own.run("scancel", "--me")
    own.until(own.is_idle, "its jobs have ended")


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


@pytest.mark.long
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
    assert "walk_figure small: open, 0 of 1" in cluster.log(f"small-gather-{last}.log")
    assert (home / "artifacts" / "small" / "walk_figure.png").exists()
    assert "nothing to submit: `python -m analysis" in cluster.submit("tiny", "small")


@pytest.mark.long
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


def test_what_follows_two_dashes_reaches_sbatch_and_arrays_respect_the_limits(own, tmp_path):
    # Without Slurm's database, an account's limit is told by a sacctmgr that knows it.
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sacctmgr").write_text('#!/bin/sh\ncase "$5" in user=*) echo "lab|normal|6|";; esac\n')
    (tools / "sacctmgr").chmod(0o755)
    own.environment["PATH"] = f"{tools}:{own.environment['PATH']}"
    words = "tiny small --gpus 0 --tasks 6 -- --nice=7 --mem=1G"
    output = own.submit(*words.split())
    first, second, rest = jobs(output)
    assert "to submit: 5 tasks with 5 cells, and a job that submits the rest" in output
    assert "1 more task must wait: Slurm takes 6 jobs of yours at once" in output
    asked = own.run("squeue", "--noheader", "--array", "--format=%i %y %m").stdout.split("\n")
    assert sorted(filter(None, asked)) == sorted(
        [f"{first}_{i} 7 1G" for i in range(4)] + [f"{second}_0 7 1G", f"{rest} 7 4G"]
    ), "an array has four indices at most here"
    own.gate.touch()
    own.until(own.is_idle, "the queue is empty")
    assert "to submit: 1 task with 1 cell" in own.log(f"small-gather-{rest}.log")
    assert len(runs_of(own, "tiny")) == 6


def runs_of(cluster: Cluster, name: str) -> list[runs.Run]:
    home = cluster.laboratory.results / "runs" / name
    return [runs.Run.at(path.parent) for path in sorted(home.glob("*/meta.json"))]


def test_stages_follow_each_other_and_what_needs_no_gpu_holds_none(own):
    output = own.submit("chain", "small", "--tasks", "9", "--dry-run")
    commands = [line for line in output.splitlines() if line.startswith("sbatch ")]
    assert ["--gres=gpu:1" in command for command in commands] == [True, True, False, True, False]
    *arrays, gather = jobs(own.submit("chain", "small", "--tasks", "9"))
    assert len(arrays) == 4
    waits = own.run("squeue", "--noheader", "--format=%i %E", "--jobs", arrays[3]).stdout
    assert f"afterany:{arrays[1]}" in waits
    own.until(own.is_idle, "the queue is empty")
    made = [*runs_of(own, "chain_network"), *runs_of(own, "chain_basis"), *runs_of(own, "chain")]
    assert len(made) == 2 + 1 + 6
    by = [run.meta["slurm"]["array_job_id"] for run in made]
    assert by[:3] == [arrays[0]] * 2 + [arrays[1]], "each in the stage of its own"
    assert set(by[3:]) == {arrays[0], arrays[2], arrays[3]}
    log = own.laboratory.results / "runs" / "chain" / "logs" / f"small-gather-{gather}.log"
    assert "chain" in log.read_text()


def test_packed_tasks_share_a_job_and_have_logs_of_their_own(own):
    output = own.submit("chain", "small", "--tasks", "9", "--pack", "3")
    assert "to submit: 4 tasks with 6 cells and 1 run that they need" in output
    own.until(own.is_idle, "the queue is empty")
    assert len(runs_of(own, "chain")) == 6
    logs = own.laboratory.results / "runs" / "chain" / "logs"
    assert len(list(logs.glob("small-*-task-*.log"))) == 2 + 3
    assert all("runs to make" in path.read_text() for path in logs.glob("small-*-task-*.log"))


def test_nodes_meet_under_torchrun_to_compute_a_cell(own):
    own.submit("pair", "smoke", "--gpus", "1", "--nodes", "2", "--tasks", "1")
    own.until(own.is_idle, "the queue is empty")
    logs = (own.laboratory.results / "runs" / "pair" / "logs").glob("smoke-*.log")
    text = "\n".join(path.read_text() for path in logs)
    assert sorted(run.metrics["total"] for run in runs_of(own, "pair")) == [3.0, 6.0], text
    assert {run.metrics["processes"] for run in runs_of(own, "pair")} == {2}


def test_what_ran_on_a_node_that_drains_goes_on_elsewhere(own):
    first, _ = jobs(own.submit("tiny", "small", "--gpus", "0", "--", "--nodelist=one"))
    own.until(lambda: all(map(own.walkers, range(3))), "every task has saved a step")
    own.run("scontrol", "update", "NodeName=one", "State=DRAIN", "Reason=disk")
    try:
        tasks = [f"{first}_{i}" for i in range(3)]
        for task in tasks:
            own.run("scontrol", "requeue", task)
        for task in tasks:
            own.until(lambda t=task: own.states()[t].startswith("PENDING"), f"{task} is requeued")
            own.run("scontrol", "update", f"JobId={task}", "ReqNodeList=", "StartTime=now+3")
        own.gate.touch()
        own.until(own.is_idle, "the queue is empty")
    finally:
        own.run("scontrol", "update", "NodeName=one", "State=RESUME")
    assert len(runs_of(own, "tiny")) == 6
    assert all(model.meta["resumed"] for model in runs_of(own, "tiny_model"))
