"""Tasks of an array without a Slurm: how cells are divided, and what the batch script does when."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments import speed_ensembles
from experiments.cluster import array, jobs, plan, slurm, stages, together
from experiments.cluster import submit as cluster
from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
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


def queued(task: plan.Plan, *indices: int) -> list[slurm.Queued]:
    comment = jobs.Array(task, (0,)).comment
    return [slurm.Queued(str(20 + i), "20", i, "PENDING", comment) for i in indices]


def divided(tasks: int | None = None) -> plan.Plan:
    made = stages.staged(tiny.EXPERIMENT, "slow", tasks)
    made.save()
    return made


@pytest.fixture
def submit(fresh, monkeypatch):
    """slurm/submit in this process, where the queue is a list and nothing is ever taken."""
    known = {"tiny": tiny.EXPERIMENT, "pair": pair.EXPERIMENT}
    monkeypatch.setattr("experiments.laboratory.registry.named", known.__getitem__)
    monkeypatch.setattr(slurm, "present", lambda: True)
    monkeypatch.setattr(slurm, "queue", list)
    monkeypatch.setattr(slurm, "told", lambda *words: "")
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
    walks = divided()
    monkeypatch.setattr(slurm, "queue", lambda: queued(walks, 0, 1, 2))
    (gather,) = submit()
    assert "--dependency=afterany:20" in gather
    waiting = slurm.Queued("9", "9", None, "PENDING", jobs.gather_comment(walks))
    monkeypatch.setattr(slurm, "queue", lambda: [*queued(walks, 0, 1, 2), waiting])
    assert submit() == []


def test_devices_are_asked_for_where_a_cell_can_use_them(submit, monkeypatch, capsys):
    def device_options(*words: str, **declared: Any) -> list[str]:
        chosen = replace(tiny.EXPERIMENT, **declared)
        monkeypatch.setattr("experiments.laboratory.registry.named", lambda name: chosen)
        job = submit(*words)[0]
        return [w for w in job if re.match("--(gres|cpus|processes)", w)]

    cores, one = "--cpus-per-task=", "--processes=1"
    assert device_options() == [f"{cores}2", one]
    assert device_options(gpu=True) == ["--gres=gpu:1", f"{cores}4", one]
    assert device_options("--gpus", "0", gpu=True) == [f"{cores}2", one]
    three = device_options("--gpus", "3", gpu=True, processes=4)
    assert three == ["--gres=gpu:3", f"{cores}12", "--processes=3"]
    assert device_options("--processes", "3", processes=4) == [f"{cores}3", "--processes=3"]
    for word, gres in (("a100:1", "gpu:a100:1"), ("1g.10gb", "gpu:1g.10gb:1"), ("shard:4",) * 2):
        assert device_options("--gpus", word, gpu=True) == [f"--gres={gres}", f"{cores}4", one]
    capsys.readouterr()
    device_options("--gpus", "0", "--processes", "2", gpu=True, processes=4)
    assert "core hours" in capsys.readouterr().out
    device_options(gpu=True)
    out = capsys.readouterr().out
    assert "GPU hours" in out
    assert "core hours" not in out


def test_the_device_is_handed_to_the_tasks_and_a_cpu_asks_for_no_gpu(submit, monkeypatch, capsys):
    chosen = replace(tiny.EXPERIMENT, gpu=True)
    monkeypatch.setattr("experiments.laboratory.registry.named", lambda name: chosen)
    for name in ("RETRACE_DEVICE", "RETRACE_DETERMINISTIC"):
        monkeypatch.setenv(name, "")

    def device_words(*words: str) -> list[str]:
        job = submit(*words)[0]
        return [w for w in job if re.match("--(gres|device|deterministic)", w)]

    assert device_words() == ["--gres=gpu:1"]
    assert device_words("--device", "cuda:0") == ["--gres=gpu:1", "--device=cuda:0"]
    monkeypatch.setenv("RETRACE_DEVICE", "auto")
    assert device_words("--device", "cpu", "--deterministic") == ["--device=cpu", "--deterministic"]
    assert device_words() == ["--device=cpu", "--deterministic"], "children have it too"
    capsys.readouterr()
    mistakes = {
        "--device cpu --gpus 1": "uses no GPU with --device cpu: leave out --gpus",
        "--device gpu": "there is no device 'gpu'",
        "--device cuda:1": "a task with 1 GPU has no cuda:1: leave out --device",
        "--device cuda --gpus 0": "a task with 0 GPUs has no cuda: leave out --device",
        "--device mps": "a task with 1 GPU has no mps: leave out --device",
    }
    for words, said in mistakes.items():
        assert cluster.main(["tiny", "slow", *words.split()]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert said in err


def test_a_task_computes_on_the_device_that_was_submitted(fresh, monkeypatch):
    for name in ("RETRACE_DEVICE", "RETRACE_DETERMINISTIC"):
        monkeypatch.setenv(name, "")
    seen = []

    def main(words):
        seen.append((os.environ["RETRACE_DEVICE"], os.environ["RETRACE_DETERMINISTIC"]))
        return 0

    words = [*task_words(0), "--device=cuda:1", "--deterministic"]
    experiment = SimpleNamespace(
        tiers=lambda: ["small"], cells=lambda tier: SMALL, main=main, processes=1
    )
    monkeypatch.setattr("experiments.laboratory.registry.named", lambda name: experiment)
    assert array.main(words) == 0
    assert set(seen) == {("cuda:1", "1")}


def test_a_preset_whose_cells_say_cpu_uses_no_gpu():
    experiment = speed_ensembles.EXPERIMENT
    assert {name: experiment.uses_gpu(name) for name in experiment.presets} == {
        "smoke": False, "small": False, "gpu": True,
    }  # fmt: skip


def test_processes_share_the_cores_that_array_sbatch_gave_to_one(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    for given, cores in (("8", "2"), ("1", "1"), ("3", "3")):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        together._share_cores(4)
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
    measured = "from 1 run measured on cpu"
    assert re.search(rf"core hours: at least \d.\d\d with 2 per task, {measured}", out)
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
    "tiny slow --gpus x:y": "--gpus x:y cannot be read: give a number, as 2, or a type",
    "tiny slow --gpus a100": "a cell of tiny, preset slow, uses no GPU: leave out --gpus\n",
    "tiny slow --nodes 2": "a cell of tiny runs in 1 process, on one node: leave out --nodes",
    "pair smoke --nodes 3": "3 nodes of 1 process are more than the 2 that a cell of pair runs in",
    "tiny slow --pack 2": "--pack puts several tasks on one GPU: give it with one GPU on one node",
    "tiny slow -- --array=1-2": "--array is set by slurm/submit, which follows its jobs by it",
    "tiny slow --time 3:00": "--time 3:00 is less than 10 minutes",
    "tiny slow --time 0-0:05": "--time 0-0:05 is less than 10 minutes",
    "tiny slow --time soon": "--time soon cannot be read",
    "tiny slow --time ²": "--time ² cannot be read",
    "tiny slow --gpus ²": "--gpus ² cannot be read",
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


def saved(experiment: Experiment = tiny.EXPERIMENT, preset: str = "slow") -> str:
    """The words with which array.sbatch starts tasks of a preset, there of the small tier."""
    some = replace(experiment, presets={"small": experiment.presets[preset]})
    made = stages.staged(some, "small")
    made.save()
    return f"{some.name} small --plan={made.id}"


def task_words(number: int) -> list[str]:
    return [*saved().split(), f"--index={number}"]


def test_a_task_whose_cells_are_there_ends_at_once(fresh, monkeypatch, capsys):
    words = task_words(1)
    monkeypatch.setattr(
        "experiments.laboratory.registry.named", lambda name: pytest.fail("imported")
    )
    for cell in SMALL[2:4]:
        tiny.EXPERIMENT.once(cell)
    assert array.main(words) == 0
    assert capsys.readouterr().out == "task 1: 0 of 2 runs to make\n"


@pytest.mark.parametrize("number", [3, 99])
def test_a_task_that_there_is_none_of_is_one_line(number, fresh, monkeypatch, capsys):
    assert array.main(task_words(number)) == 2
    said = f"error: index {number} of 3 bundles: give --index 0 to 2, or let `slurm/submit tiny"
    assert said in capsys.readouterr().err
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    assert array.main(task_words(0)[:-1]) == 2
    assert capsys.readouterr().err.startswith("error: index None of 3 bundles")
    for wrong in ("--task=-1", "--index=²", "--nodes=0", "--processes=0"):
        assert array.main([*task_words(0), wrong]) == 2
        assert "is not a number from" in capsys.readouterr().err


def test_a_results_folder_of_any_name_has_its_logs_or_is_refused(
    submit, monkeypatch, tmp_path, capsys
):
    for name in ("50% off %a", "a blank"):
        monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / name))
        job, gather = submit()
        logs = f"--output={tmp_path}/{name.replace('%', '%%')}/runs/tiny/logs/slow-"
        assert [f"{logs}%A_%a.log", f"{logs}gather-%j.log"] == [
            word for word in (*job, *gather) if word.startswith("--output=")
        ]
        assert (tmp_path / name / "runs" / "tiny" / "presets" / "slow.json").exists()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RETRACE_RESULTS", "~/mine")
    submit()
    assert (tmp_path / "mine" / "runs" / "tiny" / "presets" / "slow.json").exists()
    long = "/".join(["x" * 200] * 19)
    for wrong, said in (("a\\b", "has a backslash"), (long, "too long"), ("y" * 300, "too long")):
        monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / wrong))
        with pytest.raises(AssertionError):
            submit()
        assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_task_of_a_preset_that_was_changed_since_computes_nothing(fresh, monkeypatch, capsys):
    assert array.main(["tiny", "small", "--plan=0123456789ab", "--index=1"]) == 2
    assert "`slurm/submit tiny small` submits what is missing now" in capsys.readouterr().err
    changed = replace(tiny.EXPERIMENT, presets={"small": SMALL[1:]})
    monkeypatch.setattr("experiments.laboratory.registry.named", lambda name: changed)
    assert array.main(task_words(1)) == 2
    assert "are no longer those that were submitted" in capsys.readouterr().err


def test_a_mistake_in_one_cell_leaves_the_others_of_its_task(fresh, monkeypatch):
    def run(config, folder):
        if isinstance(config.method, tiny.Mean):
            raise UserError("lower lr")
        return {"size": config.size}

    broken, words = Experiment("tiny", run, {"small": SMALL}), task_words(0)
    monkeypatch.setattr("experiments.laboratory.registry.named", lambda name: broken)
    assert array.main(words) == 2
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


@pytest.mark.long
def test_several_processes_compute_a_cell_together_and_write_it_once(fresh):
    made = stages.staged(pair.EXPERIMENT, "smoke", 1)
    made.save()
    runs.plan("pair", "smoke", pair.EXPERIMENT.presets["smoke"])
    options = [f"--plan={made.id}", "--index=0", "--processes=2"]
    done = fresh.python("experiments", "array", "pair", "smoke", *options)
    assert done.returncode == 0, done.stderr
    loaded = runs.load("pair", "smoke")
    assert [run.metrics for run in loaded] == [
        {"total": 3.0, "processes": 2},
        {"total": 6.0, "processes": 2},
    ]
    assert done.stdout.count("1 run in") == 2, "of two processes one speaks"
    assert not (fresh.results / "runs" / "pair" / ".scratch").exists()
