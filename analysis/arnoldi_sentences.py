"""Sentence pairs with the lowest and the highest self-influence, and what is wrong with them."""

import math
import sys

import pandas as pd
from matplotlib.figure import Figure

from analysis.ink import text_table
from analysis.numbers.statistics import Interval, over_seeds
from analysis.numbers.table import Row, claim, curve, records, tabulated, written
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

CLEAN, UNKNOWN = "clean", "not known"
RULE = (
    "Claim, over seeds, each with another noise: more of the pairs with the highest self-influence"
    " are spoilt than of those with the lowest. The sentences are of one seed and decide nothing."
)


def tabulate(found: list[Run]) -> pd.DataFrame:
    mine = [run for run in found if run.metrics["pool"] == "noisy" and _share(run) == _most(found)]
    if not mine:
        return tabulated([])
    rows: list[Row] = []
    gaps = []
    for role in ("lowest", "highest"):
        spoilt = [100 * _spoilt(run, role) for run in mine if _known(run)]
        what = f"spoilt, of the {role}"
        rows.append(curve("Arnoldi", what, "%", over_seeds(spoilt)))
        gaps.append(spoilt)
    gap = over_seeds([high - low for low, high in zip(*gaps, strict=True)])
    rows.append(claim("highest − lowest", "spoilt", "points", gap, at_least=0.0))
    first = min(mine, key=lambda run: int(run.config["seed"]))
    columns = {name: first.array(f"shown_{name}") for name in ("source", "target", "kind")}
    for place, role in enumerate(first.array("shown_role")):
        score = Interval(float(first.array("shown_score")[place]), math.nan, math.nan, 1)
        more = {
            "label": str(columns["kind"][place]),
            "title": str(columns["source"][place]),
            "content": str(columns["target"][place]),
        }
        rows.append(curve(str(role), "self-influence", "", score, **more) | {"kind": "text"})
    return tabulated(rows)


def _share(run: Run) -> float:
    return float(run.config["arm"]["share"])


def _most(found: list[Run]) -> float:
    return max((_share(run) for run in found if run.metrics["pool"] == "noisy"), default=0.0)


def _known(run: Run) -> bool:
    return UNKNOWN not in {str(kind) for kind in run.array("shown_kind")}


def _spoilt(run: Run, role: str) -> float:
    pairs = zip(run.array("shown_role"), run.array("shown_kind"), strict=True)
    kinds = [str(kind) for name, kind in pairs if str(name).startswith(role)]
    return sum(kind != CLEAN for kind in kinds) / len(kinds)


def draw(table: pd.DataFrame) -> Figure:
    rows = {r["quantity"]: r for r in records(table)}
    told = [
        f"{written(rows[name], '.0f')}% of the {name.split()[-1]}"
        for name in ("spoilt, of the lowest", "spoilt, of the highest")
        if rows[name]["n"]
    ]
    over = f" Over seeds, {' and '.join(told)} are spoilt." if told else ""
    notes = f"Numbers are self-influence by Arnoldi; bold is the source, below it the target.{over}"
    heads = (("What is", "wrong"), ("Source and target",))
    return text_table.draw(table, notes, heads)


ARTIFACT = Artifact(
    id="arnoldi_sentences",
    experiment="wmt_filtering",
    tabulate=tabulate,
    draw=draw,
    rule=RULE,
    title="Sentence pairs with the lowest and the highest self-influence",
    claim="Pairs of high self-influence are noise; those of low self-influence are clean.",
    paper="Scaling Up Influence Functions (arXiv:2112.03052), Sec. 5.2 and C.3",
    deviations=("The paper's examples (Sec. C.3) are not at hand: no pair can be compared.",),
    tier_notes={
        "smoke": "Smoke tier: generated sentences, spoilt by construction.",
        "small": "Small tier: captions of Multi30k, spoilt by construction, which names the kind.",
    },
    needs=lambda config: config["arm"].get("method") == "Arnoldi",
)

if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
