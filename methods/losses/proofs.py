"""What is found out about a user's loss by calling it: its types, and whether it mixes examples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule
from torch.overrides import TorchFunctionMode

from methods.errors import MethodError
from methods.examples import Examples, count, take
from methods.losses.objective import TOKEN, Objective, PerExample
from methods.randomness import numpy_generator
from methods.sources import Source
from methods.task import Task

ALONE = 3  # examples whose losses alone are compared with those in their batch


class _Noting(TorchFunctionMode):
    """Note the floating types of what depends on a parameter: norms, say, that compute in float32.

    What does not (a table of rotations) is the same in every pass.
    """

    def __init__(self, types: set[torch.dtype]) -> None:
        super().__init__()
        self.types = types

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and output.requires_grad:
            self.types.add(output.dtype)
        return output


def types_of(task: Task, function: PerExample, examples: Examples) -> frozenset[torch.dtype]:
    """The floating types that a loss computes in, autocast's too: one pass of a few examples.

    That pass also tells which buffers a forward pass changes: see `Objective.changing`.
    """
    types = {v.dtype for v in task.all_params.values() if v.is_floating_point()}
    if not isinstance(function, Objective):
        return frozenset(types)
    if function.types is None:

        def note(_module: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                types.add(output.dtype)

        parts = function.model.modules()
        hooks = [p.register_forward_hook(note) for p in parts if not isinstance(p, ScriptModule)]
        buffers = dict(function.model.named_buffers())
        values = {n: task.all_params.get(n, buffer) for n, buffer in buffers.items()}
        function.changing = {n: value.detach().clone() for n, value in values.items()}
        try:
            with function.set(task.all_params, task.params), torch.enable_grad(), _Noting(types):
                function.plain(take(examples, slice(0, 3)))
                after = dict(function.model.named_buffers())
        finally:
            for hook in hooks:
                hook.remove()
        kept = function.changing
        changed = _changed([(value, after.get(name)) for name, value in kept.items()])
        function.changing = {n: kept[n] for n, new in zip(kept, changed, strict=True) if new}
        function.types = frozenset(types)
    return function.types


def _changed(pairs: list[tuple[Tensor, Tensor | None]]) -> list[bool]:
    """Whether each second tensor is there and is not the first; the host waits once."""
    found = []
    for one, other in pairs:
        if other is None or one.shape != other.shape:
            found.append(torch.tensor(other is not None, device=one.device))
        else:
            found.append(~((one == other) | ((one != one) & (other != other))).all())
    changed: list[bool] = torch.stack(found).tolist() if found else []
    return changed


def resolution(task: Task, function: PerExample, examples: Examples) -> float:
    """The relative rounding error of the coarsest type that a loss computes in."""
    return max(torch.finfo(each).eps for each in types_of(task, function, examples))


def half_overflows(task: Task, function: PerExample, examples: Examples) -> str:
    """The end of a message about numbers that are not finite, where float16 may be why."""
    half = torch.float16 in types_of(task, function, examples)
    return " (float16 ends at 65504: use bfloat16 or float32)" if half else ""


def prove_independent(task: Task, function: PerExample, examples: Examples) -> None:
    """Refuse a loss whose value for an example depends on its batch; proved once for an Objective.

    The losses of the examples together must be those among half as many, and those of a few alone:
    little more than two forward passes. An example alone is taken twice, which proves less: once
    for all that are alone, and again as soon as there are several.
    """
    n = count(examples)
    if not isinstance(function, Objective) or function.independent >= min(n, 2):
        return
    for name, part in function.model.named_modules():
        if getattr(part, "scale_grad_by_freq", False):
            raise MethodError(
                f"{name} has scale_grad_by_freq=True, so the gradient of an example depends on its "
                "batch: set it to False"
            )
    some = examples if n > 1 else {k: torch.cat([v, v]) for k, v in examples.items()}
    alone = torch.linspace(0, n - 1, min(n, ALONE)).round().long().tolist()
    parts = [slice(0, None, 2), slice(1, None, 2), *(slice(i, i + 1) for i in alone)]
    _compare_parts(task, function, some, parts)
    function.independent = min(n, 2)


def hold_independent(task: Task, function: PerExample, examples: Examples) -> None:
    """`prove_independent`, and hold one example of batch 2, 4, 8, 16, ... against its loss alone.

    A forward pass each: 7 in the first 100 batches, less than 2% of any product with them.
    """
    n = count(examples)
    prove_independent(task, function, examples)
    if not isinstance(function, Objective) or n == 1:
        return
    function.batches += 1
    if function.batches > 1 and function.batches & (function.batches - 1) == 0:
        i = int(numpy_generator(0, "held loss", function.batches).integers(n))
        _compare_parts(task, function, examples, [slice(i, i + 1)])


def prove_read_alike(
    task: Task, function: PerExample, examples: Examples, index: Tensor, batch: Examples
) -> None:
    """Refuse a loss that is another for an example of a source that is read alone.

    A source may pad what it reads together. `batch` is what it gives for some indices, moved.
    """
    if not isinstance(examples, Source) or not isinstance(function, Objective) or TOKEN in batch:
        return
    eps = resolution(task, function, batch)
    singly = [task.move(take(examples, one)) for one in index.split(1)]
    with function.set(task.all_params, ()), torch.enable_grad():
        together = function.plain(batch).detach()
        alone = torch.cat([function.plain(one).detach() for one in singly])
    i = _other(together, alone, eps)
    if i is not None:
        raise MethodError(
            f"the loss of an example is {float(together[i]):.6g} read with others and "
            f"{float(alone[i]):.6g} read alone: it depends on how its batch is padded, so mask the "
            "padding in the model and the loss"
        )


def _compare_parts(task: Task, function: Objective, examples: Examples, parts: list[slice]) -> None:
    """Refuse losses that are others among some of the examples, by parts, than among all."""
    eps = resolution(task, function, examples)
    # Gradients are on for a loss that holds derivatives by its inputs, not by parameters:
    with function.set(task.all_params, ()), torch.enable_grad():
        whole = function.plain(examples).detach()
        among = [function.plain(_some(examples, part)).detach() for part in parts]
    for part, losses in zip(parts, among, strict=True):
        _compare(whole[part], losses, eps)


def _some(examples: Examples, part: slice) -> Examples:
    """Some of the examples, laid out in memory as a batch of them is."""
    return {name: column.contiguous() for name, column in take(examples, part).items()}


def _compare(together: Tensor, apart: Tensor, eps: float) -> None:
    """Refuse losses, (b,), of examples in one batch that differ from those in another batch."""
    i = _other(together, apart, eps)
    if i is not None:
        raise MethodError(
            f"the loss of an example is {float(together[i]):.6g} in one batch and "
            f"{float(apart[i]):.6g} in another: it depends on its batch (or on chance), so no "
            "example has a gradient of its own; make it a function of the example alone"
        )


def _other(one: Tensor, other: Tensor, eps: float) -> int | None:
    """The place of a value that differs by more than rounding; NaN is for others to report."""
    bound = eps**0.6 * max(float(one.abs().max()), float(other.abs().max()), eps)
    wrong = ((one - other).abs() > bound).nonzero()[:, 0]
    return int(wrong[0]) if len(wrong) else None
