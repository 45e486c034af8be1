"""Sentence pairs with the lowest and the highest self-influence, and what is wrong with them."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.ink import text_table
from analysis.numbers.claims import Claim, Paper
from analysis.numbers.statistics import over_seeds, single
from analysis.numbers.table import claim, curve, records, tabulated, written
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

CLEAN, UNKNOWN = "clean", "not known"
CLEANEST = Claim(
    "the cleanest data has the lowest self-influence",
    Paper(
        'We verify the hypothesis that the "cleanest" data is the one with the lowest'
        " self-influence",
        "Sec. 5.2",
    ),
    "The share of spoilt pairs among those of the highest self-influence minus that among those of"
    " the lowest, over seeds, each with its own noise.",
    null=0.0,
)
NOTES = "The sentences are of one seed and decide nothing."


def tabulate(runs: list[Run]) -> pd.DataFrame:
    noisy = [run for run in runs if run.metrics["pool"] == "noisy"]
    largest = max((_share(run) for run in noisy), default=0.0)
    chosen = [run for run in noisy if _share(run) == largest]
    if not chosen:
        return tabulated([])
    known = [run for run in chosen if UNKNOWN not in run.array("shown_kind")]
    spoilt = {role: [100 * _spoilt(run, role) for run in known] for role in ("lowest", "highest")}
    rows = [
        curve("Arnoldi", f"spoilt, of the {role}", "%", over_seeds(values))
        for role, values in spoilt.items()
    ]
    gap = over_seeds(np.subtract(spoilt["highest"], spoilt["lowest"]))
    rows.append(claim("highest − lowest", "spoilt", "points", gap, of=CLEANEST, at_least=0.0))
    first = min(chosen, key=lambda run: int(run.config["seed"]))
    shown = [first.array(f"shown_{name}") for name in ("role", "score", "kind", "source", "target")]
    for role, score, kind, source, target in zip(*shown, strict=True):
        text = {"label": str(kind), "title": str(source), "content": str(target)}
        rows.append(curve(str(role), "self-influence", "", single(score), kind="text", **text))
    return tabulated(rows)


def _share(run: Run) -> float:
    return float(run.config["arm"]["share"])


def _spoilt(run: Run, role: str) -> float:
    pairs = zip(run.array("shown_role"), run.array("shown_kind"), strict=True)
    kinds = [str(kind) for name, kind in pairs if str(name).startswith(role)]
    return sum(kind != CLEAN for kind in kinds) / len(kinds)


def draw(table: pd.DataFrame) -> Figure:
    spoilt = [r for r in records(table) if r["quantity"].startswith("spoilt, ") and r["n"]]
    shares = [f"{written(r, '.0f')}% {r['quantity'].removeprefix('spoilt, ')}" for r in spoilt]
    over = f" Over seeds, {' and '.join(shares)} are spoilt." if shares else ""
    notes = f"Numbers are self-influence by Arnoldi; bold is the source, below it the target.{over}"
    heads = (("What is", "wrong"), ("Source and target",))
    return text_table.draw(table, notes, heads)


ARTIFACT = Artifact(
    id="arnoldi_sentences",
    experiment="wmt_filtering",
    tabulate=tabulate,
    draw=draw,
    claims=(CLEANEST,),
    notes=NOTES,
    title="Sentence pairs with the lowest and the highest self-influence",
    claim="Pairs of high self-influence are noise; those of low self-influence are clean.",
    paper="Arnoldi (arXiv:2112.03052), Sec. 5.2 and C.3",
    deviations=("The paper's examples (Sec. C.3) were not available: no pair can be compared.",),
    tier_notes={
        "smoke": "Smoke tier: generated sentences, spoilt by construction.",
        "small": "Small tier: captions of Multi30k, spoilt by construction, which names the kind.",
    },
    needs=lambda config: config["arm"].get("method") == "Arnoldi",
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
