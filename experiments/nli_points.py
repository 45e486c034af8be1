"""Which pairs of a development or evaluation set are asked about."""

import numpy as np
import torch

from experiments.hidden import Sample
from experiments.nli_models import Model, Simulator, load, passed, task_model
from experiments.problems import UserError
from methods.randomness import numpy_generator
from methods.task import Examples, take


def predicted(model: Model | Simulator, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """The predicted class of each pair (n,), and whether it is right (n,)."""
    found = np.asarray(passed(model, sample).array("logits")).argmax(1)
    _, pairs = load(task_model(model), sample)
    return found, found == pairs.label


def balanced(model: Model | Simulator, sample: Sample, n: int) -> np.ndarray:
    """n random positions: half of pairs that are predicted rightly, then half of wrong ones."""
    _, right = predicted(model, sample)
    draw = numpy_generator(task_model(model).seed, "evaluation points")
    parts = []
    for name, among in (("right", right), ("wrong", ~right)):
        there = np.flatnonzero(among)
        if len(there) < n // 2:
            raise UserError(
                f"{n // 2} of {len(there)} pairs of {sample.which} that are predicted {name}: ask "
                f"for {2 * len(there)} points at most"
            )
        parts.append(np.sort(draw.permutation(there)[: n // 2]))
    return np.concatenate(parts)


def wrong(model: Model | Simulator, sample: Sample, n: int, part: str) -> np.ndarray:
    """n random positions of wrongly predicted pairs of one part of a sample."""
    _, right = predicted(model, sample)
    _, pairs = load(task_model(model), sample)
    there = np.flatnonzero(~right & (pairs.part == part))
    if len(there) < n:
        raise UserError(
            f"{n} of {len(there)} wrongly predicted pairs of {part} in {sample.which}: lower the "
            "number of points, or raise n of the sample"
        )
    draw = numpy_generator(task_model(model).seed, f"wrong pairs of {part}")
    return np.sort(draw.permutation(there)[:n])


def examples(model: Model | Simulator, sample: Sample, index: np.ndarray) -> Examples:
    """The pairs at some positions, as a network takes them."""
    columns, _ = load(task_model(model), sample)
    return take(columns, torch.from_numpy(index))


def features(model: Model | Simulator, sample: Sample) -> torch.Tensor:
    """What the classifier sees of each pair, (n, width): by it neighbours are found."""
    return torch.from_numpy(np.array(passed(model, sample).array("features")))
