"""A preset on one machine by several processes: the same bytes, and one line where it ends."""

import signal
import subprocess
import sys

import pytest

from tests.experiments.cluster.slurm_cluster import until
from tests.experiments.laboratory.code_copy import Laboratory, contents

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    return Laboratory.built(tmp_path_factory.mktemp("laboratory")).code


@pytest.fixture
def fresh(code, tmp_path):
    return Laboratory(code, tmp_path / "results")


WORDS = ("experiments.tiny", "--preset", "small")


def test_several_processes_make_the_same_bytes_as_one(fresh, tmp_path):
    many = fresh.python(*WORDS, "--workers", "3")
    assert many.returncode == 0, many.stderr
    assert "3 tasks in 1 stage, by 3 processes" in many.stderr
    assert "6 computed now" in many.stdout
    one = Laboratory(fresh.code, tmp_path / "one")
    assert one.python(*WORDS).returncode == 0
    assert contents(fresh.results) == contents(one.results)
    again = fresh.python(*WORDS, "--workers", "3")
    assert "0 computed now" in again.stdout
    assert "tasks" not in again.stderr


def test_stages_follow_each_other_and_failures_are_summed_up(fresh):
    done = fresh.python("experiments.chain", "--preset", "small", "--workers", "9")
    assert done.returncode == 0, done.stderr
    assert "7 tasks in 3 stages, by 7 processes" in done.stderr
    failed = fresh.python("experiments.pair", "--preset", "small", "--workers", "2")
    assert failed.returncode == 2
    assert "1 of 1 cell without a run:\n  cell 0: error: size is 3: lower size\n" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_an_interrupt_ends_all_in_one_line_and_keeps_what_was_done(fresh):
    words = [sys.executable, "-m", *WORDS, "--workers", "3"]
    environment = fresh.environment(TINY_GATE="/never")
    began = subprocess.Popen(
        words, cwd=fresh.code, env=environment, stderr=subprocess.PIPE, text=True
    )
    steps = "runs/tiny_model/.scratch/*/*/work/state.json"
    until(lambda: len(list(fresh.results.glob(steps))) == 3, "every process has saved a step")
    began.send_signal(signal.SIGINT)
    said = began.communicate()[1]
    assert began.returncode == 130
    assert said.endswith(
        "interrupted: finished cells are kept; the same command continues from there\n"
    )
    assert "Traceback" not in said
    slots = list(fresh.results.glob("runs/tiny_model/.scratch/*/*"))
    assert [slot.name.startswith("free.") for slot in slots] == [True] * 3
