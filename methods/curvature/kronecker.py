"""Kronecker factors of the Fisher matrix, layer by layer, and functions of it in their eigenbasis.

A layer's block of the Fisher matrix is the mean over examples of vec(G) vec(G)^T, with
G = sum_t g_t a_t^T its gradient: a_t its inputs, with a 1 for the bias, and g_t the gradients at
its outputs. K-FAC (Martens & Grosse, 2015, arXiv:1503.05671, Eq. 1 to 4; for convolutions Grosse &
Martens, 2016, arXiv:1602.01407, Eq. 23 to 26) takes a's and g's for independent, and positions for
uncorrelated and alike: the block is then E[sum_t g g^T] (x) E_t[a a^T]. EK-FAC (George et al.,
2018, arXiv:1806.03884, Eq. 8 to 11) keeps the eigenvectors of that product and takes the variances
of the gradients along them, which is the best diagonal in that basis.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.curvature.matrix import Operator
from methods.errors import MethodError
from methods.examples import Examples, chunks, count
from methods.losses.failures import explained
from methods.losses.objective import Objective
from methods.precision import full_precision
from methods.progress import track
from methods.randomness import numpy_generator
from methods.rows.blocks import Block, blocks_of, kept_blocks, narrowed, projected
from methods.rows.gradients import Gradients, repeated
from methods.rows.layers import recorded
from methods.task import Task

State = dict[str, Tensor]
PATCHES = 1 << 22  # elements of a convolution's inputs unfolded at a time


@dataclass(frozen=True)
class Fisher:
    """Whose gradients the Fisher matrix is the second moment of.

    labels  column of class labels, which are replaced by ones drawn from the model's own softmax:
            the Fisher matrix of the model. None keeps those of the data: the empirical one.
    seed    of the labels drawn; those of an example are the same in each pass and each batch size
    """

    labels: str | None = None
    seed: int = 0

    def batches(self, task: Task, examples: Examples, size: int) -> Iterator[Examples]:
        """The examples on the parameters' device, `size` at a time, as they are differentiated."""
        drawn, passes = numpy_generator(self.seed, "sampled labels"), -(-count(examples) // size)
        for some in track(chunks(examples, size), "Kronecker factors", passes):
            batch = task.move(some)
            yield batch if self.labels is None else _relabelled(task, batch, self.labels, drawn)


def _relabelled(task: Task, batch: Examples, labels: str, generator: Any) -> Examples:
    """The batch with labels drawn from the softmax of the model's outputs."""
    if labels not in batch or batch[labels].is_floating_point():
        raise MethodError(
            f"labels={labels!r} is not a column of classes: the columns are {', '.join(batch)}"
        )
    column, scores = batch[labels], _outputs(task, batch)
    if scores.shape[:1] + scores.shape[2:] != column.shape:
        if scores.shape[:-1] != column.shape:
            raise MethodError(
                f"the model's outputs are {tuple(scores.shape)} for labels {tuple(column.shape)}: "
                "labels are drawn from outputs (b, classes, ...) or (b, ..., classes); take the "
                "empirical Fisher matrix, labels=None"
            )
        scores = scores.movedim(-1, 1)
    uniform = torch.from_numpy(generator.random(tuple(column.shape))).to(scores)
    below = scores.softmax(1).cumsum(1) < uniform[:, None]
    drawn = below.sum(1).clamp_max(scores.shape[1] - 1).to(column.dtype)
    return {**batch, labels: torch.where(column < 0, column, drawn)}  # below 0: ignored


def _outputs(task: Task, batch: Examples) -> Tensor:
    objective, seen = task.loss, list[Any]()
    assert isinstance(objective, Objective)  # blocks_of has refused others
    hook = objective.model.register_forward_hook(lambda _module, _args, out: seen.append(out))
    try:
        with torch.no_grad(), explained(task, objective, batch):
            objective(task.all_params, batch)
    finally:
        hook.remove()
    outputs = [getattr(out, "logits", out) for out in seen]
    if len(outputs) != 1 or not isinstance(outputs[0], Tensor):
        raise MethodError(
            f"the loss called its model {len(seen)} times on one tensor: labels are drawn from one "
            "call that returns logits; take the empirical Fisher matrix, labels=None"
        )
    return outputs[0].to(task.dtype)


@full_precision()
def covariances(task: Task, examples: Examples, fisher: Fisher) -> dict[Block, list[Tensor]]:
    """The two factors of each block, (rows, rows) and (columns, columns): one pass.

    Their Kronecker product is the block by K-FAC, of the mean loss over the examples.
    """
    blocks = blocks_of(task, examples)
    own = narrowed(task, (name for block in blocks for name in block.names))
    by_weight = {block.weight: block for block in blocks}
    layers = _layers(own, by_weight)
    sums: dict[Block, list[Tensor]] = {}
    terms: dict[Block, int] = defaultdict(int)
    for block in blocks:
        value = own.params[block.weight]
        sizes = (block.rows, block.columns)
        sums[block] = [value.new_zeros(n, n, dtype=own.dtype) for n in sizes]
    size = Gradients(own, own.loss).chunk(examples)
    for batch in fisher.batches(own, examples, size):
        with explained(own, own.loss, batch):
            for layer, x, grad in _captured(own, list(layers), batch):
                block = by_weight[layers[layer]]
                for pair in _factors(layer, block, x.to(own.dtype), grad.to(own.dtype)):
                    terms[block] += len(pair[0])
                    for total, factor in zip(sums[block], pair, strict=True):
                        total.addmm_(factor.T, factor)
    for block, (left, right) in sums.items():
        _check(block, left, right)
        (left if block.turned else right).div_(max(1, terms[block]))
        (right if block.turned else left).div_(count(examples))
    return sums


def _check(block: Block, *factors: Tensor) -> None:
    if not all(bool(factor.isfinite().all()) for factor in factors):
        raise MethodError(
            f"the inputs of {block.weight}'s layer, or the gradients at its outputs, are not "
            "finite: look for NaN in the data or parameters"
        )


def _layers(task: Task, weights: Any) -> dict[nn.Module, str]:
    assert isinstance(task.loss, Objective)
    model = task.loss.model
    names = {id(value): name for name, value in model.named_parameters()}
    return {
        layer: names[id(value)]
        for layer in model.modules()
        for _, value in layer.named_parameters(recurse=False)
        if names[id(value)] in weights
    }


def _captured(
    task: Task, layers: list[nn.Module], batch: Examples
) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
    """Each call of a layer: its input and the gradient of the summed loss at its output."""
    with task.leaves(task.loss) as (_, function):
        with recorded(layers) as calls:
            total = function(batch).sum()
        outputs: list[Any] = [call.output for call in calls]
        found = torch.autograd.grad(total, outputs, allow_unused=True) if outputs else ()
    for call, grad in zip(calls, found, strict=True):
        if grad is None:
            continue
        if len(grad) != count(batch) or len(call.input) != count(batch):
            raise MethodError(
                f"a {type(call.layer).__name__} is called without an axis of the examples: leave "
                "it out by `only`, or take another inverse"
            )
        yield call.layer, call.input, grad


def _factors(
    layer: nn.Module, block: Block, x: Tensor, grad: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """The left and right factors of all positions, (terms, rows) and (terms, columns)."""
    if isinstance(layer, nn.Conv2d):
        pieces = _unfolded(layer, x, grad)
    else:
        pieces = iter([(x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1]))])
    for inputs, outputs in pieces:
        if block.bias is not None:
            inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
        yield (inputs, outputs) if block.turned else (outputs, inputs)


def _unfolded(layer: Any, x: Tensor, grad: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """What each output position of a convolution sees, in the order of its weight, and gets."""
    each = grad[0, 0].numel() * x.shape[1] * layer.kernel_size[0] * layer.kernel_size[1]
    step = max(1, PATCHES // max(1, each))
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    for some, out in zip(x.split(step), grad.split(step), strict=True):
        padded = F.pad(some, layer._reversed_padding_repeated_twice, mode=mode)
        patches = F.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
        yield patches.mT.flatten(0, 1), out.flatten(2).mT.flatten(0, 1)


@full_precision()
def eigenbasis(factors: dict[Block, list[Tensor]]) -> State:
    """The eigenvectors of both factors of each block, as columns, and the products of eigenvalues.

    "left.WEIGHT", "right.WEIGHT" and "values.WEIGHT" (rows, columns), by the weight's name.
    """
    state: State = {}
    for block, pair in factors.items():
        # In float64: in float32 the search may not end for matrices of low rank (few examples).
        (a, left), (b, right) = (
            (part.to(each.dtype) for part in torch.linalg.eigh(each.double())) for each in pair
        )
        state[f"left.{block.weight}"], state[f"right.{block.weight}"] = left, right
        state[f"values.{block.weight}"] = torch.outer(a.clamp_min(0), b.clamp_min(0))
    return state


@full_precision()
def variances(task: Task, examples: Examples, fisher: Fisher, state: State) -> State:
    """The variances of gradients along the eigenvectors of a state, "values.WEIGHT": one pass."""
    blocks = known_blocks(task, state)
    own = narrowed(task, (name for block in blocks for name in block.names))

    @repeated
    def found() -> State:
        gradients = Gradients(own, own.loss)
        totals = {b.weight: torch.zeros_like(state[f"values.{b.weight}"]) for b in blocks}
        for batch in fisher.batches(own, examples, gradients.chunk(examples)):
            rows = gradients.rows(batch)
            for block in blocks:
                sides = (state[f"{side}.{block.weight}"] for side in ("left", "right"))
                totals[block.weight] += _squares(block.gradients(rows), *sides)
        return {f"values.{name}": total / count(examples) for name, total in totals.items()}

    return found()


def _squares(gradient: Tensor | tuple[Tensor, Tensor], left: Tensor, right: Tensor) -> Tensor:
    """The sum over rows of the squares of left^T G right, (rows, columns)."""
    if isinstance(gradient, tuple) and gradient[0].shape[1] == 1:
        a, b = gradient[0][:, 0] @ left, gradient[1][:, 0] @ right
        return a.square().T @ b.square()
    return projected(gradient, left, right).square().sum(0)


def laid_out(array: Tensor, task: Task) -> Tensor:
    """An array of a state for products with the task's vectors: the same bits after a restore.

    Products may differ by rounding with the layout of their operands in memory, which a file keeps
    neither of eigenvectors nor in its alignment.
    """
    return array.to(task.device, task.dtype).clone(memory_format=torch.contiguous_format)


def known_blocks(task: Task, state: State) -> list[Block]:
    """The blocks of a state, by the sizes of their eigenvectors."""
    names = [key.removeprefix("values.") for key in state if key.startswith("values.")]
    return kept_blocks(task, {name: tuple(state[f"values.{name}"].shape) for name in names})


class KroneckerFunction(Operator):
    """A function of each block's matrix, by its eigenbasis; zero outside of all blocks.

    function  of a block's eigenvalues (rows, columns), or of what stands in their place
    rank      how many singular values of a layer's matrix to keep of a product with a query, where
              they are kept as factors; None is all
    """

    def __init__(
        self,
        task: Task,
        state: State,
        function: Callable[[Tensor], Tensor],
        rank: int | None = None,
    ) -> None:
        self.rank = rank
        self.task, self.size, self.dtype, self.device = task, task.size, task.dtype, task.device
        self.blocks = {
            block: (
                laid_out(state[f"left.{block.weight}"], task),
                laid_out(state[f"right.{block.weight}"], task),
                function(laid_out(state[f"values.{block.weight}"], task)),
            )
            for block in known_blocks(task, state)
        }

    def apply(self, vectors: Tensor) -> Tensor:
        pieces = {n: v.flatten(1) for n, v in self.task.unflatten(vectors).items()}
        found: State = {}
        for block, (left, right, weights) in self.blocks.items():
            turned = projected(block.matrices(pieces), left, right).mul_(weights)
            found |= block.parameters(left @ (turned @ right.T))
        zeros = vectors.new_zeros(1, 1)
        whole = [
            found[n] if n in found else zeros.expand(len(vectors), v.shape[1])
            for n, v in pieces.items()
        ]
        return torch.cat(whole, dim=1)
