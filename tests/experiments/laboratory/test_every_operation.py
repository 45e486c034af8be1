"""Whatever operation on a file fails or is the last: one line, nothing lost, and the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.experiments.laboratory.broken_disk import COMMANDS

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_that_breaks_at_any_operation_costs_a_second_attempt_and_no_more(command, tmp_path):
    program = [sys.executable, "-m", "tests.experiments.laboratory.broken_disk"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*program, str(tmp_path), command],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *wrong, last = map(json.loads, (tmp_path / "report").read_text().splitlines())
    assert wrong == []
    assert last["operations"] > 20
