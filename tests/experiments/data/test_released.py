"""Released ensembles, pairs and C-scores, from made-up files of their layout."""

from dataclasses import replace

import numpy as np
import pytest

from analysis import models_fig1, models_fig6
from experiments import subset_ensembles
from experiments.data import released
from experiments.ensembles import published, subsets
from experiments.ensembles.published import Blind, Pairs, Released
from experiments.ensembles.subsets import Data, Ensemble
from experiments.laboratory.errors import UserError
from experiments.models.digits_mlp import DigitsMLP
from experiments.subset_ensembles import Halves
from experiments.training.plans import Fit
from methods.ensembles.masks import draw_masks
from methods.ensembles.subset import influence

N, N_TRAIN, N_QUERY = 120, 30, 20
SMALL = Released(Data("cifar100", N_TRAIN, N_QUERY))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """120 models in 3 files of 1 and of many; right about query q if they saw example q."""
    monkeypatch.setenv("RETRACE_DATA", str(tmp_path))
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    masks = draw_masks(N, N_TRAIN, 21, 0)
    draw = np.random.default_rng(0)
    right = np.concatenate([masks, masks[:, :N_QUERY]], axis=1) ^ (draw.random((N, 50)) < 0.1)
    home = tmp_path / "released" / "ensemble"
    home.mkdir(parents=True)
    inside = np.nonzero(masks)[1].reshape(N, -1)
    for name, some in (("0", 0), ("1", slice(1, 60)), ("2", slice(60, N))):
        np.savez(
            home / f"{name}.npz",
            subsample_idx=inside[some],
            correctness_train=right[some, :N_TRAIN],
            correctness_test=right[some, N_TRAIN:],
        )
    return home.parent, masks, right


def test_models_come_in_the_order_of_the_files(folder):
    _, masks, right = folder
    found = released.ensemble(N, N_TRAIN, N_QUERY)
    np.testing.assert_array_equal(found[0], masks)
    np.testing.assert_array_equal(found[1], right)
    first = published.gathered(SMALL, 70)
    np.testing.assert_array_equal(first.masks.unpacked().numpy(), masks[:70])
    assert set(np.unique(first.probability)) == {0, 255}


@pytest.mark.long
def test_the_figures_are_made_of_the_files(folder, capsys):
    halves = Halves(SMALL, N, (10, 60), splits=2)
    experiment = replace(subset_ensembles.EXPERIMENT, presets={"released": [halves]})
    assert experiment.main(["--preset", "released"]) == 0
    for module in (models_fig1, models_fig6):
        options = ["--preset", "paper", "--runs", "released"]
        assert module.ARTIFACT.main(options) == 0
    assert "models_fig6 paper" in capsys.readouterr().out


def test_published_pairs_of_the_same_models_are_found_again(folder):
    home, masks, right = folder
    whole = influence(masks, right[:, N_TRAIN:]).numpy()
    query, train = np.nonzero(whole > 0.5)
    np.savez(home / "pairs.npz", tr_idx=train, tt_idx=query, infl=whole[query, train])
    found = published.pairs(Pairs(SMALL, N))
    assert found["published_pairs"] == len(train) > 10
    assert found["largest_difference"] < 1e-6
    assert found["above"] == 1


def test_memorization_is_held_against_scores_in_the_order_of_the_file(folder):
    home = folder[0]
    tiny = Ensemble(DigitsMLP((8,), (1, 8, 8)), Data("digits", 40, 10), Fit(8, 14, 0.1), stack=6)
    index, label = subsets.rows(tiny.data), subsets.load(tiny.data)[0]["label"].numpy()
    labels, scores = np.zeros(1_797, dtype=int), np.random.default_rng(0).random(1_797)
    labels[index] = label
    np.savez(home / "c-scores.npz", scores=scores, labels=labels)
    np.testing.assert_array_equal(released.c_scores(index, label), scores[index])
    found = published.blind(Blind(tiny, 12))
    assert -1 <= found["agreement"] <= 1
    assert found["draws"].shape == (1_000,)
    with pytest.raises(UserError, match=r"other labels at .* of 40 examples"):
        released.c_scores(index, label + 1)
    with pytest.raises(UserError, match="it is of another data set"):
        released.c_scores(np.array([5_000]), label[:1])


def test_what_is_missing_or_of_another_set_is_said(folder):
    home = folder[0]
    with pytest.raises(UserError, match="has 120 models of 200: put the others there"):
        released.ensemble(200, N_TRAIN, N_QUERY)
    with pytest.raises(UserError, match="30 training and 20 test examples, not 31 and 20"):
        released.ensemble(2, 31, N_QUERY)
    with pytest.raises(UserError, match=r"pairs.npz is not in .* cannot be downloaded: put it"):
        released.pairs()
    np.savez(home / "pairs.npz", tr_idx=np.arange(2))
    with pytest.raises(UserError, match="has no tt_idx and no infl: remove it"):
        released.pairs()
    (home / "pairs.npz").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(UserError, match="truncated or corrupt"):
        released.pairs()
    for path in (home / "ensemble").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"no .npz file is in"):
        released.ensemble(2, N_TRAIN, N_QUERY)
