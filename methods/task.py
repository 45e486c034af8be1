"""The task: all that an attribution method may know of a trained model."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from methods.checkpoints import Checkpoint, gathered
from methods.errors import MethodError, kind, near, within
from methods.examples import Examples, count
from methods.losses.objective import Objective, Params, PerExample, UserLoss
from methods.sources import Column, Source

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Task:
    """A trained model seen from outside.

    params       what is differentiated; fixes device and dtype
    loss         (params, examples) -> (b,), the training loss
    measurement  the query quantity, loss-like (lower is better); a value for each token, (b, t),
                 for `Fitted.token_scores`
    weight_decay the objective is mean loss + weight_decay/2 |params|^2
    regularised  whether the regulariser belongs to each example: then the training gradient of an
                 example is that of its loss plus weight_decay * params. Leaving it out then leaves
                 the minimiser of the mean over the others, regularised as much. By default the
                 regulariser stays as it is, the loss alone is an example's: leaving it out takes
                 its share, 1/n, of the mean away. Gradients of queries are never regularised.
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
    regularised: bool = False

    def __post_init__(self) -> None:
        within("[0, inf)", weight_decay=self.weight_decay)

    @classmethod
    def of(
        cls,
        module: nn.Module,
        loss: UserLoss,
        measurement: UserLoss | None = None,
        only: Iterable[str] = (),
        weight_decay: float = 0.0,
        checkpoints: Iterable[Any] = (),
        regularised: bool = False,
    ) -> Task:
        """The task of `module` under `loss(model, batch) -> (b,)`.

        `only` takes shell patterns of parameter names (`"head.*"`); the rest is held fixed. Without
        it, what has requires_grad=False is held fixed (unless nothing in the module requires one).
        Parameters and floating buffers are copied: the module may train on.

        A checkpoint is a state dict, or the path of a file that holds one: of `torch.save`, by
        itself or in a dict beside an optimizer, read without unpickling anything else; or of
        safetensors. A pair of either and a learning rate gives the rate too, and so does a
        `Checkpoint`.
        """
        if not isinstance(module, nn.Module) or not callable(loss):
            raise MethodError(
                "the first argument is the module, the second its loss, Task.of(model, loss): "
                f"found {kind(module)} and {kind(loss)}"
            )
        _refuse_training(module)
        trained, fixed = _parameters(module)
        buffers = {name: value.clone() for name, value in floating_buffers(module).items()}
        objective = Objective(module, loss)
        task = cls(
            trained,
            objective,
            objective if measurement is None else Objective(module, measurement),
            weight_decay,
            tuple(each.of(trained, fixed) for each in gathered(checkpoints)),
            {**buffers, **fixed} or None,
            regularised,
        )
        for each in task.checkpoints:
            each.check(task.all_params)
        if only:
            floating = {n: v for n, v in task.all_params.items() if n in trained or n in fixed}
            rest = {n: v for n, v in task.all_params.items() if n not in floating}
            floating = {n: v for n, v in floating.items() if v.is_floating_point()}
            return replace(task, params=floating, frozen=rest or None).only(only)
        if any(value.numel() for value in fixed.values()):
            size, whole = task.size, sum(v.numel() for v in fixed.values()) + task.size
            log.warning(
                "%d of %d parameters (%s of %s numbers) are differentiated: the others have "
                "requires_grad=False; `only` chooses otherwise",
                *(len(trained), len(trained) + len(fixed), f"{size:,}", f"{whole:,}"),
            )
        return task

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
        """The task at an earlier moment of training, the same parameters differentiated.

        A checkpoint kept elsewhere, or in another precision, is brought to that of the model.
        """
        checkpoint.check(self.all_params)
        moved = {n: checkpoint.params[n].to(value) for n, value in self.all_params.items()}
        params = {n: moved[n] for n in self.params}
        frozen = {n: moved[n] for n in self.frozen or {}}
        return replace(self, params=params, frozen=frozen, checkpoints=())

    def check(self) -> None:
        """Raise if nothing can be differentiated here, or the model is not (or no longer) one in
        evaluation mode and on one device.

        Cheap enough for every batch.
        """
        _refuse_inference_mode()
        tensors = self.all_params
        for function in (self.loss, self.measurement):
            if isinstance(function, Objective):
                if function.model.training:
                    _refuse_training(function.model)
                tensors = {**dict(function.model.named_buffers()), **tensors}
        places = {value.device: name for name, value in tensors.items()}
        if len(places) > 1:
            where = " and ".join(f"{name} on {device}" for device, name in places.items())
            raise MethodError(
                f"the model is on {len(places)} devices, {where}: move all of it to one, "
                f'model.to("{self.device}"), and make its task then'
            )

    @cached_property
    def all_params(self) -> Params:
        """Every parameter the loss needs, differentiated or not, and the floating buffers.

        The same dict at each call, and not for changing: `Objective.set` knows what it set by it.
        """
        return {**(self.frozen or {}), **self.params}

    @cached_property
    def size(self) -> int:
        """p, the number of differentiated parameters."""
        return sum(v.numel() for v in self.params.values())

    @property
    def device(self) -> torch.device:
        return next(iter(self.params.values())).device

    @cached_property
    def dtype(self) -> torch.dtype:
        """The type of rows, vectors and scores: the widest parameter's, float32 at least."""
        widest = torch.float32
        for value in self.params.values():
            widest = torch.promote_types(widest, value.dtype)
        return widest

    @cached_property
    def _float_type(self) -> torch.dtype | None:
        """The floating type of all parameters; None if there are several."""
        types = {v.dtype for v in self.all_params.values() if v.is_floating_point()}
        return types.pop() if len(types) == 1 else None

    def tangents(self, flat: Tensor) -> Params:
        """Vectors (..., p) as `unflatten` splits them, each in its parameter's type and layout.

        A convolution whose weight and tangent differ in layout brings one of them to the other's
        anew in each of its passes.
        """
        made = {}
        for name, part in self.unflatten(flat).items():
            own = self.params[name]
            # Pairs that may stand for complex numbers have to begin at an even place in memory:
            made[name] = _laid_out(part.to(own.dtype, copy=own.shape[-1:] == (2,)), own)
        return made

    def function(self, whole: PerExample) -> PerExample:
        """A function of all parameters as one of the differentiated parameters alone."""
        frozen = self.frozen or {}
        if not frozen:
            return whole
        return lambda params, examples: whole({**frozen, **params}, examples)

    @contextmanager
    def leaves(self, function: PerExample) -> Iterator[tuple[Params, Callable[[Examples], Tensor]]]:
        """The differentiated parameters as leaves of autograd, and the function of examples there.

        All that is differentiated belongs inside the block: see `Objective.set`.
        """
        if isinstance(function, Objective):
            with function.set(self.all_params, self.params) as leaves, torch.enable_grad():
                yield leaves, function.plain
        else:
            leaves = {n: v.detach().requires_grad_() for n, v in self.params.items()}
            whole = self.function(function)
            with torch.enable_grad():
                yield leaves, lambda examples: whole(leaves, examples)

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
        """The examples on the parameters' device, floating columns in their type if it is one.

        A `Column` and a `Source` move what is read from them.
        """

        def placed(column: Tensor) -> Tensor:
            if isinstance(column, Column):
                return cast(Tensor, column.then(placed))
            if column.is_inference():
                column = column.clone()
            own = self._float_type if column.is_floating_point() else None
            moved = column.to(self.device, own or column.dtype)
            if (column.dtype, moved.dtype) == (torch.float64, torch.float32):
                _refuse_rounded_counts(column, moved)
            return moved

        if isinstance(examples, Source):
            return examples.then(self.move)
        count(examples)
        return {name: placed(column) for name, column in examples.items()}


def _refuse_rounded_counts(column: Tensor, moved: Tensor) -> None:
    """Refuse a column of whole numbers, float64, that float32 does not hold."""
    rounded = moved.to(column.device, column.dtype) != column
    if bool((rounded & (column == column.round()) & column.isfinite()).any()):
        raise MethodError(
            "a column of float64 has whole numbers that float32, the type of the parameters, does "
            "not hold: give it as int64, or the model in float64"
        )


def _laid_out(value: Tensor, like: Tensor) -> Tensor:
    """A tensor (..., *shape) whose last axes lie in memory as those of `like` do.

    Their strides are the same even along axes of length one, by which torch tells layouts apart.
    """
    lead, wanted = value.shape[: value.ndim - like.ndim], like.stride()
    reach = sum((size - 1) * step for size, step in zip(like.shape, wanted, strict=True))
    if value.stride()[len(lead) :] == wanted or reach != like.numel() - 1:
        return value
    steps = [like.numel() * math.prod(lead[i + 1 :]) for i in range(len(lead))]
    made = torch.empty_strided(
        value.shape, (*steps, *wanted), dtype=value.dtype, device=value.device
    )
    return made.copy_(value)


def _parameters(module: nn.Module) -> tuple[Params, Params]:
    """Copies of a module's parameters: those to differentiate, and those that were not trained."""
    named = dict(module.named_parameters())
    if not named:
        raise MethodError("the model has no parameters: there is nothing to differentiate")
    _refuse_inference_mode()
    for name, value in named.items():
        if is_lazy(value):
            raise MethodError(f"{name} has no shape yet: run the model once on some examples")
        if value.is_meta:
            raise MethodError(f"{name} is on the meta device, without values: load the model first")
        if value.is_complex():
            raise MethodError(
                f"{name} is {value.dtype}: gradients are of real parameters, so keep its real and "
                "imaginary part (torch.view_as_real) as the parameter"
            )
        if value.is_inference():
            raise MethodError(
                f"{name} was made inside torch.inference_mode, where nothing can be differentiated "
                "later: make or load the model outside of it"
            )
    copies = {name: value.detach().clone() for name, value in named.items()}
    chosen = [n for n, p in named.items() if p.requires_grad and p.numel()]
    chosen = chosen or [n for n, v in copies.items() if v.is_floating_point() and v.numel()]
    if not chosen:
        raise MethodError("the model has no floating parameters: there is nothing to differentiate")
    fixed = {name: value for name, value in copies.items() if name not in chosen}
    return {name: copies[name] for name in chosen}, fixed


def _refuse_inference_mode() -> None:
    if torch.is_inference_mode_enabled():
        raise MethodError(
            "called inside torch.inference_mode, where nothing can be differentiated: leave that "
            "block (torch.no_grad is no obstacle)"
        )


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
