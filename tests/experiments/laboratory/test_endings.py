"""However a command ends that is not its own fault: one line, and a code."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from experiments.laboratory import errors
from experiments.laboratory.errors import Parser, UserError
from experiments.laboratory.experiment import Experiment
from tests.experiments.laboratory.tiny import Config

REPOSITORY = Path(__file__).resolve().parents[3]
REFUSALS = ("EIO", "ESTALE", "EROFS", "ENOSPC", "EDQUOT", "EACCES", "ENAMETOOLONG")


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("WANDB_MODE", "disabled")


def refused(error: OSError):
    """An experiment whose only cell meets an error of the operating system."""

    def run(config, scratch):
        raise error

    return Experiment("refused", run, {"smoke": [Config()]})


def lines(err: str) -> list[str]:
    return [line for line in err.splitlines() if line and not line.startswith("W&B: off")]


@pytest.mark.parametrize("file", [None, "/elsewhere/with a blank", "results"])
@pytest.mark.parametrize("name", REFUSALS)
def test_an_error_of_the_operating_system_during_a_run_is_one_line(name, file, capsys, tmp_path):
    number = getattr(errno, name)
    given = [number, os.strerror(number)]
    if file is not None:
        given.append(str(tmp_path / file) if file == "results" else file)
    assert refused(OSError(*given)).main([]) == 2
    (line,) = lines(capsys.readouterr().err)
    assert line.startswith("error: ")
    assert os.strerror(number).lower() in line.lower()


def test_an_error_without_a_number_is_one_line_too(capsys):
    assert refused(OSError("64 requested and 0 written")).main([]) == 2
    (line,) = lines(capsys.readouterr().err)
    assert "64 requested and 0 written" in line


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("mend it"), 2, "error: mend it"),
        (KeyboardInterrupt(), 130, "interrupted: what is finished is kept"),
        (OSError(errno.EIO, "Input/output error"), 2, "Input/output error (EIO)"),
        (OSError(errno.EIO, "Input/output error", "a b"), 2, "cannot read or write 'a b' (Inp"),
    ],
)
def test_every_verb_ends_in_one_line(error, code, said, capsys):
    def command(given):
        raise error

    assert Parser().run([], command) == code
    (line,) = lines(capsys.readouterr().err)
    assert said in line


def started(words: list[str], folder: Path, **more) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": f"{folder}:{REPOSITORY}"}
    command = [sys.executable, "-m", *words]
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job behind & does not
    return subprocess.run(
        command, env=environment, cwd=REPOSITORY, text=True, preexec_fn=listens, **more
    )


# A module that interrupts the process where it is asked for another one.
INTERRUPT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)

if {floor!r} in sys.orig_argv[-1]:
    sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["experiments.mnist_mislabel"], "torch"),
        (["experiments.mnist_mislabel"], "numpy"),
        (["experiments"], "experiments.laboratory.registry"),
        (["analysis"], "pandas"),
    ],
)
def test_an_interrupt_while_importing_is_one_line(words, name, tmp_path):
    hook = INTERRUPT.format(name=name, floor=words[-1])
    (tmp_path / "sitecustomize.py").write_text(hook)
    done = started(words, tmp_path, capture_output=True)
    assert lines(done.stderr) == ["interrupted before anything was begun"]
    assert (done.returncode, done.stdout) == (130, "")


@pytest.mark.long
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    "words", [["experiments", "status", "housing"], ["experiments.housing", "--list"]]
)
def test_an_output_on_a_full_disk_is_one_line(words, tmp_path):
    with open("/dev/full", "wb") as full:
        done = started(words, tmp_path, stdout=full, stderr=subprocess.PIPE)
        (line,) = lines(done.stderr)
        assert "cannot write the output (No space left on device (ENOSPC))" in line
        assert done.returncode == 2
        mute = started(words, tmp_path, stdout=full, stderr=full)
    assert mute.returncode == 2


def test_an_interrupt_is_raised_again_once_a_command_has_begun():
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, errors.experiments._interrupted)
        with contextlib.suppress(SystemExit):
            Parser().run(["--help"], lambda given: 0)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
