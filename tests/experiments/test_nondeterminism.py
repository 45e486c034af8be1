"""Networks that differ in what is random are compared; their agreement becomes four artifacts."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from analysis import models_fig2, models_fig3, models_fig4, models_table2, models_table3
from analysis.numbers import agreement as agreement_numbers
from analysis.numbers import table
from experiments import nondeterminism
from experiments.ensembles.classifiers import load
from experiments.ensembles.rate_sweep import Trial
from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from experiments.nondeterminism import EXPERIMENT, PRESETS, Compared, Networks, Seeds, parts, run
from experiments.training.plans import Fit
from methods.ensembles.agreement import agreement
from tests.analysis.synthetic import model_count
from tests.analysis.synthetic import nondeterminism as synthetic
from tests.experiments.ensembles.test_classifiers import MOVED, SWEPT

ARTIFACTS = (models_fig2, models_fig4, models_table2, models_table3)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.mark.parametrize(
    ("vary", "init", "order"), [("both", 1, 1), ("init", 1, 0), ("order", 0, 1)]
)
def test_what_is_to_differ_differs_and_nothing_else(vary, init, order):
    seeds = [one for part in parts(Compared(MOVED, vary, 6, 2)) for one in part.seeds]
    assert seeds == [Seeds(init * i, order * i) for i in range(6)]
    with pytest.raises(UserError, match="6 networks do not fill stacks of 4"):
        parts(Compared(MOVED, vary, 6, 4))


def test_networks_are_compared_plain_and_from_several_views(tmp_path):
    config = Compared(replace(MOVED, fit=Fit(20, 20, 0.1)), "both", 4, 2)
    found = run(config, tmp_path)
    label = load(MOVED.data).query.label
    trained = [nondeterminism.trained(one) for one in parts(config)]
    for name, suffix in (("plain", ""), ("views", "_views")):
        predicted = np.concatenate([one.array(name) for one in trained])
        np.testing.assert_array_equal(found[f"agreement{suffix}"], agreement(predicted))
        np.testing.assert_array_equal(found[f"right{suffix}"], predicted == label)
        np.testing.assert_allclose(found[f"accuracy{suffix}"], (predicted == label).mean(1))
        assert found[f"chance{suffix}"].shape == found[f"by_class{suffix}"].shape == (4, 4)
        assert (np.diag(found[f"agreement{suffix}"]) == 1).all()
    assert found["accuracy"].mean() > 0.2
    own = run(parts(config)[0], tmp_path)
    assert own["accuracy"] == pytest.approx(found["accuracy"][:2].mean())


def test_networks_of_a_sweep_have_its_rates(tmp_path):
    found = run(Compared(SWEPT, "init", 2, 2), tmp_path)
    assert (found["lr"], found["weight_decay"]) in ((0.1, 0.0), (0.1, 1e-3))


def test_every_preset_tries_and_trains_all_it_compares():
    for cells in PRESETS.values():
        trained = {cell for cell in cells if isinstance(cell, Networks)}
        tried = {cell for cell in cells if isinstance(cell, Trial)}
        compared = [cell for cell in cells if isinstance(cell, Compared)]
        for cell in compared:
            assert set(parts(cell)) <= trained
            assert set(nondeterminism.rate_sweep.trials(cell.recipe)) <= tried
        assert {cell.vary for cell in compared} == {"both", "init", "order"}
        assert cells.index(compared[0]) > 0
    for tier, sources in (
        ("small", {"mnist", "jpeg"}),
        ("paper", {"original", "cifar100", "dtd", "flowers"}),
    ):
        compared = [cell for cell in PRESETS[tier] if isinstance(cell, Compared)]
        assert {cell.recipe.data.source for cell in compared} == sources
        assert {cell.n_seeds for cell in compared if cell.vary == "both"} == {20}


def test_the_command_s_table_has_a_line_a_comparison_and_trial(tmp_path):
    cells = [*nondeterminism.rate_sweep.trials(SWEPT)[:1], Compared(SWEPT, "order", 2, 2)]
    header, rows = nondeterminism.table([EXPERIMENT.once(cell) for cell in cells])
    assert [row[2:4] for row in rows] == [
        ["trial of lr 1e-05, decay 0", "validation"], ["order", "plain"], ["order", "views"],
    ]  # fmt: skip
    assert all(len(row) == len(header) for row in rows)


def judged(artifact, found, tier="paper"):
    """The word of an artifact without its ink, its claims and all rows, as they are read back."""
    drawn = artifact.tabulate(found).assign(tier=tier, missing=0)
    rows = table.from_csv(table.to_csv(drawn))
    return artifact.judge(rows).word, rows[rows["kind"] == "claim"], rows


def words_of(artifact):
    found = runs.load("nondeterminism", "paper")
    return judged(artifact, [one for one in found if artifact.needs(one.config)])


def test_what_the_paper_prints_reproduces_its_figure_and_tables():
    synthetic.write("paper", 20)
    for module in ARTIFACTS:
        word, claims, rows = words_of(module.ARTIFACT)
        hard = module is models_fig2  # DTD and Flowers are not among the made-up runs
        assert word == ("partly" if hard else "reproduced"), module.ARTIFACT.id
        assert set(claims["verdict"]) == {"holds"}
        numbers = rows[rows["kind"] == "number"]
        assert set(numbers["verdict"]) <= {"holds", ""}
        page = agreement_numbers.page(rows)
        assert set(page["classifier"]) == set(rows[rows["kind"] != "claim"]["method"])
        assert not page.duplicated().any()
    assert len(claims) == 8, "two sources of nondeterminism for each of four classifiers"
    assert set(claims["n"]) == {20}


def test_agreement_that_rises_with_difficulty_is_not_reproduced(monkeypatch):
    harder = {
        key: (0.97, acc) for key, (_, acc) in synthetic.GROUPS.items() if key[0] == "cifar100"
    }
    monkeypatch.setattr(synthetic, "GROUPS", synthetic.GROUPS | harder)
    synthetic.write("paper", 6)
    word, claims, _ = words_of(models_fig2.ARTIFACT)
    assert word != "reproduced"
    assert set(claims["quantity"]) == {"agreement, CIFAR-10 − CIFAR-100"}
    assert set(claims["verdict"]) == {"fails"}


def test_the_hardest_data_sets_are_held_to_what_the_text_says(monkeypatch):
    hard = {("flowers", "SmallInception"): (0.519, 0.542), ("dtd", "SmallInception"): (0.3, 0.301)}
    monkeypatch.setattr(synthetic, "GROUPS", hard)
    synthetic.write("paper", 6)
    _, claims, _ = words_of(models_fig2.ARTIFACT)
    by = claims.set_index(["method", "quantity"])["verdict"]
    assert by["Flowers, Inception", "agreement, of a hard data set"] == "holds"
    assert by["DTD, Inception", "agreement, of a hard data set"] == "fails"


def test_sources_that_differ_are_not_alike():
    synthetic.write("paper", 6, closer=0.05)
    word, claims, _ = words_of(models_table3.ARTIFACT)
    assert word != "reproduced"
    by = claims.groupby("quantity")["verdict"].agg(set)
    assert "fails" in by["disagreement, initial parameters ÷ both"]
    assert by["disagreement, order ÷ both"] == {"holds"}


@pytest.mark.parametrize(
    ("gain", "failing"),
    [
        ((-0.01, 0.01), models_table2.RAISES),
        ((0.02, -0.005), models_table2.ACCURACY),
        ((0.08, 0.01), models_table2.SLIGHTLY),
    ],
)
def test_a_loss_or_a_large_gain_is_no_slight_gain(gain, failing):
    synthetic.write("paper", 6, gain=gain)
    word, claims, _ = words_of(models_table2.ARTIFACT)
    assert set(claims.loc[claims["verdict"] == "fails", "claim"]) == {failing.name}
    assert word != "reproduced" or not failing.papers


def test_p_that_moves_much_is_not_marginal():
    synthetic.write("paper", 6, gain=(0.02, 0.4))
    word, claims, rows = words_of(models_fig4.ARTIFACT)
    assert word == "not reproduced"
    assert claims["method"].tolist() == ["CIFAR-100, Inception"]
    bins = rows[(rows["kind"] == "bin") & (rows["method"] == "CIFAR-100, Inception")]
    totals = bins.groupby("series")["ours"].sum()
    np.testing.assert_allclose(totals, 1.0, atol=1e-4)


def right_panel():
    rows = table.from_csv(models_fig3.ARTIFACT.path("paper", "csv").read_text())
    return rows[rows["experiment"] == "nondeterminism"]


def test_the_right_panel_has_the_networks_of_the_highest_tier_that_was_run():
    model_count.write("paper", 3)
    models_fig3.ARTIFACT.build("paper")
    assert set(right_panel()["verdict"]) == {"not run"}
    synthetic.write("small", 6)
    models_fig3.ARTIFACT.build("paper")
    found = right_panel()
    assert set(found["of_tier"]) == {"small"}
    assert set(found[found["kind"] == "claim"]["verdict"]) <= {"holds", "leans"}
    assert found[found["kind"] == "bin"]["ours"].sum() == pytest.approx(1, abs=1e-4)
    about = json.loads(models_fig3.ARTIFACT.path("paper", "json").read_text())
    loaded = runs.load("nondeterminism", "small")
    both = {one.key for one in loaded if one.config.get("vary") == "both"}
    assert len(both) == 4
    assert both <= set(about["numbers"]["runs"])


def test_a_second_experiment_is_of_the_highest_tier_that_has_all_its_runs(tmp_path):
    second, tiers = models_fig3.ARTIFACT.second, ("paper", "small", "smoke")
    assert second.load(tiers) == ("", [])
    for tier, seeds in (("smoke", 2), ("small", 3), ("paper", 4)):
        synthetic.write(tier, seeds)
        name, found = second.load(tiers)
        assert name == tier
        assert {one.config["n_seeds"] for one in found} == {seeds}
        assert len(found) == 4
    assert second.load(tiers[1:])[0] == "small"
    shutil.rmtree(found[0].path)
    assert second.load(tiers)[0] == "small"


def test_a_stack_that_does_not_fit_is_one_line(capsys):
    place = [isinstance(cell, Compared) for cell in PRESETS["smoke"]].index(True)
    words = f"--preset smoke --cell {place} --n-seeds 5 --stack 3"
    assert EXPERIMENT.main(words.split()) == 2
    assert "5 networks do not fill stacks of 3" in capsys.readouterr().err
