"""Proponents of many queries: what is retrieved and counted, and the table and picture of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis import tracin_fig5
from analysis.numbers import proponents as shares
from analysis.numbers import table
from analysis.numbers.claims import Claim, Paper
from analysis.tracin_fig9 import ARTIFACT
from experiments import mnist_proponents
from experiments.digits import models
from experiments.images.proponents import Pool, Queries, display, draw, retrieve, rival, to_pixels
from experiments.laboratory import runs
from experiments.laboratory.errors import UserError
from methods.influence import Influence
from methods.representer import Representer
from methods.tracin import TracIn
from tests.analysis.synthetic import proponents
from tests.analysis.synthetic.proponents import write_proponents
from tests.experiments.images.test_queries import made_up


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))


def test_the_rival_is_the_class_a_query_may_be_taken_for():
    one = torch.zeros(4, 1, 2, 2)
    label, predicted = np.array([0, 0, 0, 0]), np.array([0, 1, 1, 0])
    examples = {"image": one, "label": torch.from_numpy(label)}
    query = Pool(examples, predicted, np.array([2, 0, 0, 1]), to_pixels(one))
    # right; wrong, asked its label; wrong, asked the prediction; right, asked something else
    assert rival(query, np.array([0, 0, 1, 2])).tolist() == [2, 1, 0, 0]


def test_the_best_of_the_scores_are_retrieved_and_counted():
    train, there = made_up(30, seed=1), made_up()
    drawn = draw(there, Queries(12, 4), seed=0)
    query = there.take(drawn.index)
    same = query.label[:, None] == train.label
    against = rival(query, query.label)
    noise = np.random.default_rng(2).random(same.shape)
    scores = same * 2.0 - (against[:, None] == train.label) * 2.0 + noise
    out = retrieve(torch.from_numpy(scores), train, drawn, query.label, 5)
    order = np.argsort(-scores, axis=1)
    np.testing.assert_array_equal(out["proponent_index"], order[:, :5])
    np.testing.assert_array_equal(out["opponent_index"], order[:, :-6:-1])
    assert out["proponents_of_class"] == out["opponents_of_rival"] == 1.0
    counts = np.bincount(train.label, minlength=3) / 30
    assert out["chance_of_class"] == pytest.approx(counts[query.label[:12]].mean())
    at = out["shown"][1]
    np.testing.assert_array_equal(out["query_images"][1], query.pixels[at])
    np.testing.assert_array_equal(out["opponent_images"][1], train.pixels[order[at, :-6:-1]])
    backwards = retrieve(torch.from_numpy(-scores), train, drawn, query.label, 5)
    assert backwards["proponents_of_class"] == 0.0
    with pytest.raises(UserError, match="top 31 of 30"):
        retrieve(torch.from_numpy(scores), train, drawn, query.label, 31)


TINY = replace(
    mnist_proponents.BUNDLED,
    data=replace(mnist_proponents.BUNDLED.data, n_train=150, n_eval=100),
    fit=replace(mnist_proponents.BUNDLED.fit, epochs=6, every=2),
)


def test_every_method_finds_proponents_of_digits(tmp_path):
    cells = [c for c in mnist_proponents.PRESETS["smoke"] if c.model.seed == 0]
    seen = {}
    for cell in cells:
        out = mnist_proponents.run(replace(cell, model=TINY, queries=Queries(20, 10)), tmp_path)
        seen[out["method"]] = out
        assert out["proponent_index"].shape == (len(out["query_index"]), 5)
        assert (np.diff(out["proponent_score"], axis=1) <= 0).all()
        assert (np.diff(out["opponent_score"], axis=1) >= 0).all()
        assert (out["proponent_score"][:, 0] > out["opponent_score"][:, 0]).all()
    assert list(seen) == [
        "TracIn",
        "Influence functions",
        "Influence functions, 5 eigenvectors",
        "Representer point",
        "TracIn, last layer",
    ]
    point, ours = seen["Representer point"], seen["TracIn"]
    np.testing.assert_array_equal(ours["asked"], ours["label"])
    np.testing.assert_array_equal(point["query_index"], ours["query_index"])
    agree = (point["asked"] == point["predicted"]).mean()
    assert agree > 0.7, "refitted to the model's own softmax"
    assert point["proponents_of_class"] > point["chance_of_class"]


def test_the_largest_paper_cell_asks_the_test_split_and_digits_have_none():
    paper = mnist_proponents.PRESETS["paper"]
    assert {(c.model.data.n_train, c.model.data.noise) for c in paper} == {(60_000, 0.0)}
    data = models.Data("digits", 100, 0, 0.0)
    with pytest.raises(UserError, match="no test split"):
        models.load_data(data, 0)


def test_methods_have_the_names_of_the_paper():
    names = [display(m) for m in (TracIn(), TracIn(layers=("9.*",)), Influence(), Representer())]
    assert len(set(names)) == 4
    assert names[2:] == ["Influence functions", "Representer point"]


# --- the table and the picture -------------------------------------------------------------------


OWN = Claim("of its class", Paper("mostly cats", "Sec. B"), "The share.", null=10.0)
FEW = {name: proponents.METHODS[name] for name in ("TracIn", "Representer point")}


def tabulated(**settings) -> table.pd.DataFrame:
    write_proponents("mnist_proponents", "paper", range(3), **settings)
    found, claims = runs.load("mnist_proponents", "paper"), {"TracIn": OWN}
    both = [shares.tabulate(found, claims, one) for one in (shares.CORRECT, shares.WRONG)]
    rows = table.pd.concat(both).drop_duplicates(["kind", "method", "quantity"])
    return rows.set_index(["kind", "method", "quantity"])


def test_shares_are_means_over_seeds_and_claims_are_against_exact_chance():
    rows = tabulated()
    what = f"{shares.QUANTITY['proponent']}, {shares.CORRECT}"
    right = (np.arange(60) < 40) & (np.arange(60) % 3 != 1)
    found = [
        100 * float((r.array("proponent_label")[right] == r.array("asked")[right, None]).mean())
        for r in runs.load("mnist_proponents", "paper")
        if r.metrics["method"] == "TracIn"
    ]
    share = rows.loc[("curve", "TracIn", what)]
    assert (share["ours"], share["n"]) == (pytest.approx(np.mean(found)), 3)
    assert rows.loc[("curve", shares.CONTROL, what), "ours"] == pytest.approx(10)
    judged = rows.loc[("claim", "TracIn", what)]
    assert (judged["ours"], judged["verdict"]) == (pytest.approx(np.mean(found)), "holds")
    assert judged["claim"] == OWN.name
    assert rows.loc[("claim", "Influence functions", what), "claim"] == shares.VARIANTS.name
    excess = rows.loc[
        ("claim", "TracIn − random", f"{shares.QUANTITY['opponent']}, {shares.CORRECT}")
    ]
    assert (excess["claim"], excess["verdict"]) == (shares.CLASS.name, "holds")
    assert ("claim", "TracIn − TracIn, last layer", what) not in rows.index
    assert rows.loc[("claim", "TracIn − Representer point", what), "verdict"] == "holds"


def test_methods_that_explain_different_classes_are_not_compared():
    rows = tabulated()
    what = f"{shares.QUANTITY['proponent']}, {shares.WRONG}"
    assert ("claim", "TracIn − Influence functions", what) in rows.index
    assert ("claim", "TracIn − Representer point", what) not in rows.index
    assert ("claim", "Representer point", what) in rows.index


def test_a_method_at_chance_or_above_tracin_is_not_reproduced():
    worse = {"TracIn": (0.95, 0.7), "Influence functions": (0.0, 0.99)}
    rows = tabulated(shares=worse)
    for method, role in (("Influence functions", "proponent"),
                         ("TracIn − Influence functions", "opponent")):  # fmt: skip
        what = f"{shares.QUANTITY[role]}, {shares.CORRECT}"
        assert rows.loc[("claim", method, what), "verdict"] == "fails"


def test_where_label_and_prediction_differ_both_are_counted():
    rows = tabulated(shares=FEW)
    point = [
        rows.loc[("curve", "Representer point", f"proponents of the {of}, misclassified"), "ours"]
        for of in ("predicted class", "given label")
    ]
    assert point[0] > 60 > 30 > point[1]


@pytest.mark.parametrize(
    ("artifact", "shape", "queries"),
    [(ARTIFACT, (8, 8), 2), (tracin_fig5.ARTIFACT, (9, 9, 3), 1)],
    ids=["grey", "colour"],
)
def test_the_picture_is_drawn_from_pixels_in_the_csv(artifact, shape, queries):
    write_proponents(artifact.experiment, "paper", range(2), shape, FEW)
    artifact.build("paper")
    text = artifact.path("paper", "csv").read_text()
    images = table.from_csv(text).query("kind == 'image'")
    assert len(images) == queries * (1 + 2 * 10), "a query, and ten images of each method"
    assert images["pixels"].str.fullmatch(rf"hex:[0-9a-f]{{{2 * int(np.prod(shape))}}}").all()
    assert set(images["role"]) == {"query", "proponent", "opponent"}
    first = runs.load(artifact.experiment, "paper")[0]
    pixels = images.query("role == 'query'")["pixels"].iat[0]
    assert bytes.fromhex(pixels[4:]) == np.asarray(first.array("query_images"))[0].tobytes()


def test_long_names_of_classes_do_not_run_into_each_other():
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from analysis.ink.proponents import draw as picture

    write_proponents("mnist_proponents", "paper", range(1), shares=FEW)
    rows = shares.tabulate(runs.load("mnist_proponents", "paper"), {})
    figure = picture(table.from_csv(table.to_csv(rows)), ["automobile"] * 10)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    labels = [
        one.xaxis.label.get_window_extent(canvas.get_renderer())
        for one in figure.axes
        if one.get_images()
    ]
    assert len(labels) == 42
    for i, one in enumerate(labels):
        assert not any(one.overlaps(other) for other in labels[i + 1 :])


def test_no_misclassified_query_leaves_its_display_out():
    write_proponents("mnist_proponents", "paper", range(1), shares=FEW, displays=1)
    rows = shares.tabulate(runs.load("mnist_proponents", "paper"), {})
    assert set(rows[rows["kind"] == "image"]["display"]) == {0}
