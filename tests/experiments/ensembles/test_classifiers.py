"""Classifiers by recipe: seeds apart, views, the sweep on validation, and the paper's networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.data import cifar100
from experiments.ensembles import classifiers, rate_sweep
from experiments.ensembles.classifiers import (
    Data,
    Recipe,
    Sweep,
    built,
    classify,
    classify_by_views,
    learn,
    load,
)
from experiments.laboratory.errors import UserError
from experiments.models.digits_mlp import DigitsMLP
from experiments.training.augmentation import Shifted
from experiments.training.plans import Cosine, Fit, Stepped, ending
from tests.experiments.data.photo_files import write_dtd, write_flowers

STILL = Shifted(pad=0, mirror=False)  # nothing is moved
TINY = Recipe(
    DigitsMLP((8,), (1, 8, 8)), Data("digits", 60, 50, n_validation=40), Fit(4, 20, 0.05), STILL
)
MOVED = replace(TINY, view=Shifted(pad=1))


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    load.cache_clear()
    yield
    load.cache_clear()


def predicted(recipe: Recipe, init, order, scratch, masks=None):
    stack = built(recipe, init)
    whole = classifiers.everything(recipe, len(init))
    learn(stack, recipe, recipe.fit, order, whole if masks is None else masks, scratch)
    return stack, classify(stack, recipe, load(recipe.data).query)


def test_a_recipe_s_examples_are_apart_and_standardised():
    there = load(TINY.data)
    parts = [there.train, there.query, there.validation]
    assert [len(part.label) for part in parts] == [60, 50, 40]
    images = torch.cat([part.columns["image"] for part in parts])
    assert len({row.numpy().tobytes() for row in images}) == 150
    seen = there.standardised(there.train.columns["image"])
    assert seen.mean().item() == pytest.approx(0, abs=1e-5)
    assert seen.std().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("recipe", [TINY, MOVED], ids=["still", "moved"])
def test_networks_of_the_same_seeds_are_the_same_and_of_others_are_not(recipe, tmp_path):
    stack, answers = predicted(recipe, [0, 0, 1], [5, 5, 5], tmp_path)
    first, again, other = (next(iter(stack.at(i).parameters())) for i in range(3))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, other)
    np.testing.assert_array_equal(answers[0], answers[1])
    ordered, _ = predicted(recipe, [0, 0], [5, 6], tmp_path)
    left, right = (next(iter(ordered.at(i).parameters())) for i in range(2))
    assert not torch.equal(left, right)


def test_one_order_for_all_is_the_order_each_would_have_alone(tmp_path):
    alike, _ = predicted(TINY, [0, 1], [5, 5], tmp_path)
    apart, _ = predicted(TINY, [0, 1, 2], [5, 5, 6], tmp_path)
    for member in range(2):
        for one, other in zip(
            alike.at(member).parameters(), apart.at(member).parameters(), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_an_example_outside_of_the_mask_has_no_say(tmp_path, monkeypatch):
    masks = classifiers.everything(TINY, 1)
    masks[0, 7] = False
    one, _ = predicted(TINY, [0], [0], tmp_path, masks)
    there = load(TINY.data)
    changed = there.train.columns["label"].clone()
    changed[7] = (changed[7] + 1) % 10
    train = replace(there.train, columns={**there.train.columns, "label": changed})
    monkeypatch.setattr(classifiers, "load", lambda data: replace(there, train=train))
    other, _ = predicted(TINY, [0], [0], tmp_path, masks)
    for left, right in zip(one.at(0).parameters(), other.at(0).parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_several_views_are_the_mean_of_their_logits(tmp_path):
    stack, plain = predicted(TINY, [0, 1], [0, 1], tmp_path)
    there = load(TINY.data)
    np.testing.assert_array_equal(classify_by_views(stack, TINY, there.query), plain)
    view = Shifted(pad=1)
    found = classify_by_views(stack, replace(TINY, view=view), there.query)
    images = there.query.columns["image"]
    logits = [stack.at(1)(there.standardised(one)) for one in view.several(images)]
    np.testing.assert_array_equal(found[1], torch.stack(logits).mean(0).argmax(1))
    assert found.dtype == np.int16


SWEPT = replace(TINY, fit=Sweep(TINY.fit, (1e-5, 0.1, 1e30), (0.0, 1e-3)))


def test_rates_are_chosen_on_the_validation_examples_and_divergence_is_worst(monkeypatch):
    tried = {}
    for trial in rate_sweep.trials(SWEPT):
        found = rate_sweep.result(trial)
        tried[trial.recipe.fit] = found.metrics["accuracy_validation"]
        assert found.metrics["diverged"] == (trial.recipe.fit.lr == 1e30)
        assert found.metrics["diverged"] == (tried[trial.recipe.fit] == 0)
    assert len(tried) == 6
    plan = rate_sweep.planned(SWEPT)
    assert plan.lr == 0.1
    assert tried[plan] == max(tried.values())
    assert rate_sweep.planned(TINY) == TINY.fit
    assert rate_sweep.trials(TINY) == []
    # A trial is judged by the validation split: if its labels are wrong, no answer is right.
    there = load(TINY.data)
    label = (there.validation.columns["label"] + 1) % 10
    wrong = replace(there.validation, columns={**there.validation.columns, "label": label})
    monkeypatch.setattr(classifiers, "load", lambda data: replace(there, validation=wrong))
    other = replace(SWEPT, fit=Sweep(replace(TINY.fit, epochs=6), (0.1,), (0.0,)))
    right = rate_sweep.result(rate_sweep.trials(other)[0]).metrics["accuracy_validation"]
    assert right < 0.3 < tried[plan]


def test_a_sweep_without_validation_examples_is_refused():
    with pytest.raises(UserError, match="n_validation is 0"):
        rate_sweep.trials(replace(SWEPT, data=replace(TINY.data, n_validation=0)))


def test_a_cosine_falls_to_zero_and_an_ending_is_its_last_epochs():
    plan = Cosine(400, 256, lr=0.8)
    rates = [plan.rate(epoch) for epoch in (0, 100, 200, 300, 400)]
    assert rates == pytest.approx([0.8, 0.4 * (1 + 0.5**0.5), 0.4, 0.4 * (1 - 0.5**0.5), 0])
    last = ending(plan, 0.06)
    assert (last.epochs, last.batch_size, last.of) == (24, 256, plan)
    assert [last.rate(e) for e in (0, 10, 24)] == [plan.rate(e) for e in (376, 386, 400)]
    steps = ending(Stepped(200, 128, 0.1, 0.9, 5e-4, drops=(0.3, 0.6, 0.8)), 0.06)
    assert (steps.epochs, steps.weight_decay) == (12, 5e-4)
    assert steps.rate(0) == pytest.approx(1e-4)
    assert ending(Fit(5), 0.06).epochs == 1
    with pytest.raises(UserError, match=r"a share of 1\.2"):
        ending(plan, 1.2)


def shrunk(recipe: Recipe, n: int) -> Recipe:
    plan = recipe.fit.plan if isinstance(recipe.fit, Sweep) else recipe.fit
    view = recipe.view
    if not isinstance(view, Shifted):
        view = replace(view, side=75, shorter=80)  # as small as Inception v3 can be
    return replace(
        recipe,
        data=replace(recipe.data, n_train=n, n_query=n, n_validation=0),
        fit=replace(plan, epochs=1, batch_size=2),
        view=view,
    )


PAPER = (
    (classifiers.CIFAR_100_INCEPTION, 1_681_444),
    (classifiers.CIFAR_100_RESNET, 11_220_132),
    (classifiers.DTD_INCEPTION, 21_881_871),
    (classifiers.FLOWERS_RESNET, 11_228_838),
)


@pytest.mark.long
@pytest.mark.parametrize(
    ("recipe", "count"), PAPER, ids=["small inception", "small", "inception v3", "resnet-18"]
)
def test_a_network_of_the_paper_takes_a_step_and_answers(recipe, count, tmp_path, monkeypatch):
    n, classes = 2, recipe.network.num_classes
    write_dtd(tmp_path, n, monkeypatch)
    write_flowers(tmp_path, n, monkeypatch)
    draw = np.random.default_rng(0)
    few = {
        "image": torch.from_numpy(draw.random((n, 3, 32, 32), np.float32)),
        "label": torch.from_numpy(draw.integers(0, 100, n)),
    }
    monkeypatch.setattr(cifar100, "load", lambda split, index: few)
    classifiers.subsets.load.cache_clear()
    tiny = shrunk(recipe, n)
    stack, answers = predicted(tiny, [0], [0], tmp_path)
    assert answers.shape == (1, n)
    assert 0 <= answers.min() <= answers.max() < classes
    assert classify_by_views(stack, tiny, load(tiny.data).query).shape == (1, n)
    assert sum(value.numel() for value in stack.parameters()) == count
    before = next(iter(tiny.network.build(0).parameters()))
    assert not torch.equal(before, next(iter(stack.at(0).parameters())))


def test_the_paper_s_recipes_are_those_of_its_appendix():
    cifar = classifiers.CIFAR_10_RESNET.fit
    assert [cifar.rate(e) for e in (59, 60, 120, 160)] == pytest.approx([0.1, 0.01, 1e-3, 1e-4])
    assert (cifar.epochs, cifar.batch_size, cifar.weight_decay) == (200, 128, 5e-4)
    grid = classifiers.GRID
    assert (grid.plan.epochs, grid.plan.batch_size) == (400, 256)
    assert (len(grid.lrs), len(grid.decays)) == (7, 8)
    np.testing.assert_allclose(grid.lrs, np.logspace(-3, 0, 7), rtol=1e-5)
    np.testing.assert_allclose(grid.decays[1:], np.logspace(-5, -2, 7), rtol=1e-5)
    assert grid.decays[0] == 0
    assert len(rate_sweep.trials(classifiers.DTD_INCEPTION)) == 56
    assert (classifiers.DTD_INCEPTION.view.side, classifiers.FLOWERS_RESNET.view.side) == (299, 224)
