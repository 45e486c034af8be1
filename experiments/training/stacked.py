"""Many networks trained at once, each as if it were trained alone.

Every network has its own initial parameters, its own order of examples and its own subset of the
training set. The steps are those of `training.loop`, so all resume to the same bits. They compute
in one of two ways, which differ by rounding: as a stack, whose products are batched (`Stack`), or
each by itself, on a GPU in a stream of its own (`Apart`); `way` chooses.
`experiments.speed_ensembles` measures both.
"""

import copy
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.modules.conv import _ConvNd

from experiments.laboratory.errors import UserError
from experiments.laboratory.reported import total_norm
from experiments.training.graphs import Graphed, graphs_on, streams
from experiments.training.loop import check, descend
from experiments.training.plans import Fit, Loss, hits
from methods.examples import Examples
from methods.losses.objective import Objective
from methods.randomness import Purpose, numpy_generator, torch_seeds
from methods.task import floating_buffers

Way = Literal["stacked", "apart"]

STREAMS = 8  # of a GPU, for networks apart
APART = {False: 500_000, True: 50_000}  # parameters of networks without, with convolutions


class Members(nn.Module, ABC):
    """K networks of one architecture."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        states = [network.state_dict() for network in networks]
        shapes = [{name: value.shape for name, value in state.items()} for state in states]
        if not networks or any(shape != shapes[0] for shape in shapes):
            raise UserError(
                f"a stack of {len(networks)} networks: give one or more, of one architecture"
            )
        self.size = len(networks)

    @abstractmethod
    def own(self, function: Loss, batch: Examples) -> Tensor:
        """`function(network, batch)` of every member on its own batch; columns are (K, b, ...)."""

    @abstractmethod
    def shared(self, function: Loss, batch: Examples) -> Tensor:
        """`function(network, batch)` of every member on the same batch, (K, b)."""

    @abstractmethod
    def at(self, member: int) -> nn.Module:
        """A copy of one member as an ordinary network."""

    @abstractmethod
    def gradient_norms(self) -> Tensor:
        """|gradient|_2 of each member, (K,), of the gradients that are there."""

    @abstractmethod
    def by_member(self, flat: np.ndarray, values: Collection[Tensor]) -> np.ndarray:
        """Flat `values` of all members, (n, K q), split by member, (n, K, q)."""


class Stack(Members):
    """Networks under vmap: each parameter and buffer gains a leading axis (K, ...)."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__(networks)
        self._lone = [copy.deepcopy(networks[0])]  # in a list, which keeps it out of the state
        self._names: dict[str, str] = {}
        saved = networks[0].state_dict()
        for kind in (nn.Module.named_parameters, nn.Module.named_buffers):
            for values in zip(*(kind(network) for network in networks), strict=True):
                name = values[0][0]
                self._names[name] = own = name.replace(".", "__")
                value = torch.stack([value.detach() for _, value in values])
                if kind is nn.Module.named_parameters:
                    self.register_parameter(own, nn.Parameter(value))
                else:
                    self.register_buffer(own, value, persistent=name in saved)

    def train(self, mode: bool = True) -> "Stack":
        self._lone[0].train(mode)
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Stack":
        self._lone[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def own(self, function: Loss, batch: Examples) -> Tensor:
        return self._mapped(function, 0)(self._state(), batch)

    def shared(self, function: Loss, batch: Examples) -> Tensor:
        return self._mapped(function, None)(self._state(), batch)

    @torch.no_grad()
    def at(self, member: int) -> nn.Module:
        network = copy.deepcopy(self._lone[0])
        state = dict([*network.named_parameters(), *network.named_buffers()])
        for name, value in self._state().items():
            state[name].copy_(value[member])
        return network

    def gradient_norms(self) -> Tensor:
        rows = [value.grad.flatten(1) for value in self.parameters() if value.grad is not None]
        return torch.stack([row.square().sum(1) for row in rows]).sum(0).sqrt()

    def by_member(self, flat: np.ndarray, values: Collection[Tensor]) -> np.ndarray:
        ends = np.cumsum([value.numel() for value in values])[:-1]
        parts = np.split(flat, ends, axis=1)
        return np.concatenate([part.reshape(len(flat), self.size, -1) for part in parts], axis=2)

    def _mapped(self, function: Loss, over: int | None) -> Callable[..., Tensor]:
        return vmap(Objective(self._lone[0], function), in_dims=(0, over), randomness="different")

    def _state(self) -> dict[str, Tensor]:
        return {name: getattr(self, own) for name, own in self._names.items()}


class Apart(Members):
    """Networks side by side: their steps are taken together, but each computes by itself."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__(networks)
        self.networks = nn.ModuleList(networks)
        self._streams: list[Any] | None = None

    def own(self, function: Loss, batch: Examples) -> Tensor:
        batches = ({name: column[k] for name, column in batch.items()} for k in range(self.size))
        return self._each(function, list(batches))

    def shared(self, function: Loss, batch: Examples) -> Tensor:
        return self._each(function, [batch] * self.size)

    def at(self, member: int) -> nn.Module:
        return copy.deepcopy(self.networks[member])

    def gradient_norms(self) -> Tensor:
        return torch.stack([total_norm(network.parameters()) for network in self.networks])

    def by_member(self, flat: np.ndarray, values: Collection[Tensor]) -> np.ndarray:
        return flat.reshape(len(flat), self.size, -1)

    def _each(self, function: Loss, batches: Sequence[Examples]) -> Tensor:
        """Each network in its stream, after what came before and before what comes next.

        Autograd computes the gradients in the same streams.
        """
        device = next(self.parameters()).device
        if self._streams is None:
            self._streams = streams(min(self.size, STREAMS), device)
        here: Any = torch.cuda.current_stream(device) if self._streams else None
        values = []
        for place, (network, batch) in enumerate(zip(self.networks, batches, strict=True)):
            stream = self._streams[place % len(self._streams)] if self._streams else None
            if stream is not None:
                stream.wait_stream(here)
            with torch.cuda.stream(stream) if stream is not None else nullcontext():
                values.append(function(network, batch))
        for stream in self._streams:
            here.wait_stream(stream)
        return torch.stack(values)


def way(convolutional: bool, num_params: int, device: str) -> Way:
    """The faster way to train networks of a kind on a type of device.

    On a GPU, products of small matrices are batched well, convolutions with weights of several
    networks (grouped ones) are not. Milliseconds a network and step on one CPU thread, stacked and
    apart, in float32 (and apart in bf16), batches of 50, for the ResNet 32, for the Inception 8:

        MLP, 51 thousand parameters   0.37   0.33  (0.45)
        MLP, 394 thousand             2.3    1.6    (1.2)
        MLP, 814 thousand             6.0    2.9    (2.1)
        CNN, 9 thousand               1.9    1.6    (1.6)
        CNN, 25 thousand              5.1    3.4    (2.9)
        ResNet-8, 75 thousand          47     36     (27)
        Inception, 1.7 million        167    133     (81)

    Below APART a stack loses little, and networks that were trained stacked stay as they were.
    """
    if device == "cpu":
        return "apart" if num_params > APART[convolutional] else "stacked"
    return "apart" if convolutional else "stacked"


def together(networks: Sequence[nn.Module], device: torch.device) -> Members:
    """The networks on a device, to be trained there the faster way, or as RETRACE_NETWORKS says."""
    ways: dict[str, type[Members]] = {"stacked": Stack, "apart": Apart}
    chosen = os.environ.get("RETRACE_NETWORKS") or "auto"
    if chosen == "auto":
        size = sum(value.numel() for one in networks[:1] for value in one.parameters())
        convolutional = any(isinstance(p, _ConvNd) for one in networks[:1] for p in one.modules())
        chosen = way(convolutional, size, device.type)
    if chosen not in ways:
        raise UserError(f"RETRACE_NETWORKS is {chosen!r}: give auto, {' or '.join(ways)}")
    return ways[chosen](networks).to(device)


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
    members: Members,
    loss: Loss,
    train: Examples,
    masks: np.ndarray,
    plan: Fit,
    seeds: Sequence[int],
    scratch: Path,
    seen: Callable[[Examples], Examples] | None = None,
    on_host: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Train every member in place, on the examples of its mask, in the order of its seed.

    `masks` (K, n_train) bool select equally many examples each; `loss(network, batch)` gives (b,).
    A member ends, to rounding, as `fit` would leave it on those examples alone, unless it draws
    noise. `seen(batch)` are examples as a step sees them, such as moved images: those of all
    members at once, or of one, if all have the same mask and seed, and with them the same batches.
    It gets the columns `on_host` on the CPU, and may draw from torch's global generators.
    Returns what `fit` does with an axis for the members: `params` (n_checkpoints, K, p),
    `train_loss` (epochs, K), and `buffers` (n_checkpoints, K, q) if the networks have any.
    """
    check(train)
    rows = rows_of(masks)
    if not members.size == len(seeds) == len(rows):
        raise UserError(
            f"a stack of {members.size} networks has {len(rows)} masks and {len(seeds)} seeds: "
            "give one mask and one seed per network"
        )
    alike = len(set(seeds)) == 1 and bool((rows == rows[0]).all())
    draws = Subsets(tuple(seeds[:1] if alike else seeds), rows[:1] if alike else rows)

    def look(batch: Examples) -> Examples:
        if alike:
            batch = {name: column[0] for name, column in batch.items()}
            return batch if seen is None else seen(batch)
        if seen is None:
            return batch
        lead = next(iter(batch.values())).shape[:2]
        flat = seen({name: column.flatten(0, 1) for name, column in batch.items()})
        return {name: column.unflatten(0, lead) for name, column in flat.items()}

    def each(function: Loss) -> Loss:
        way = members.shared if alike else members.own
        return lambda _, batch: way(function, batch)

    replayed = Graphed if graphs_on(next(members.parameters()).device) else None
    right = hits(loss)
    given = (draws, scratch, on_host, look, replayed, None if right is None else each(right))
    outcome = descend(members, each(loss), train, plan, *given)
    values: dict[str, list[Tensor]] = {
        "params": list(members.parameters()),
        "buffers": list(floating_buffers(members).values()),
    }
    split = {n: members.by_member(outcome[n], values[n]) for n in values if n in outcome}
    return {**outcome, **split}


def rows_of(masks: np.ndarray) -> np.ndarray:
    """The rows of the training set in each mask, (K, size)."""
    sizes = {int(size) for size in masks.sum(1)}
    if len(sizes) != 1 or 0 in sizes:
        raise UserError(
            f"masks have {min(sizes)} to {max(sizes)} examples, but a stack steps together: give "
            "masks of one size above 0"
        )
    return np.nonzero(masks)[1].reshape(len(masks), sizes.pop())
