"""Checkpoints within and after the first epoch: what is traced, what is chosen, the table of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis import tracin_checkpoints
from analysis.ink import style
from analysis.numbers.table import from_csv, to_csv
from experiments import mnist_checkpoints
from experiments.digits.models import load_data
from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from experiments.mnist_checkpoints import Dense, traced, trained
from experiments.training.loop import flat_params
from experiments.training.plans import cross_entropy
from methods.checkpoints import Checkpoint
from methods.task import Task
from methods.tracin import TracIn, phases
from tests.analysis.synthetic import tracin_steps
from tests.methods.test_checkpoints import WHOLE

TINY = replace(
    mnist_checkpoints.BUNDLED,
    model=replace(
        mnist_checkpoints.BUNDLED.model,
        data=replace(mnist_checkpoints.BUNDLED.model.data, n_train=90, n_eval=50),
        fit=replace(mnist_checkpoints.BUNDLED.model.fit, epochs=9),
    ),
)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))


def test_checkpoints_within_the_first_epoch_are_those_of_one_training():
    """Every example is visited once before the checkpoints of whole epochs begin."""
    found = trained(TINY)
    assert found.array("steps").tolist() == [2, 4, 5, 15, 25, 35, 45]
    per_epoch = 5
    model = TINY.model
    train, _ = load_data(model.data, model.seed)
    module = model.network.build(model.seed)
    with torch.no_grad():
        first = cross_entropy(module, train.examples).mean()
    assert found.array("train_loss")[0] == pytest.approx(float(first), rel=0.1)
    assert len(found.array("params")) == len(found.array("train_loss")) == 2 + per_epoch
    assert (found.array("params")[0] != flat_params(module)).any()


def test_what_is_traced_is_tracin_of_one_checkpoint_and_they_add_up():
    kept = traced(TINY)
    model = TINY.model
    train, _ = load_data(model.data, model.seed)
    module = model.network.build(model.seed).requires_grad_(False)
    names = [(name, p.shape, p.numel()) for name, p in module.named_parameters()]
    checkpoints = []
    for flat in np.array(trained(TINY).array("params")):
        pieces = torch.from_numpy(flat).split([size for _, _, size in names])
        params = {n: piece.view(shape) for (n, shape, _), piece in zip(names, pieces, strict=True)}
        checkpoints.append(Checkpoint(params, model.fit.lr))
    task = Task.of(module, cross_entropy, checkpoints=checkpoints)
    whole = TracIn().self_influence(task, train.examples).numpy()
    np.testing.assert_allclose(kept.array("self_influence").sum(0), whole, rtol=1e-4)


def test_momentum_is_refused():
    with pytest.raises(UserError, match=r"set fit.momentum to 0"):
        trained(Dense(replace(TINY.model, fit=replace(TINY.model.fit, momentum=0.9))))


def test_every_choice_takes_what_it_says():
    curve, steps = WHOLE, np.arange(len(WHOLE)) + 1
    found = phases(curve, steps)
    cells = {c.choice: c for c in mnist_checkpoints.table(TINY, 1, 2)}
    taken = {
        choice: mnist_checkpoints.positions(cell, curve, steps, found).tolist()
        for choice, cell in cells.items()
    }
    everything = list(range(len(WHOLE)))
    early, steady, late = (
        taken[choice]
        for choice in (
            mnist_checkpoints.Early(),
            mnist_checkpoints.Steady(),
            mnist_checkpoints.Converged(),
        )
    )
    assert early + steady + late == taken[mnist_checkpoints.All()] == everything
    assert taken[mnist_checkpoints.Unconverged()] == early + steady
    assert taken[mnist_checkpoints.Last()] == everything[-1:]
    assert set(taken[mnist_checkpoints.Proposed()]) < set(steady)
    assert taken[mnist_checkpoints.Even()] == [7, 15, 23, 31, 39]
    draws = [taken[mnist_checkpoints.Random(draw=draw)] for draw in range(2)]
    assert draws[0] != draws[1]
    assert all(len(set(draw)) == mnist_checkpoints.COUNT for draw in draws)


def test_a_cell_ranks_digits_by_the_sum_over_its_checkpoints(tmp_path):
    longer = replace(TINY.model.fit, epochs=25)
    dense = replace(TINY, model=replace(TINY.model, fit=longer))
    kept = traced(dense)
    for choice in (mnist_checkpoints.All(), mnist_checkpoints.Proposed(3)):
        outcome = mnist_checkpoints.run(mnist_checkpoints.Config(dense, choice), tmp_path)
        scores = kept.array("self_influence")[outcome["positions"]].sum(0)
        wrong = kept.array("corrupted")
        above = (scores[wrong][:, None] > scores[~wrong][None]).mean()
        assert outcome["auc"] == pytest.approx(float(above), abs=1e-6)
        assert outcome["n_checkpoints"] == len(outcome["positions"])
        assert outcome["chance_ap"] == pytest.approx(0.2)


# --- the artifact --------------------------------------------------------------------------------


def words(tmp_path, monkeypatch, **ap: float) -> dict[str, str]:
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    tracin_steps.write_checkpoints("paper", 3, ap)
    rows = tracin_checkpoints.tabulate(runs.load("mnist_checkpoints", "paper"))
    claims = rows[rows["kind"] == "claim"]
    return dict(zip(claims["method"], claims["verdict"], strict=True))


def test_the_advice_of_the_paper_is_called_reproduced_where_it_holds(tmp_path, monkeypatch):
    assert set(words(tmp_path, monkeypatch).values()) == {"holds"}


def test_the_advice_is_called_wrong_where_it_does_not_hold(tmp_path, monkeypatch):
    found = words(tmp_path, monkeypatch, early=0.99, last=0.5)
    assert found["steady decrease − early, loss fluctuates"] == "fails"
    assert found["steady decrease − last alone"] == "holds"


def test_a_phase_that_no_seed_has_is_not_judged(tmp_path, monkeypatch):
    monkeypatch.setattr(
        tracin_steps, "AP", {k: v for k, v in tracin_steps.AP.items() if k != "early"}
    )
    assert words(tmp_path, monkeypatch)["steady decrease − early, loss fluctuates"] == "not run"


def test_seeds_that_do_not_converge_say_nothing_of_what_comes_after(tmp_path, monkeypatch):
    """All before convergence is then all there is, and finds the same of itself."""
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    tracin_steps.write_checkpoints("paper", 3)
    n = tracin_steps.N_CHECKPOINTS
    found = [
        run
        if run.config["dense"]["model"]["seed"]
        else replace(run, metrics=run.metrics | {"converged": n, "ap": 0.1})
        for run in runs.load("mnist_checkpoints", "paper")
    ]
    rows = tracin_checkpoints.tabulate(found).set_index(["method", "quantity"])
    claim = rows.loc["all before convergence − all"].iloc[0]
    assert claim["n"] == 2
    assert rows.loc["training", "seeds with a phase: after convergence"]["ours"] == 2
    assert rows.loc["training", "seeds with a phase: early"]["ours"] == 3
    late = [replace(run, metrics=run.metrics | {"converged": n}) for run in found]
    rows = tracin_checkpoints.tabulate(late).set_index("method")
    assert rows.loc["all before convergence − all"]["verdict"] == "not run"


def test_proposals_are_held_against_evenly_spaced_checkpoints(tmp_path, monkeypatch):
    claims = words(tmp_path, monkeypatch, **{"even 3": 0.99})
    assert claims["proposed − evenly spaced"] == "fails"
    assert claims["proposed − random"] == "holds"


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_the_first_epoch_has_as_many_checkpoints_as_is_said(preset):
    dense = mnist_checkpoints.PRESETS[preset][0].dense
    n, plan = dense.model.data.n_train, dense.model.fit
    first = -(-n // (dense.apart * plan.batch_size))
    whole = first + -(-(plan.epochs - 1) // plan.every)
    said = " ".join(tracin_checkpoints.ARTIFACT.deviations).replace("the ", "")
    assert f"{first} of {whole}" in said


@pytest.mark.parametrize("left_out", [{"all"}, {"proposed 3"}, {"all", "proposed 3"}])
def test_what_is_there_is_drawn(left_out, tmp_path, monkeypatch):
    drawn(lambda run: run if run.metrics["method"] not in left_out else None, tmp_path, monkeypatch)


def test_choices_without_any_checkpoint_are_drawn_as_nothing(tmp_path, monkeypatch):
    def without_ap(run):
        kept = {k: v for k, v in run.metrics.items() if k not in ("ap", "auc", "loss_ap")}
        return replace(run, metrics=kept)

    drawn(without_ap, tmp_path, monkeypatch)


def drawn(changed, tmp_path, monkeypatch):
    """Tabulate, draw and judge the runs that `changed` leaves, as of an incomplete preset."""
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    tracin_steps.write_checkpoints("paper", 2)
    found = [changed(run) for run in runs.load("mnist_checkpoints", "paper")]
    rows = tracin_checkpoints.tabulate([run for run in found if run is not None])
    rows = from_csv(to_csv(rows.assign(tier="paper", missing=1)))
    with style.settings():
        tracin_checkpoints.ARTIFACT.draw(rows).draw_without_rendering()
    assert tracin_checkpoints.ARTIFACT.judge(rows).word not in ("reproduced", "not reproduced")
