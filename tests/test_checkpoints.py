"""Checkpoints proposed from loss curves whose phases are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis import style, tracin_checkpoints
from analysis.table import from_csv, to_csv
from experiments import mnist_checkpoints, runs
from experiments.dense_checkpoints import Dense, traced, trained
from experiments.digit_models import load_data
from experiments.losses import cross_entropy
from experiments.problems import UserError
from experiments.training import flat_params
from methods.checkpoints import Phases, evenly, phases, propose
from methods.task import Checkpoint, MethodError, Task
from methods.tracin import TracIn
from tests import synthetic_tracin_steps

TIME = np.arange(40)
FLUCTUATING = np.array([2.3, 2.9, 2.0, 2.7, 1.93, 2.6, 2.2, 2.8])
FALLING = 2.5 - 0.1 * np.arange(1, 21)
FLAT = np.full(12, 0.5)
WHOLE = np.concatenate([FLUCTUATING, FALLING, FLAT])


def test_phases_are_those_the_curve_was_made_of():
    found = phases(WHOLE)
    # 1.93 was reached by chance among the fluctuations: settled is where the fall goes below it.
    assert found.settled == np.flatnonzero(np.minimum.accumulate(WHOLE) < 1.93)[0]
    assert WHOLE[found.converged] <= 0.5 + 0.05 * 1.4
    assert found.converged < 8 + 20


@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_proposals_are_distinct_ascending_and_within_the_steady_decrease(count):
    found, chosen = phases(WHOLE), propose(WHOLE, count)
    assert len(chosen) == count
    assert (np.diff(chosen) > 0).all()
    assert found.settled <= chosen[0] <= chosen[-1] < found.converged
    np.testing.assert_array_equal(propose(WHOLE, count), chosen)


def test_an_even_fall_is_sampled_evenly():
    even = 2 - TIME / 20
    assert phases(even) == Phases(0, 40)
    assert propose(even, 4).tolist() == [5, 15, 24, 34]
    assert propose(even, 40).tolist() == list(TIME)


def test_the_faster_fall_gets_more_checkpoints():
    fast_then_slow = np.concatenate([3 - 0.2 * np.arange(10), 1.0 - 0.02 * np.arange(40)])
    assert (propose(fast_then_slow, 5) < 10).sum() == 3
    slow_then_fast = np.concatenate([3 - 0.02 * np.arange(40), 2.2 - 0.2 * np.arange(10)])
    assert (propose(slow_then_fast, 5) >= 40).sum() == 3


def test_a_steep_beginning_is_not_taken_for_the_whole_fall():
    assert phases(np.concatenate([[2.3], 0.5 - 0.02 * np.arange(20)])).converged == 21


def test_an_exponential_ends_where_little_is_left():
    found = phases(np.exp(-TIME / 8))
    assert found.settled == 0
    assert 0.01 < np.exp(-found.converged / 8) < 0.06


def test_uneven_steps_are_taken_into_account():
    """The same fall seen often at first is the same fall."""
    steps = np.concatenate([np.arange(0, 8, 0.5), np.arange(8, 40)])
    dense, even = phases(np.exp(-steps / 8), steps), phases(np.exp(-TIME / 8))
    assert steps[dense.converged] == TIME[even.converged]
    unaware = phases(np.exp(-steps / 8))
    assert unaware.converged != dense.converged


def test_proposals_do_not_depend_on_the_unit_of_the_loss():
    np.testing.assert_array_equal(propose(7 * WHOLE + 3, 6), propose(WHOLE, 6))


def test_more_than_there_are_is_an_error_that_says_how_many():
    found = phases(WHOLE)
    there = found.converged - found.settled
    assert len(propose(WHOLE, there)) == there
    with pytest.raises(MethodError, match=f"ask for at most {there}"):
        propose(WHOLE, there + 1)


def test_even_checkpoints_are_even_in_steps_and_not_in_number():
    """Half of them saved in the first tenth of training: as a schedule every so many steps."""
    steps = [*range(1, 11), *range(20, 101, 10)]
    assert [steps[i] for i in evenly(steps, 5)] == [20, 40, 60, 80, 100]
    assert [steps[i] for i in evenly(steps, 1)] == [100]
    assert evenly(steps, len(steps)).tolist() == list(range(len(steps)))
    for count in (0, len(steps) + 1):
        with pytest.raises(MethodError, match=f"choose from 1 to {len(steps)}"):
            evenly(steps, count)


@pytest.mark.parametrize(
    ("losses", "steps", "said"),
    [
        (np.where(TIME == 7, np.nan, 1 - TIME / 40), None, "loss 7 is nan"),
        (np.where(TIME == 7, np.inf, 1 - TIME / 40), None, "loss 7 is inf"),
        ([3.0, 2.0, 1.0], None, "3 losses is too short"),
        (np.ones(20), None, "constant"),
        (np.ones((20, 2)), None, r"\(20, 2\)"),
        (np.tile([1.0, 2.0], 20), None, "no phase of it is steady"),
        (1 - TIME / 40, TIME[:-1], "40 losses at steps of shape"),
        (1 - TIME / 40, np.zeros(40), "must rise"),
    ],
)
def test_what_is_no_loss_curve_is_one_clear_error(losses, steps, said):
    with pytest.raises(MethodError, match=said):
        propose(losses, 3, steps)


def test_no_checkpoints_asked_for_is_an_error():
    with pytest.raises(MethodError, match="ask for one at least"):
        propose(WHOLE, 0)


# --- the experiment ------------------------------------------------------------------------------


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
    synthetic_tracin_steps.write_checkpoints("paper", 3, ap)
    rows = tracin_checkpoints.tabulate(runs.load("mnist_checkpoints", "paper"))
    claims = rows[rows["kind"] == "claim"]
    return dict(zip(claims["method"], claims["verdict"], strict=True))


def test_the_advice_of_the_paper_is_called_reproduced_where_it_holds(tmp_path, monkeypatch):
    assert set(words(tmp_path, monkeypatch).values()) == {"reproduced"}


def test_the_advice_is_called_wrong_where_it_does_not_hold(tmp_path, monkeypatch):
    found = words(tmp_path, monkeypatch, early=0.99, last=0.5)
    assert found["steady decrease − early, loss fluctuates"] == "not reproduced"
    assert found["steady decrease − last alone"] == "reproduced"


def test_a_phase_that_no_seed_has_is_not_judged(tmp_path, monkeypatch):
    monkeypatch.setattr(
        synthetic_tracin_steps,
        "AP",
        {k: v for k, v in synthetic_tracin_steps.AP.items() if k != "early"},
    )
    assert words(tmp_path, monkeypatch)["steady decrease − early, loss fluctuates"] == "not run"


def test_seeds_that_do_not_converge_say_nothing_of_what_comes_after(tmp_path, monkeypatch):
    """All before convergence is then all there is, and finds the same of itself."""
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    synthetic_tracin_steps.write_checkpoints("paper", 3)
    n = synthetic_tracin_steps.N_CHECKPOINTS
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
    assert claims["proposed − evenly spaced"] == "not reproduced"
    assert claims["proposed − random"] == "reproduced"


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
    synthetic_tracin_steps.write_checkpoints("paper", 2)
    found = [changed(run) for run in runs.load("mnist_checkpoints", "paper")]
    rows = tracin_checkpoints.tabulate([run for run in found if run is not None])
    rows = from_csv(to_csv(rows.assign(tier="paper", missing=1)))
    with style.settings():
        tracin_checkpoints.ARTIFACT.draw(rows).draw_without_rendering()
    assert tracin_checkpoints.ARTIFACT.judge(rows).word in ("direction", "not run")
