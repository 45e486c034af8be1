"""Proponents and opponents of many queries, for Figures 5, 6 and 9 of TracIn.

Single pictures prove nothing: the paper's retrieval is repeated for many random queries. Which
queries are displayed is declared before anything is scored.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.laboratory import counting
from experiments.laboratory.attribution import stored_state
from experiments.laboratory.clock import wall
from experiments.laboratory.errors import UserError
from experiments.laboratory.work import Unit, Work
from experiments.training.plans import Fit
from methods.errors import MethodError
from methods.examples import Examples, take
from methods.ihvp.arnoldi import Arnoldi, Krylov
from methods.influence import Influence
from methods.losses.objective import Objective
from methods.randomness import numpy_generator
from methods.representer import FittedRepresenter, Representer
from methods.task import Task
from methods.tracin import TracIn

BATCH = 500  # examples in a forward pass
DAMPING = 0.01  # of influence functions, the same on every data set
Method = TracIn | Influence | Representer
COLUMNS = (  # what the command line prints of `measure`
    "proponents_of_class",
    "chance_of_class",
    "opponents_of_rival",
    "chance_of_rival",
    "accuracy",
    "fit_seconds",
    "seconds",
)


@dataclass(frozen=True)
class Shown:
    """A query to display: the first in random order with this class and (in)correct prediction."""

    correct: bool = True
    label: int | None = None


@dataclass(frozen=True)
class Queries:
    """`count` random evaluation examples, and the first `wrong` misclassified ones.

    Shares are counted over the random ones. Misclassified ones are a separate stratum, since their
    label differs from the predicted class.
    """

    count: int = 300
    wrong: int = 50
    top: int = 5
    shown: tuple[Shown, ...] = (Shown(True), Shown(False))


@dataclass(frozen=True, eq=False)
class Pool:
    """Labelled images with the model's first and second choice of class.

    examples   columns image (n, channels, h, w) and label (n,)
    predicted, runner_up   (n,) classes of the highest and second highest logit
    pixels     uint8 (n, h, w), or (n, h, w, 3) in colour, to display
    """

    examples: Examples
    predicted: np.ndarray
    runner_up: np.ndarray
    pixels: np.ndarray

    @property
    def label(self) -> np.ndarray:
        return self.examples["label"].cpu().numpy()

    def take(self, index: np.ndarray) -> "Pool":
        """The examples at `index`."""
        some = take(self.examples, torch.from_numpy(np.asarray(index)))
        return Pool(some, self.predicted[index], self.runner_up[index], self.pixels[index])


@dataclass(frozen=True, eq=False)
class Drawn:
    """Queries from a pool.

    index   (m,) positions in the pool, without repetition
    random  (m,) bool, whether a query is one of the random draw; the others were added because they
            are misclassified or displayed
    shown   (s,) rows of `index` to display, in the order of the plan; -1 where the pool has none
    """

    pool: Pool
    index: np.ndarray
    random: np.ndarray
    shown: np.ndarray


@torch.no_grad()
def pool(
    model: Callable[[Tensor], Tensor], examples: Examples, pixels: np.ndarray | None = None
) -> Pool:
    """Classify images; give `pixels` if the column image is not in [0, 1]."""
    best = torch.cat([model(some).topk(2).indices for some in examples["image"].split(BATCH)])
    first, second = best.cpu().numpy().T
    return Pool(examples, first, second, to_pixels(examples["image"]) if pixels is None else pixels)


def to_pixels(image: Tensor) -> np.ndarray:
    """Images (n, 1 or 3, h, w) in [0, 1] as uint8 (n, h, w) or (n, h, w, 3)."""
    if float(image.min()) < 0 or float(image.max()) > 1:
        raise UserError("images have values outside of [0, 1]: give their pixels too")
    whole = (image * 255).round().to(torch.uint8).cpu()
    return (whole[:, 0] if whole.shape[1] == 1 else whole.movedim(1, 3)).contiguous().numpy()


def draw(evaluation: Pool, plan: Queries, seed: int) -> Drawn:
    """Draw the queries and choose the displayed ones, all in one random order of the pool."""
    n = len(evaluation.label)
    if plan.count > n:
        raise UserError(f"{plan.count} queries, but {n} evaluation examples: lower queries.count")
    order = numpy_generator(seed, "queries").permutation(n)
    right = evaluation.predicted[order] == evaluation.label[order]
    wanted = []
    for one in plan.shown:
        fits = right == one.correct
        if one.label is not None:
            fits &= evaluation.label[order] == one.label
        wanted.append(order[fits][:1])
    extra = np.concatenate([order[~right][: plan.wrong], *wanted])
    index = np.concatenate([order[: plan.count], extra])
    _, first = np.unique(index, return_index=True)
    index = index[np.sort(first)]
    random = np.arange(len(index)) < plan.count
    places = [np.flatnonzero(index == one[0])[0] if len(one) else -1 for one in wanted]
    return Drawn(evaluation, index, random, np.array(places, dtype=np.int64))


def predicted_logit(model: Callable[[Tensor], Tensor], batch: Examples) -> Tensor:
    """Minus the highest logit, (b,): what Representer decomposes."""
    return -model(batch["image"]).amax(1)


def display(method: Method) -> str:
    """The method's name in tables and figures; variants carry a distinguishing suffix."""
    if isinstance(method, TracIn):
        last = ", last layer" if method.layers else ""
        return f"TracIn{last}{'' if method.learning_rates else ', no learning rates'}"
    if isinstance(method, Representer):
        return "Representer point"
    inverse, fewer = method.inverse, ""
    if isinstance(inverse, Arnoldi) and inverse.num_eigen < inverse.basis.keep:
        fewer = f", {inverse.num_eigen} eigenvectors"
    return f"Influence functions{fewer}"


def influence(num_eigen: int, basis: Krylov) -> list[Method]:
    """Influence functions on all eigenvectors and, to see how many matter, on half of them."""
    return [Influence(Arnoldi(n, basis), DAMPING) for n in (num_eigen, num_eigen // 2)]


@dataclass(frozen=True)
class Preparation:
    """The once-per-model work of a method: a run of its own, shared by the cells."""

    model: Any
    preparation: Any


def work(
    model: Any, method: Method, queries: Queries, of: Unit, n: int, plan: Fit, trained: Work
) -> Work:
    """What a cell takes, with the network's training and the basis of its Hessian."""
    settings = method.state_settings if isinstance(method, Influence) else None
    wanted = Preparation(model, settings)
    once = counting.once_per_model("proponents_basis", wanted, method, of, n)
    checkpoints = -(-plan.epochs // plan.every)
    asked = queries.count + queries.wrong
    return counting.attributed(method, of, n, (trained, once), asked, checkpoints)


def measure(
    model: Any, method: Method, task: Task, train: Pool, drawn: Drawn, top: int
) -> dict[str, Any]:
    """Score every training example for every query and return everything the artifacts need.

    TracIn and influence functions explain the loss at the query's label; Representer explains the
    logit of the class that its refitted model predicts. The class explained is the array `asked`.
    Influence functions compute their basis once for the config `model` of the trained network.
    """
    query = drawn.pool.take(drawn.index)
    state, basis_seconds = None, 0.0
    if isinstance(method, Influence):
        wanted = Preparation(model, method.state_settings)
        state, basis_seconds = stored_state(
            "proponents_basis", wanted, method, lambda: (task, train.examples)
        )
    started = wall(task.device)
    if isinstance(method, Representer):
        if not isinstance(task.loss, Objective):
            raise MethodError("Representer needs a task made by Task.of(module, loss)")
        task = replace(task, measurement=Objective(task.loss.model, predicted_logit))
    fitted = method.fit(task, train.examples, state)
    fit_seconds = wall(task.device) - started
    scores = fitted.scores(query.examples, train.examples)
    seconds = wall(task.device) - started - fit_seconds
    explained, more = query.label, {}
    if isinstance(fitted, FittedRepresenter):
        explained = fitted.classes(query.examples).cpu().numpy()
        logits = fitted.logits(query.examples).amax(1).cpu()
        gap = (scores.double().sum(1) - logits).abs().max() / logits.abs().max()
        more["reconstruction_error"] = float(gap)
    return {
        "method": display(method),
        **retrieve(scores, train, drawn, explained, top),
        **more,
        "fit_seconds": fit_seconds + basis_seconds,
        "seconds": seconds,
    }


def rival(query: Pool, explained: np.ndarray) -> np.ndarray:
    """The class that each query may be confused with, (m,).

    For a misclassified query, the true or the predicted class, whichever was not explained; for a
    correctly classified one, the model's second choice.
    """
    other = np.where(query.predicted == explained, query.runner_up, query.predicted)
    return np.where(query.label == explained, other, query.label)


def retrieve(
    scores: Tensor, train: Pool, drawn: Drawn, explained: np.ndarray, top: int
) -> dict[str, Any]:
    """The `top` proponents and opponents of each query, their labels and images.

    scores (m, n), rows as in `drawn.index`; explained (m,), the class explained for each query.
    `all_query_images` (m, ...) and `found_images` (f, ...), of the training examples `found` (f,),
    show every query; `*_images` those that a figure displays.
    """
    if top > scores.shape[1]:
        raise UserError(f"top {top} of {scores.shape[1]} training examples: lower queries.top")
    query = drawn.pool.take(drawn.index)
    against = rival(query, explained)
    share = np.bincount(train.label, minlength=int(max(explained.max(), against.max())) + 1)
    share = share / share.sum()
    ranked: dict[str, Any] = {}
    shown = drawn.shown
    for role, largest in (("proponent", True), ("opponent", False)):
        best = scores.topk(top, largest=largest)
        index = best.indices.numpy()
        ranked |= {
            f"{role}_index": index,
            f"{role}_score": best.values.numpy(),
            f"{role}_label": train.label[index],
            f"{role}_predicted": train.predicted[index],
            f"{role}_images": train.pixels[index[shown]],
        }
    found = np.unique([ranked["proponent_index"], ranked["opponent_index"]])
    random = drawn.random
    of_class = ranked["proponent_label"][random] == explained[random, None]
    of_rival = ranked["opponent_label"][random] == against[random, None]
    return {
        **ranked,
        "query_index": drawn.index,
        "query_images": query.pixels[shown],
        "all_query_images": query.pixels,
        "found": found,
        "found_images": train.pixels[found],
        "random": random,
        "shown": shown,
        "label": query.label,
        "predicted": query.predicted,
        "runner_up": query.runner_up,
        "asked": explained,
        "rival": against,
        "class_share": share,
        "proponents_of_class": float(of_class.mean()),
        "opponents_of_rival": float(of_rival.mean()),
        "chance_of_class": float(share[explained[random]].mean()),
        "chance_of_rival": float(share[against[random]].mean()),
        "n_wrong": int((query.predicted != query.label).sum()),
        "train_accuracy": float((train.predicted == train.label).mean()),
        "accuracy": float((drawn.pool.predicted == drawn.pool.label).mean()),
    }
