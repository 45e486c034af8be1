"""FastIF's own analysis: recall of kNN, cost and error of s_test, agreement, and run time.

Reproduces Sec. 3.5 (Table 1), 5.1 (Figure 3), 5.2 (Figure 4) and 5.3 (Table 3) of Guo et al.
(2021) on MultiNLI, each with controls that the paper lacks. Deviations: the artifacts list those of
each tier; the small tier has another encoder and a subset of MultiNLI.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.laboratory import counting
from experiments.laboratory import work as laboratory
from experiments.laboratory.disk import checkpointed
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.runs import Run
from experiments.pairs import influence
from experiments.pairs.influence import RELEASED, Plan, as_metrics, check_counts, gradient_products
from experiments.pairs.inverse import Everything, Inverse
from experiments.pairs.models import (
    PAPER,
    SMOKE,
    Model,
    Sample,
    Trained,
    pairs_of,
    small,
    trained,
    unit,
)
from experiments.pairs.runtime import Product, RunTime
from methods.fastif import FastIF, inverted, neighbours
from methods.rows.gradients import gradient_rows
from methods.workers import here

KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "harmful": torch.neg,
    "helpful": torch.clone,
    "unsigned": torch.abs,
}
BLOCK = 25  # points whose s_test are in memory at once: half a GB at 5.5M parameters
SELECTORS = ("kNN", "H = I")


@dataclass(frozen=True)
class Agreement:
    """Whether fast influence agrees with full influence and with plain gradients (Sec. 5.3).

    The systems differ in how s_test is estimated, each with minibatches of its own.

    full      no kNN, a large B
    fast      a small B; estimated anew for each k, as by separate runs of FastIF
    few       if given, the same damping in as few steps as its own scale needs

    Processes that start together share the repeats of each.
    """

    sample: Sample = Sample("mnli dev")
    n_points: int = 6
    ks: tuple[int, ...] = (1_000, 10_000)
    full: Plan = Plan(k=None, sample=32, repeats=4)
    fast: Plan = Plan(repeats=2)
    few: Plan | None = None

    def plans(self) -> dict[str, Plan]:
        """Every system by name, with a seed for its minibatches."""
        fast = {f"fast_{k}": replace(self.fast, k=k, seed=1 + i) for i, k in enumerate(self.ks)}
        few = {} if self.few is None else {"few": replace(self.few, k=None, seed=1 + len(fast))}
        return {"full": replace(self.full, k=None, seed=0), **fast, **few}

    def run(self, model: Model, scratch: Path) -> dict[str, Any]:
        """`scores_NAME` (n_points, n_train) of each system and of `gradients`, `neighbours`.

        neighbours (n_points, max(ks)) are the candidates, nearest first; `error_NAME` (n_points,)
        the relative error of s_test by the spread of its repeats, nan where there is one.
        """
        classifier = trained(model)
        n_train = len(classifier.pairs)
        check_counts(n_train, ks=self.ks)
        index = influence.balanced(model, self.sample, self.n_points)
        query = influence.examples(model, self.sample, index)
        gradients = gradient_rows(classifier.task, query).dense()
        settings = {name: plan.settle(model) for name, plan in self.plans().items()}
        s_tests = {
            name: checkpointed(
                scratch, name, partial(_s_test, classifier, gradients, plan), here().all
            )
            for name, plan in settings.items()
        }
        means = torch.from_numpy(np.concatenate([s_test["mean"] for s_test in s_tests.values()]))
        directions = torch.cat([means.to(gradients), gradients])
        scores = gradient_products(classifier.task, classifier.train, directions)
        blocks = dict(zip([*settings, "gradients"], scores.split(len(index)), strict=True))
        correlations = ", ".join(
            f"{name} {_correlation(block, blocks['full']):.4f}"
            for name, block in blocks.items()
            if name != "full"
        )
        results = {f"scores_{name}": block.numpy() for name, block in blocks.items()}
        for name, plan in settings.items():
            results |= as_metrics(plan, f"{name}_")
            results[f"error_{name}"] = s_tests[name]["error"]
        features = influence.features(model, self.sample)[index]
        near = neighbours(features, influence.features(model, model.train), max(self.ks))
        return {
            "work": "agreement",
            "n_train": n_train,
            "result": f"Pearson with full over all pairs: {correlations}",
            **results,
            "neighbours": near.numpy(),
            "points": index,
            "right": influence.predicted(model, self.sample)[1][index],
        }


def _s_test(classifier: Trained, gradients: Tensor, settings: FastIF) -> dict[str, np.ndarray]:
    s_test = inverted(classifier.task, classifier.train, gradients, settings, here())
    return {"mean": s_test.mean.cpu().numpy(), "error": s_test.relative_error.cpu().numpy()}


def _correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's correlation of corresponding rows, the mean over rows."""
    rows = zip(one, other, strict=True)
    return float(np.mean([float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in rows]))


@dataclass(frozen=True)
class Recall:
    """How many of the m most influential training pairs are among k selected ones (R@m, Sec. 5.1).

    The truth is the influence over the whole training set, its s_test by `plan`. The k are selected
    by distance of features (kNN), or by absolute inner product of gradients (H = I). Half of
    `n_points` are rightly predicted.
    """

    sample: Sample = Sample("mnli dev")
    n_points: int = 100
    ks: tuple[int, ...] = (10, 100, 163, 1_000, 1_631, 5_000, 10_000)
    ms: tuple[int, ...] = (10, 100, 1_000)
    plan: Plan = Plan(k=None, sample=32, repeats=2)

    def run(self, model: Model, scratch: Path) -> dict[str, Any]:
        """`recall` (selectors, kinds, ms, ks, n_points) and the scores it is made of."""
        train_features = influence.features(model, model.train)
        n_train = len(train_features)
        check_counts(n_train, ks=self.ks, ms=self.ms)
        index = influence.balanced(model, self.sample, self.n_points)
        settings = self.plan.settle(model)
        blocks = []
        for number, points in enumerate(np.split(index, range(BLOCK, len(index), BLOCK))):
            query = influence.examples(model, self.sample, points)
            compute = partial(influence.influences, model, query, settings)
            blocks.append(checkpointed(scratch, f"block-{number}", compute))
        scores, similarity = (
            torch.from_numpy(np.concatenate([block[name] for block in blocks]))
            for name in ("scores", "similarity")
        )
        features = influence.features(model, self.sample)[index]
        orders = (
            neighbours(features, train_features, max(self.ks)),
            similarity.abs().topk(max(self.ks)).indices,
        )
        recall = np.stack([recalls(scores, order, self.ks, self.ms) for order in orders])
        shares = zip(self.ks, recall[0, -1, -1].mean(1), strict=True)
        listed = ", ".join(f"{100 * share:.0f}% at {k:,}" for k, share in shares)
        return {
            "work": "recall",
            "recall": recall,
            "scores": scores.numpy(),
            "similarity": similarity.numpy(),
            "points": index,
            "right": influence.predicted(model, self.sample)[1][index],
            "n_train": n_train,
            "result": f"R@{self.ms[-1]:,} of kNN, unsigned: {listed}",
            "relative_error": np.concatenate([block["relative_error"] for block in blocks]),
            **as_metrics(settings),
        }


def recalls(scores: Tensor, order: Tensor, ks: tuple[int, ...], ms: tuple[int, ...]) -> np.ndarray:
    """R@m of the first k of an order of candidates, (kinds, ms, ks, n_points).

    scores (n_points, n) are the truth; order (n_points, >= max(ks)) has positions, best first.
    """
    n_points, n = scores.shape
    rank = torch.full((n_points, n), n)
    rank.scatter_(1, order, torch.arange(order.shape[1]).expand(n_points, -1))
    out = np.empty((len(KINDS), len(ms), len(ks), n_points))
    for i, oriented in enumerate(KINDS.values()):
        for j, m in enumerate(ms):
            ranks = rank.gather(1, oriented(scores).topk(m).indices)
            for at, k in enumerate(ks):
                out[i, j, at] = (ranks < k).double().mean(1).numpy()
    return out


Work = Recall | Inverse | Agreement | RunTime | Product


@dataclass(frozen=True)
class Config:
    """One of five measurements of one trained model."""

    model: Model = SMOKE
    work: Work = Recall()


def run(config: Config, scratch: Path) -> dict[str, Any]:
    return config.work.run(config.model, scratch)


def work(config: Config) -> laboratory.Work:
    """What a measurement takes, with the model and its passes."""
    model, n = config.model, pairs_of(config.model.train)
    of = unit(model.network, model.labels)
    match config.work:
        case Recall() | Agreement() as asked:
            points = asked.n_points
            plans = [asked.plan] if isinstance(asked, Recall) else list(asked.plans().values())
            steps = [s for plan in plans for s in influence.recursion_steps(plan, model, points)]
            steps += [counting.gradients(of, n), counting.dot(n, of.size, points * len(plans))]
        case Inverse() as asked:
            points, plans = asked.n_points, [Plan(damping=asked.damping, scale=asked.scale)]
            # Of the released settings; where the curvature decides, fewer.
            count = round(200 * max(asked.lengths)) * asked.repeats * points
            steps = [counting.products(of, b, count) for b in asked.samples]
            steps.append(counting.products(of, n, counting.SOLVED, points))
        case RunTime() as asked:
            points, plans = asked.n_points, [RELEASED]
            rounds = points * (asked.takes + 1)
            alone = 2 * asked.steps * (asked.batch + 1)
            steps = [
                counting.products(of, 1, rounds * (alone + 4 * asked.steps)),
                counting.gradients(of, rounds * (2 * asked.candidates + 3 * asked.batched)),
            ]
        case Product() as asked:
            points, plans = 1, [RELEASED]
            steps = [counting.products(of, asked.batch, 2 * asked.batches * asked.takes)]
    sample = [asked.sample] if not isinstance(asked, Product) else []
    memory = counting.FLOAT * of.size * 4 * min(points, BLOCK)
    needed = influence.needed(model, plans[0], *sample)
    return laboratory.Work(type(asked).__name__, tuple(steps), needed, memory=memory)


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

    The run time is that of `timed`, whose trained layers are all differentiated; Hessian products
    are timed on both models.
    """
    as_released = replace(
        agreement,
        full=replace(released, sample=agreement.full.sample, repeats=1),
        fast=released,
        few=Plan(None, sample=agreement.full.sample, damping=released.damping),
    )
    there = replace(released, k=None, sample=recall.plan.sample, repeats=recall.plan.repeats)
    works: list[Work] = [
        recall,
        replace(recall, plan=there),
        inverse,
        replace(inverse, damping=released.damping, scale=released.scale),
        agreement,
        as_released,
    ]
    products = [Config(measured, product) for measured in dict.fromkeys((model, timed))]
    return [*(Config(model, work) for work in works), Config(timed, run_time), *products]


def table(finished: list[Run]) -> tuple[list[str], list[list[str]]]:
    """One line for each cell, with its result in words."""
    rows = []
    for metrics in (cell.metrics for cell in finished):
        damping = metrics.get("damping", metrics.get("full_damping"))
        shown = "" if damping is None else f"{damping:.3g}"
        rows.append([str(metrics["work"]), shown, str(metrics["result"])])
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
            lengths=(1.0, 2.0, 3.0),
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
        small(),
        Model(),
        Recall(ms=(1, 3, 10, 33, 100, 1_000)),  # the first and 33 are the paper's shares
        Inverse(),
        Agreement(),
        RunTime(),
        RELEASED,
        Product(),
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
    work=work,
    processes=4,
    gpu=True,
)


if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
