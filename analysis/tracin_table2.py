"""TracIn, Table 2: proponents of a text, and how often proponents are of the query's class."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.ink import text_table
from analysis.numbers import explored
from analysis.numbers.claims import Claim, Ours, Paper
from analysis.numbers.statistics import Interval, difference, over_seeds, single
from analysis.numbers.table import Row, claim, curve, records, tabulated, written
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

TOPS = (3, 5)
FIRST = TOPS[0]
MOSTLY = 0.9  # a share above which "all examples shown" does not depend on a lucky example
NAMES = {"TracIn": "TracIn", "NearestFeatures": "Nearest features"}
LISTED, WRITTEN = 8, 3  # near-duplicates in the numbers, and under the table
Measure = Callable[[Run], float]

SAME = Claim(
    "proponents have the example's label and prediction",
    Paper("All examples shown have the same label and prediction.", "appendix, Table 2, caption"),
    f"The share of the top {FIRST} proponents that do, over random queries that are predicted"
    f" right, as the paper's is, above {MOSTLY:g}: the paper shows three of three. Chance is one"
    " class of fourteen.",
    null=1 / 14,
)
LABEL = Claim(
    "more proponents have the query's label than by chance",
    Ours("The share over many queries, right or wrong."),
    f"The share of the top {FIRST} proponents that have the query's label, minus that of all"
    " training texts; the same with near-duplicates left out.",
    null=0.0,
)
EVERY_QUERY = Claim(
    "proponents have label and prediction of every query",
    Ours("Of a query that is predicted wrong, few training texts can have label and prediction."),
    f"The share of the top {FIRST} with label and prediction of the query, over all queries, above"
    f" {MOSTLY:g}.",
    null=1 / 14,
)
NOTES = (
    "Each seed has its own split of the same rows, its own model and its own random queries. The"
    " table itself shows one query and decides nothing."
)


def tabulate(runs: list[Run]) -> pd.DataFrame:
    groups = {
        name: {_seed(run): run for run in runs if run.config["method"]["type"] == kind}
        for kind, name in NAMES.items()
    }
    rows: list[Row] = []
    for name, members in groups.items():
        rows += _shares(name, members) if members else []
    traced, control = groups["TracIn"], groups["Nearest features"]
    if not traced:
        return tabulated(rows)
    for top in TOPS if control else ():
        gap = difference(*(_by_seed(g, _mean("same_label", top)) for g in (traced, control)))
        label = "TracIn − Nearest features"
        rows.append(curve(label, f"same label, top {top}", "", _estimate(gap)))
    first = traced[min(traced)]
    return tabulated([*rows, *_claims(traced), *_texts(first), *_duplicates(first)])


def _seed(run: Run) -> int:
    return int(run.config["model"]["seed"])


def _by_seed(members: dict[int, Run], measure: Measure) -> pd.Series:
    return pd.Series({seed: measure(members[seed]) for seed in sorted(members)})


def _estimate(values: pd.Series) -> Interval:
    return over_seeds(values.dropna().to_numpy(dtype=float))


def _mean(name: str, top: int | None = None) -> Measure:
    """The mean of an array over its first `top` places; axes: ([queries,] places)."""
    return lambda run: float(run.array(name)[..., :top].astype(float).mean())


def _distinct(top: int) -> Measure:
    """The share with near-duplicates left out, over the places that a list has."""

    def measure(run: Run) -> float:
        places = run.array("distinct_same_label")[:, :top]
        return float(places[places >= 0].mean())

    return measure


def _shares(name: str, members: dict[int, Run]) -> list[Row]:
    rows = []

    def add(method: str, quantity: str, measure: Measure) -> None:
        rows.append(curve(method, quantity, "share", _estimate(_by_seed(members, measure))))

    if name == "TracIn":
        add("Model", "accuracy, test", lambda run: float(run.metrics["accuracy_test"]))
        add("Chance", "same label", _mean("chance"))
    for top in TOPS:
        add(name, f"same label, top {top}", _mean("same_label", top))
        add(name, f"same label and prediction, top {top}", _mean("same_label_and_prediction", top))
        add(name, f"near-duplicates, top {top}", _mean("twin", top))
        add(name, f"same label without near-duplicates, top {top}", _distinct(top))
    if name == "TracIn":
        for top in TOPS:
            add("TracIn, opponents", f"same label, top {top}", _mean("opponent_same_label", top))
        for what in ("same label", "same label and prediction"):
            for correct, word in ((True, "right"), (False, "wrong")):
                share = _share_where(what.replace(" ", "_"), correct)
                add(name, f"{what}, top {FIRST}, queries predicted {word}", share)
    return rows


def _share_where(name: str, correct: bool) -> Measure:
    """The share over queries that were predicted right, or wrong; nan if there are none."""

    def measure(run: Run) -> float:
        chosen = np.asarray(run.array("query_correct")) == correct
        places = run.array(name)[chosen, :FIRST]
        return float(places.mean()) if len(places) else math.nan

    return measure


def _claims(traced: dict[int, Run]) -> list[Row]:
    chance = _by_seed(traced, _mean("chance"))
    above = _estimate(difference(_by_seed(traced, _mean("same_label", FIRST)), chance))
    distinct = _estimate(difference(_by_seed(traced, _distinct(FIRST)), chance))
    both = _estimate(_by_seed(traced, _mean("same_label_and_prediction", FIRST)))
    right = _estimate(_by_seed(traced, _share_where("same_label_and_prediction", True)))
    name, top, mostly = "TracIn − Chance", f"top {FIRST}", {"at_least": MOSTLY}
    what = f"same label and prediction, {top}"
    without = f"same label without near-duplicates, {top}"
    return [
        claim("TracIn", f"{what}, queries predicted right", "share", right, of=SAME, **mostly),
        claim(name, f"same label, {top}", "", above, of=LABEL, at_least=0.0),
        claim(name, without, "", distinct, of=LABEL, at_least=0.0),
        claim("TracIn", what, "share", both, of=EVERY_QUERY, **mostly),
    ]


def _texts(run: Run) -> list[Row]:
    rows = []
    columns = {n: run.array(f"shown_{n}") for n in ("label", "prediction", "title", "content")}
    for place, role in enumerate(run.array("shown_role")):
        score = single(run.array("shown_score")[place])
        words = {name: str(values[place]) for name, values in columns.items()}
        rows.append(curve(str(role), "score", "", score, kind="text", **words))
    return rows


def _duplicates(run: Run) -> list[Row]:
    """Name the near-duplicates that are most alike, of the seed that is shown."""
    likeness = np.asarray(run.array("twin_likeness"))
    rows = []
    for place in np.argsort(-likeness, kind="stable")[:LISTED]:
        texts = {"title": str(run.array("twin_title")[place])}
        texts |= {"kind": "twin", "twin_of": str(run.array("twin_of")[place])}
        rows.append(curve("near-duplicate", "words shared", "", single(likeness[place]), **texts))
    return rows


def draw(table: pd.DataFrame) -> Figure:
    curves = {(r["method"], r["quantity"]): r for r in records(table[table["kind"] == "curve"])}

    def share(method: str, quantity: str) -> str:
        row = curves.get((method, quantity))
        return written(row, ".3f") if row else "not run"

    top = f"same label, top {FIRST}"
    notes = (
        "Numbers under proponents and opponents are TracIn scores;"
        f" a wrong prediction is bold. Over random queries, the share of the top {FIRST} with the"
        f" query's class, mean [95% interval over seeds], is {share('TracIn', top)} for TracIn,"
        f" {share('Nearest features', top)} for nearest features and"
        f" {share('Chance', 'same label')} by chance; near-duplicates are"
        f" {share('TracIn', f'near-duplicates, top {FIRST}')} of TracIn's top {FIRST}."
        f"{_most_alike(table)}"
    )
    return text_table.draw(table, notes)


def _most_alike(table: pd.DataFrame) -> str:
    """Name the most similar near-duplicates among the proponents of the seed that is shown."""
    rows = records(table[table["kind"] == "twin"])[:WRITTEN]
    pairs = [f"{r['title'].strip()} and {r['twin_of'].strip()} ({r['ours']:.2f})" for r in rows]
    named = f" Most alike, by the share of words that two texts share: {'; '.join(pairs)}."
    return named if pairs else ""


ARTIFACT = Artifact(
    id="tracin_table2",
    experiment="dbpedia",
    tabulate=tabulate,
    draw=draw,
    claims=(SAME, LABEL, EVERY_QUERY),
    notes=NOTES,
    title="Proponents and opponents of an article in text classification",
    claim="Proponents have the label and the prediction of the example.",
    paper="TracIn (arXiv:2002.08484), appendix, Table 2",
    explore=lambda runs, tier: explored.articles(runs),
    explored="articles for and against a class",
    deviations=(
        "The appendix describes neither the network nor its training: ours is the mean of word"
        " embeddings, weighted by inverse document frequency, and a linear layer, trained by SGD"
        " with momentum; TracIn sums over 4 checkpoints and all parameters.",
        "The example is Manuel Azaña where he is among the test texts, else the first test text of"
        " the class OfficeHolder in the order of the file, on the lowest seed. The paper shows"
        " three proponents; opponents are ours.",
        "Shares over random test queries, chance, the nearest texts by the cosine of the model's"
        " features, and near-duplicates are ours: two texts are near-duplicates if they share 0.6"
        " or more of all words in either; one among proponents resembles the query or a proponent"
        " above it. Lists without them are filled up from the 50 first.",
    ),
    remarks=(
        "The paper's example is predicted right. For a query that is predicted wrong, only a"
        " training text that is predicted wrong in the same way has its label and its prediction:"
        " so queries that are predicted right decide.",
    ),
    tier_notes={
        "smoke": (
            "Smoke tier: a generated encyclopedia of three classes in place of DBpedia, whose texts"
            " are made of templates and mostly near-duplicates; numbers are not comparable."
        ),
        "small": (
            "Small tier: 7,600 rows of the original test file, 6,000 of them for training, in place"
            " of the 560,000 training rows; Manuel Azaña is not among them."
        ),
    },
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
