"""Labels of one's own: who judges which row, what is stored, shown and refused."""

import csv
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from experiments import own_labels
from experiments.laboratory import runs
from experiments.models.own_classifiers import CNN, MLP, Encoder, Linear
from experiments.training.plans import Adam, Fit
from methods.tracin import TracIn

N, WRONG = 90, (4, 33, 61)
PLAN = Fit(epochs=20, batch_size=15, lr=0.02, weight_decay=1e-3, adam=Adam())
QUICK = ["--fit.epochs", "6", "--fit.lr", "0.02", "--folds", "3", "--steps", "200"]
MAIN = own_labels.EXPERIMENT.main


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("RETRACE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)
    table().to_csv("iris.csv", index=False)
    # What draws the run is another process; a test of its own looks at what it draws.
    monkeypatch.setattr("experiments.laboratory.experiment._look", lambda artifact, run: 0)
    return tmp_path


def table() -> pd.DataFrame:
    """Three groups of points, three of them with the name of another group."""
    true = np.arange(N) % 3
    points = np.random.default_rng(0).normal(size=(N, 2)) * 0.3
    points += np.array([[0, 0], [4, 0], [0, 4]])[true]
    given = np.where(np.isin(np.arange(N), WRONG), (true + 1) % 3, true)
    words = np.array(["low", "right", "high"])
    return pd.DataFrame(
        {"x": points[:, 0], "y": points[:, 1], "group": words[given], "gold": words[true]}
    )


def config(**settings):
    return own_labels.Config(
        "iris.csv", label="group", truth="gold", fit=PLAN, folds=3, steps=300, **settings
    )


# --- who judges which row -------------------------------------------------------------------------


def test_each_row_is_in_one_fold_and_a_class_of_two_in_two():
    label = np.array([0] * 40 + [1] * 2 + [2] * 9)
    fold = own_labels.folds(label, 5, seed=0)
    assert sorted(set(fold)) == [0, 1, 2, 3, 4]
    for place in range(3):
        counts = np.bincount(fold[label == place], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert (fold != own_labels.folds(label, 5, seed=1)).any()


def test_a_row_is_judged_by_a_network_that_did_not_train_on_it(monkeypatch):
    learned_from, fit = [], own_labels.fit

    def recorded(module, loss, train, *settings):
        learned_from.append({tuple(row) for row in train["input"].tolist()})
        return fit(module, loss, train, *settings)

    monkeypatch.setattr(own_labels, "fit", recorded)
    judged, data = own_labels.held_out(config()), own_labels.load(config())
    fold = own_labels.folds(data.label, 3, 0)
    every = {tuple(row) for row in data.inputs.tolist()}
    for number, seen in enumerate(learned_from):
        left_out = data.inputs[fold == number]
        assert seen == every - {tuple(row) for row in left_out.tolist()}
        network = own_labels.trained(own_labels.Fold(config(), number)).module
        with torch.no_grad():
            own = network(left_out).log_softmax(1).numpy()
        np.testing.assert_allclose(judged[fold == number], own, rtol=1e-4, atol=1e-5)
    assert len(learned_from) == 3


def test_what_is_stored_is_what_the_networks_say(tmp_path):
    made = own_labels.run(config(), tmp_path)
    data = own_labels.load(config())
    learned = own_labels.trained(own_labels.Fold(config()))
    with torch.no_grad():
        losses = cross_entropy(
            learned.module(data.inputs), torch.from_numpy(data.label), reduction="none"
        )
    np.testing.assert_allclose(made["loss"], losses.numpy(), rtol=1e-4, atol=1e-6)
    tracin = TracIn(learning_rates=False).self_influence(learned.task, data.examples)
    np.testing.assert_allclose(made["tracin"], tracin.numpy(), rtol=1e-5)
    judged = own_labels.held_out(config())
    np.testing.assert_array_equal(made["held_out"], -judged[np.arange(N), data.label])
    assert (np.diff(made["held_out"][made["order"]]) <= 0).all(), "worst first"


def test_wrong_labels_come_first_and_the_right_ones_are_suggested(tmp_path):
    made = own_labels.run(config(), tmp_path)
    assert sorted(made["order"][:3]) == list(WRONG)
    np.testing.assert_array_equal(made["suggested"][list(WRONG)], made["true"][list(WRONG)])
    assert made["n_wrong"] == 3
    for score in own_labels.SCORES:
        assert made[f"{score}_auc"] > 0.9
    assert made["held_out_precision"] == 1.0


# --- a run like any other -------------------------------------------------------------------------


def test_the_key_is_of_the_content_wherever_the_file_is(store):
    (store / "elsewhere").mkdir()
    table().to_csv("elsewhere/copy.csv", index=False)
    assert runs.key(config()) == runs.key(replace(config(), data="elsewhere/copy.csv"))
    table().iloc[1:].to_csv("elsewhere/copy.csv", index=False)
    assert runs.key(config()) != runs.key(replace(config(), data="elsewhere/copy.csv"))


def test_one_command_judges_a_file_and_the_next_computes_nothing(store, capsys):
    words = ["--data", "iris.csv", "--label", "group", "--columns", "x", "y", *QUICK]
    assert MAIN([*words, "--network", "mlp", "--network.hidden", "8"]) == 0
    out, _ = capsys.readouterr()
    header, _, first, *_ = out.splitlines()
    assert header.split()[:4] == ["rank", "row", "given", "suggested"]
    assert int(first.split()[1]) in WRONG
    assert "1 computed now" in out
    (run,) = runs.load("own_labels", "custom")
    assert run.config["network"] == {"type": "MLP", "hidden": [8]}
    assert "iris.csv" in run.meta["data"]
    assert "n_wrong" not in run.metrics
    assert MAIN([*words, "--network", "mlp", "--network.hidden", "8"]) == 0
    assert "0 computed now" in capsys.readouterr().out


def test_data_is_the_file_and_data_folder_the_folder(store, capsys, monkeypatch):
    (store / "sets").mkdir()
    (store / "iris.csv").rename(store / "sets/iris.csv")
    words = ["--data", "iris.csv", "--label", "group", "--columns", "x", "y", *QUICK]
    assert MAIN([*words]) == 2
    assert "there is no data at iris.csv" in capsys.readouterr().err
    assert MAIN([*words, "--data-folder", "sets"]) == 0


def test_cells_on_data_of_ones_own_are_kept_as_a_list(store, capsys):
    words = ["--data", "iris.csv", "--label", "group", "--columns", "x", "y", "--as", "mine"]
    assert MAIN([*words, "--list"]) == 0
    assert MAIN(["--preset", "mine", "--count"]) == 0
    (cell,) = own_labels.EXPERIMENT.cells("mine")
    assert (cell.data, cell.columns) == ("iris.csv", ("x", "y"))
    table().iloc[1:].to_csv("iris.csv", index=False)
    assert MAIN(["--preset", "mine", "--count"]) == 2
    assert "its fields mean another config now" in capsys.readouterr().err


def test_pictures_are_judged_by_a_small_cnn(store):
    for row, word in enumerate(np.array(["dark", "light"]).repeat(10)):
        (store / "photos" / word).mkdir(parents=True, exist_ok=True)
        grey = (40 if word == "dark" else 210) + row
        Image.new("L", (12, 10), int(grey)).save(store / f"photos/{word}/{row}.png")
    Image.new("L", (12, 10), 215).save(store / "photos/dark/wrong.png")
    words = ["--data", "photos", "--side", "8", "--network", "cnn"]
    assert MAIN([*QUICK, *words]) == 0
    (run,) = runs.load("own_labels", "custom")
    assert run.array("names")[run.array("order")[0]] == "dark/wrong.png"
    assert run.array("shown_pixels").shape == (21, 8, 8, 1)
    assert run.array("shown_pixels")[0].mean() == 215


def texts() -> pd.DataFrame:
    words = [f"{'good' if row % 2 else 'bad'} film number {row}" for row in range(40)]
    return pd.DataFrame({"review": words, "stars": [row % 2 + 1 for row in range(40)]})


def test_texts_are_judged_by_their_words(store):
    rows = texts()
    rows.loc[7, "stars"] = 1
    rows.to_csv("films.csv", index=False)
    assert MAIN(["--data", "films.csv", "--label", "stars", *QUICK]) == 0
    (run,) = runs.load("own_labels", "custom")
    assert run.array("order")[0] == 7
    assert run.array("shown_text")[0] == "good film number 7"


def test_texts_are_encoded_once_by_a_frozen_encoder(store, monkeypatch):
    read = []

    def features(self, columns):
        read.append(len(columns))
        return torch.tensor([["good" in text, 1.0] for text in columns[0]])

    monkeypatch.setattr(Encoder, "features", features)
    monkeypatch.setattr(Encoder, "weights", lambda self: "0")
    texts().to_csv("films.csv", index=False)
    words = ["--data", "films.csv", "--label", "stars", *QUICK, "--network", "encoder"]
    assert MAIN(words) == 0
    assert read == [1]
    (run,) = runs.load("own_labels", "custom")
    assert run.metrics["agreement"] > 0.9


@pytest.mark.parametrize("network", [Linear(), MLP((5,)), CNN((4, 6))])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 13, 21)])
def test_networks_have_the_shape_and_the_classes_of_the_data(network, shape):
    module = network.build(shape, 7, seed=0)
    assert module(torch.rand(2, *shape)).shape == (2, 7)
    other = network.build(shape, 7, seed=1)
    assert any((a != b).any() for a, b in zip(module.parameters(), other.parameters(), strict=True))


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--data", "iris.csv", "--label", "grp"], "no column 'grp': did you mean 'group'?"),
        (["--data", "iris.csv", "--label", "group", "--network", "cnn"], "takes images: give"),
        (["--data", "iris.csv", "--label", "group", "--network", "encoder"], "no column of texts"),
        (["--data", "films.csv", "--label", "stars", "--network", "cnn"], "films.csv has texts"),
        (
            ["--data", "iris.csv", "--label", "group", "--network", "mpl"],
            "did you mean 'network:mlp'?",
        ),
        (["--data", "iris.csv", "--label", "group", "--folds", "1"], "folds is 1: give 2 or more"),
        (["--data", "iris.csv", "--label", "group", "--folds", "91"], "91 folds of 90 rows"),
        (["--data", "iris.csv", "--label", "gold", "--truth", "gold"], "0 of 90 labels differ"),
        (["--network"], "--network is a whole part: write network:linear or network:mlp"),
    ],
)
def test_a_mistake_is_one_line(store, capsys, words, told):
    texts().to_csv("films.csv", index=False)
    assert MAIN(words) == 2
    error = capsys.readouterr().err.splitlines()
    assert told in error[-1]
    assert error[-1].startswith("error: ")
    assert not any(line.startswith("Traceback") for line in error)


# --- what people look at --------------------------------------------------------------------------


def test_a_run_is_shown_as_a_table_worst_first_and_a_picture(store, capsys):
    from analysis.own_labels import ARTIFACT

    run = own_labels.EXPERIMENT.once(config())
    assert ARTIFACT.main(["--look", run.key]) == 0
    table_of_rows, gallery = capsys.readouterr().out.split()
    with open(table_of_rows) as file:
        rows = list(csv.DictReader(file))
    assert [int(row["row"]) for row in rows[:3]] == run.array("order")[:3].tolist()
    assert len(rows) == N
    assert rows[0]["given"] != rows[0]["suggested"] == rows[0]["true"]
    assert rows[0]["excerpt"].startswith("x ")
    with Image.open(gallery) as image:
        assert image.width > 500
    assert ARTIFACT.main(["--look", "0" * 16]) == 2
    assert "there is no run own_labels/000" in capsys.readouterr().err
