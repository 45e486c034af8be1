"""Impossible settings on the command line: one line and an exit code."""

from dataclasses import replace

import pytest

from experiments import mnist_mislabel
from experiments.cluster import array
from experiments.digits import models
from experiments.laboratory import status
from experiments.laboratory import store as store_commands
from experiments.laboratory.tracking import command as tracking_command
from experiments.mnist_mislabel import Config, Part
from experiments.training.plans import Adam, Fit
from methods.ihvp.lissa import LiSSA
from methods.influence import Influence

TINY = replace(
    models.SMOKE,
    data=replace(models.SMOKE.data, n_train=30, n_eval=10),
    fit=Fit(epochs=1, batch_size=10, adam=Adam()),
)
SMALLEST = replace(
    mnist_mislabel.EXPERIMENT,
    presets=mnist_mislabel.PRESETS | {"parts": [Config(TINY, Influence(LiSSA(2)), Part(3))]},
)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    return tmp_path / "runs"


MISTAKES = {
    "--model.seed=-1": "seed is -1: give 0 or more",
    "--cell 6 --method.projection.dim 0": "dim is 0: give 1 or more",
    "--cell 6 --method.projection.seed=-3": "seed is -3: give 0 or more",
    "--cell 33 --method.inverse.depth 0": "depth is 0: give 1 or more",
    "--cell 33 --method.inverse.repeats 0": "repeats is 0: give 1 or more",
    "--cell 33 --method.inverse.sample 0": "sample is 0: give 1 or more",
    "--cell 3 --method.inverse.num-eigen 0": "num_eigen is 0: give 1 or more",
    "--cell 3 --method.inverse.basis.iterations 0": "iterations is 0: give 1 or more",
    "--model.data.noise 0": "data.noise is 0.0, which makes 0 of 1,000 labels wrong",
    "--model.data.noise 1": "which makes 1,000 of 1,000 labels wrong",
    "--model.data.n-train=-5": "model.data.n_train is -5: give 1 or more",
    "--model.fit.lr nan": "fit.lr is nan: give a positive number",
    "--model.fit.lr=-0.1": "fit.lr is -0.1: give a positive number",
    "--model.fit.weight-decay=-1": "fit.weight_decay is -1.0: give 0 or more",
    "--preset parts --model.fit.adam.beta1 2": "fit.adam.beta1 is 2.0: give a number from 0 and",
    "--cell 3 --method.damping inf": "damping is inf: give 0 or more, and finite",
    "--preset paper --model.data.source digits --model.data.n-train 1000 --model.data.n-eval 797": (
        "LargeCNN takes images of shape (1, 28, 28), digits has (1, 8, 8)"
    ),
    "--preset parts --part.units 300": "300 of the 10 units of layer 9: give 1 to 10",
    "--preset parts --part.units 0": "0 of the 10 units of layer 9: give 1 to 10",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_setting_that_cannot_be_is_one_line_and_a_code(words, store, capsys):
    assert SMALLEST.main(words.split()) == 2
    out, err = capsys.readouterr()
    # Where it is slow, a progress bar precedes the error.
    errors = [line for line in err.split("\n") if line.startswith("error: ")]
    assert out == ""
    assert len(errors) == 1
    assert MISTAKES[words] in errors[0]
    assert err.endswith(f"{errors[0]}\n")
    assert not [path for path in store.glob("mnist_mislabel/*") if path.name != "presets"]


@pytest.mark.parametrize(
    "command", [status.main, tracking_command.main, store_commands.main, array.main]
)
def test_a_mistyped_option_is_one_line_of_every_command(command, store, capsys):
    assert command(["--presett"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.endswith(": see --help\n")
    assert err.count("\n") == 1
    assert not store.exists()
