"""Proponents and opponents: the shares and the claims of TracIn's Figures 5, 6 and 9."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from analysis.numbers.cells import packed
from analysis.numbers.claims import MEAN, Claim, Ours
from analysis.numbers.frame import Frame, Method, Observation, tidy
from analysis.numbers.statistics import difference, over_seeds, single
from analysis.numbers.table import Row, claim, curve, records, tabulated, written
from experiments.laboratory.runs import Run

RANDOM, CORRECT, WRONG = "random", "correctly classified", "misclassified"
STRATA = (CORRECT, RANDOM, WRONG)
ROLES = ("proponent", "opponent")
QUANTITY = {
    "proponent": "proponents of the query's class",
    "opponent": "opponents of the confusable class",
}
AGAINST = {"proponent": "asked", "opponent": "rival"}  # the query's class that is counted
OURS = "TracIn"
TRACIN = Method(OURS)
CONTROL = "Random choice"
MOSTLY = 50.0  # percent: what "mostly" says
ALIKE = 0.95  # share of queries on which two comparable methods explain the same class

ASIDE = "Declared before the runs as a test of which method is the most consistent."
CLASS = Claim(
    "opponents are of the confusable class",
    Ours("Sec. B names dogs for a cat; of any query the model's own confusions say which class."),
    "The share of the top opponents that are of the confusable class, minus that of training"
    " examples at random, of each method.",
    null=0.0,
)
ABOVE = Claim(
    "TracIn has the highest shares", Ours(ASIDE),
    "Both shares of TracIn minus those of each other method (variants excluded) that explains the"
    f" same class for {ALIKE:.0%} of these queries.",
    null=0.0, rule=MEAN,
)  # fmt: skip
VARIANTS = Claim(
    "proponents of other methods are, too", Ours("Controls of our own."),
    "The share of the top proponents that are of the query's class.", null=10.0,
)  # fmt: skip

NOTES = (
    "Shares are of the top proponents and opponents of each query, means over the queries of one"
    " seed; intervals are over seeds, each with its own model and queries. Queries are drawn at"
    " random. Those that are classified as in the paper's figure decide: correctly, or wrongly,"
    " from a longer part of the same random order."
    " The query's class is the one whose score a method explains: the given label for TracIn and"
    " influence functions, the class predicted by the refitted model for representer points. The"
    " confusable class of a correctly classified query is the model's runner-up; of a misclassified"
    " one it is the predicted or the true class, whichever is not the query's class so defined."
)
DEVIATIONS = (
    "The paper shows the top 5 of one query and prints no number; the shares over many queries"
    " decide here, and the picture decides nothing. Its query was declared beforehand: the first of"
    " its kind in the random order of the lowest seed.",
    "The paper remarks that TracIn is more consistent on types of cats and dogs within a class;"
    " here only classes are measured, so that this claim is not run.",
    "Eq. 4 prints the derivative of the loss at the test point; representer points use the training"
    " point, as Yeh et al. (2018) do: the last layer is refitted to the model's own softmax with"
    " lambda 0.003, until its gradient is below 1e-10 of the first. Their score is about the"
    " predicted class's logit and not about a loss.",
)


def observe(runs: list[Run]) -> list[Observation]:
    """The runs with their shares, in percent, as metrics `ROLE CLASS STRATUM`.

    CLASS is an array of the query's classes; "chance" as the role is the exact expectation of
    training examples drawn at random.
    """
    seen = []
    for run in runs:
        names = product(("chance", *ROLES), ("asked", "rival", "label", "predicted"), STRATA)
        values = {" ".join(name): _share(run, *name) for name in names}
        seed, method = int(run.config["model"]["seed"]), Method(str(run.metrics["method"]))
        seen.append(Observation(seed, method, run, values))
    return seen


def _queries(run: Run, stratum: str) -> np.ndarray:
    """Which queries belong to a stratum; axis: (queries,)."""
    random = np.asarray(run.array("random"), dtype=bool)
    right = np.asarray(run.array("predicted") == run.array("label"))
    return {RANDOM: random, CORRECT: random & right, WRONG: ~right}[stratum]


def _share(run: Run, role: str, name: str, stratum: str) -> float:
    """Percent of the top of a stratum's queries whose label is that class; nan without queries."""
    chosen = _queries(run, stratum)
    if not chosen.any():
        return math.nan
    classes = run.array(name)[chosen]
    if role == "chance":
        return 100 * float(run.array("class_share")[classes].mean())  # axis: (classes,)
    labels = run.array(f"{role}_label")[chosen]  # axes: (queries, places)
    return 100 * float((labels == classes[:, None]).mean())


def tabulate(
    runs: list[Run],
    claims: Mapping[str, Claim],
    stratum: str = CORRECT,
    displays: Sequence[int] = (0, 1),
    least: float = MOSTLY,
    opponents: Claim = CLASS,
) -> pd.DataFrame:
    """Make the rows: shares in all strata, evidence from `stratum`, images of `displays`.

    `claims` are those about the proponents of a method, by its name: more than `least` percent are
    of the query's class. `opponents` is that about the opponents of the same methods. A display is
    a position in the experiment's `queries.shown`.
    """
    seen = observe(runs)
    frame = tidy(seen)
    names = list(dict.fromkeys(one.method for one in seen))
    rows = [row for stratum in STRATA for row in _shares(frame, names, stratum)]
    alike = [name for name in names if _alike(seen, name, stratum)]
    rows += _proponents(frame, names, claims, stratum, least)
    rows += _opponents(frame, names, dict.fromkeys(claims, opponents), stratum)
    rows += _compared(frame, alike, stratum)
    return tabulated([*rows, *(row for place in displays for row in _images(seen, place))])


def _shares(frame: Frame, names: list[Method], stratum: str) -> list[Row]:
    rows = []
    for role, name in AGAINST.items():
        more = {"role": role, "stratum": stratum}
        quantity = f"{QUANTITY[role]}, {stratum}"
        for method in names:
            ours = frame.estimate(f"{role} {name} {stratum}", method)
            rows.append(curve(method, quantity, "%", ours, **more))
        chance = frame.estimate(f"chance {name} {stratum}", names[0])
        rows.append(curve(CONTROL, quantity, "%", chance, **more))
    if stratum == WRONG:  # elsewhere the two are the same class, up to a few queries
        classes = (("label", "given label"), ("predicted", "predicted class"))
        for role, (name, what), method in product(ROLES, classes, names):
            ours = frame.estimate(f"{role} {name} {WRONG}", method)
            quantity = f"{role}s of the {what}, {WRONG}"
            rows.append(curve(method, quantity, "%", ours, stratum=stratum))
    return rows


def _proponents(
    frame: Frame, names: list[Method], claims: Mapping[str, Claim], stratum: str, least: float
) -> list[Row]:
    """The share of the query's class, by method."""
    metric, quantity = f"proponent asked {stratum}", f"{QUANTITY['proponent']}, {stratum}"
    return [
        claim(
            method,
            quantity,
            "%",
            frame.estimate(metric, method),
            of=claims.get(str(method), VARIANTS),
            at_least=least,
        )
        for method in names
    ]


def _opponents(
    frame: Frame, names: list[Method], claims: Mapping[str, Claim], stratum: str
) -> list[Row]:
    """The share of the confusable class minus that of examples at random, by method."""
    quantity, rows = f"{QUANTITY['opponent']}, {stratum}", []
    for method in names:
        values, chance = (
            frame.by_seed(f"{role} rival {stratum}", method) for role in ("opponent", "chance")
        )
        ours, of = over_seeds(difference(values, chance)), claims.get(str(method), CLASS)
        rows.append(claim(f"{method} − random", quantity, "points", ours, of=of, at_least=0.0))
    return rows


def _compared(frame: Frame, alike: list[Method], stratum: str) -> list[Row]:
    """TracIn's shares minus those of the methods that explain the same class."""
    rows = []
    for (role, name), method in product(AGAINST.items(), alike):
        gap = frame.paired(f"{role} {name} {stratum}", TRACIN, method)
        label, quantity = f"{OURS} − {method}", f"{QUANTITY[role]}, {stratum}"
        rows.append(claim(label, quantity, "points", gap, of=ABOVE, at_least=0.0))
    return rows


def _alike(seen: list[Observation], method: Method, stratum: str) -> bool:
    """Whether another method than TracIn, no variant, explains the same class as TracIn does."""
    ours = {one.seed: one.run for one in seen if one.method == TRACIN}
    same = [
        np.asarray(o.run.array("asked") == ours[o.seed].array("asked"))[_queries(o.run, stratum)]
        for o in seen
        if o.method == method and o.seed in ours
    ]
    other = method != TRACIN and "," not in str(method)
    return other and bool(same) and float(np.concatenate(same).mean()) >= ALIKE


def _images(seen: list[Observation], display: int) -> list[Row]:
    """The query and its top examples, of the lowest seed in which every method has it."""
    names = {one.method for one in seen}
    groups = {
        seed: [o for o in seen if o.seed == seed and _place(o.run, display) >= 0]
        for seed in sorted({o.seed for o in seen})
    }
    full = [group for group in groups.values() if len(group) == len(names)]
    if not full:
        return []
    first = full[0][0].run
    at = _place(first, display)
    query = {n: int(first.array(n)[at]) for n in ("label", "predicted")}
    about = {"display": display, "role": "query", "rank": 0}
    rows = [_image("", math.nan, first.array("query_images")[display], query, **about)]
    for one in full[0]:
        run, top = one.run, one.run.array("proponent_index").shape[1]
        own = {n: int(run.array(n)[at]) for n in ("asked", "rival")}
        for role in ROLES:
            for rank in range(top):
                facts = {n: int(run.array(f"{role}_{n}")[at, rank]) for n in query}
                score = float(run.array(f"{role}_score")[at, rank])
                pixels = run.array(f"{role}_images")[display, rank]
                about = {"display": display, "role": role, "rank": rank + 1, **own}
                rows.append(_image(str(one.method), score, pixels, facts, **about))
    return rows


def _place(run: Run, display: int) -> int:
    shown = np.asarray(run.array("shown"))
    return int(shown[display]) if display < len(shown) else -1


def _image(
    method: str, score: float, pixels: np.ndarray, facts: dict[str, int], **more: Any
) -> Row:
    shape = {"height": pixels.shape[0], "channels": 1 if pixels.ndim == 2 else pixels.shape[2]}
    given = {"given": facts["label"], "predicted": facts["predicted"], **shape}
    about = {"kind": "image", **given, "pixels": packed(pixels), **more}
    return curve(method, "score", "", single(score), **about)


def page(table: pd.DataFrame) -> pd.DataFrame:
    """The methods side by side, for the report."""
    wide: dict[str, Row] = {}
    for row in records(table[table["kind"] == "curve"]):
        line = wide.setdefault(row["method"], {"method": row["method"]})
        line[f"{row['quantity']}, %"] = written(row, ".1f")
        line["seeds"] = str(max(int(line.get("seeds", 0)), int(row["n"])))
    return pd.DataFrame(list(wide.values())).fillna("")
