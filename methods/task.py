"""The task: all that an attribution method may know of a trained model.

Also the few functions on columns of examples, and what explains an error inside a user's loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.func import functional_call

from methods.errors import MethodError, columns, kind, near

Params = dict[str, Tensor]
Examples = dict[str, Tensor]
PerExample = Callable[[Params, Examples], Tensor]
UserLoss = Callable[..., Tensor]

FAILURES = (  # what a call of a user's loss may raise
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Checkpoint:
    """Parameters at one moment of training, and its learning rate at that moment.

    `params` holds the module's floating buffers too where it has any (running statistics).
    """

    params: Params
    lr: float


class _Evaluated(nn.Module):
    """A model and its loss as one module, whose parameters `functional_call` can swap."""

    def __init__(self, model: nn.Module, loss: UserLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, examples: Examples) -> Tensor:
        return self.loss(self.model, examples)


class Objective:
    """A user's loss `(model, batch) -> (b,)` as a function `(params, batch) -> (b,)`.

    The model itself is never changed: parameters are swapped in for the length of one call.
    """

    def __init__(self, model: nn.Module, loss: UserLoss) -> None:
        self.model, self.user_loss = model, loss
        self._evaluated = _Evaluated(model, loss)

    def __call__(self, params: Params, examples: Examples) -> Tensor:
        n, swapped = count(examples), {f"model.{name}": value for name, value in params.items()}
        with _without_fast_path():
            values = functional_call(self._evaluated, swapped, (examples,))
        if not isinstance(values, Tensor) or values.shape != (n,):
            raise MethodError(
                f"the loss returned {kind(values)} for a batch of {n} of the examples: "
                'return one value per example, (b,), for instance with reduction="none"'
            )
        return values


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Switch off the inference-only kernels of torch's transformer layers.

    torch takes them whenever no parameter requires a gradient, and forward mode fails in them.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@dataclass(frozen=True, eq=False)
class Task:
    """A trained model seen from outside.

    params       what is differentiated; fixes device and dtype
    loss         (params, examples) -> (b,), the training loss
    measurement  the query quantity, loss-like (lower is better)
    weight_decay the objective is mean loss + weight_decay/2 |params|^2
    checkpoints  (params, lr) along training, oldest first
    frozen       what else the loss needs without being differentiated: further parameters, and
                 floating buffers, such as the running statistics of BatchNorm
    """

    params: Params
    loss: PerExample
    measurement: PerExample
    weight_decay: float = 0.0
    checkpoints: tuple[Checkpoint, ...] = ()
    frozen: Params | None = None

    @classmethod
    def of(
        cls,
        module: nn.Module,
        loss: UserLoss,
        measurement: UserLoss | None = None,
        only: Iterable[str] = (),
        weight_decay: float = 0.0,
        checkpoints: Iterable[Checkpoint] = (),
    ) -> Task:
        """The task of `module` under `loss(model, batch) -> (b,)`.

        `only` takes shell patterns of parameter names (`"head.*"`); the rest is held fixed.
        """
        if not isinstance(module, nn.Module) or not callable(loss):
            raise MethodError(
                "the first argument is the module, the second its loss, Task.of(model, loss): "
                f"found {kind(module)} and {kind(loss)}"
            )
        _refuse_training(module)
        objective = Objective(module, loss)
        params = {name: p.detach() for name, p in module.named_parameters()}
        task = cls(
            params,
            objective,
            objective if measurement is None else Objective(module, measurement),
            weight_decay,
            tuple(checkpoints),
            floating_buffers(module) or None,
        )
        return task.only(only) if only else task

    def only(self, patterns: Iterable[str]) -> Task:
        """The task that differentiates only parameters whose names match a pattern."""
        if isinstance(patterns, str):
            raise MethodError(f'{patterns!r} is one string: give a list, only=["{patterns}"]')
        patterns = tuple(patterns)
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in self.params):
                raise MethodError(f"no parameter matches {pattern!r}: {near(pattern, self.params)}")
        chosen = {n: v for n, v in self.params.items() if any(fnmatchcase(n, p) for p in patterns)}
        if not chosen:
            raise MethodError("no pattern to choose parameters by: give one, such as 'head.*'")
        rest = {n: v for n, v in self.params.items() if n not in chosen}
        return replace(self, params=chosen, frozen={**(self.frozen or {}), **rest})

    def at(self, checkpoint: Checkpoint) -> Task:
        """The task at an earlier moment of training, the same parameters differentiated."""
        missing = [n for n in self.all_params if n not in checkpoint.params]
        if missing:
            raise MethodError(
                f"the checkpoint lacks {missing[0]}: it is of another model, or lacks buffers"
            )
        for name, value in self.all_params.items():
            if checkpoint.params[name].shape != value.shape:
                raise MethodError(
                    f"{name} is {tuple(checkpoint.params[name].shape)} in the checkpoint and "
                    f"{tuple(value.shape)} in the model: it is of another model"
                )
        params = {n: checkpoint.params[n] for n in self.params}
        frozen = {n: checkpoint.params[n] for n in self.frozen or {}}
        return replace(self, params=params, frozen=frozen, checkpoints=())

    def check(self) -> None:
        """Raise if `.train()` was called since the task was made; cheap enough for every batch."""
        for function in (self.loss, self.measurement):
            if isinstance(function, Objective) and function.model.training:
                _refuse_training(function.model)

    @property
    def all_params(self) -> Params:
        """Every parameter the loss needs, differentiated or not, and the floating buffers."""
        return {**(self.frozen or {}), **self.params}

    @property
    def size(self) -> int:
        """p, the number of differentiated parameters."""
        return sum(v.numel() for v in self.params.values())

    @property
    def device(self) -> torch.device:
        return next(iter(self.params.values())).device

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.params.values())).dtype

    def function(self, whole: PerExample) -> PerExample:
        """A function of all parameters as one of the differentiated parameters alone."""
        frozen = self.frozen or {}
        if not frozen:
            return whole
        return lambda params, examples: whole({**frozen, **params}, examples)

    def flatten(self, values: Params, lead: int = 0) -> Tensor:
        """Join per-parameter tensors, each with `lead` leading axes, to (..., p)."""
        return torch.cat(
            [values[n].reshape(*values[n].shape[:lead], -1) for n in self.params], dim=lead
        )

    def unflatten(self, flat: Tensor) -> Params:
        """Split (..., p) into views shaped as the parameters, in the order of `params`."""
        lead = flat.shape[:-1]
        parts = flat.split([v.numel() for v in self.params.values()], dim=-1)
        return {
            name: part.view((*lead, *value.shape))
            for (name, value), part in zip(self.params.items(), parts, strict=True)
        }

    def move(self, examples: Examples) -> Examples:
        """The examples on the parameters' device, floating columns in their dtype."""
        return {
            k: v.to(self.device, self.dtype) if v.is_floating_point() else v.to(self.device)
            for k, v in examples.items()
        }


def _refuse_training(module: nn.Module) -> None:
    for name, part in module.named_modules():
        if part.training:
            raise MethodError(
                f"{name or 'the model'} is in training mode: call .eval() first, "
                "so that a loss is a function of its parameters and example alone"
            )


def floating_buffers(module: nn.Module) -> Params:
    """The floating buffers of a module that are in its `state_dict`, by name."""
    saved = module.state_dict()
    return {
        name: value.detach()
        for name, value in module.named_buffers()
        if name in saved and value.is_floating_point()
    }


def count(examples: Examples) -> int:
    """Number of examples: the length every column must share."""
    columns = examples.items() if isinstance(examples, Mapping) else ()
    wrong = [f"{n}: {kind(c)}" for n, c in columns if not (isinstance(c, Tensor) and c.ndim)]
    if wrong or not columns:
        raise MethodError(
            "examples are a dict of tensors with one row per example: found "
            f'{wrong[0] if wrong else kind(examples)}; give {{"image": ..., "label": ...}}'
        )
    lengths = {name: len(column) for name, column in columns}
    if len(set(lengths.values())) != 1:
        raise MethodError(f"columns of different lengths: {lengths}; give one row per example")
    return next(iter(lengths.values()))


def take(examples: Examples, index: Tensor | slice) -> Examples:
    """The examples at `index`, every column alike."""
    return {name: column[index] for name, column in examples.items()}


def chunks(examples: Examples, size: int) -> Iterator[Examples]:
    """Yield the examples in order, at most `size` at a time."""
    for start in range(0, count(examples), size):
        yield take(examples, slice(start, start + size))


@contextmanager
def explained(
    task: Task, function: PerExample, examples: Examples, given: Examples | None = None
) -> Iterator[None]:
    """Name the examples' columns in the error of a loss that fails on them; pass others unchanged.

    Only after an error is `function` called once more, plainly, on the examples and on the first of
    them. `given` are the examples they were taken from, where the message is to describe those.
    """
    try:
        yield
    except FAILURES as error:
        if _is_out_of_memory(error):
            raise
        for some in (examples, take(examples, slice(0, 1))):
            if own := _failure(task, function, some):
                whole = some if given is None or some is not examples else given
                what = "loss" if function is task.loss else "measurement"
                raise MethodError(
                    f"the {what} fails on examples with {columns(whole)}: {own}"
                ) from error
        raise


def _failure(task: Task, function: PerExample, examples: Examples) -> str | None:
    """One line about the error of a plain call, or None if it succeeds."""
    try:
        with torch.no_grad():
            function(task.all_params, examples)
    except FAILURES as error:
        if _is_out_of_memory(error):
            return None
        kind, text = type(error).__name__, str(error).strip()
        line = text.splitlines()[0] if text else ""
        return line if line and not isinstance(error, KeyError) else f"{kind}: {line}".rstrip(": ")
    return None


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
