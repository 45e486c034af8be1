"""Many networks trained at once: a stack under vmap, each member as if it were trained alone.

Every member has its own initial parameters, its own order of examples and its own subset of the
training set. The steps are those of `training.loop`, so a stack too resumes to the same bits.
Whether stacking is faster than training one after another depends on network and device:
`experiments.speed_ensembles` measures it.
"""

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap

from experiments.laboratory.errors import UserError
from experiments.training.loop import check, descend
from experiments.training.plans import Fit, Loss
from methods.randomness import Purpose, numpy_generator, torch_seeds
from methods.task import Examples, Objective, floating_buffers


class Stack(nn.Module):
    """K networks of one architecture: each parameter and buffer gains a leading axis (K, ...)."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        states = [member.state_dict() for member in members]
        shapes = [{name: value.shape for name, value in state.items()} for state in states]
        if not members or any(shape != shapes[0] for shape in shapes):
            raise UserError(
                f"a stack of {len(members)} networks: give one or more, of one architecture"
            )
        self.size = len(members)
        self._lone = [copy.deepcopy(members[0])]  # in a list, which keeps it out of the state
        self._names = {name: name.replace(".", "__") for name in states[0]}
        trained = {name for name, _ in members[0].named_parameters()}
        for name, own in self._names.items():
            value = torch.stack([state[name].detach() for state in states])
            if name in trained:
                self.register_parameter(own, nn.Parameter(value))
            else:
                self.register_buffer(own, value)

    def train(self, mode: bool = True) -> "Stack":
        self._lone[0].train(mode)
        return super().train(mode)

    def at(self, member: int) -> nn.Module:
        """A copy of one member as an ordinary network."""
        network = copy.deepcopy(self._lone[0])
        network.load_state_dict({name: value[member] for name, value in self._state().items()})
        return network

    def own(self, function: Loss, batch: Examples) -> Tensor:
        """`function(network, batch)` of every member on its own batch; columns are (K, b, ...)."""
        return self._mapped(function, 0)(self._state(), batch)

    def shared(self, function: Loss, batch: Examples) -> Tensor:
        """`function(network, batch)` of every member on the same batch, (K, b)."""
        return self._mapped(function, None)(self._state(), batch)

    def _mapped(self, function: Loss, over: int | None) -> Callable[..., Tensor]:
        return vmap(Objective(self._lone[0], function), in_dims=(0, over), randomness="different")

    def _state(self) -> dict[str, Tensor]:
        return {name: getattr(self, own) for name, own in self._names.items()}


@dataclass(frozen=True)
class Subsets:
    """Each member's rows, in the order that a network trained on them alone would have."""

    seeds: tuple[int, ...]
    rows: np.ndarray

    @property
    def count(self) -> int:
        return self.rows.shape[1]

    @property
    def name(self) -> str:
        return f"{self.seeds} {hashlib.sha256(self.rows.tobytes()).hexdigest()}"

    def batches(self, plan: Fit, train: Examples, epoch: int) -> list[Tensor]:
        flat = {name: column.cpu() for name, column in train.items() if column.ndim == 1}
        own = []
        for seed, rows in zip(self.seeds, self.rows, strict=True):
            where = torch.from_numpy(rows)
            # Plans look only at columns of one number per example: images are not copied.
            subset = {"row": where} | {name: column[where] for name, column in flat.items()}
            draw = numpy_generator(seed, Purpose.ORDER, epoch)
            own.append([where[batch] for batch in plan.batches(subset, draw)])
        if any([len(batch) for batch in one] != [len(batch) for batch in own[0]] for one in own):
            raise UserError(
                f"{type(plan).__name__} draws batches of different sizes for the networks, but a "
                "stack steps together: give a batch_size that divides the examples of a mask"
            )
        return [torch.stack(step) for step in zip(*own, strict=True)]

    def noise(self, epoch: int, n_steps: int) -> list[int]:
        """The first member's seeds: unlike all else, noise differs from training alone."""
        return torch_seeds(self.seeds[0], Purpose.NOISE, epoch, n_steps)


def fit_stack(
    stack: Stack,
    loss: Loss,
    train: Examples,
    masks: np.ndarray,
    plan: Fit,
    seeds: Sequence[int],
    scratch: Path,
) -> dict[str, np.ndarray]:
    """Train every member in place, on the examples of its mask, in the order of its seed.

    `masks` (K, n_train) bool select equally many examples each; `loss(network, batch)` gives (b,).
    A member ends, to rounding, as `fit` would leave it on those examples alone, unless it draws
    noise. Returns what `fit` does with an axis for the members: `params` (n_checkpoints, K, p),
    `train_loss` (epochs, K), and `buffers` (n_checkpoints, K, q) if the networks have any.
    """
    check(plan, train)
    draws = Subsets(tuple(seeds), rows_of(masks))
    if not stack.size == len(draws.seeds) == len(draws.rows):
        raise UserError(
            f"a stack of {stack.size} networks has {len(draws.rows)} masks and {len(seeds)} seeds: "
            "give one mask and one seed per network"
        )
    outcome = descend(stack, lambda _, batch: stack.own(loss, batch), train, plan, draws, scratch)
    shapes = {
        "params": [value.shape for _, value in stack.named_parameters()],
        "buffers": [value.shape for value in floating_buffers(stack).values()],
    }
    by_member = {n: _by_member(outcome[n], shapes[n]) for n in shapes if n in outcome}
    return {**outcome, **by_member}


def rows_of(masks: np.ndarray) -> np.ndarray:
    """The rows of the training set in each mask, (K, size)."""
    sizes = {int(size) for size in masks.sum(1)}
    if len(sizes) != 1 or 0 in sizes:
        raise UserError(
            f"masks have {min(sizes)} to {max(sizes)} examples, but a stack steps together: give "
            "masks of one size above 0"
        )
    return np.nonzero(masks)[1].reshape(len(masks), sizes.pop())


def _by_member(flat: np.ndarray, shapes: Sequence[torch.Size]) -> np.ndarray:
    """Flat stacked values, (n, sum of K * size), split by member, (n, K, sum of size)."""
    ends = np.cumsum([shape.numel() for shape in shapes])[:-1]
    parts = np.split(flat, ends, axis=1)
    members = [
        part.reshape(len(flat), shape[0], -1) for part, shape in zip(parts, shapes, strict=True)
    ]
    return np.concatenate(members, axis=2)
