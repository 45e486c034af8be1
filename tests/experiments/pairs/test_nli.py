"""Classifiers of sentence pairs: trained, simulated and tuned, their points and their curvature."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.laboratory.device import device
from experiments.laboratory.errors import UserError
from experiments.laboratory.runs import key
from experiments.models import bert
from experiments.models.bert import Streamed, TinyBert
from experiments.pairs import influence, models
from experiments.pairs.influence import Plan, curvature
from experiments.pairs.models import SMOKE, Hidden, Sample, Simulator, Tuned, trained
from experiments.training.loop import fit
from experiments.training.plans import AdamW, Decayed, Grouped
from methods.curvature.operators import Hessian
from methods.fastif import scores
from methods.precision import products
from methods.randomness import numpy_generator
from methods.task import Task
from tests.pretend_device import PretendGpu

QUICK = replace(SMOKE, fit=replace(SMOKE.fit, epochs=2, every=2), train=replace(SMOKE.train, n=60))
DEV = Sample("mnli dev", "generated", 40)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("RETRACE_DATA", str(tmp_path / "data"))
    return tmp_path


def test_pairs_of_two_labels_do_not_fit_a_model_of_three():
    with pytest.raises(UserError, match="entailment, non-entailment, the model 3: set labels to 2"):
        models.load(QUICK, Sample("hans evaluation", "generated", 30))


def test_a_trained_model_comes_back_with_its_numbers_and_fits_its_data():
    first, again = trained(SMOKE), trained(SMOKE)
    assert first.metrics["accuracy_train"] > 0.7
    assert first.task.weight_decay == SMOKE.fit.weight_decay
    for name, value in first.task.params.items():
        assert torch.equal(value, again.task.params[name])


def test_a_simulator_is_trained_on_the_predictions_of_its_task_model():
    simulator = trained(Simulator(QUICK))
    run = models.passed(QUICK, QUICK.train)
    predicted = np.asarray(run.array("logits")).argmax(1)
    assert torch.equal(simulator.train["label"], torch.from_numpy(predicted))
    assert (simulator.pairs.label == predicted).all()


def test_a_tuned_trunk_goes_on_where_training_ended():
    first = trained(QUICK)
    tuned = Tuned(QUICK.network, QUICK.train, 3, QUICK.fit, QUICK.dropout, QUICK.seed, frozen=2)
    examples, _ = models.column(tuned, DEV)
    top = tuned.open().top(3, dropout=0.1, seed=0).requires_grad_(False)
    assert len(top.layers) == 1
    top.classifier.load_state_dict(first.module.classifier.state_dict())
    torch.testing.assert_close(
        models.logits(top, examples),
        models.logits(first.module, models.column(QUICK.network, DEV)[0]),
    )
    again = trained(replace(QUICK, network=tuned, seed=3))
    assert again.task.size < first.task.size
    with pytest.raises(UserError, match="0 frozen layers of 3, where 1 were frozen before"):
        replace(tuned, frozen=0).open()


def test_points_are_half_right_and_half_wrong():
    index = influence.balanced(QUICK, DEV, 8)
    _, right = influence.predicted(QUICK, DEV)
    assert right[index].tolist() == [True] * 4 + [False] * 4
    assert len(set(index.tolist())) == 8
    with pytest.raises(UserError, match="are needed"):
        influence.balanced(QUICK, DEV, 80)


def test_wrong_pairs_are_of_the_slice_and_wrong():
    two = replace(QUICK, labels=2)
    traps = Sample("hans evaluation", "generated", 90)
    index = influence.wrong(two, traps, 5, "subsequence")
    _, pairs = models.load(two, traps)
    _, right = influence.predicted(two, traps)
    assert set(pairs.part[index]) == {"subsequence"}
    assert not right[index].any()
    with pytest.raises(UserError, match="wrongly predicted pairs of nothing"):
        influence.wrong(two, traps, 1, "nothing")


def test_the_damping_makes_the_hessian_positive_definite():
    there, result = trained(QUICK), curvature(QUICK).metrics
    dense = Hessian(there.task, there.train, damping=result["damping"])
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(8, there.task.size, generator=draw)
    assert result["lowest"] < 0 < result["largest"]
    assert ((dense.apply(vectors) * vectors).sum(1) > 0).all()


def test_a_plan_fills_in_only_what_is_left_out():
    given = Plan(5, depth=7, sample=2, damping=3.0, scale=50.0).settle(QUICK)
    assert (given.k, given.lissa.depth, given.lissa.scale, given.damping) == (5, 7, 50.0, 3.0)
    by_rule = Plan(5).settle(QUICK)
    left = (1 - by_rule.damping / by_rule.lissa.scale) ** by_rule.lissa.depth
    assert left < 0.06
    assert by_rule.damping == curvature(QUICK).metrics["damping"]


def test_samples_depend_on_their_settings_alone_and_are_their_key():
    one, other = (Sample("hans train", "generated", 30).load() for _ in range(2))
    assert one.premise == other.premise
    assert key(Hidden(TinyBert(), Sample(n=3))) != key(Hidden(TinyBert(), Sample(n=4)))
    with pytest.raises(UserError, match="need a number"):
        Sample("mnli dev", "generated").load()


def test_grouped_batches_take_every_example_once_and_pad_little():
    draw = numpy_generator(0, "lengths")
    length = torch.from_numpy(draw.integers(5, 60, 640))
    train = {"length": length}
    batches = Grouped(batch_size=16, pool=10).batches(train, numpy_generator(0, "order"))
    assert sorted(torch.cat(batches).tolist()) == list(range(640))
    padded = sum(int(length[b].max()) * len(b) for b in batches)
    assert padded < 1.15 * int(length.sum())
    again = Grouped(batch_size=16, pool=10).batches(train, numpy_generator(0, "order"))
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))


def test_a_decayed_rate_falls_linearly_to_zero():
    plan = Decayed(epochs=4, lr=0.8, adam=AdamW())
    assert [plan.rate(epoch) for epoch in (0, 1, 2.5, 4)] == pytest.approx([0.8, 0.6, 0.3, 0.0])


STREAMED = replace(QUICK, network=Streamed(TinyBert()))


def streamed(monkeypatch, room: bool) -> bert.States:
    """Hidden states of some pairs: kept, or computed as they are read."""
    monkeypatch.setattr(bert, "fits", lambda size, device: room)
    models._streamed.cache_clear()
    hidden = models.column(STREAMED.network, STREAMED.train)[0]["hidden"]
    assert (hidden.kept is not None) == room
    return hidden


@pytest.mark.parametrize("room", [True, False])
def test_streamed_states_are_those_of_the_disk_to_their_precision(room, monkeypatch, store):
    disk, length = (models.column(QUICK.network, QUICK.train)[0][n] for n in ("hidden", "length"))
    hidden = streamed(monkeypatch, room)
    assert (len(hidden), hidden.dtype) == (60, torch.bfloat16)
    for index in (torch.tensor([41, 3, 3, 17]), slice(5, 9), torch.tensor([7]), slice(60, None)):
        rows = hidden[index]
        longest = int(length[index].max()) if len(length[index]) else 0
        real = torch.arange(longest) < length[index][:, None]
        assert rows.shape == (len(length[index]), longest, 32)
        stored = disk[index][:, :longest][real]
        torch.testing.assert_close(rows[real].float(), stored, atol=0.1, rtol=0.02)
        assert not rows[~real].any()
    assert len(list(store.rglob("hidden.npy"))) == 1, "only the stored states are on disk"


def test_kept_and_computed_states_are_the_same(monkeypatch):
    kept, computed = (streamed(monkeypatch, room)[:] for room in (True, False))
    torch.testing.assert_close(kept, computed, atol=0.02, rtol=0.01)


def test_training_and_influence_on_streamed_states_are_near_those_on_stored_ones(tmp_path):
    both = {}
    for name, model in (("stored", QUICK), ("streamed", STREAMED)):
        module = model.network.open().top(3, 0.0, seed=0)
        train, _ = models.load(model, model.train)
        fit(module, models.cross_entropy, train, model.fit, 0, tmp_path)
        module.requires_grad_(False)
        task = Task.of(module, models.cross_entropy)
        vector = Hessian(task, train, 3.0).apply(torch.ones(1, task.size))
        index = torch.arange(20, 40)[None]
        both[name] = models.logits(module, train), vector, scores(task, vector, train, index)
    for stored, other in zip(*both.values(), strict=True):
        assert torch.linalg.norm(stored - other) < 0.05 * torch.linalg.norm(stored)


def test_a_streamed_training_starts_anew_for_other_states(monkeypatch):
    hidden = streamed(monkeypatch, True)
    other = models.column(replace(STREAMED.network, network=TinyBert(seed=1)), STREAMED.train)[0]
    assert hidden.fingerprint() != other["hidden"].fingerprint()


@pytest.mark.parametrize("room", [True, False])
def test_streamed_states_are_made_on_the_gpu_and_train_there(room, monkeypatch):
    index = torch.tensor([5, 41, 3])
    here = streamed(monkeypatch, room)[index]
    quick = replace(STREAMED, fit=replace(QUICK.fit, epochs=1, every=1, precision="bf16"))
    with PretendGpu() as gpu:
        there = streamed(monkeypatch, room)[index]
        learned = trained(quick)
        assert gpu.holds(there)
        assert gpu.holds(learned.module.classifier.weight)
        assert torch.equal(there.cpu(), here)
        logits = models.logits(learned.module, learned.train)
        assert not gpu.holds(logits)
    models._streamed.cache_clear()
    assert logits.isfinite().all()


def test_frozen_layers_and_predictions_are_in_full_precision(store, monkeypatch):
    """On a GPU whose user lets products be rounded."""

    def predicted() -> torch.Tensor:
        examples, _ = models.column(QUICK.network, DEV)
        top = QUICK.network.open().top(3, dropout=0.0, seed=0).requires_grad_(False)
        return models.logits(top.to(device()), examples)

    here = predicted()
    monkeypatch.setenv("RETRACE_RESULTS", str(store / "gpu"))
    with PretendGpu(tf32=True), products("tf32"):
        there = predicted()
        rounded = torch.ones(1, 1).to(device()) @ torch.full((1, 1), 1 + 2.0**-20).to(device())
        assert float(rounded) == 1, "they are rounded elsewhere"
    torch.testing.assert_close(there, here, rtol=1e-6, atol=1e-6)
