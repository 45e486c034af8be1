"""Labels of one's own: which of them look wrong, worst first, with a picture to look at.

    python -m experiments.own_labels --data my.csv --label y --network mlp

Every row is judged by a network that did not train on it: K folds, each left out once; its score is
the loss of the given label there (the method of Northcutt et al., 2021, arXiv:1911.00068, without
their thresholds). Beside it stand two scores of a network that trained on all rows, self-influence
by TracIn and by EK-FAC influence, and the loss of that network as a baseline. No paper is
reproduced here; the mean of all this is measured where better labels are known (`--truth`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.data import own
from experiments.data.own import Labelled
from experiments.laboratory import attribution, provenance, runs
from experiments.laboratory.device import device
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.runs import Run
from experiments.laboratory.table import interval, plus_minus
from experiments.laboratory.work import Work
from experiments.models.own_classifiers import CNN, MLP, Encoder, Linear
from experiments.training import models as training
from experiments.training.loop import fit
from experiments.training.plans import Adam, CrossEntropy, Fit
from methods.ihvp.kfac import EKFAC
from methods.influence import Influence
from methods.precision import full_precision
from methods.progress import track
from methods.randomness import numpy_generator
from methods.tracin import TracIn

SHOWN = 60  # most suspicious rows, of which pictures or texts are stored
PRINTED = 10
WORDS = 2_000  # of texts that networks without an encoder count
CHUNK = 500  # rows of a forward pass
CHECKPOINTS = 3  # that TracIn sees
SELF_INFLUENCE: dict[str, TracIn | Influence] = {
    "tracin": TracIn(learning_rates=False),
    "influence": Influence(EKFAC()),
}
SCORES = ("held_out", *SELF_INFLUENCE, "loss")

PLAN = Fit(epochs=30, batch_size=32, lr=3e-3, weight_decay=1e-4, adam=Adam())
cross_entropy = CrossEntropy(("input",))


@dataclass(frozen=True)
class Config:
    """Labelled rows, and the networks that judge them.

    data     a file or a folder (experiments/data/own.py), digits, or cifar-10n; a run is found by
             what is in it, wherever it is
    label    the column of labels; truth one of better labels, by which the scores are judged
    columns  those that are inputs; all others, if none is named
    side     pixels that pictures in files are scaled to
    folds    parts of which each is judged by a network of the others
    steps    of training, at least: few rows take more epochs than `fit` says
    """

    data: str = field(default="digits", compare=False)
    label: str = "label"
    truth: str = ""
    columns: tuple[str, ...] = ()
    side: int = 32
    network: Linear | MLP | CNN | Encoder = Linear()
    fit: Fit = PLAN
    folds: int = 5
    steps: int = 1_000
    seed: int = 0
    digest: str = field(default="", init=False)

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise UserError(f"folds is {self.folds}: give 2 or more")
        object.__setattr__(self, "digest", own.digest(self.data))


@dataclass(frozen=True)
class Fold:
    """The network of all folds but one, or of all rows."""

    of: Config
    left_out: int | None = None


@dataclass(frozen=True)
class Encoded:
    """The features that a frozen encoder has of some texts."""

    digest: str
    columns: tuple[str, ...]
    label: str
    truth: str
    encoder: Encoder
    weights: str


@dataclass(frozen=True)
class Scored:
    """The self-influence of all rows by a method."""

    of: Config
    method: TracIn | Influence


@provenance.remembered
def load(config: Config) -> Labelled:
    """The rows, with texts as inputs of the network: encoded, or as their words' frequencies."""
    data = own.load(config.data, config.label, config.columns, config.truth, config.side)
    network, name = config.network, Path(config.data).name
    if isinstance(network, CNN) and not data.pictures:
        raise UserError(
            f"{name} has {'texts' if data.texts else 'features'}, and --network cnn takes images: "
            "give --network linear, mlp or, for texts, encoder"
        )
    if isinstance(network, Encoder) and not data.texts:
        raise UserError(
            f"{name} has no column of texts, which --network encoder reads: give --network "
            f"{'cnn' if data.pictures else 'linear or mlp'}"
        )
    if not data.texts:
        return data
    if not isinstance(network, Encoder):
        return replace(data, inputs=torch.cat([data.inputs, _frequencies(data.texts)], dim=1))
    wanted = _encoded(config, network)

    def compute(_scratch: Path) -> dict[str, Any]:
        return {"features": network.features(data.texts).numpy()}

    features = np.array(runs.once("own_labels_encoded", wanted, compute).array("features"))
    return replace(data, inputs=torch.cat([data.inputs, torch.from_numpy(features)], dim=1))


def _encoded(config: Config, network: Encoder) -> Encoded:
    named = config.digest, config.columns, config.label, config.truth
    return Encoded(*named, network, network.weights())


def _frequencies(texts: Sequence[Sequence[str]]) -> Tensor:
    from sklearn.feature_extraction.text import TfidfVectorizer

    made = []
    for column in texts:
        try:
            counts = TfidfVectorizer(max_features=WORDS, sublinear_tf=True).fit_transform(column)
        except ValueError as error:  # no text has a word
            raise UserError(f"a column of texts has no words ({error}): choose others") from error
        made.append(torch.from_numpy(counts.toarray()).float())
    return torch.cat(made, dim=1)


def folds(label: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The fold of each row, (n,): random, and classes are spread evenly over all folds.

    A class of two rows or more is in two folds or more, so that no row is judged by a network that
    saw none of its class.
    """
    shuffled = numpy_generator(seed, "folds").permutation(len(label))
    by_class = shuffled[np.argsort(label[shuffled], kind="stable")]
    fold = np.empty(len(label), dtype=np.int64)
    fold[by_class] = np.arange(len(label)) % count
    return fold


def trained(fold: Fold) -> training.Trained[nn.Module]:
    """A network of some folds, training it if no run has it yet."""
    config, data = fold.of, load(fold.of)
    return training.train_once(
        "own_labels_model",
        fold,
        partial(config.network.build, data.shape, len(data.classes), config.seed),
        cross_entropy,
        partial(_train, fold),
        weight_decay=config.fit.weight_decay,
    )


def _train(fold: Fold, module: nn.Module, scratch: Path) -> dict[str, Any]:
    config, data = fold.of, load(fold.of)  # noted as this run's data
    batches = -(-len(data.label) // config.fit.batch_size)
    epochs = max(config.fit.epochs, -(-config.steps // batches))
    if fold.left_out is None:
        plan = replace(config.fit, epochs=epochs, every=-(-epochs // CHECKPOINTS))
        return fit(module, cross_entropy, data.examples, plan, config.seed, scratch)
    left_out = folds(data.label, config.folds, config.seed) == fold.left_out
    rows = torch.from_numpy(np.flatnonzero(~left_out))
    plan = replace(config.fit, epochs=epochs, every=epochs)
    train = {name: column[rows] for name, column in data.examples.items()}
    learned = fit(module, cross_entropy, train, plan, config.seed, scratch)
    return {**learned, "held_out": _log_probabilities(module, data.inputs[left_out])}


@full_precision()
@torch.no_grad()
def _log_probabilities(module: nn.Module, inputs: Tensor) -> np.ndarray:
    made = [F.log_softmax(module(some.to(device())), dim=1).cpu() for some in inputs.split(CHUNK)]
    return torch.cat(made).numpy()


def held_out(config: Config) -> np.ndarray:
    """Log-probabilities of the classes by networks that did not see the row, (n, classes)."""
    data = load(config)
    fold = folds(data.label, config.folds, config.seed)
    found = np.empty((len(fold), len(data.classes)), dtype=np.float32)
    for number in track(range(config.folds), "folds"):
        found[fold == number] = trained(Fold(config, number)).run.array("held_out")
    return found


def self_influence(config: Config, method: TracIn | Influence) -> np.ndarray:
    """The self-influence of all rows on a network that was trained on them, (n,)."""

    def compute(_scratch: Path) -> dict[str, Any]:
        learned, examples = trained(Fold(config)), load(config).examples
        scores = method.fit(learned.task, examples).self_influence(examples)
        return {"scores": scores.numpy()}

    return np.array(runs.once("own_labels_scores", Scored(config, method), compute).array("scores"))


def run(config: Config, scratch: Path) -> dict[str, Any]:
    data = load(config)
    n = len(data.label)
    if config.folds > n:
        raise UserError(f"{config.folds} folds of {n} rows: lower folds")
    wrong = None if data.truth is None else data.truth != data.label
    if wrong is not None:
        _check_some(wrong)
    judged = held_out(config)
    scores = {"held_out": -judged[np.arange(n), data.label]}
    scores |= {name: self_influence(config, method) for name, method in SELF_INFLUENCE.items()}
    learned = trained(Fold(config))
    scores["loss"] = attribution.losses(learned.task, data.examples).numpy()
    order = np.argsort(-scores["held_out"], kind="stable")
    suggested = judged.argmax(1)
    return {
        "data": Path(config.data).name,
        "network": type(config.network).__name__,
        "n_classes": len(data.classes),
        "agreement": float((suggested == data.label).mean()),
        **scores,
        "order": order,
        "given": data.label,
        "suggested": suggested,
        "probability": np.exp(judged.max(1)),
        "classes": np.array(data.classes, np.str_),
        "names": np.array(data.names, np.str_),
        **_shown(data, order[:SHOWN]),
        **({} if wrong is None else {"true": data.truth, **_judged(wrong, scores)}),
    }


def _shown(data: Labelled, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Pixels of the first rows, (SHOWN, height, width, channels), or none; and their texts."""
    pixels = np.zeros((0, 0, 0, 0), np.uint8)
    if data.pictures:
        some = data.inputs[torch.from_numpy(rows)].permute(0, 2, 3, 1)
        pixels = (some * 255).round().to(torch.uint8).numpy()
    texts = np.array([data.excerpt(int(row)) for row in rows], np.str_)
    return {"shown_pixels": pixels, "shown_text": texts}


def _check_some(wrong: np.ndarray) -> None:
    if not 0 < wrong.sum() < len(wrong):
        raise UserError(
            f"{int(wrong.sum()):,} of {len(wrong):,} labels differ from the true ones, and none "
            "can be told from the others: leave out --truth"
        )


def _judged(wrong: np.ndarray, scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """How well each score finds the labels that the better ones contradict."""
    found: dict[str, Any] = {"wrong": wrong, "n_wrong": int(wrong.sum())}
    for name, values in scores.items():
        quality = attribution.quality(wrong, values)
        first = np.argsort(-values, kind="stable")[: int(wrong.sum())]
        found |= {f"{name}_auc": quality["auc"], f"{name}_ap": quality["ap"]}
        found[f"{name}_precision"] = float(wrong[first].mean())
    return found


def table(finished: list[Run]) -> tuple[list[str], list[list[str]]]:
    """Where better labels are known, how well each score finds the wrong ones; else the first."""
    known = [one for one in finished if "n_wrong" in one.metrics]
    if known:
        header = ["score", "auc", "ap", "precision", "wrong", "runs"]
        return header, [_quality(known, score) for score in SCORES]
    header, rows = ["rank", "row", "given", "suggested", "probability of given"], []
    one = finished[0]
    names, classes, given, suggested, losses = (
        one.array(name) for name in ("names", "classes", "given", "suggested", "held_out")
    )
    for rank, row in enumerate(one.array("order")[:PRINTED], start=1):
        words = [str(names[row]), str(classes[given[row]]), str(classes[suggested[row]])]
        rows.append([str(rank), *words, f"{np.exp(-losses[row]):.2g}"])
    return header, rows


def _quality(known: list[Run], score: str) -> list[str]:
    means = [
        plus_minus(*interval([float(one.metrics[f"{score}_{name}"]) for one in known]))
        for name in ("auc", "ap", "precision")
    ]
    wrong = sum(one.metrics["n_wrong"] / len(one.array("wrong")) for one in known) / len(known)
    return [score, *means, f"{wrong:.3f}", str(len(known))]


def work(config: Config) -> Work:
    """The runs that a cell needs, uncounted: how many rows there are is not in its config."""
    texts: tuple[Work, ...] = ()
    if isinstance(config.network, Encoder):
        encoded = _encoded(config, config.network)
        texts = (Work("encoded texts", name="own_labels_encoded", config=encoded),)

    def network(left_out: int | None) -> Work:
        fold = Fold(config, left_out)
        label = type(config.network).__name__
        return Work(label, parts=texts, name="own_labels_model", config=fold, kind="training")

    whole = network(None)
    scores = [
        Work(name, parts=(whole,), name="own_labels_scores", config=Scored(config, method))
        for name, method in SELF_INFLUENCE.items()
    ]
    return Work("judged", parts=(*map(network, range(config.folds)), whole, *scores))


PRESETS: dict[str, list[Config]] = {
    "smoke": [Config()],  # one cell, which a command changes
    "small": [Config("cifar-10n", network=CNN(), fit=replace(PLAN, epochs=12, batch_size=64))],
}

EXPERIMENT = Experiment(
    "own_labels",
    run,
    PRESETS,
    summary="labels of one's own that look wrong: by networks that did not see them, worst first",
    table=table,
    look="own_labels",
    work=work,
    gpu=True,
)


if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
