"""Proponents and opponents: the shares, the claims and the picture that Figures 5, 6 and 9 share.

Made of runs of experiments.proponents.measure whose configs have `model.seed`. An artifact is
`tabulate` and `draw` with its strata, its displays and its names of classes filled in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.numbers.cells import packed
from analysis.numbers.statistics import Interval, difference, over_seeds
from analysis.numbers.table import Row, claim, curve, records, tabulated, written
from experiments.laboratory.runs import Run

RANDOM, CORRECT, WRONG = "random", "correctly classified", "misclassified"
ROLES = ("proponent", "opponent")
QUANTITY = {
    "proponent": "proponents of the query's class",
    "opponent": "opponents of the confusable class",
}
OF = {"proponent": "asked", "opponent": "rival"}  # the class that a share is counted against
OURS = "TracIn"
CONTROL = "Random choice"
ALIKE = 0.95  # of a stratum's queries on which two methods must explain the same class

RULE = (
    "Shares are of the top proponents and opponents of each query, means over the queries of one"
    " seed; intervals are Student's over seeds, each with its own model and queries. Queries are"
    " drawn at random, and those of them that are classified as in the paper's figure decide:"
    " correctly, or, from a longer part of the same order, wrongly."
    " The query's class is the one whose score a method explains: the given label for TracIn and"
    " influence functions, the class predicted by the refitted model for representer points. The"
    " confusable class of a correctly classified query is the model's runner-up; of a misclassified"
    " one it is the predicted or the true class, whichever is not the query's class so defined."
    " Claims: for each method (1) more proponents are of the query's class, and (2) more opponents"
    " of the confusable class, than of training examples chosen at random (exact expectation);"
    " (3) TracIn is most consistent: both its shares exceed each other method's that explains the"
    f" same class of {ALIKE:.0%} of these queries (variants of a method aside)."
)
DEVIATIONS = (
    "The paper shows the top 5 of one query and prints no number; the shares over many queries"
    " decide here, and the picture decides nothing. Its query was declared beforehand: the first of"
    " its kind in the random order of the lowest seed.",
    "The paper's remark that TracIn is more consistent on the types of cats and dogs, within a"
    " class, is measured by classes alone.",
    "Eq. 4 prints the derivative of the loss at the test point; representer points use the training"
    " point, as Yeh et al. (2018) do: the last layer is refitted to the model's own softmax with"
    " lambda 0.003, until its gradient is below 1e-10 of the first. Their score is about the"
    " predicted class's logit and not about a loss.",
)


@dataclass(frozen=True)
class Observation:
    """One run: a method on the model of one seed."""

    seed: int
    method: str
    run: Run

    def queries(self, stratum: str) -> np.ndarray:
        """Which queries belong to a stratum, (m,) bool."""
        random = np.asarray(self.run.array("random"), dtype=bool)
        right = np.asarray(self.run.array("predicted")) == np.asarray(self.run.array("label"))
        return {RANDOM: random, CORRECT: random & right, WRONG: ~right}[stratum]

    def share(self, role: str, of: str, stratum: str) -> float:
        """Percent of the top of a stratum whose label is the query's `of`; nan without queries."""
        rows = self.queries(stratum)
        if not rows.any():
            return float("nan")
        labels = np.asarray(self.run.array(f"{role}_label"))[rows]
        return 100 * float((labels == np.asarray(self.run.array(of))[rows, None]).mean())

    def chance(self, of: str, stratum: str) -> float:
        """The same of training examples drawn at random: its exact expectation."""
        rows = self.queries(stratum)
        if not rows.any():
            return float("nan")
        share = np.asarray(self.run.array("class_share"))
        return 100 * float(share[np.asarray(self.run.array(of))[rows]].mean())


def observe(found: list[Run]) -> list[Observation]:
    """The runs by seed and method, in their order."""
    return [Observation(int(r.config["model"]["seed"]), str(r.metrics["method"]), r) for r in found]


def names(seen: list[Observation]) -> list[str]:
    """The methods' display names, each once, in the order of the runs."""
    return list(dict.fromkeys(one.method for one in seen))


def tabulate(
    found: list[Run], strata: Sequence[str] = (CORRECT,), displays: Sequence[int] = (0, 1)
) -> pd.DataFrame:
    """Make the rows: shares in all strata, claims in `strata`, images of `displays`.

    A display is a position in the experiment's `queries.shown`.
    """
    seen = observe(found)
    rows = [row for stratum in (CORRECT, RANDOM, WRONG) for row in _shares(seen, stratum)]
    rows += [row for stratum in strata for row in _claims(seen, stratum)]
    return tabulated([*rows, *(row for place in displays for row in _images(seen, place))])


def _shares_by_seed(
    seen: list[Observation], method: str, role: str, of: str, stratum: str
) -> pd.Series:
    mine = {o.seed: o.share(role, of, stratum) for o in seen if o.method == method}
    return pd.Series(mine, dtype=float).dropna()


def _chance_by_seed(seen: list[Observation], method: str, of: str, stratum: str) -> pd.Series:
    mine = {o.seed: o.chance(of, stratum) for o in seen if o.method == method}
    return pd.Series(mine, dtype=float).dropna()


def _named(role: str, stratum: str) -> str:
    return f"{QUANTITY[role]}, {stratum}"


def _shares(seen: list[Observation], stratum: str) -> list[Row]:
    rows = []
    for role, of in OF.items():
        more = {"role": role, "stratum": stratum}
        quantity = _named(role, stratum)
        for method in names(seen):
            ours = over_seeds(_shares_by_seed(seen, method, role, of, stratum))
            rows.append(curve(method, quantity, "%", ours, **more))
        chance = over_seeds(_chance_by_seed(seen, seen[0].method, of, stratum))
        rows.append(curve(CONTROL, quantity, "%", chance, **more))
    if stratum == WRONG:  # elsewhere the two are the same class, up to a few queries
        for role in ROLES:
            for of, what in (("label", "given label"), ("predicted", "predicted class")):
                for method in names(seen):
                    ours = over_seeds(_shares_by_seed(seen, method, role, of, WRONG))
                    quantity = f"{role}s of the {what}, {WRONG}"
                    rows.append(curve(method, quantity, "%", ours, stratum=stratum))
    return rows


def _claims(seen: list[Observation], stratum: str) -> list[Row]:
    rows = []
    for role, of in OF.items():
        quantity = _named(role, stratum)
        shares = {m: _shares_by_seed(seen, m, role, of, stratum) for m in names(seen)}
        for method, mine in shares.items():
            excess = difference(mine, _chance_by_seed(seen, method, of, stratum))
            ours = over_seeds(excess)
            rows.append(claim(f"{method} − random", quantity, "points", ours, at_least=0.0))
        for method, other in shares.items():
            if OURS in shares and "," not in method and _alike(seen, method, stratum):
                more = over_seeds(difference(shares[OURS], other))
                rows.append(claim(f"{OURS} − {method}", quantity, "points", more, at_least=0.0))
    return rows


def _alike(seen: list[Observation], method: str, stratum: str) -> bool:
    """Whether another method than TracIn explains the same class of nearly all queries."""
    ours = {o.seed: o for o in seen if o.method == OURS}
    same = [
        np.asarray(o.run.array("asked") == ours[o.seed].run.array("asked"))[o.queries(stratum)]
        for o in seen
        if o.method == method and o.seed in ours
    ]
    return method != OURS and bool(same) and float(np.concatenate(same).mean()) >= ALIKE


def _images(seen: list[Observation], display: int) -> list[Row]:
    """The query and its top examples, of the lowest seed in which every method has it."""
    there = {
        seed: [o for o in seen if o.seed == seed and _place(o.run, display) >= 0]
        for seed in sorted({o.seed for o in seen})
    }
    full = [mine for mine in there.values() if len(mine) == len(names(seen))]
    if not full:
        return []
    first = full[0][0].run
    at = _place(first, display)
    query = {n: int(first.array(n)[at]) for n in ("label", "predicted")}
    rows = [
        _image("", float("nan"), np.asarray(first.array("query_images"))[display], query)
        | {"display": display, "role": "query", "rank": 0}
    ]
    for one in full[0]:
        run, top = one.run, one.run.array("proponent_index").shape[1]
        own = {n: int(run.array(n)[at]) for n in ("asked", "rival")}
        for role in ROLES:
            for rank in range(top):
                facts = {n: int(run.array(f"{role}_{n}")[at, rank]) for n in query}
                score = float(run.array(f"{role}_score")[at, rank])
                pixels = np.asarray(run.array(f"{role}_images"))[display, rank]
                more = {"display": display, "role": role, "rank": rank + 1, **own}
                rows.append(_image(one.method, score, pixels, facts) | more)
    return rows


def _place(run: Run, display: int) -> int:
    shown = np.asarray(run.array("shown"))
    return int(shown[display]) if display < len(shown) else -1


def _image(method: str, score: float, pixels: np.ndarray, facts: dict[str, int]) -> Row:
    row = curve(method, "score", "", Interval(score, float("nan"), float("nan"), 1))
    shape = {"height": pixels.shape[0], "channels": 1 if pixels.ndim == 2 else pixels.shape[2]}
    given = {"given": facts["label"], "predicted": facts["predicted"]}
    return row | {"kind": "image"} | given | shape | {"pixels": packed(pixels)}


def page(table: pd.DataFrame) -> pd.DataFrame:
    """The methods side by side, for the report."""
    wide: dict[str, Row] = {}
    for row in records(table[(table["kind"] == "curve")]):
        line = wide.setdefault(row["method"], {"method": row["method"]})
        line[f"{row['quantity']}, %"] = written(row, ".1f")
        line["seeds"] = str(max(int(line.get("seeds", 0)), int(row["n"])))
    return pd.DataFrame(list(wide.values())).fillna("")
