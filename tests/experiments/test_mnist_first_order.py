"""Effects of training steps on the losses of digits: the experiment and its figure."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis import tracin_fig7
from experiments import mnist_first_order
from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from experiments.mnist_first_order import Config
from experiments.models.mnist_cnn import DigitsCNN
from experiments.training import loop
from methods.examples import take
from methods.task import Task
from methods.tracin import measure
from tests.analysis.synthetic import tracin_steps

TINY = Config("digits", DigitsCNN(), n_train=24, n_query=30, probes=3, lr=0.02)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return mnist_first_order.run(TINY, tmp_path_factory.mktemp("scratch"))


def test_every_step_of_batch_size_one_is_recorded_for_every_query(recorded):
    assert recorded["change"].shape == recorded["influence"].shape == (24, 30)
    assert recorded["n_steps"] == 24
    assert recorded["recorded"].tolist() == list(range(24))
    assert recorded["label"].shape == (30,)
    assert recorded["pearson"] > 0.9


def test_changes_add_up_to_what_training_did(recorded):
    train, query, _ = mnist_first_order.load(TINY)
    module = TINY.network.build(TINY.seed)
    optimizer = torch.optim.SGD(module.parameters(), lr=TINY.lr)
    task = Task.of(module, mnist_first_order.cross_entropy)
    before = measure(task, query)
    for rows in mnist_first_order.order(TINY):
        optimizer.zero_grad()
        mnist_first_order.cross_entropy(module, take(train, rows)).mean().backward()
        optimizer.step()
    total = before - measure(Task.of(module, mnist_first_order.cross_entropy), query)
    np.testing.assert_allclose(recorded["change"].sum(0), total.numpy(), atol=1e-4)


def test_steps_recorded_now_and_then_are_the_same_steps(recorded, tmp_path):
    sparse = mnist_first_order.run(replace(TINY, every=5), tmp_path)
    assert sparse["recorded"].tolist() == [0, 5, 10, 15, 20]
    np.testing.assert_allclose(sparse["change"], recorded["change"][::5], atol=1e-5)
    np.testing.assert_allclose(sparse["influence"], recorded["influence"][::5], atol=1e-5)


@pytest.mark.parametrize("every", [1, 5])
def test_a_killed_training_goes_on_to_the_same_bits(recorded, tmp_path, monkeypatch, every):
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    config, steps = replace(TINY, every=every), []
    take_one = mnist_first_order.Walk._take

    def killed(walk, step):
        steps.append(step)
        if step == 14 and len(steps) == 15:
            raise KeyboardInterrupt
        take_one(walk, step)

    monkeypatch.setattr(mnist_first_order.Walk, "_take", killed)
    with pytest.raises(KeyboardInterrupt):
        mnist_first_order.run(config, tmp_path)
    again = mnist_first_order.run(config, tmp_path)
    assert steps[15:] == list(range(14, 24))
    np.testing.assert_array_equal(again["influence"], recorded["influence"][::every])
    assert again["accuracy"] == recorded["accuracy"]
    assert len(again["remainder"]) == 3


def test_the_remainder_falls_with_the_square_of_the_step(recorded):
    assert recorded["remainder"].shape == (3, len(mnist_first_order.FACTORS))
    size = np.log(recorded["remainder"]).mean(0)
    slope = np.polyfit(np.log(mnist_first_order.FACTORS), size, 1)[0]
    assert slope == pytest.approx(2, abs=0.1)


def test_minibatches_go_through_the_examples_once_an_epoch():
    batches = mnist_first_order.order(replace(TINY, batch_size=10, epochs=2))
    assert [len(rows) for rows in batches] == [10, 10, 4] * 2
    first, second = torch.cat(batches[:3]), torch.cat(batches[3:])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(24))
    assert not torch.equal(first, second)


def test_queries_are_never_trained_on():
    train, query, (rest, _) = mnist_first_order.load(replace(TINY, n_train=1_000, n_query=300))
    seen = {image.numpy().tobytes() for image in train["image"]}
    images = [image.numpy().tobytes() for image in query["image"]]
    assert len(train["label"]) + len(query["label"]) + len(rest) == 1_797
    assert not seen & set(images)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"batch_size": 0}, {"every": 0}, {"epochs": -1}])
def test_settings_that_train_nothing_are_refused(wrong):
    with pytest.raises(UserError, match="give a positive number"):
        mnist_first_order.order(replace(TINY, **wrong))


def test_digits_that_leave_none_to_test_on_are_refused():
    with pytest.raises(UserError, match="lower n_train or n_query"):
        mnist_first_order.load(replace(TINY, n_train=1_797))


# --- the artifact --------------------------------------------------------------------------------


@pytest.mark.parametrize(("power", "word"), [(2.0, "reproduced"), (1.0, "not reproduced")])
def test_a_remainder_of_first_order_is_not_called_second_order(tmp_path, monkeypatch, power, word):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    tracin_steps.write_steps("paper", 3, power)
    rows = tracin_fig7.tabulate(runs.load("mnist_first_order", "paper"))
    slope = rows[rows["quantity"] == "power of step size in the remainder"]
    assert set(slope["verdict"]) == {"holds" if word == "reproduced" else "fails"}
    assert slope["ours"].to_numpy() == pytest.approx(power, abs=1e-6)
    verdict = tracin_fig7.ARTIFACT.judge(rows.assign(tier="paper", missing=0))
    assert verdict.word == word


def test_squares_of_the_figure_hold_all_points(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    tracin_steps.write_steps("paper", 3)
    rows = tracin_fig7.tabulate(runs.load("mnist_first_order", "paper"))
    shares = rows[rows["kind"] == "bin"].groupby("method")["ours"].sum()
    assert shares.to_numpy() == pytest.approx(1.0, abs=1e-3)
    assert set(shares.index) == {"batch 1, lr 0.001", "batch 1, lr 0.03", "batch 10, lr 0.1"}
