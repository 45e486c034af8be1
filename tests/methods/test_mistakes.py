"""Impossible settings and missing examples: one clear line each."""

from dataclasses import replace

import pytest

from experiments import mnist_mislabel
from experiments.cluster import array
from experiments.digits import models
from experiments.laboratory import status, tracking
from experiments.laboratory import store as store_commands
from experiments.mnist_mislabel import Config, Part
from experiments.training.plans import Adam, Fit
from methods.errors import MethodError
from methods.ihvp.arnoldi import Arnoldi, Krylov
from methods.ihvp.cg import CG
from methods.ihvp.compressed import Compressed
from methods.ihvp.exact import Exact
from methods.ihvp.lissa import LiSSA
from methods.ihvp.sketch import Sketch
from methods.influence import Influence
from methods.random_projection import RandomProjection
from methods.randomness import Purpose, numpy_generator, torch_generator
from methods.rows.projections import Gaussian, Rademacher, Select, TwoSided
from methods.task import Task, take
from methods.tracin import TracIn
from tests.methods import networks

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
    "--method.projection.dim 0": "dim is 0: give 1 or more",
    "--method.projection.seed=-3": "seed is -3: give 0 or more",
    "--method.inverse.depth 0": "depth is 0: give 1 or more",
    "--method.inverse.repeats 0": "repeats is 0: give 1 or more",
    "--method.inverse.sample 0": "sample is 0: give 1 or more",
    "--method.inverse.num-eigen 0": "num_eigen is 0: give 1 or more",
    "--method.inverse.basis.iterations 0": "iterations is 0: give 1 or more",
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
    ("make", "name"),
    [
        *((lambda kind=kind: kind(0), "dim") for kind in (Gaussian, Rademacher, Select, TwoSided)),
        (lambda: Gaussian(seed=-1), "seed"),
        (lambda: LiSSA(0), "depth"),
        (lambda: LiSSA(repeats=-1), "repeats"),
        (lambda: LiSSA(scale=0.0), "scale"),
        (lambda: LiSSA(scale=float("nan")), "scale"),
        (lambda: Exact(sample=0), "sample"),
        (lambda: Compressed(seed=-1), "seed"),
        (lambda: Sketch(steps=0), "steps"),
        (lambda: CG(max_products=0), "max_products"),
        (lambda: Krylov(0), "iterations"),
        (lambda: Krylov(keep=0), "keep"),
        (lambda: Arnoldi(-2), "num_eigen"),
    ],
)
def test_hyper_parameters_out_of_range_are_refused_where_they_are_set(make, name):
    with pytest.raises(MethodError, match=f"^{name} is "):
        make()


def test_settings_that_may_be_left_out_may_be():
    assert LiSSA(1, sample=None, repeats=1).scale is None
    assert Exact(sample=None) == Exact()
    assert Krylov(1, None, 0, 1).sample is None


def test_a_negative_seed_is_named_wherever_it_is_used():
    with pytest.raises(MethodError, match="seed is -1"):
        torch_generator(-1, "anything")
    with pytest.raises(MethodError, match="seed is -1"):
        numpy_generator(-1, Purpose.ORDER)


@pytest.mark.parametrize(
    "method", [TracIn(False), RandomProjection(Gaussian(3)), Influence(Exact(), damping=40.0)]
)
def test_no_examples_are_an_error_that_says_of_what(method):
    train = networks.examples(6, 6)
    task = Task.of(networks.built(networks.Mlp), networks.nll)
    fitted, none = method.fit(task, train), take(train, slice(0, 0))
    for act in (fitted.self_influence, lambda some: fitted.scores(train, some)):
        with pytest.raises(MethodError, match="candidates has no examples"):
            act(none)
    with pytest.raises(MethodError, match="query has no examples"):
        fitted.scores(none, train)
    with pytest.raises(MethodError, match="candidates has no examples"):
        fitted.proponents(train, none, 1)


@pytest.mark.parametrize("command", [status.main, tracking.main, store_commands.main, array.main])
def test_a_mistyped_option_is_one_line_of_every_command(command, store, capsys):
    assert command(["--presett"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.endswith(": see --help\n")
    assert err.count("\n") == 1
    assert not store.exists()
