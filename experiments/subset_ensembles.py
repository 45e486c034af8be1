"""How many models influence estimation needs: agreement of two halves of an ensemble.

Reproduces Figures 1, 5 and 6 of Subsets (Doubov et al., 2022): the IOU of the pairs that two
estimates put above a threshold. The preset `released` makes them from the models that Feldman and
Zhang (2020) trained, where a user has their files, and compares with their published pairs;
`c-scores` holds memorization against published C-scores. Deviations: at the small tier, small
networks on MNIST and CIFAR-10. We add the IOU expected by chance and the comparison with models
outside the estimate.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from experiments.ensembles import published, subsets
from experiments.ensembles.published import Blind, Pairs, Released
from experiments.laboratory import counting
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.runs import Run
from experiments.laboratory.work import Step, Work
from methods.ensembles.masks import Packed
from methods.ensembles.overlap import iou
from methods.ensembles.subset import influence
from methods.progress import track
from methods.randomness import numpy_generator

SHOWN = (0.1, 0.3)
THRESHOLDS = tuple(round(0.02 * i, 2) for i in range(1, 41))


@dataclass(frozen=True)
class Train:
    """A part of an ensemble, which one job trains."""

    part: subsets.Part = subsets.Part(subsets.Ensemble())


@dataclass(frozen=True)
class Halves:
    """Two estimates by `sizes` models each, with no model in common, `splits` times."""

    ensemble: subsets.Ensemble | Released = subsets.Ensemble()
    n_models: int = 2_000
    sizes: tuple[int, ...] = (25, 50, 100, 200, 400, 1_000)
    splits: int = 5


@dataclass(frozen=True)
class Restarts:
    """Two estimates by `n_models` models on the same subsets, with new seeds in the second."""

    ensemble: subsets.Ensemble = subsets.Ensemble()
    n_models: int = 50


Config = Train | Halves | Restarts | Pairs | Blind


def run(config: Config, scratch: Path) -> dict[str, Any]:
    if isinstance(config, Train):
        metrics = subsets.part(config.part).metrics
        return {name: metrics[name] for name in metrics if name.startswith("accuracy")}
    if isinstance(config, Pairs):
        return published.pairs(config)
    if isinstance(config, Blind):
        return published.blind(config)
    return _halves(config) if isinstance(config, Halves) else _restarts(config)


def _halves(config: Halves) -> dict[str, Any]:
    """IOU (n_sizes, splits, n_thresholds) of each kind, on all pairs and on memorized ones.

    hard, soft             two estimates, both from correctness or both from probabilities
    null                   two estimates from correctness shuffled among models: chance alone
    hard_full, soft_full   an estimate, and the one from correctness of the whole ensemble
    hard_rest, soft_rest   an estimate, and the one from correctness of all other models
    """
    if 2 * max(config.sizes) > config.n_models:
        raise UserError(
            f"two halves of {max(config.sizes)} models need {2 * max(config.sizes)}, the ensemble "
            f"has {config.n_models}: lower sizes or raise n_models"
        )
    whole = published.gathered(config.ensemble, config.n_models)
    full = _hard(whole, np.arange(config.n_models))
    memorized = whole.memorized()
    curves: dict[str, np.ndarray] = {}
    shape = len(config.sizes), config.splits, len(THRESHOLDS)
    tasks = [(i, j) for i in range(len(config.sizes)) for j in range(config.splits)]
    for i, j in track(tasks, "splits"):
        size = config.sizes[i]
        draw = numpy_generator(config.ensemble.seed, "halves", size, j)
        order = draw.permutation(config.n_models)
        for name, one, other in _pairs(whole, full, order, size, draw):
            for kind, some in (("all", slice(None)), ("memorized", memorized)):
                curve = iou(one[:, some], other[:, some], THRESHOLDS).numpy()
                curves.setdefault(f"{name}_{kind}", np.full(shape, np.nan))[i, j] = curve
    passed = [
        [float((full[:, some] >= t).sum()) for t in THRESHOLDS] for some in (slice(None), memorized)
    ]
    return {
        "accuracy": float(whole.right.unpacked()[:, whole.n_train :].double().mean()),
        "memorized": int(memorized.sum()),
        "thresholds": np.array(THRESHOLDS),
        "sizes": np.array(config.sizes),
        "pairs_above": np.array(passed),
        **curves,
    }


def _pairs(
    whole: subsets.Outcomes, full: Tensor, order: np.ndarray, size: int, draw: np.random.Generator
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The kinds of comparison, each with two estimates (n_query, n_train)."""
    first, second = order[:size], order[size : 2 * size]
    hard, soft = _hard(whole, first), whole.soft_influence(first)
    yield "hard", hard, _hard(whole, second)
    yield "soft", soft, whole.soft_influence(second)
    shuffled = draw.permutation(first), draw.permutation(second)
    yield "null", _hard(whole, first, shuffled[0]), _hard(whole, second, shuffled[1])
    yield "hard_full", hard, full
    yield "soft_full", soft, full
    rest = _hard(whole, order[size:])
    yield "hard_rest", hard, rest
    yield "soft_rest", soft, rest


def _restarts(config: Restarts) -> dict[str, Any]:
    """IOU (n_thresholds,) of two ensembles on the same subsets, and of two on different ones."""
    one = subsets.gathered(config.ensemble, 2 * config.n_models)
    again = replace(config.ensemble, restart=config.ensemble.restart + 1)
    other = subsets.gathered(again, config.n_models)
    models = np.arange(config.n_models)
    first, second = _hard(one, models), _hard(one, models + config.n_models)
    restarted = _hard(other, models)
    memorized = one.memorized()
    curves = {}
    for kind, some in (("all", slice(None)), ("memorized", memorized)):
        curves[f"same_{kind}"] = iou(first[:, some], restarted[:, some], THRESHOLDS).numpy()
        curves[f"different_{kind}"] = iou(first[:, some], second[:, some], THRESHOLDS).numpy()
    return {"memorized": int(memorized.sum()), "thresholds": np.array(THRESHOLDS), **curves}


def _hard(whole: subsets.Outcomes, models: np.ndarray, judged: np.ndarray | None = None) -> Tensor:
    """Influence on correctness, by the masks of `models` and the correctness of `judged` ones."""
    masks = Packed(whole.masks.bits[models], whole.masks.width)
    rows = models if judged is None else judged
    right = Packed(whole.right.bits[rows], whole.right.width).unpacked()
    return influence(masks, right[:, whole.n_train :])


def table(results: list[Run]) -> tuple[list[str], list[list[str]]]:
    """One line per part with its accuracy, and one per size with its IOU at two thresholds."""
    rows = []
    for run_ in results:
        config, m = run_.config, run_.metrics
        if config["type"] == "Train":
            part = config["part"]
            source = part["ensemble"]["data"]["source"]
            about = f"{source}, restart {part['ensemble']['restart']}, from model {part['first']}"
            rows.append([about, f"accuracy {m['accuracy_query']:.4f}", ""])
            continue
        source = config["ensemble"]["data"]["source"]
        if config["type"] == "Pairs":
            apart = f"{m['largest_difference']:.2g} apart at most"
            rows.append([f"{source}, {m['published_pairs']:,} published pairs", apart, ""])
            continue
        if config["type"] == "Blind":
            agreement = f"rank correlation {m['agreement']:.3f}"
            rows.append([f"{source}, memorization and C-scores", agreement, ""])
            continue
        thresholds = np.asarray(run_.array("thresholds"))
        at = [int(np.abs(thresholds - t).argmin()) for t in SHOWN]
        if config["type"] == "Restarts":
            curves = {"same subsets": run_.array("same_memorized")}
        else:
            means = np.asarray(run_.array("hard_memorized")).mean(1)
            curves = dict(zip((f"{n} models" for n in config["sizes"]), means, strict=True))
        for name, curve in curves.items():
            rows.append([f"{source}, {name}", *(f"{curve[i]:.3f}" for i in at)])
    return ["ensemble", *(f"IOU at {t:g}" for t in SHOWN)], rows


def work(config: Config) -> Work:
    """What a cell takes, with the parts of the ensemble."""
    if isinstance(config, Train):
        return Work("part", parts=(subsets.work(config.part),))
    data, n = config.ensemble.data, config.n_models
    estimate = counting.dot(data.n_query, 1, data.n_train).operations
    if isinstance(config, Restarts):
        again = replace(config.ensemble, restart=config.ensemble.restart + 1)
        both = *subsets.ensemble_work(config.ensemble, 2 * n), *subsets.ensemble_work(again, n)
        return Work("restarts", (Step(estimate * n, times=3),), both, gpu=False)
    needed: tuple[Work, ...] = ()
    if isinstance(config.ensemble, subsets.Ensemble):
        needed = subsets.ensemble_work(config.ensemble, n)
    if isinstance(config, Pairs | Blind):
        return Work(type(config).__name__.lower(), (Step(estimate * n),), needed, gpu=False)
    sizes = sum(6 * size + n for size in config.sizes) * config.splits
    memory = 10 * 8.0 * data.n_query * data.n_train
    return Work("halves", (Step(estimate, times=sizes),), needed, memory=memory, gpu=False)


def cells(
    ensemble: subsets.Ensemble, n_models: int, sizes: tuple[int, ...], restarts: int
) -> list[Config]:
    """Parts first: an array trains them before a job compares them."""
    again = replace(ensemble, restart=1)
    trained = [Train(one) for one in subsets.parts(ensemble, n_models)]
    anew = [Train(one) for one in subsets.parts(again, restarts)]
    halves = Halves(ensemble, n_models, sizes)
    return [*trained, *anew, halves, Restarts(ensemble, restarts)]


SIZES = (25, 50, 100, 200, 400, 1_000)
PRESETS: dict[str, list[Config]] = {
    "smoke": cells(subsets.SMOKE, 200, (25, 50, 100), 50),
    "small": [*cells(subsets.MNIST, 2_000, SIZES, 50), *cells(subsets.CIFAR, 800, SIZES[:5], 48)],
    "paper": cells(subsets.PAPER, 2_000, SIZES, 50),
    "released": [Halves(Released(), 2_000, SIZES), Pairs()],
    "c-scores": [Blind()],
}

EXPERIMENT = Experiment(
    "subset_ensembles",
    run,
    PRESETS,
    summary="agreement of influence estimates from subset ensembles, by the number of models",
    table=table,
    processes=8,
    seconds={"smoke": 20, "small": 6_890},
    work=work,
    gpu=True,
)

if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
