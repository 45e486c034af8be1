"""Single gradient steps of a trained classifier, at many learning rates, and what they do."""

import time
from collections import defaultdict
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.func import grad

from experiments import scratch as disk
from experiments.problems import UserError
from methods.progress import track
from methods.task import Examples, Task, take

SAVE_SECONDS = 30.0  # between two states on disk: the most that a kill can lose


def after_steps(
    task: Task,
    train: Examples,
    query: Examples,
    index: np.ndarray,
    lrs: np.ndarray,
    scratch: Path,
) -> np.ndarray:
    """Loss of each point after params - lr gradient of one pair, (points, types, examples, lrs).

    index (points, types, examples) are training pairs. Each pair's gradient is taken once, and each
    vector of parameters made once, for all points that ask for it. State goes to `scratch`.
    """
    askers: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for place, pair in np.ndenumerate(index):
        askers[int(pair)].append(place)
    state, saved_at = scratch / "losses.npy", time.monotonic()
    shape = (*index.shape, len(lrs))
    loss = np.load(state) if state.exists() else np.full(shape, np.nan, np.float32)
    for pair, places in track(list(askers.items()), "pairs to step on"):
        if not np.isnan(loss[places[0]]).any():
            continue  # done before a restart
        points = sorted({place[0] for place in places})
        one, asking = take(train, torch.tensor([pair])), take(query, torch.tensor(points))
        found = _along(task, one, asking, lrs)
        if not np.isfinite(found).all():
            first = lrs[~np.isfinite(found).all(0)][0]
            raise UserError(
                f"the loss after a step of {first:.2g} on training pair {pair} is not finite: "
                f"lower the highest learning rate below {first:.2g}"
            )
        for place in places:
            loss[place] = found[points.index(place[0])]
        if time.monotonic() - saved_at > SAVE_SECONDS:
            _save(state, loss)
            saved_at = time.monotonic()
    return loss


@torch.no_grad()
def _along(task: Task, pair: Examples, query: Examples, lrs: np.ndarray) -> np.ndarray:
    """Loss of each query after one step on a pair, (n_query, lrs): one moved copy of params."""
    start, step = task.flatten(task.params), _gradient(task, pair)
    moved = torch.empty_like(start)
    params = task.unflatten(moved)  # views
    found = []
    for lr in lrs:
        torch.add(start, step, alpha=-float(lr), out=moved)
        found.append(task.loss(params, query))
    return torch.stack(found, dim=1).numpy()


def _gradient(task: Task, pair: Examples) -> Tensor:
    """Gradient of the loss of one pair, (p,)."""
    return task.flatten(grad(lambda params: task.loss(params, pair).sum())(task.params))


def _save(path: Path, loss: np.ndarray) -> None:
    content = BytesIO()
    np.save(content, loss)
    disk.write(path, content.getvalue())
