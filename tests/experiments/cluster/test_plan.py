"""Plans: how cells form tasks and stages, what is left of them, and what a cluster takes."""

import re
from dataclasses import dataclass, replace

import pytest

from experiments.cluster import jobs, limits, plan, slurm, stages
from experiments.cluster.devices import Gpu
from experiments.cluster.plan import Target, Task
from experiments.cluster.pool import Pool
from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment, sweep
from experiments.laboratory.work import Step, Work
from tests.experiments.cluster.test_array import divided, queued
from tests.experiments.laboratory import chain, tiny


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))


def entries(models: list[str]) -> list[dict]:
    return [{"key": f"{i:016}", "config": {}, "parts": {"model": m}} for i, m in enumerate(models)]


def test_cells_that_share_a_model_are_one_task():
    assert stages.divide(entries(["a", "b", "a", "c"]), "model") == [[0, 2], [1], [3]]
    assert stages.divide(entries(["a", "b", "a"]), "stored") == [[0], [1], [2]]


def test_more_tasks_halve_the_largest_and_so_do_cells_that_take_long():
    listed = entries([*"aaaa", *"bb", "c", "d"])
    assert stages.divide(listed, "model", 5) == [[0, 1], [2, 3], [4, 5], [6], [7]]
    assert stages.divide(listed, "model", 100) == [[i] for i in range(8)]
    hour = [3_600.0] * 4 + [10.0] * 4
    assert stages.divide(listed, "model", seconds=hour) == [[0, 1, 2, 3], [4, 5], [6], [7]]
    longer = [3_601.0] * 4 + [10.0] * 4
    assert stages.divide(listed, "model", seconds=longer)[:2] == [[0, 1], [2, 3]]


def test_fewer_tasks_take_whole_groups():
    groups = [[0, 1, 2, 3], [4, 5], [6], [7]]
    assert stages.merged(groups, 2) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert stages.merged(groups, 9) == groups
    assert len(stages.merged([[i] for i in range(2_500)], stages.MOST_TASKS)) == 1_000


def test_indices_are_written_as_slurm_reads_them():
    assert jobs.ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert jobs.ranges([3]) == "3"


def test_what_is_queued_for_another_store_or_preset_does_not_count(fresh, monkeypatch):
    here, other = divided(), stages.staged(tiny.EXPERIMENT, "big")
    assert jobs.queued_bundles(here, queued(other, 0, 1, 2)) == {}
    assert set(jobs.queued_bundles(here, queued(here, 0, 2))) == {0, 2}
    monkeypatch.setenv("RETRACE_RESULTS", "elsewhere")
    there = stages.staged(tiny.EXPERIMENT, "slow")
    assert jobs.queued_bundles(there, queued(here, 0, 1, 2)) == {}


def test_a_preset_in_the_queue_keeps_its_division(fresh):
    two, three = divided(2), divided()
    assert (len(two.tasks), len(three.tasks)) == (2, 3)
    assert jobs.queued_plan(three, queued(two, 0), asked=False) == two
    assert jobs.queued_plan(two, queued(two, 0), asked=True) == two
    with pytest.raises(UserError, match=r"job 20 has tiny/slow in 2 tasks.*`scancel 20`"):
        jobs.queued_plan(three, queued(two, 0), asked=True)


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
    assert [task.cells for task in stages.staged(alone, "smoke").tasks] == [[0], [1], [2], [3]]
    together = Experiment("a", lambda config, scratch: {}, presets, shared="rows")
    assert [task.cells for task in stages.staged(together, "smoke").tasks] == [[0, 1], [2, 3]]


def shape(made: plan.Plan) -> list[tuple[int, bool, list[str], tuple[int, ...]]]:
    """Stage, device, runs and needs of each task."""
    return [
        (one.stage, one.gpu, [target.address.split("/")[0] for target in one.runs], one.needs)
        for one in made.tasks
    ]


def test_what_several_tasks_need_is_made_once_and_before_them(fresh):
    made = stages.staged(chain.EXPERIMENT, "small", 10)
    assert shape(made) == [
        (0, True, ["chain"], ()),  # a cell that trains a network stands for it
        (0, True, ["chain"], ()),
        (1, True, ["chain_basis"], (0,)),
        (1, False, ["chain"], (0, 1)),
        *[(2, True, ["chain"], (2,))] * 3,
    ]
    assert made.todo() == list(range(7))
    assert "task 2 needs chain/" in made.blocked(2)
    for task in (0, 1):
        chain.EXPERIMENT.once(chain.CHAIN[made.tasks[task].runs[0].cell])
    assert made.blocked(2) == ""
    assert made.todo() == list(range(2, 7))
    for cell in made.tasks[4].cells + made.tasks[5].cells + made.tasks[6].cells:
        chain.EXPERIMENT.once(chain.CHAIN[cell])
    assert made.todo() == [3], "a part of which no missing cell is made is not wanted"


def test_one_task_makes_what_it_alone_needs(fresh):
    some = [chain.Score(chain.Basis(one), k) for one in chain.NETWORKS for k in range(2)]
    alone = replace(chain.EXPERIMENT, presets={"small": some}, shared="basis")
    assert shape(stages.staged(alone, "small")) == [(0, True, ["chain"] * 2, ())] * 2
    spread = stages.staged(alone, "small", 4)
    assert [task.stage for task in spread.tasks] == [0, 0, 1, 1, 1, 1]
    assert {one.runs[0].address.split("/")[0] for one in spread.tasks[:2]} == {"chain_basis"}


def test_a_part_is_made_by_beginning_a_cell_and_no_more(fresh, capsys):
    address = f"chain_basis/{runs.key(chain.Basis())}"
    assert chain.EXPERIMENT.main(["--preset", "small", "--cell", "2", "--only", address]) == 0
    assert capsys.readouterr().out == f"{address} is there\n"
    assert runs.find("chain", chain.CHAIN[2]) is None
    assert runs.find("chain_basis", chain.Basis()) is not None
    words = ["--preset", "small", "--cell", "0", "--only", "chain_basis/0123456789abcdef"]
    assert chain.EXPERIMENT.main(words) == 2
    assert "these cells make none: leave out --only" in capsys.readouterr().err


def test_tasks_of_a_moment_are_joined(fresh):
    some = [chain.Score(chain.Basis(), k) for k in range(8)]
    short = Work("score", (Step(1e9),))
    quick = replace(chain.EXPERIMENT, presets={"small": some}, work=lambda config: short)
    (task,) = stages.staged(quick, "small").tasks
    assert task.cells == list(range(8))


def test_the_stages_are_printed_with_the_cost(fresh, capsys):
    assert chain.EXPERIMENT.main(["--preset", "small", "--plan", "--workers", "6"]) == 0
    table = capsys.readouterr().out.rpartition("stage  runs")[2]
    assert [re.split(" {2,}", line.strip())[1] for line in table.splitlines()[2:]] == [
        "2 cells", "1 chain_basis", "1 cell", "3 cells",
    ]  # fmt: skip
    assert "5 GB" in table, "0.5 GB of CUDA and 1.3 of the 3 GB that a network takes"


def test_a_plan_is_read_as_it_was_written(fresh):
    made = stages.staged(chain.EXPERIMENT, "small", 10, pack=2)
    made.save()
    assert plan.load("chain", "small", made.id) == made
    assert made.bundles == ((0, 1), (2,), (3,), (4, 5), (6,))
    assert plan.load("chain", "small", "0123456789ab") is None


def test_an_array_has_no_index_that_slurm_refuses(fresh):
    made = stages.staged(chain.EXPERIMENT, "small", 10)
    few = jobs.arrays(made, range(7), limits.Limits(array=3, tasks=2))
    assert [(one.first, one.bundles) for one in few] == [
        (0, (0, 1)), (0, (2,)), (3, (3,)), (4, (4, 5)), (6, (6,)),
    ]  # fmt: skip
    words = few[3].submission(jobs.Resources(jobs.Gpus(1)), ["7", "8"])
    assert {"--array=0-1", "--first=4", "--dependency=afterany:7:8", "--mem=8G"} <= set(words)
    assert few[3].needs() == {2}


ANSWERS = {
    "scontrol": "MaxArraySize            = 501\nMaxJobCount = 9000\n"
    "SchedulerParameters = a=1,max_array_tasks=50,b\n",
    "assoc": "lab|long|200|\nother|normal|5|\n",
    "qos": "normal|||\nlong|100||\n",
}


def test_limits_are_asked_of_slurm(monkeypatch):
    def told(*words: str) -> str:
        return ANSWERS["scontrol" if words[0] == "scontrol" else words[4]]

    monkeypatch.setattr(slurm, "told", told)
    assert limits.asked("lab") == limits.Limits(501, 50, 100)
    assert limits.asked("lab", "normal") == limits.Limits(501, 50, 200)
    assert limits.asked() == limits.Limits(501, 50, 5)
    monkeypatch.setattr(slurm, "told", lambda *words: "")
    assert limits.asked() == limits.Limits()


def test_options_after_two_dashes_go_to_the_arrays_and_those_of_accounts_to_gathering():
    extra = ("--account=lab", "-q", "long", "--constraint", "a100", "--mem=9G", "-Aother")
    resources = jobs.Resources(extra=extra)
    assert resources.of_whose == ["--account=lab", "-q", "long", "-Aother"]
    assert resources.sets("--mem")
    assert not resources.sets("--cpus-per-task", "-c")


def test_a_task_takes_the_slots_that_its_memory_needs(fresh):
    def task(gigabytes: int) -> Task:
        return Task((Target("tiny/0", 0, True),), 0, True, gpu_memory=gigabytes * 10**9)

    made = plan.Plan("tiny", "small", (), tuple(map(task, (2, 12, 99))), ((0,), (1,), (2,)))
    two = [Gpu("3", 40 * 10**9), Gpu("5", 40 * 10**9)]
    pool = Pool(made, [0, 1, 2], two, most=8, cores=8)
    slots = [found and (found[0].gpu, found[1]) for found in map(pool._place, range(3))]
    assert slots == [(two[0], 1), (two[0], 2), (two[0], 4)]
    pool.on_gpu[0].free = 1
    assert [found and found[0].gpu for found in map(pool._place, range(3))] == [two[1]] * 3
    pool.on_gpu[1].free = 1
    assert [pool._place(0) is None, pool._place(1), pool._place(2)] == [False, None, None]
