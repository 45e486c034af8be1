"""Layers as blocks: a weight as one matrix, with the bias as one more row or column of it.

Such a block's gradient is a sum over positions of outer products of the layer's input, with a 1
for the bias, and of the gradient at its output: what Kronecker-factored curvature and two-sided
projections are made of.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from methods.errors import MethodError
from methods.examples import Examples, take
from methods.losses.objective import Objective, Params
from methods.rows.factored import Rows
from methods.rows.gradients import Gradients
from methods.rows.layers import owned
from methods.rows.parts import Outer
from methods.task import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Block:
    """A layer's matrix (rows, columns): its weight (its first axis by all others) and its bias.

    Of a Linear and a Conv2d, rows are outputs, columns inputs, and the bias is the last column. Of
    a layer that is `turned`, as GPT-2's Conv1D, rows are inputs, and the bias is the last row.
    """

    weight: str
    bias: str | None
    turned: bool
    rows: int
    columns: int

    @property
    def names(self) -> tuple[str, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def matrices(self, values: Params) -> Tensor:
        """The block (k, rows, columns) of parameters with one leading axis."""
        weight = values[self.weight]
        own = weight.reshape(len(weight), self.rows - self._down, self.columns - self._across)
        if self.bias is None:
            return own
        bias = values[self.bias][:, None] if self.turned else values[self.bias][:, :, None]
        return torch.cat([own, bias], dim=1 if self.turned else 2)

    def parameters(self, matrices: Tensor) -> Params:
        """The reverse of `matrices`: each parameter's numbers, (k, size)."""
        own = matrices[:, : self.rows - self._down, : self.columns - self._across]
        values = {self.weight: own.flatten(1)}
        if self.bias is not None:
            values[self.bias] = matrices[:, -1] if self.turned else matrices[:, :, -1]
        return values

    def gradients(self, rows: Rows) -> Tensor | tuple[Tensor, Tensor]:
        """The block of each row: factors left (b, T, rows) and right (b, T, columns), or dense."""
        parts = rows.parts[self.weight]
        outer = [part.in_order() for part in parts if isinstance(part, Outer) and not part.one_hot]
        if len(outer) < len(parts):
            shaped = {n: _dense(rows, n) for n in self.names}
            return self.matrices(shaped)
        left = torch.cat([part.left * part.scale for part in outer], dim=1)
        right = torch.cat([part.right for part in outer], dim=1)
        if self.bias is None:
            return left, right
        if not self.turned:
            return left, _with_one(right)
        scales = [part.left.new_full(part.left.shape[:2], part.scale) for part in outer]
        return torch.cat([left, torch.cat(scales, dim=1)[:, :, None]], dim=2), right

    @property
    def _down(self) -> int:
        return int(self.bias is not None and self.turned)

    @property
    def _across(self) -> int:
        return int(self.bias is not None and not self.turned)


def _with_one(factor: Tensor) -> Tensor:
    return torch.cat([factor, factor.new_ones(*factor.shape[:-1], 1)], dim=-1)


def _dense(rows: Rows, name: str) -> Tensor:
    parts = rows.parts[name]
    return sum((part.matrix() for part in parts[1:]), parts[0].matrix())


def projected(gradient: Tensor | tuple[Tensor, Tensor], left: Tensor, right: Tensor) -> Tensor:
    """left^T G right of each row's block G, (b, d, e); left (rows, d), right (columns, e)."""
    if isinstance(gradient, Tensor):
        return left.T @ (gradient @ right)
    return (gradient[0] @ left).mT @ (gradient[1] @ right)


def narrowed(task: Task, names: Iterable[str]) -> Task:
    """The task that differentiates these parameters alone."""
    chosen = set(names)
    params = {n: v for n, v in task.params.items() if n in chosen}
    rest = {n: v for n, v in task.params.items() if n not in chosen}
    return replace(task, params=params, frozen={**(task.frozen or {}), **rest} or None)


def blocks_of(task: Task, examples: Examples) -> list[Block]:
    """The blocks of a model's Linear, Conv2d (of one group) and Conv1D layers, in its order.

    A parameter that is of no such layer, of several, or whose factored gradients are not those of
    autograd is left out, and named in the log.
    """
    if not isinstance(task.loss, Objective):
        raise MethodError("layers are known of a task made by Task.of(module, loss) alone")
    gradients = Gradients(task, task.loss)
    gradients.chunk(examples)
    slow = set(gradients.fallback or ())
    layers, names = owned(task.loss.model, task.params)
    uses = Counter(names.values())
    known = {n for n in task.params if n not in slow and uses[n] == 1}
    turned = _turned(layers, names, known, gradients, examples)
    found = []
    for layer in layers:
        weight, bias = (names.get((id(layer), own)) for own in ("weight", "bias"))
        if weight not in known or not (_plain(layer) or layer in turned):
            continue
        value = task.params[weight]
        folded = bias if bias in known and bias == _bias_of(weight) else None
        rows, columns = len(value), value[0].numel()
        down = int(folded is not None and layer in turned)
        across = int(folded is not None and layer not in turned)
        found.append(Block(weight, folded, layer in turned, rows + down, columns + across))
    left_out = [n for n in task.params if n not in {name for b in found for name in b.names}]
    if not found:
        raise MethodError(
            f"no layer to factorise among {', '.join(task.params)}: there must be an nn.Linear, an "
            "nn.Conv2d of one group or a Conv1D; use Influence with another inverse"
        )
    if left_out:
        log.warning("left out of the layers' blocks, as if frozen: %s", ", ".join(left_out))
    return found


def kept_blocks(task: Task, sizes: Mapping[str, tuple[int, ...]]) -> list[Block]:
    """The blocks of weights by their sizes (rows, columns), in the model's order.

    A state read from a file has an order of its own, and sums in another order other last bits.
    """
    own = [name for name in task.params if name in sizes]
    other = [name for name in sizes if name not in task.params]
    return [block_of(task, name, *sizes[name]) for name in (*own, *other)]


def block_of(task: Task, weight: str, rows: int, columns: int) -> Block:
    """The block of a weight by its size: what a state keeps of it."""
    if weight not in task.params:
        raise MethodError(f"the state has a block of {weight}: it was made for another model")
    value, bias = task.params[weight], _bias_of(weight)
    down, across = rows - len(value), columns - value[0].numel()
    if (down, across) == (0, 0):
        return Block(weight, None, False, rows, columns)
    own = task.params.get(bias)
    if own is None or {down, across} != {0, 1} or len(own) != (columns if down else rows):
        raise MethodError(
            f"the state's block of {weight} is {rows} x {columns}: it was made for another model"
        )
    return Block(weight, bias, bool(down), rows, columns)


def _bias_of(weight: str) -> str:
    return weight.removesuffix("weight") + "bias"


def _plain(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return type(layer).forward is nn.Conv2d.forward and layer.groups == 1
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward


def _turned(
    layers: Iterable[nn.Module],
    names: dict[tuple[int, str], str],
    known: set[str],
    gradients: Gradients,
    examples: Examples,
) -> set[nn.Module]:
    """The layers of other kinds whose gradients are outer products of input and output."""
    own = {
        layer: name
        for layer in layers
        if not isinstance(layer, nn.Linear | nn.Conv2d | nn.Embedding)
        and (name := names.get((id(layer), "weight"), "")) in known
        and gradients.task.params[name].ndim == 2
    }
    if not own:
        return set()
    rows = gradients.rows(take(examples, slice(0, 2)))
    return {
        layer
        for layer, name in own.items()
        if all(isinstance(part, Outer) and not part.one_hot for part in rows.parts[name])
    }
