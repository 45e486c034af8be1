"""Attributions of single networks against the measured effects of training on subsets.

Connects the four papers and is in none of them: how well TracIn, influence functions (FastIF,
Arnoldi), random projections (Arnoldi) and representer points agree with the influence and
memorization that ensembles measure (Subsets), and with networks trained on held-out masks, by the
linear datamodeling score (Park et al., 2023, arXiv:2303.14186).

The ensembles are those of subset_ensembles. Their first masks are held out, for the score; the next
choose dampings; these and the rest make the ensemble's own estimate. Attributions explain networks
trained on the whole set, and measure a query by its log-odds.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.ensembles import attributions, subset_truth, subsets
from experiments.ensembles.subset_truth import Division
from experiments.ensembles.subsets import CIFAR, MEMORIZED, MNIST, PAPER, SMOKE, Outcomes
from experiments.laboratory import counting
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.runs import Run
from experiments.laboratory.work import Work
from methods.ensembles.lds import of_noise
from methods.errors import MethodError
from methods.ihvp.arnoldi import Arnoldi, Krylov
from methods.ihvp.cg import CG
from methods.ihvp.deflated import Deflated
from methods.ihvp.exact import Exact
from methods.ihvp.inverse import Inverse
from methods.ihvp.lissa import LiSSA
from methods.influence import Influence
from methods.progress import track
from methods.random_projection import RandomProjection
from methods.representer import Representer
from methods.rows.projections import Gaussian
from methods.tracin import TracIn

DAMPINGS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


@dataclass(frozen=True)
class Train:
    """The networks trained on the whole set, by one job."""

    whole: attributions.Whole = attributions.Whole(MNIST)


@dataclass(frozen=True)
class Attribution:
    """A method's scores for the first `counts[-1]` networks, each alone and averaged.

    dampings  the one with the best score on the choosing masks, for one network, is used, among
              those that the curvature of no network refuses
    own       whether self-influence is measured too
    """

    division: Division = Division()
    whole: attributions.Whole = attributions.Whole(MNIST)
    method: attributions.Method = TracIn()
    counts: tuple[int, ...] = (1, 2, 5, 10)
    dampings: tuple[float, ...] = ()
    own: bool = True

    def __post_init__(self) -> None:
        if self.counts[-1] > self.whole.count or self.whole.ensemble != self.division.ensemble:
            raise UserError(
                f"an average over {self.counts[-1]} networks of {self.whole.count}: raise"
                " whole.count or lower counts, and set whole.ensemble to division.ensemble"
            )

    @property
    def tuned(self) -> bool:
        return bool(self.dampings) and isinstance(self.method, Influence)


@dataclass(frozen=True)
class Estimate:
    """The ensemble's own estimate from the first `sizes` models that are not held out."""

    division: Division = Division()
    sizes: tuple[int, ...] = (10, 50, 200, 600, 1_800)

    def __post_init__(self) -> None:
        left = self.division.n_models - self.division.n_held
        if max(self.sizes) > left:
            raise UserError(
                f"an estimate by {max(self.sizes)} models, but {left} are not held out: lower sizes"
            )


Config = Train | Attribution | Estimate


def run(config: Config, scratch: Path) -> dict[str, Any]:
    if isinstance(config, Train):
        metrics = attributions.trained(config.whole).metrics
        return {name: metrics[name] for name in metrics if name.startswith("accuracy")}
    whole = subsets.gathered(config.division.ensemble, config.division.n_models)
    if isinstance(config, Estimate):
        return _estimate(config, whole)
    return _attribution(config, whole, scratch)


def _attribution(config: Attribution, whole: Outcomes, scratch: Path) -> dict[str, Any]:
    """The scores of each network and of several, at the best damping that no network refuses."""
    tried, choosing = _tried(config, whole)
    refusal: MethodError | None = None
    for at in np.argsort(-np.nan_to_num(choosing, nan=-np.inf), kind="stable"):
        try:
            found = _measured(config, tried[at], whole, scratch)
        except MethodError as error:
            if not config.tuned:
                raise
            refusal, choosing[at] = error, np.nan
            continue
        about = {"damping": config.dampings[at], "choosing": choosing} if config.tuned else {}
        return found | about
    raise MethodError(f"no damping of {config.dampings} serves every network: {refusal}")


def _tried(
    config: Attribution, whole: Outcomes
) -> tuple[Sequence[attributions.Method], np.ndarray]:
    """The method at each damping, and how well it predicts the choosing masks for one network.

    nan where the network's curvature refuses the damping. Without dampings it is the method alone.
    """
    method, division = config.method, config.division
    if not config.tuned:
        return [method], np.zeros(1)
    assert isinstance(method, Influence)
    tried = [replace(method, damping=damping) for damping in config.dampings]
    each = np.full(len(tried), np.nan)
    for at, one in enumerate(track(tried, "dampings")):
        with contextlib.suppress(MethodError):
            pairs = attributions.scored(one, config.whole, 0, division.n_query, own=False).pairs
            score = subset_truth.score(division, whole, division.choosing, pairs)
            each[at] = float(np.nanmean(score))
    return tried, each


def _measured(
    config: Attribution, method: attributions.Method, whole: Outcomes, scratch: Path
) -> dict[str, Any]:
    division, truth = config.division, subset_truth.truth_of(config.division, whole)
    measures: dict[str, list[np.ndarray]] = {}
    total: attributions.Scores | None = None
    damping = f"-{method.damping:g}" if config.tuned and isinstance(method, Influence) else ""
    for member in track(range(config.counts[-1]), "networks"):
        n_query, whole_set = division.n_query, config.whole
        compute = partial(attributions.scored, method, whole_set, member, n_query, config.own)
        one = attributions.checkpointed_scores(scratch, f"{member}{damping}", compute)
        total = one if total is None else attributions.summed(total, one)
        subset_truth.measure(measures, "each", one, truth, division, whole)
        if member + 1 in config.counts:
            subset_truth.measure(measures, "mean", total, truth, division, whole)
    return {
        "method": attributions.display(method),
        "choosing_trainings": division.n_choosing if config.dampings else 0,
        "ap_chance": float((truth.memorization > MEMORIZED).mean()),
        "counts": np.array(config.counts),
        **{name: np.array(values) for name, values in measures.items()},
    }


def _estimate(config: Estimate, whole: Outcomes) -> dict[str, Any]:
    """How good the ensemble's own estimate is, and the limit that noise sets to any prediction.

    lds, pairs, area (n_sizes, n_query): the last two are nan where the estimate and the truth share
    models. reliability (n_query,): the agreement of two trainings on the same masks. of_noise
    (n_sizes,): the LDS that sampling noise leaves, if outcomes are linear in the mask.
    """
    division = config.division
    truth, measures = subset_truth.truth_of(division, whole), dict[str, list[np.ndarray]]()
    for size in config.sizes:
        models = np.arange(division.n_held, division.n_held + size)
        pairs = whole.soft_influence(models, division.n_query)
        pairs = torch.where(pairs.isnan(), 0.0, pairs)  # in all masks or in none
        scores = attributions.Scores(pairs, None)
        subset_truth.measure(measures, "mean", scores, truth, division, whole)
        if size > division.n_choosing:
            for name in ("pairs_mean", "area_mean"):
                measures[name][-1] = np.full(division.n_query, np.nan)
    reliability = subset_truth.reliability_of(division, whole)
    explained = float(np.nanmean(reliability))
    return {
        "reliability": reliability,
        "of_noise": of_noise(explained, whole.n_train, config.sizes),
        "contested": subset_truth.contested(division, whole),
        "memorized": int((truth.memorization > MEMORIZED).sum()),
        "strong_pairs": int(truth.strong.sum()),
        "sizes": np.array(config.sizes),
        **{name: np.array(values) for name, values in measures.items()},
    }


def table(results: list[Run]) -> tuple[list[str], list[list[str]]]:
    """One line per method: the score of attributions of the fewest and of the most networks."""
    rows = []
    for one in results:
        if one.config["type"] == "Train":
            continue
        source = one.config["division"]["ensemble"]["data"]["source"]
        counts = one.config.get("counts") or one.config["sizes"]
        name = one.metrics.get("method", "Ensemble")
        means = [float(np.nanmean(values)) for values in one.array("lds_mean")]
        first, last = (f"{means[i]:.3f} ({counts[i]})" for i in (0, -1))
        rows.append([source, name, first, last, f"{one.metrics.get('damping', '')}"])
    return ["data", "method", "LDS of the fewest models", "of the most", "damping"], rows


def work(config: Config) -> Work:
    """What a cell takes, with the ensembles, the networks and their eigenvectors."""
    if isinstance(config, Train):
        return Work("networks", parts=(attributions.work(config.whole),))
    division = config.division
    ensemble, data, n = division.ensemble, division.ensemble.data, division.n_models
    parts = subsets.ensemble_work(ensemble, n)
    estimate = counting.dot(data.n_query, n, data.n_train)
    if isinstance(config, Estimate):
        again = replace(ensemble, restart=ensemble.restart + 1)
        parts += subsets.ensemble_work(again, division.n_restarts)
        return Work("ensemble", (replace(estimate, times=1 + len(config.sizes)),), parts, gpu=False)
    whole, method, members = config.whole, config.method, config.counts[-1]
    counted: Any = method
    if isinstance(method, attributions.Cosine):
        counted = attributions.GRADIENT
    if not isinstance(method, attributions.Chance):
        parts += (attributions.work(whole), *attributions.basis_works(method, whole, members))
    one = counting.attributed(
        counted,
        subsets.unit(ensemble),
        data.n_train,
        parts,
        division.n_query,
        -(-ensemble.fit.epochs // whole.every),
    )
    times = members * (2 if config.own else 1) + len(config.dampings)
    steps = (replace(step, times=step.times * times) for step in one.steps)
    return replace(one, label=attributions.display(method), steps=(estimate, *steps))


def cells(
    division: Division,
    whole: attributions.Whole,
    sizes: tuple[int, ...],
    basis: Krylov,
    counts: tuple[int, ...] = (1, 2, 5, 10),
    slow: Sequence[tuple[Inverse, tuple[float, ...]]] = (),
) -> list[Config]:
    """The networks first, then the ensemble's estimate, then one cell per method.

    `basis` makes at least twice as many iterations as it keeps eigenvectors: the others of a Krylov
    space have not converged, and their inverses would drown the rest.
    `slow` are inverses with the dampings to choose from; they explain one network, and give no
    self-influence, for which every training example would be a query.
    """
    p = basis.keep
    if basis.iterations < 2 * p:
        raise UserError(f"{basis.iterations} iterations for {p} eigenvectors: make {2 * p} or more")
    plain: list[attributions.Method] = [
        TracIn(),
        attributions.GRADIENT,
        attributions.Cosine(),
        RandomProjection(Gaussian(p)),
        Influence(Arnoldi(p, basis)),
        Representer(),
        attributions.Similarity(),
        attributions.Chance(),
    ]
    return [
        Train(whole),
        Estimate(division, sizes),
        Attribution(division, whole, Influence(Deflated(p, basis)), counts, DAMPINGS),
        *(Attribution(division, whole, method, counts) for method in plain),
        *(Attribution(division, whole, Influence(one), (1,), some, False) for one, some in slow),
    ]


PRESETS: dict[str, list[Config]] = {
    "smoke": cells(
        Division(SMOKE, 200, 50, 50, 50, 60),
        attributions.Whole(SMOKE, 5, 3),
        (5, 50, 150),
        Krylov(60, None, 0, 20),
        (1, 2, 5),
        [(one, (1e-1, 1.0)) for one in (Exact(), CG(), LiSSA(20, 50))],
    ),
    "small": [
        *cells(
            Division(MNIST, 2_000, 200, 600, 50, 500),
            attributions.Whole(MNIST, 10, 4),
            (10, 50, 200, 600, 1_800),
            Krylov(200, None, 0, 100),
            slow=[(LiSSA(100, 50), (1e-2, 1e-1))],
        ),
        *cells(
            Division(CIFAR, 800, 160, 240, 48, 500),
            attributions.Whole(CIFAR, 10, 3),
            (10, 40, 240, 640),
            Krylov(120, 1_000, 0, 60),
        ),
    ],
    "paper": cells(
        Division(PAPER, 2_000, 200, 600, 50, 1_000),
        attributions.Whole(PAPER, 10, 40),
        (10, 50, 200, 600, 1_800),
        Krylov(200, 1_000, 0, 100),
    ),
}

EXPERIMENT = Experiment(
    "ground_truth",
    run,
    PRESETS,
    summary="attributions against what training on subsets does: LDS, pairs and memorization",
    table=table,
    seconds={"smoke": 20, "small": 1_340},
    work=work,
    shared="whole",
    gpu=True,
)

if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
