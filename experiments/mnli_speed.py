"""FastIF's own analysis: recall of kNN, cost and error of s_test, agreement, and run time.

Reproduces Sec. 3.5 (Table 1), 5.1 (Figure 3), 5.2 (Figure 4) and 5.3 (Table 3) of Guo et al.
(2021) on MultiNLI, each with controls that the paper has not. Deviations: those of each tier are
in the artifacts; the small tier has another encoder and a subset of MultiNLI.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.experiment import Experiment
from experiments.hidden import Sample
from experiments.nli_agreement import Agreement
from experiments.nli_curvature import Plan
from experiments.nli_head import Everything
from experiments.nli_inverse import Inverse
from experiments.nli_models import PAPER, SMOKE, Model, small
from experiments.nli_product import Product
from experiments.nli_recall import Recall
from experiments.nli_runtime import RunTime
from experiments.nli_two_way import RELEASED
from experiments.runs import Run

Work = Recall | Inverse | Agreement | RunTime | Product


@dataclass(frozen=True)
class Config:
    """One of five measurements of one trained model."""

    model: Model = SMOKE
    work: Work = Recall()


def run(config: Config, scratch: Path) -> dict[str, Any]:
    return config.work.run(config.model, scratch)


def cells(
    model: Model,
    timed: Model,
    recall: Recall,
    inverse: Inverse,
    agreement: Agreement,
    run_time: RunTime,
    released: Plan,
    product: Product,
) -> list[Config]:
    """One cell of each, and those with a damping twice: by our rule, and as released.

    The run time alone is that of `timed`, of which every trained layer takes part; Hessian
    products are timed on both models.
    """
    again = replace(
        agreement,
        full=replace(released, sample=agreement.full.sample, repeats=1),
        fast=released,
        few=Plan(None, sample=agreement.full.sample, damping=released.damping),
    )
    works: list[Work] = [
        recall,
        inverse,
        replace(inverse, damping=released.damping, scale=released.scale),
        agreement,
        again,
    ]
    products = [Config(one, product) for one in dict.fromkeys((model, timed))]
    return [*(Config(model, work) for work in works), Config(timed, run_time), *products]


def table(found: list[Run]) -> tuple[list[str], list[list[str]]]:
    """A line a cell: what came out, in words."""
    rows = []
    for run_ in found:
        metrics = run_.metrics
        damping = metrics.get("damping", metrics.get("full_damping"))
        told = "" if damping is None else f"{damping:.3g}"
        rows.append([str(metrics["work"]), told, str(metrics["result"])])
    return ["work", "damping", "result"], rows


FEW = Sample("mnli dev", "generated", 240)
WHOLE = Sample("mnli dev", "whole")
PRESETS: dict[str, list[Config]] = {
    "smoke": cells(
        SMOKE,
        SMOKE,
        Recall(FEW, 20, ks=(4, 10, 38, 100, 300), ms=(5, 20), plan=Plan(k=None, depth=20)),
        Inverse(
            sample=FEW,
            n_points=2,
            depths=(20, 30, 40),
            samples=(1, 4),
            repeats=2,
            whole_samples=(1, 4),
            whole_steps=2,
        ),
        Agreement(FEW, 4, (30, 100), Plan(k=None, depth=20, sample=16), Plan(depth=40)),
        RunTime(FEW, 2, ks=(100, 30), batch=8, candidates=3, batched=60, steps=2, takes=1),
        Plan(depth=40, damping=50.0, scale=4e2),
        Product(batch=8, batches=2, takes=1),
    ),
    "small": cells(
        small(), Model(), Recall(), Inverse(), Agreement(), RunTime(), RELEASED, Product()
    ),
    "paper": cells(
        PAPER,
        PAPER,
        Recall(WHOLE, ks=(10, 100, 1_000, 5_000, 10_000, 50_000, 100_000)),
        Inverse(Everything(), WHOLE),
        Agreement(WHOLE, fast=Plan(repeats=4)),
        RunTime(WHOLE, workers=4),
        RELEASED,
        Product(),
    ),
}

EXPERIMENT = Experiment(
    "mnli_speed",
    run,
    PRESETS,
    summary="FastIF on MultiNLI: recall of kNN, error of s_test, agreement, run time",
    table=table,
    seconds={"smoke": 39, "small": 5_050},
    processes=4,
)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
