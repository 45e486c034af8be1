"""A user's loss `(model, batch) -> (b,)` as a function of the model's parameters."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from methods.errors import MethodError, kind
from methods.examples import Examples, count

Params = dict[str, Tensor]
PerExample = Callable[[Params, Examples], Tensor]
UserLoss = Callable[..., Tensor]

TOKEN = "(token)"  # a column of examples that are one token each, which a loss does not see


class _Evaluated(nn.Module):
    """A model and its loss as one module, whose parameters `functional_call` can swap."""

    def __init__(self, model: nn.Module, loss: UserLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, examples: Examples) -> Tensor:
        return self.loss(self.model, examples)


class _NormedByParts(TorchFunctionMode):
    """Compute weight normalisation by its parts, whose second derivative is right."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch._weight_norm:
            direction, size, axis = tuple(args) + tuple((kwargs or {}).values())
            return direction * (size / torch.norm_except_dim(direction, 2, axis))
        return func(*args, **(kwargs or {}))


def _places(model: nn.Module) -> dict[str, list[str]]:
    """Of every parameter and buffer, by its name, one name for each place that holds it.

    Tied weights are held by several modules. A module that is registered under several names is
    one place: torch swaps by names, and would leave swapped what it swapped twice.
    """
    names: dict[int, str] = {}
    places: dict[str, list[str]] = {}
    for prefix, part in model.named_modules():
        for own in (part.named_parameters, part.named_buffers):
            for name, tensor in own(prefix, recurse=False, remove_duplicate=False):
                places.setdefault(names.setdefault(id(tensor), name), []).append(name)
    return places


class Objective:
    """A user's loss `(model, batch) -> (b,)` as a function `(params, batch) -> (b,)`.

    The model itself is never changed: parameters are swapped in for the length of one call, or set
    for the length of a block.
    """

    def __init__(self, model: nn.Module, loss: UserLoss) -> None:
        self.model, self.user_loss = model, loss
        self.independent = 0  # examples of which `prove_independent` has passed: 1, or 2 and more
        self.symmetric = False  # whether its Hessian was found to be
        self.types: frozenset[torch.dtype] | None = None  # that it computes in; see `types_of`
        self.changing: Params = {}  # buffers that a forward pass changes: each begins with these
        self.batches = 0  # met since `prove_independent` has passed
        self._evaluated = _Evaluated(model, loss)
        self._places = _places(model)
        self._now: tuple[Params, Container[str], Params] | None = None  # what is set; see `set`
        parts = list(model.modules())
        self._sparse: list[Any] = [part for part in parts if getattr(part, "sparse", False) is True]
        self._recurrent = any(isinstance(part, nn.RNNBase) for part in parts)
        hooks = [hook for part in parts for hook in part._forward_pre_hooks.values()]
        named = {type(each).__name__ for each in (*parts, *hooks)}
        self._normed = bool(named & {"_WeightNorm", "WeightNorm"})

    def __call__(self, params: Params, examples: Examples) -> Tensor:
        n = count(examples)
        own = {name: params.get(name, kept).clone() for name, kept in self.changing.items()}
        params = {**params, **own}
        swapped = {
            f"model.{place}": value
            for name, value in params.items()
            for place in self._places.get(name, ())
        }
        given = (_unmarked(examples),)
        with self._differentiable():
            values = functional_call(self._evaluated, swapped, given, tie_weights=False)
            return _one_each(values, n, examples.get(TOKEN))

    def plain(self, examples: Examples) -> Tensor:
        """The loss of the model as it is, (b,)."""
        n = count(examples)
        self._begin()
        with self._differentiable():
            values = self.user_loss(self.model, _unmarked(examples))
            return _one_each(values, n, examples.get(TOKEN))

    def tokens(self, examples: Examples) -> Tensor:
        """The values of every token of the model as it is, (b, t)."""
        n = count(examples)
        self._begin()
        with self._differentiable():
            return _of_tokens(self.user_loss(self.model, examples), n)

    @contextmanager
    def set(self, values: Params, trained: Container[str]) -> Iterator[Params]:
        """Give the model these values for the length of the block; yield its trained parameters.

        They are the model's own, not replaced by others: what a backward pass computes again
        (activation checkpointing), and what holds a parameter outside of its module (recurrent
        layers, closures) meets them too. Every pass over their graph belongs inside the block.

        A block inside a block of the same values and names has nothing to do: around many small
        passes, one block saves them setting each parameter and back, a tenth of their time.
        """
        outer = self._now
        if outer is not None and outer[0] is values and outer[1] is trained:
            yield outer[2]
            return
        model = self.model
        own = dict(model.named_parameters())
        buffers = dict(model.named_buffers())
        held = {**own, **{n: b for n, b in buffers.items() if n in values}}
        before = [(tensor, tensor.data, tensor.requires_grad) for tensor in held.values()]
        try:
            for name, tensor in held.items():
                if name in values:
                    tensor.data = values[name]
                if name in own:
                    tensor.requires_grad_(name in trained)
            leaves: Params = {name: own[name] for name in values if name in trained}
            self._now = values, trained, leaves
            yield leaves
        finally:
            self._now = outer
            self._put({n: buffers[n] for n in self.changing})
            for tensor, data, trainable in before:
                tensor.data = data
                tensor.requires_grad_(trainable)

    def _begin(self) -> None:
        """Let a pass change copies of the buffers that it changes."""
        if self._now is not None:
            values = self._now[0]
            self._put({n: values.get(n, kept).clone() for n, kept in self.changing.items()})

    def _put(self, buffers: Params) -> None:
        """Give the model other buffers."""
        for name, buffer in buffers.items():
            owner, _, attribute = name.rpartition(".")
            setattr(self.model.get_submodule(owner), attribute, buffer)

    @contextmanager
    def _differentiable(self) -> Iterator[None]:
        """Take kernels that can be differentiated, to second order and in evaluation mode.

        torch's transformer layers have an inference-only kernel, which forward mode fails in, and
        take it whenever no parameter requires a gradient; cuDNN's recurrent layers have a backward
        pass in training mode alone; sparse gradients have no second derivative, and that of torch's
        weight normalisation is wrong.
        """
        before = torch.backends.mha.get_fastpath_enabled(), torch.backends.cudnn.enabled
        torch.backends.mha.set_fastpath_enabled(False)
        if self._recurrent:
            torch.backends.cudnn.enabled = False
        for part in self._sparse:
            part.sparse = False
        try:
            with _NormedByParts() if self._normed else nullcontext():
                yield
        finally:
            for part in self._sparse:
                part.sparse = True
            torch.backends.mha.set_fastpath_enabled(before[0])
            if self._recurrent:
                torch.backends.cudnn.enabled = before[1]


def _unmarked(examples: Examples) -> Examples:
    """The examples as a user's loss knows them."""
    return {n: c for n, c in examples.items() if n != TOKEN} if TOKEN in examples else examples


def _of_tokens(values: object, n: int) -> Tensor:
    if not isinstance(values, Tensor) or values.ndim != 2 or len(values) != n:
        raise MethodError(
            f"the measurement returned {kind(values)} for a batch of {n} of the examples: for "
            "scores of tokens return one value per token, (b, t)"
        )
    return values


def _one_each(values: object, n: int, token: Tensor | None = None) -> Tensor:
    """The values of a loss, if there is a real one for each of n examples (one token of each)."""
    if token is not None:
        values = _of_tokens(values, n).gather(1, token[:, None])[:, 0]
    if not isinstance(values, Tensor) or values.shape != (n,):
        raise MethodError(
            f"the loss returned {kind(values)} for a batch of {n} of the examples: "
            'return one value per example, (b,), for instance with reduction="none" (one per token '
            "only as the measurement of `token_scores`)"
        )
    if not values.is_floating_point():
        raise MethodError(
            f"the loss returned values of {values.dtype}, which have no gradient by real "
            "parameters: return real floating numbers (of complex outputs, say, the squared size)"
        )
    return values
