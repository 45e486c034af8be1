"""Whether W&B is on, and whether its server is there."""

import socket
import ssl
import sys
import urllib.error
from email.message import Message

import pytest

from experiments.laboratory import data_folder
from experiments.laboratory.tracking import command, wandb_server
from tests.experiments.laboratory.tiny import EXPERIMENT

OFF = {
    "": "no credentials",
    "online": "no credentials",
    "disabled": "WANDB_MODE is disabled",
    "ofline": "did you mean 'offline'?",
}


@pytest.mark.parametrize("mode", OFF)
def test_what_is_off_says_so_in_one_line(mode, wandb, monkeypatch, capsys):
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    assert EXPERIMENT.main(["--cell", "0"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("W&B: off, ")
    assert OFF[mode] in err
    assert err.count("\n") == 1
    assert command.main(["replay"]) == 2
    assert capsys.readouterr().err == err
    assert wandb.pages == []


@pytest.mark.parametrize("there", [True, False])
def test_the_server_is_asked_once_a_process_and_nothing_is_sent_to_a_silent_one(
    there, wandb, monkeypatch, capsys
):
    monkeypatch.setenv("WANDB_API_KEY", "x")
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.elsewhere")
    asked = []

    def reachable(*addresses, refusals=False):
        asked.append((addresses, refusals))
        return there

    monkeypatch.setattr(data_folder, "reachable", reachable)
    for seed in ("1", "2"):
        assert EXPERIMENT.main(["--cell", "0", "--model.seed", seed]) == 0
    assert asked == [(("https://wandb.elsewhere",), True)]
    assert bool(wandb.pages) == there
    err = capsys.readouterr().err
    assert err.count("https://wandb.elsewhere did not answer in 4 seconds") == (0 if there else 2)
    assert err.count("\n") == err.count("W&B: off from here")


@pytest.mark.parametrize(
    ("answer", "is_there"),
    [
        (urllib.error.HTTPError("a", 403, "forbidden", Message(), None), True),
        (urllib.error.URLError(ssl.SSLCertVerificationError("own authority")), True),
        (urllib.error.URLError(TimeoutError()), False),
        (urllib.error.URLError(socket.gaierror(-2, "unknown")), False),
    ],
)
def test_a_server_that_refuses_is_there_and_a_silent_one_is_not(answer, is_there, monkeypatch):
    def urlopen(request, timeout):
        assert timeout == 4.0
        raise answer

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    assert wandb_server.answers("https://wandb.elsewhere") == is_there
    assert not data_folder.reachable("https://wandb.elsewhere")


def test_credentials_turn_it_on(wandb, monkeypatch, tmp_path):
    monkeypatch.setattr(wandb_server, "answers", lambda server: True)
    EXPERIMENT.main(["--cell", "0"])
    (tmp_path / "netrc").write_text("machine elsewhere login user password x\n")
    EXPERIMENT.main(["--cell", "0"])
    assert wandb.pages == []
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n")
    EXPERIMENT.main(["--cell", "0"])
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    EXPERIMENT.main(["--cell", "2"])
    assert [page.given["mode"] for page in wandb.pages] == ["online"] * 4


def test_without_wandb_an_experiment_runs_and_says_so(monkeypatch, offline, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert EXPERIMENT.main([]) == 0
    assert "W&B: off, wandb is not installed" in capsys.readouterr().err


STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
ADDRESS = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    "started",
    [
        {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"},
        STEP | {"SLURM_PROCID": "1", "SLURM_LOCALID": "1"},
    ],
)
def test_of_several_processes_of_a_cell_one_is_mirrored(
    started, wandb, offline, monkeypatch, capsys
):
    for name, value in (ADDRESS | started).items():
        monkeypatch.setenv(name, value)
    assert EXPERIMENT.main([]) == 0
    assert wandb.pages == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "words", ["RANK=1", "RANK=0", "WORLD_SIZE=2", "RANK=x WORLD_SIZE=2", "RANK=² WORLD_SIZE=3"]
)
def test_a_rank_that_says_nothing_is_one_line_before_anything_is_computed(
    words, offline, monkeypatch, capsys, tmp_path
):
    for word in words.split():
        monkeypatch.setenv(*word.split("="))
    assert EXPERIMENT.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "start the processes by torchrun or srun, or unset these variables" in err
    assert not list(tmp_path.glob("results/runs/tiny/*/meta.json"))
