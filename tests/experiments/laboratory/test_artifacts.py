"""From a figure to its experiments, as its file says and as analysis knows it."""

import pytest

from analysis import __main__ as everything
from experiments import __main__ as command
from experiments.laboratory import artifacts

KNOWN = {one.id: one for one in everything.artifacts()[0]}


def test_every_artifact_is_found_by_its_file():
    assert artifacts.names() == sorted(KNOWN)


@pytest.mark.parametrize("name", KNOWN)
def test_a_file_names_the_experiments_that_its_artifact_is_made_from(name):
    made = artifacts.named(name)
    assert list(made.experiments) == everything.made_of(KNOWN[name])
    assert made.presets == KNOWN[name].presets


def test_the_command_of_a_figure_makes_its_runs_and_then_the_figure(capsys):
    assert command.main(["--artifact", "speed_peers"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "speed_peers is made from runs of speed"
    small = next(line for line in lines if line.startswith("small"))
    assert small.split(None, 1)[1] == KNOWN["speed_peers"].command("small")


def test_a_figure_of_two_experiments_names_both(capsys):
    assert command.main(["--artifact", "models_fig3"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "models_fig3 is made from runs of model_count and nondeterminism"
    assert all("experiments.nondeterminism" in line for line in lines if "small" in line)
    assert lines


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fastif_fig77"], "no artifact 'fastif_fig77': did you mean 'fastif_fig7'?"),
        ([], "--artifact takes one name, and 0 are given"),
    ],
)
def test_a_mistake_is_one_line(words, said, capsys):
    assert command.main(["--artifact", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
