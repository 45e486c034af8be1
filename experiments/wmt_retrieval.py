"""Shuffled translations: rank training pairs by self-influence, count the shuffled ones on top.

Reproduces Table 2 of "Scaling Up Influence Functions" (Schioppa et al., 2022, Sec. 5.2): of 4,096
training pairs, the targets of 256 are shuffled, and a model trained on clean pairs ranks them; this
is done five times. We add two controls: the loss, and TracIn over checkpoints. Deviations: the loss
is the mean over a sentence's subwords; each of the 256 gets the target of another; normalisation
comes before each block of the network.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from experiments.data.parallel import Corpus, Pairs
from experiments.laboratory import attribution, counting
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.runs import Run
from experiments.laboratory.work import Work
from experiments.translation import models, scores
from experiments.translation.models import Beam, Model, Translated, examples, trained, translated
from experiments.translation.scores import Method, contributions, fitted, losses, nested
from methods.ihvp.arnoldi import Krylov
from methods.randomness import Purpose, numpy_generator
from methods.tracin import TracIn


@dataclass(frozen=True)
class Translation:
    """How well the trained model translates: BLEU on unseen test pairs."""

    test: Corpus = Corpus("multi30k test")
    beam: Beam = Beam(4)


@dataclass(frozen=True)
class Fold:
    """The training pairs that are ranked, `n` of them, with `corrupted` shuffled targets."""

    index: int = 0
    n: int = 4_096
    corrupted: int = 256

    def draw(self, pairs: Pairs) -> tuple[Pairs, np.ndarray]:
        """The pairs, with shuffled targets none of which stays, and a mask of these, (n,)."""
        if not 2 <= self.corrupted < self.n <= len(pairs):
            raise UserError(
                f"{self.corrupted} shuffled of {self.n:,} drawn from {len(pairs):,} pairs: give "
                "2 <= fold.corrupted < fold.n <= pairs of the training set"
            )
        draw = numpy_generator(self.index, Purpose.LABELS)
        some = pairs.take(draw.permutation(len(pairs))[: self.n])
        chosen = draw.permutation(self.n)[: self.corrupted]
        target = list(some.target)
        for place, other in zip(chosen, np.roll(chosen, 1), strict=True):
            target[place] = some.target[other]
        corrupted = np.zeros(self.n, dtype=bool)
        corrupted[chosen] = True
        return Pairs(some.source, target), corrupted


@dataclass(frozen=True)
class Config:
    """One ranking of a fold.

    part  number of last decoder layers; None is all parameters
    dims  the numbers of directions to evaluate, at most those of the method
    """

    model: Model = models.SMOKE
    method: Method | Translation = attribution.Loss()
    part: int | None = None
    fold: Fold = Fold()
    dims: tuple[int, ...] = ()


def run(config: Config, scratch: Path) -> dict[str, Any]:
    if isinstance(config.method, Translation):
        test = config.method.test
        result = translated(Translated(config.model, test, config.method.beam))
        return {"method": "BLEU", "test": test.name, **result.metrics, **result.arrays()}
    pairs, corrupted = config.fold.draw(config.model.train.load())
    learned, some = trained(config.model), examples(config.model, pairs)
    if isinstance(config.method, attribution.Loss):
        values = losses(learned.task, some)
    else:
        values = contributions(fitted(config.model, learned, config.method, config.part), some)
    ranked = nested(values, config.dims, config.method)
    auc = [float(roc_auc_score(corrupted, row)) for row in ranked]
    ap = [float(average_precision_score(corrupted, row)) for row in ranked]
    length = some["length"].numpy()
    return {
        "method": attribution.family(config.method),
        **attribution.settings(config.method),
        "part": config.part or 0,
        "layers": "all" if config.part is None else "last",
        "auc": np.array(auc),
        "ap": np.array(ap),
        "dims": np.array(config.dims or (0,)),
        "auc_largest": auc[-1],
        "ap_largest": ap[-1],
        "chance_ap": float(corrupted.mean()),
        "negative_share": float((ranked[-1] < 0).mean()),
        "auc_length": float(roc_auc_score(corrupted, length)),
        "num_params": learned.task.size,
        "directions": attribution.dimension(config.method),
        "self_influence": ranked,
        "corrupted": corrupted,
        "length": length,
    }


def work(config: Config) -> Work:
    """What a cell takes, with the model and the basis of its Hessian."""
    model, method, learned = config.model, config.method, models.work(config.model)
    if isinstance(method, Translation):
        steps = models.translation_steps(model, method.test.about, method.beam)
        wanted = Translated(model, method.test, method.beam)
        translation = Work("translation", steps, (learned,), "translation_bleu", wanted)
        return Work("BLEU", parts=(translation,))
    of, once = scores.unit(model, config.part), scores.once(model, method, config.part)
    n = model.train.about
    return counting.attributed(method, of, n, (learned, once), candidates=config.fold.n)


def table(results: list[Run]) -> tuple[list[str], list[list[str]]]:
    """One line per method: the mean over folds and draws."""
    ranked: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
    lines = []
    for one in results:
        if one.metrics["method"] == "BLEU":
            lines.append([f"BLEU {one.metrics['test']}", "", "", f"{one.metrics['bleu']:.1f}", ""])
            continue
        for dim, auc, ap in zip(*(one.array(name) for name in ("dims", "auc", "ap")), strict=True):
            row = (str(one.metrics["method"]), str(one.metrics["layers"]), int(dim))
            ranked.setdefault(row, []).append((float(auc), float(ap)))
    for (method, layers, dim), values in ranked.items():
        auc, ap = (f"{float(np.mean(column)):.4f}" for column in zip(*values, strict=True))
        lines.append([method, layers, str(dim or ""), auc, ap])
    return ["method", "layers", "p", "AUC or BLEU", "AP"], lines


@dataclass(frozen=True)
class Plan:
    """The rows of Table 2: dimensions of each family, and draws of projections.

    part     number of last decoder layers in the second half of the table
    draws    projections on the first fold; `again` on each other fold
    selected, of_last  numbers of parameters selected from all layers, and from the last ones
    """

    part: int
    basis: Krylov
    folds: int = 5
    draws: int = 3
    again: int = 1
    dims: tuple[int, ...] = (10, 20)
    selected: tuple[int, ...] = (10, 100)
    of_last: tuple[int, ...] = (100, 1_000)

    def cells(self, model: Model, fold: Fold, tests: tuple[Translation, ...]) -> list[Config]:
        """The cells fold by fold: those of the first fold already make a table."""
        made = [Config(model, test, None, fold) for test in tests]
        for index in range(self.folds):
            at = Config(model, fold=replace(fold, index=index))
            made += [replace(at, method=attribution.Loss()), replace(at, method=TracIn(False))]
            for part, chosen in ((None, self.selected), (self.part, self.of_last)):
                ranking = replace(at, part=part, dims=self.dims)
                arnoldi = attribution.arnoldi(max(self.dims), self.basis)
                made.append(replace(ranking, method=arnoldi))
                for draw in range(self.again if index else self.draws):
                    made.append(replace(ranking, method=attribution.randproj(max(self.dims), draw)))
                    select = attribution.randselect(max(chosen), draw)
                    made.append(replace(ranking, method=select, dims=chosen))
            made.append(replace(at, method=TracIn(False), part=self.part))
        return made


SMALL = replace(
    models.SMALL,
    language=replace(models.SMALL.language, length=40),
    fit=replace(models.SMALL.fit, epochs=6, every=3),
)
PRESETS: dict[str, list[Config]] = {
    "smoke": Plan(1, Krylov(24, 64, 0, 20), 2, 2, dims=(5, 10), of_last=(100, 500)).cells(
        models.SMOKE,
        Fold(n=256, corrupted=32),
        (Translation(Corpus("generated test", 0, 100), Beam()),),
    ),
    "small": Plan(1, Krylov(60, 128, 0, 30)).cells(
        SMALL, Fold(), (Translation(), Translation(Corpus("newstest2014", 0, 500)))
    ),
    "paper": Plan(3, Krylov(200, 512, 0, 20), draws=20, again=3).cells(
        models.PAPER, Fold(), (Translation(Corpus("newstest2016")),)
    ),
}

EXPERIMENT = Experiment(
    "wmt_retrieval",
    run,
    PRESETS,
    summary="shuffled sentence pairs ranked by self-influence in a Transformer: AUC and AP",
    columns=("auc_largest", "ap_largest", "bleu"),
    table=table,
    seconds={"smoke": 12, "small": 2_522},
    work=work,
    gpu=True,
)

if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
