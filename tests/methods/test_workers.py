"""Processes that share a computation: where they find each other, wait, and put their tensors."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from methods import launchers, workers
from methods.errors import MethodError
from methods.workers import _Meeting

STEP = "SLURM_JOB_ID=7 SLURM_STEP_ID=0"
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """An environment in which nobody has started several processes."""
    for name in [*os.environ]:
        if name in NAMES or name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    for name in ("MASTER_ADDR", "MASTER_PORT"):  # set for a step of Slurm; restored afterwards
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def put(monkeypatch, words: str) -> None:
    for word in words.split():
        name, _, value = word.partition("=")
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("WORLD_SIZE=2", "RANK is not set, WORLD_SIZE is 2"),
        ("RANK=1", "RANK is 1, WORLD_SIZE is not set"),
        ("RANK=0", "RANK is 0, WORLD_SIZE is not set"),
        ("RANK=x WORLD_SIZE=2", "RANK is x, WORLD_SIZE is 2"),
        ("RANK=1 WORLD_SIZE=two", "WORLD_SIZE is two"),
        ("RANK=2 WORLD_SIZE=2", "from 0 to one less than the size"),
        ("RANK=-1 WORLD_SIZE=2", "RANK is -1"),
        ("RANK=0 WORLD_SIZE=0", "WORLD_SIZE is 0"),
        ("RANK=1 WORLD_SIZE=2 LOCAL_RANK=", "LOCAL_RANK is not set"),
        ("RANK=1 WORLD_SIZE=2 LOCAL_RANK=a", "LOCAL_RANK is a"),
        (f"{STEP} SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=0", "SLURM_LOCALID is not set"),
        (f"{STEP} SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=q SLURM_LOCALID=0", "SLURM_PROCID is q"),
        (f"{STEP} SLURM_STEP_NUM_TASKS=x SLURM_PROCID=0 SLURM_LOCALID=0", "NUM_TASKS is x"),
        ("RANK=0 WORLD_SIZE=2", "cannot meet at ':'"),
        ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a", "cannot meet at 'a:'"),
        ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=b", "cannot meet at 'a:b'"),
        ("RANK=0 WORLD_SIZE=2 MASTER_PORT=29500", "cannot meet at ':29500'"),
        ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=65536", "cannot meet at 'a:65536'"),
        ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=0", "cannot meet at 'a:0'"),
    ],
)
def test_ranks_that_say_nothing_are_one_line(words, said, monkeypatch):
    put(monkeypatch, words)
    with pytest.raises(MethodError) as caught, workers.joined():
        pass
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("", None),
        ("WORLD_SIZE=1", None),
        ("RANK=0 WORLD_SIZE=1", None),
        ("RANK=5 WORLD_SIZE=8 LOCAL_RANK=1", (5, 8, 1)),
        ("RANK=1 WORLD_SIZE=2", (1, 2, 1)),
        (f"{STEP} SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=3 SLURM_LOCALID=1", (3, 4, 1)),
        (f"{STEP} SLURM_STEP_NUM_TASKS=1 SLURM_NTASKS=4 SLURM_PROCID=0 SLURM_LOCALID=0", None),
        # No step, so nobody started the others: a shell of salloc, a batch script, and shells by
        # srun --pty, in an interactive step or one of all tasks.
        ("SLURM_JOB_ID=7 SLURM_NTASKS=4", None),
        ("SLURM_NTASKS=2 SLURM_PROCID=0 SLURM_LOCALID=0", None),
        ("SLURM_JOB_ID=7 SLURM_NTASKS=4 SLURM_PROCID=0 SLURM_LOCALID=0", None),
        (
            "SLURM_JOB_ID=7 SLURM_STEP_ID=4294967290 SLURM_STEP_NUM_TASKS=2 SLURM_NTASKS=2 "
            "SLURM_PROCID=0 SLURM_LOCALID=0",
            None,
        ),
        (
            f"{STEP} SLURM_PTY_PORT=40021 SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=0 SLURM_LOCALID=0",
            None,
        ),
        (
            "SLURM_JOB_ID=7 SLURM_STEP_ID=1 SLURM_NTASKS=9 SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=3 "
            "SLURM_LOCALID=1 SLURM_STEP_NODELIST=gpu[03-04,7]",
            (3, 4, 1),
        ),
    ],
)
def test_processes_are_found_as_torchrun_and_srun_start_them(words, place, monkeypatch):
    put(monkeypatch, words)
    assert launchers.place() == place
    assert launchers.is_first() == (place is None or place[0] == 0)
    assert workers.local_rank() == (place[2] if place else None)
    if "NODELIST" in words:
        assert os.environ["MASTER_ADDR"] == "gpu03"
        assert int(os.environ["MASTER_PORT"]) == launchers.PORT + 8


def test_what_a_shell_on_a_terminal_starts_by_srun_is_a_step(monkeypatch):
    put(monkeypatch, f"{STEP} SLURM_PTY_PORT=40021 SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=0")
    detached = subprocess.Popen(["sleep", "60"], start_new_session=True)  # as slurmstepd's tasks
    try:
        put(monkeypatch, f"SLURM_LOCALID=0 SLURM_TASK_PID={detached.pid}")
        assert launchers.place() == (0, 2, 0)
    finally:
        detached.kill()
        detached.wait()
    assert launchers.place() is None


def free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def started(case: str, folder, monkeypatch) -> list[subprocess.Popen]:
    put(monkeypatch, f"{STEP} SLURM_STEP_NUM_TASKS=2 MASTER_ADDR=127.0.0.1 OMP_NUM_THREADS=1")
    put(monkeypatch, f"MASTER_PORT={free_port()}")
    command = [sys.executable, "-m", "tests.methods.started_by_hand", case, str(folder)]
    places = ({"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2))
    return [subprocess.Popen(command, env=os.environ | place) for place in places]


@pytest.mark.long
def test_a_process_waits_beyond_its_patience_while_the_other_lives(tmp_path, monkeypatch):
    for process in started("cpu", tmp_path, monkeypatch):
        assert process.wait(300) == 0
    assert {path.read_text() for path in tmp_path.iterdir()} == {"[3.0, 3.0] True []"}


def test_processes_with_a_gpu_each_agree_on_nccl_though_both_see_index_0(tmp_path, monkeypatch):
    for process in started("own", tmp_path, monkeypatch):
        assert process.wait(300) == 0
    said = [(tmp_path / str(rank)).read_text() for rank in range(2)]
    assert said == ["[3.0, 3.0] True ['cpu:gloo,cuda:nccl']"] * 2


@pytest.mark.long
def test_a_process_that_does_not_live_is_given_up_and_one_gpu_is_no_place_for_nccl(
    tmp_path, monkeypatch
):
    one, stopped = started("shared", tmp_path, monkeypatch)
    try:
        assert one.wait(300) == 0
    finally:
        stopped.send_signal(signal.SIGKILL)
        stopped.wait()
    said = (tmp_path / "0").read_text()
    assert said == "process 1 of 2 gave no sign of life for 3 seconds: see its own output ['gloo']"


class Ended(Exception):
    """As a signal's handler raises it."""


@pytest.mark.parametrize(
    ("rank", "size", "whom"),
    [(0, 2, "process 1"), (1, 3, "process 0"), (0, 4, "3 processes (1, 2, 3)")],
)
def test_a_wait_for_others_says_for_whom_and_ends_at_once(rank, size, whom, monkeypatch, caplog):
    put(monkeypatch, f"RANK={rank} WORLD_SIZE={size} MASTER_ADDR=localhost")
    put(monkeypatch, f"MASTER_PORT={free_port()}")
    monkeypatch.setattr(launchers, "QUIET", 0.0)
    monkeypatch.setattr(launchers, "LOOK", 0.0)
    looks = iter(range(3))

    def stop():
        if next(looks, None) is None:
            raise Ended

    with pytest.raises(Ended), workers.joined(stop=stop):
        pass
    port = os.environ["MASTER_PORT"]
    said = f"process {rank} of {size} waits for {whom} at localhost:{port}, for 10 minutes at most"
    assert [record.getMessage() for record in caplog.records] == [f"{said}: ctrl-C ends it"]


@pytest.mark.parametrize("rank", [0, 1])
def test_who_does_not_come_is_named_in_the_end(rank, monkeypatch):
    put(monkeypatch, f"RANK={rank} WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT={free_port()}")
    monkeypatch.setattr(workers, "PATIENCE", timedelta(0))
    said = f"process {rank} of 2 waited 0 seconds for process {1 - rank} at localhost"
    with pytest.raises(MethodError, match=said), workers.joined():
        pass


def test_a_place_that_is_taken_or_unknown_is_one_line(monkeypatch):
    with closing(socket.socket()) as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        put(monkeypatch, f"RANK=0 WORLD_SIZE=2 MASTER_PORT={taken.getsockname()[1]} MASTER_ADDR=a")
        said = "process 0 of 2 cannot meet the others at a:"
        with pytest.raises(MethodError, match=said), workers.joined():
            pass
    put(monkeypatch, "RANK=1 MASTER_ADDR=no.such.host.invalid")
    said = "process 1 of 2 cannot meet the others at no.such.host"
    with pytest.raises(MethodError, match=re.escape(said)), workers.joined():
        pass


class Forgetful:
    """A store that loses a sign of life."""

    def __init__(self, store) -> None:
        self.store, self.lost, self.kept = store, 0, threading.Event()

    def add(self, name: str, count: int) -> int:
        if self.lost < 2:
            self.lost += 1
            raise RuntimeError("lost")
        self.kept.set()
        return self.store.add(name, count)


def test_a_failed_sign_of_life_does_not_end_them_all(monkeypatch):
    monkeypatch.setattr(workers, "BEAT", 0.0)
    meeting = _Meeting(dist.HashStore(), 0, 2)
    meeting.close()
    meeting._end.clear()
    store = Forgetful(meeting.store)
    thread = threading.Thread(target=meeting._live, args=(store,), daemon=True)
    thread.start()
    assert store.kept.wait(60)
    meeting._end.set()
    thread.join(60)


@pytest.fixture
def meetings(monkeypatch):
    """Two processes' meetings as two threads have them; waiting looks at the clock it is given."""
    store = dist.HashStore()
    pair = [_Meeting(store, rank, 2) for rank in range(2)]
    yield pair
    for meeting in pair:
        meeting.close()


def test_a_failure_of_one_ends_the_waiting_of_the_others(meetings):
    first, second = meetings
    second.fail(ValueError("no room"))
    with pytest.raises(MethodError, match="process 1 failed: ValueError: no room"):
        first.wait()


def test_if_one_is_interrupted_the_others_are_too(meetings):
    first, second = meetings
    second.fail(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        first.wait()


def test_what_each_process_tells_is_told_to_all(meetings):
    told = {}

    def tell(meeting):
        told[meeting.rank] = meeting.told(f"word {meeting.rank}")

    threads = [threading.Thread(target=tell, args=(meeting,)) for meeting in meetings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == {0: ["word 0", "word 1"], 1: ["word 0", "word 1"]}


def test_the_store_stays_until_the_last_has_left(meetings):
    first, second = meetings
    leaving = threading.Thread(target=first.leave)
    leaving.start()
    second.wait()
    leaving.join(0.2)
    assert leaving.is_alive()
    second.store.add("left", 1)
    leaving.join(60)
    assert not leaving.is_alive()


def test_a_store_that_is_gone_is_one_line(meetings, monkeypatch):
    def gone(name):
        raise RuntimeError("Broken pipe\nException raised from x")

    monkeypatch.setattr(meetings[0], "_count", gone)
    with pytest.raises(MethodError, match=r"meet at is gone \(Broken pipe\): see its own output"):
        meetings[0].wait()


def test_nccl_is_for_processes_with_a_gpu_each():
    nccl = "cpu:gloo,cuda:nccl"
    known = {("a", "b"): nccl, ("a", "a"): "gloo", ("a", ""): "gloo", ("", ""): "gloo"}
    assert {words: workers._backend([*words]) for words in known} == known


@pytest.mark.parametrize(
    ("backends", "there"),
    [
        ("cpu:gloo,cuda:nccl", {"cpu": "cpu", "cuda:1": "cuda:1", "mps": "cpu"}),
        ("cpu:gloo,cuda:gloo,mps:gloo", {"cpu": "cpu", "cuda:1": "cpu", "mps": "cpu"}),
        ("cuda:nccl", {"cpu": "cuda:1", "cuda:1": "cuda:1"}),
    ],
)
def test_a_tensor_is_summed_where_the_processes_can_talk(backends, there, monkeypatch):
    monkeypatch.setattr(dist, "get_backend_config", lambda: backends)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert {name: str(workers._talks_on(torch.device(name))) for name in there} == there


def on_meta(group):
    """A sum of a tensor that gloo cannot take where it is, with the group's own device as CPU."""
    moved = []
    workers._talks_on = lambda device: moved.append(device.type) or torch.device("cpu")
    total = group.sum(torch.full((3,), group.rank + 1.0))
    return total.tolist(), moved, str(workers.own_device()), workers.local_rank()


def second_device():
    return torch.device("cpu")


def test_new_processes_know_their_place_and_compute_where_they_are_told():
    assert workers.run(on_meta, 2, device=second_device) == ([3.0] * 3, ["cpu"], "cpu", 0)


def no_device():
    raise MethodError("there is no such device")


def test_a_process_without_a_device_is_everybodys_error():
    with pytest.raises(MethodError, match="failed: MethodError: there is no such device"):
        workers.run(on_meta, 2, device=no_device)


def test_patience_is_long_enough_for_a_disk_and_a_compiler():
    assert timedelta(minutes=5) <= workers.PATIENCE
    assert workers.PATIENCE.total_seconds() > 10 * workers.BEAT
