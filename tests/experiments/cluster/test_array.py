"""Tasks of an array without a Slurm: how cells are divided, and what the batch script does when."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from experiments import speed_ensembles
from experiments.cluster import array, jobs, slurm
from experiments.cluster import submit as cluster
from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment, sweep
from tests.experiments.cluster.slurm_cluster import until
from tests.experiments.laboratory import pair, tiny
from tests.experiments.laboratory.code_copy import Laboratory

SMALL = tiny.EXPERIMENT.presets["slow"]


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    return Laboratory.built(tmp_path_factory.mktemp("laboratory"))


@pytest.fixture
def fresh(laboratory, tmp_path, monkeypatch):
    """The laboratory with results of its own, which are also those of this process."""
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    return Laboratory(laboratory.code, tmp_path / "results")


def entries(models: list[str]) -> list[dict]:
    return [{"key": f"{i:016}", "config": {}, "parts": {"model": m}} for i, m in enumerate(models)]


def test_cells_that_share_a_model_are_one_task():
    assert jobs.divide(entries(["a", "b", "a", "c"]), "model") == [[0, 2], [1], [3]]
    assert jobs.divide(entries(["a", "b", "a"]), "stored") == [[0], [1], [2]]


def test_fewer_tasks_take_whole_groups_and_more_halve_the_largest():
    listed = entries([*"aaaa", *"bb", "c", "d"])
    assert jobs.divide(listed, "model", 2) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert jobs.divide(listed, "model", 5) == [[0, 1], [2, 3], [4, 5], [6], [7]]
    assert jobs.divide(listed, "model", 100) == [[i] for i in range(8)]
    assert len(jobs.divide(entries([str(i) for i in range(2_500)]), "model")) == 1_000


@pytest.mark.parametrize("tasks", [None, *range(1, 13)])
def test_every_cell_is_in_one_task_and_the_number_of_tasks_gives_the_division_again(tasks):
    listed = entries([*"abcabcaadda"])
    tasks = jobs.divide(listed, "model", tasks)
    assert sorted(cell for task in tasks for cell in task) == list(range(11))
    assert jobs.divide(listed, "model", len(tasks)) == tasks


def test_indices_are_written_as_slurm_reads_them():
    assert jobs.ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert jobs.ranges([3]) == "3"


def queued(task: jobs.Array, *indices: int) -> list[slurm.Queued]:
    return [slurm.Queued(str(20 + i), "20", i, "PENDING", task.comment) for i in indices]


def test_what_is_finished_or_queued_is_not_submitted(fresh):
    experiment = tiny.EXPERIMENT
    walks = jobs.divided(experiment, "slow", None, [])
    assert walks.tasks == [[0, 1], [2, 3], [4, 5]]
    assert walks.todo([]) == [0, 1, 2]
    assert walks.todo(queued(walks, 1)) == [0, 2]
    for cell in SMALL[:2]:
        experiment.once(cell)
    assert walks.todo([]) == [1, 2]
    experiment.once(SMALL[2])
    assert walks.todo(queued(walks, 2)) == [1], "one of its two cells is missing"


def test_what_is_queued_for_another_store_or_preset_does_not_count(fresh, monkeypatch):
    here = jobs.divided(tiny.EXPERIMENT, "slow", None, [])
    other = jobs.divided(tiny.EXPERIMENT, "smoke", None, [])
    assert here.todo(queued(other, 0, 1, 2)) == [0, 1, 2]
    monkeypatch.setenv("RETRACE_RESULTS", "elsewhere")
    there = jobs.divided(tiny.EXPERIMENT, "slow", None, queued(here, 0))
    assert there.todo(queued(here, 0, 1, 2)) == [0, 1, 2]


def test_a_preset_in_the_queue_keeps_its_division(fresh):
    two = jobs.divided(tiny.EXPERIMENT, "slow", 2, [])
    assert len(two.tasks) == 2
    assert jobs.divided(tiny.EXPERIMENT, "slow", None, queued(two, 0)) == two
    assert jobs.divided(tiny.EXPERIMENT, "slow", 2, queued(two, 0)) == two
    with pytest.raises(UserError, match=r"job 20 has tiny/slow in 2 tasks.*`scancel 20`"):
        jobs.divided(tiny.EXPERIMENT, "slow", 3, queued(two, 0))


@dataclass(frozen=True)
class Rows:
    n: int = 3


@dataclass(frozen=True)
class Config:
    rows: Rows = Rows()
    k: int = 0


def test_an_experiment_says_which_field_its_cells_share(fresh):
    presets = {"smoke": sweep(Config(), rows__n=[1, 2], k=[0, 1])}
    alone = Experiment("a", lambda config, scratch: {}, presets)
    assert jobs.divided(alone, "smoke", None, []).tasks == [[0], [1], [2], [3]]
    together = Experiment("a", lambda config, scratch: {}, presets, shared="rows")
    assert jobs.divided(together, "smoke", None, []).tasks == [[0, 1], [2, 3]]


@pytest.fixture
def submit(fresh, monkeypatch):
    """slurm/submit in this process, where the queue is a list and nothing is ever taken."""
    known = {"tiny": tiny.EXPERIMENT, "pair": pair.EXPERIMENT}
    monkeypatch.setattr("experiments.laboratory.registry.named", known.__getitem__)
    monkeypatch.setattr(slurm, "present", lambda: True)
    monkeypatch.setattr(slurm, "queue", list)
    taken = []
    monkeypatch.setattr(slurm, "submit", lambda words: taken.append(words) or str(30 + len(taken)))

    def call(*words: str) -> list[list[str]]:
        taken.clear()
        assert cluster.main(["tiny", "slow", *words]) == 0
        return list(taken)

    return call


def test_an_array_and_a_job_after_it_are_submitted_with_what_was_asked_for(submit, capsys):
    words = ["--time", "4:00:00", "--partition", "long", "--throttle", "2"]
    job, gather = submit(*words)
    assert {"--array=0-2%2", "--time=4:00:00", "--partition=long"} <= set(job)
    assert job[job.index(sys.executable) + 1 :][:2] == ["tiny", "slow"]
    assert {"--dependency=afterany:31", "--partition=long"} <= set(gather)
    assert Path(job[job.index(sys.executable) - 1]).name == "array.sbatch"
    assert Path(gather[gather.index(sys.executable) - 1]).name == "gather.sbatch"
    assert len(runs.planned("tiny", "slow")) == 6
    assert "submitted array 31" in capsys.readouterr().out


def test_a_gathering_job_that_was_refused_is_submitted_by_the_next_try(submit, monkeypatch):
    walks = jobs.divided(tiny.EXPERIMENT, "slow", None, [])
    monkeypatch.setattr(slurm, "queue", lambda: queued(walks, 0, 1, 2))
    (gather,) = submit()
    assert "--dependency=afterany:20" in gather
    waiting = slurm.Queued("9", "9", None, "PENDING", f"gather {walks.comment}")
    monkeypatch.setattr(slurm, "queue", lambda: [*queued(walks, 0, 1, 2), waiting])
    assert submit() == []


def test_devices_are_asked_for_where_a_cell_can_use_them(submit, monkeypatch, capsys):
    def device_options(*words: str, **declared: Any) -> list[str]:
        chosen = replace(tiny.EXPERIMENT, **declared)
        monkeypatch.setattr("experiments.laboratory.registry.named", lambda name: chosen)
        job = submit(*words)[0]
        return [w for w in job if re.match("--(gres|cpus-per-task|processes)", w)]

    assert device_options() == ["--processes=1"]
    assert device_options(gpu=True) == ["--gres=gpu:1", "--processes=1"]
    assert device_options("--gpus", "0", gpu=True) == ["--processes=1"]
    assert device_options("--gpus", "3", gpu=True, processes=4) == ["--gres=gpu:3", "--processes=3"]
    assert device_options("--processes", "3", processes=4) == ["--cpus-per-task=3", "--processes=3"]
    capsys.readouterr()
    device_options("--gpus", "0", "--processes", "2", gpu=True, processes=4)
    assert "core hours" in capsys.readouterr().out
    device_options(gpu=True)
    out = capsys.readouterr().out
    assert "GPU hours" in out
    assert "core hours" not in out


def test_a_preset_whose_cells_say_cpu_uses_no_gpu():
    experiment = speed_ensembles.EXPERIMENT
    assert {name: experiment.uses_gpu(name) for name in experiment.presets} == {
        "smoke": False, "small": False, "gpu": True,
    }  # fmt: skip


def test_processes_share_the_cores_that_array_sbatch_gave_to_one(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    for given, cores in (("8", "2"), ("1", "1"), ("3", "3")):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        array._share_cores(4)
        assert os.environ["OMP_NUM_THREADS"] == cores


def test_the_cost_card_says_what_its_hours_come_from(submit, capsys):
    submit("--dry-run")
    out = capsys.readouterr().out
    assert "6 cells, 6 missing" in out
    assert "core hours: unknown" in out
    assert "`python -m experiments.tiny --preset slow --cell 0` measures one" in out
    tiny.EXPERIMENT.once(SMALL[0])
    submit("--dry-run")
    out = capsys.readouterr().out
    assert "core hours: at least 0.00 with 1 per task, from 1 run measured on cpu" in out
    for cell in SMALL:
        tiny.EXPERIMENT.once(cell)
    assert submit() == []
    out = capsys.readouterr().out
    assert "core hours: none to come" in out
    assert "nothing to submit" in out


def test_a_dry_run_writes_nothing_even_where_there_is_no_slurm(submit, monkeypatch, fresh, capsys):
    def refuse() -> None:
        raise UserError("squeue refused (it was long about it): mend that")

    monkeypatch.setattr(slurm, "queue", refuse)
    monkeypatch.setattr(slurm, "present", lambda: False)
    assert submit("--dry-run", "--tasks", "2") == []
    out = capsys.readouterr().out
    assert out.startswith("there is no Slurm here: the queue is taken to be empty\n")
    assert "squeue" not in out
    assert "to submit: 2 tasks with 6 cells" in out
    assert out.count("\nsbatch ") == 2
    assert not fresh.results.exists()
    assert cluster.main(["tiny", "slow"]) == 2
    assert "sbatch is not on the PATH" in capsys.readouterr().err
    monkeypatch.setattr(slurm, "present", lambda: True)
    submit("--dry-run")
    assert capsys.readouterr().out.startswith("Slurm does not answer: the queue is taken to be")
    assert cluster.main(["tiny", "slow"]) == 2
    assert "squeue refused" in capsys.readouterr().err


MISTAKES = {
    "tiny slwo": "no preset 'slwo': did you mean 'slow'?",
    "tiny slow --gpus 1": "a cell of tiny, preset slow, uses no GPU: leave out --gpus\n",
    "tiny slow --processes 2": "runs in 1 process at most, not 2: give --processes 1",
    "pair smoke --gpus 3": "uses 2 GPUs at most, not 3: give --gpus 2",
    "pair smoke --processes 2": "--processes 2 with 1 GPU: each process has a GPU of its own",
    "tiny slow --gpus x": "'x' is not a number from 0 on",
    "tiny slow --time 3:00": "--time 3:00 is less than 10 minutes",
    "tiny slow --time 0-0:05": "--time 0-0:05 is less than 10 minutes",
    "tiny slow --time soon": "--time soon cannot be read",
    "tiny slow --tasks 0": "'0' is not a number from 1 on",
    "tiny": "the following arguments are required: preset",
    "tiny slow --gpu 2": "unrecognized arguments: --gpu 2",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_submitted(words, submit, fresh, capsys):
    assert cluster.main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert MISTAKES[words] in err
    assert not fresh.results.exists()


@pytest.mark.parametrize("time", ["10", "10:30", "0:10:00", "4:00:00", "0-1", "1-0", "0-0:10:00"])
def test_a_time_is_given_as_sbatch_takes_it(time, submit):
    assert f"--time={time}" in submit("--time", time)[0]


def test_an_unknown_experiment_is_named_with_the_nearest(fresh, capsys):
    assert cluster.main(["mnist_mislable", "smoke"]) == 2
    assert "did you mean 'mnist_mislabel'?" in capsys.readouterr().err


def task_words(number: int, plan: str | None = None) -> list[str]:
    """The words with which array.sbatch starts a task of the slow walks, there the small tier."""
    runs.plan("tiny", "small", SMALL)
    listed = runs.entries(SMALL)
    made = jobs.fingerprint(listed, jobs.divide(listed, "model", 3))
    options = ["--shared=model", "--tasks=3", f"--plan={plan or made}", f"--task={number}"]
    return ["tiny", "small", *options]


def test_a_task_whose_cells_are_there_ends_at_once(fresh, monkeypatch, capsys):
    monkeypatch.setattr(
        "experiments.laboratory.registry.named", lambda name: pytest.fail("imported")
    )
    for cell in SMALL[2:4]:
        tiny.EXPERIMENT.once(cell)
    assert array.main(task_words(1)) == 0
    assert capsys.readouterr().out == "task 1: 0 of 2 cells to compute\n"


def test_a_task_of_a_preset_that_was_changed_since_computes_nothing(fresh, capsys):
    assert array.main(task_words(1, plan="0" * 12)) == 2
    assert "`slurm/submit tiny small` submits what is missing now" in capsys.readouterr().err


def test_a_mistake_in_one_cell_leaves_the_others_of_its_task(fresh, monkeypatch):
    def run(config, folder):
        if isinstance(config.method, tiny.Mean):
            raise UserError("lower lr")
        return {"size": config.size}

    broken = Experiment("tiny", run, {"small": SMALL})
    monkeypatch.setattr("experiments.laboratory.registry.named", lambda name: broken)
    assert array.main(task_words(0)) == 2
    assert len(runs.load("tiny", "small", partial=True)) == 1


TOOLS = ("bash", "date", "hostname", "sleep")


class Batch:
    """array.sbatch as Slurm starts it, with a scontrol that only writes down what it is told."""

    def __init__(self, laboratory: Laboratory, folder: Path, scontrol: bool) -> None:
        self.calls = folder / "told"
        tools = folder / "tools"
        tools.mkdir()
        for tool in TOOLS:
            (tools / tool).symlink_to(f"/bin/{tool}")
        if scontrol:
            (tools / "scontrol").write_text(f'#!/bin/bash\necho "$@" >>{self.calls}\n')
            (tools / "scontrol").chmod(0o755)
        environment = laboratory.environment(
            PATH=str(tools), TINY_GATE="/never", SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="1"
        )
        words = ["/bin/bash", "slurm/array.sbatch", sys.executable, *task_words(1)]
        self.process = subprocess.Popen(
            words,
            cwd=laboratory.code,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ended_by(self, number: signal.Signals, results: Path) -> str:
        """Its output when signalled after some steps."""
        steps = "runs/tiny_model/.scratch/*/*/work/state.json"
        until(lambda: any(results.glob(steps)), "a step is saved")
        self.process.send_signal(number)
        return self.process.communicate()[0]


def test_near_its_limit_a_task_saves_and_requeues_its_own_index_only(fresh, tmp_path):
    batch = Batch(fresh, tmp_path, scontrol=True)
    output = batch.ended_by(signal.SIGUSR1, fresh.results)
    assert batch.calls.read_text() == "requeue 7_1\n"
    assert "interrupted: finished cells are kept" in output
    assert "== 7_1 saved and requeued" in output
    assert "Traceback" not in output
    (slot,) = fresh.results.glob("runs/tiny_model/.scratch/*/*")
    assert slot.name.startswith("free."), "whoever comes next takes it over at once"
    assert (slot / "work" / "state.json").exists()


def test_where_there_is_no_scontrol_a_task_says_what_to_do(fresh, tmp_path):
    batch = Batch(fresh, tmp_path, scontrol=False)
    output = batch.ended_by(signal.SIGUSR1, fresh.results)
    assert "cannot requeue itself from this node: `slurm/submit tiny small`" in output
    assert batch.process.returncode == 130


def test_a_cancelled_task_saves_and_is_not_requeued(fresh, tmp_path):
    batch = Batch(fresh, tmp_path, scontrol=True)
    output = batch.ended_by(signal.SIGTERM, fresh.results)
    assert "interrupted: finished cells are kept" in output
    assert not batch.calls.exists()
    assert list(fresh.results.glob("runs/tiny_model/.scratch/*/free.*/work/state.json"))


def test_several_processes_compute_a_cell_together_and_write_it_once(fresh):
    listed = [{"key": runs.key(pair.Config(n)), "config": {}, "parts": {}} for n in (1, 2)]
    plan = jobs.fingerprint(listed, jobs.divide(listed, "", 1))
    runs.plan("pair", "smoke", pair.EXPERIMENT.presets["smoke"])
    options = ["--tasks=1", f"--plan={plan}", "--task=0", "--processes=2"]
    done = fresh.python("experiments", "array", "pair", "smoke", *options)
    assert done.returncode == 0, done.stderr
    loaded = runs.load("pair", "smoke")
    assert [run.metrics for run in loaded] == [
        {"total": 3.0, "processes": 2},
        {"total": 6.0, "processes": 2},
    ]
    assert done.stdout.count("1 run in") == 2, "of two processes one speaks"
    assert not (fresh.results / "runs" / "pair" / ".scratch").exists()
