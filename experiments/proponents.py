"""Proponents and opponents of many queries: what Figures 5, 6 and 9 of 001 rest on.

One picture proves nothing, so the retrieval behind it is done for the many of experiments.queries.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import runs
from experiments.problems import UserError
from experiments.queries import Drawn, Pool
from methods.attributor import Prepared
from methods.ihvp.arnoldi import Arnoldi, Krylov
from methods.influence import Influence
from methods.representer import FittedRepresenter, Representer
from methods.task import Examples, MethodError, Objective, Task
from methods.tracin import TracIn

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


def predicted_logit(model: Callable[[Tensor], Tensor], batch: Examples) -> Tensor:
    """Minus the logit of the class the model prefers, (b,): what Representer decomposes."""
    return -model(batch["image"]).amax(1)


def display(method: Method) -> str:
    """The method's name in tables and figures: variants of one have what they differ in added."""
    if isinstance(method, TracIn):
        last = ", last layer" if method.layers else ""
        return f"TracIn{last}{'' if method.learning_rates else ', no learning rates'}"
    if isinstance(method, Representer):
        return "Representer point"
    inverse, fewer = method.inverse, ""
    if isinstance(inverse, Arnoldi) and inverse.num_eigen < inverse.basis.keep:
        fewer = f", {inverse.num_eigen} eigenvectors"
    return f"Influence functions{fewer}"


def influence(num_eigen: int, basis: Krylov, damping: float = 0.0) -> list[Method]:
    """Influence functions on all kept eigenvectors and, to see what these decide, on half."""
    return [Influence(Arnoldi(n, basis), damping) for n in (num_eigen, num_eigen // 2)]


@dataclass(frozen=True)
class Preparation:
    """What the once-per-model work depends on: a run of its own, shared by the cells."""

    model: Any
    preparation: Any


def prepared(model: Any, method: Method, task: Task, train: Pool) -> runs.Run | None:
    """The run with a method's once-per-model work on a trained model, and its `seconds`."""
    if not isinstance(method, Influence):
        return None

    def compute(_scratch: Path) -> dict[str, Any]:
        started = time.perf_counter()
        arrays = method.prepare(task, train.examples)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, **{k: v.cpu().numpy() for k, v in arrays.items()}}

    return runs.once("proponents_basis", Preparation(model, method.preparation), compute)


def measure(
    method: Method,
    task: Task,
    train: Pool,
    drawn: Drawn,
    top: int,
    basis: runs.Run | None = None,
) -> dict[str, Any]:
    """Score every training example for every query and return all that the artifacts need.

    TracIn and influence functions explain the loss at the query's label, Representer the logit of
    the class its refitted model predicts: `asked` is that class.
    """
    query = drawn.pool.take(drawn.index)
    arrays = {} if basis is None else basis.arrays()
    ready: Prepared = {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}
    started = time.perf_counter()
    if isinstance(method, Representer):
        if not isinstance(task.loss, Objective):
            raise MethodError("Representer needs a task made by Task.of(module, loss)")
        task = replace(task, measurement=Objective(task.loss.model, predicted_logit))
    fitted = method.fit(task, train.examples, ready or None)
    fit_seconds = time.perf_counter() - started
    scores = fitted.scores(query.examples, train.examples)
    seconds = time.perf_counter() - started - fit_seconds
    asked, more = query.label, {}
    if isinstance(fitted, FittedRepresenter):
        asked = fitted.classes(query.examples).cpu().numpy()
        logits = fitted.logits(query.examples).amax(1).cpu()
        gap = (scores.double().sum(1) - logits).abs().max() / logits.abs().max()
        more["reconstruction_error"] = float(gap)
    fit_seconds += 0.0 if basis is None else float(basis.metrics["seconds"])
    return {
        "method": display(method),
        **retrieve(scores, train, drawn, asked, top),
        **more,
        "fit_seconds": fit_seconds,
        "seconds": seconds,
    }


def rival(query: Pool, asked: np.ndarray) -> np.ndarray:
    """The class that each query may be taken for, (m,).

    Of a misclassified query, the true class or the predicted one, whichever was not asked about;
    of a correctly classified one, the model's runner-up.
    """
    other = np.where(query.predicted == asked, query.runner_up, query.predicted)
    return np.where(query.label == asked, other, query.label)


def retrieve(
    scores: Tensor, train: Pool, drawn: Drawn, asked: np.ndarray, top: int
) -> dict[str, Any]:
    """The `top` proponents and opponents of each query, their labels, and the displayed images.

    scores (m, n), rows as `drawn.index`; asked (m,), the class whose score each query is about.
    """
    if top > scores.shape[1]:
        raise UserError(f"the top {top} of {scores.shape[1]} training examples: lower queries.top")
    query = drawn.pool.take(drawn.index)
    against = rival(query, asked)
    share = np.bincount(train.label, minlength=int(max(asked.max(), against.max())) + 1)
    share = share / share.sum()
    found: dict[str, Any] = {}
    shown = drawn.shown
    for role, largest in (("proponent", True), ("opponent", False)):
        best = scores.topk(top, largest=largest)
        index = best.indices.numpy()
        found |= {
            f"{role}_index": index,
            f"{role}_score": best.values.numpy(),
            f"{role}_label": train.label[index],
            f"{role}_predicted": train.predicted[index],
            f"{role}_images": train.pixels[index[shown]],
        }
    random = drawn.random
    of_class = found["proponent_label"][random] == asked[random, None]
    of_rival = found["opponent_label"][random] == against[random, None]
    return {
        **found,
        "query_index": drawn.index,
        "query_images": query.pixels[shown],
        "random": random,
        "shown": shown,
        "label": query.label,
        "predicted": query.predicted,
        "runner_up": query.runner_up,
        "asked": asked,
        "rival": against,
        "class_share": share,
        "proponents_of_class": float(of_class.mean()),
        "opponents_of_rival": float(of_rival.mean()),
        "chance_of_class": float(share[asked[random]].mean()),
        "chance_of_rival": float(share[against[random]].mean()),
        "n_wrong": int((query.predicted != query.label).sum()),
        "train_accuracy": float((train.predicted == train.label).mean()),
        "accuracy": float((drawn.pool.predicted == drawn.pool.label).mean()),
    }
