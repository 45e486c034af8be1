"""Per-example gradients from what a layer's forward and backward pass already compute.

Each supported layer joins its input and the gradient at its output to parts of `Rows`.
Gradients are taken at layer *outputs* only, so that no weight gradient is ever formed. Layers of
other kinds that have no layers inside are differentiated alone, from the same two tensors. What is
computed for all examples at once (positions) is followed to where it meets the examples: there each
has its own gradient, which is pulled back to the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call, vmap
from torch.func import grad as gradient
from torch.jit import ScriptModule
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from methods.losses.failures import FAILURES
from methods.rows.convolutions import parts as convolution_parts
from methods.rows.parts import Dense, Outer, Part


@dataclass(frozen=True)
class Call:
    """One use of a layer in a forward pass, with the values then in force (of a checkpoint)."""

    layer: Any
    input: Tensor
    output: GradientEdge
    values: dict[str, Tensor]  # of its parameters and buffers
    trained: frozenset[str]  # those that are differentiated
    more: tuple[Any, ...]  # what else it was given
    named: dict[str, Any]  # and what by name
    length: int  # the first length of its output
    shared: bool = False  # whether its output is the same for all examples, without an axis of them

    def again(self, values: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The output of the same call for another input, with other values."""
        output: Tensor = functional_call(self.layer, dict(values), (x, *self.more), self.named)
        return output


Builder = Callable[[Call, Tensor], dict[str, Part]]


def _linear(call: Call, grad: Tensor) -> dict[str, Part]:
    layer, x, b = call.layer, call.input, len(grad)
    left, right = grad.reshape(b, -1, grad.shape[-1]), x.reshape(b, -1, x.shape[-1])
    parts: dict[str, Part] = {"weight": Outer(left, right, left.shape[2], right.shape[2:])}
    if layer.bias is not None:
        parts["bias"] = Dense(left.sum(1))
    return parts


def _conv2d(call: Call, grad: Tensor) -> dict[str, Part]:
    return convolution_parts(call.layer, call.input, grad)


def _embedding(call: Call, grad: Tensor) -> dict[str, Part]:
    layer, x, b = call.layer, call.input, len(grad)
    if x.is_floating_point():
        raise TypeError("no indices")
    index, right = x.reshape(b, -1), grad.reshape(b, -1, layer.embedding_dim)
    if layer.padding_idx is not None:
        right = right * (index != layer.padding_idx)[:, :, None]
    return {"weight": Outer(index, right, layer.num_embeddings, right.shape[2:])}


def _layer_norm(call: Call, grad: Tensor) -> dict[str, Part]:
    layer = call.layer
    shape = layer.normalized_shape
    normal = F.layer_norm(call.input, shape, eps=layer.eps)
    axes = tuple(range(1, grad.ndim - len(shape)))
    total = (lambda t: t.sum(axes)) if axes else (lambda t: t)
    parts: dict[str, Part] = {"weight": Dense(total(grad * normal))}
    if layer.bias is not None:
        parts["bias"] = Dense(total(grad))
    return parts


def _group_norm(call: Call, grad: Tensor) -> dict[str, Part]:
    normal = F.group_norm(call.input, call.layer.num_groups, eps=call.layer.eps)
    return _by_channel(normal, grad)


def _batch_norm(call: Call, grad: Tensor) -> dict[str, Part]:
    """In evaluation mode, where the layer is an affine map of each example alone."""
    mean, variance = call.values["running_mean"], call.values["running_var"]
    normal = F.batch_norm(call.input, mean, variance, eps=call.layer.eps)
    return _by_channel(normal, grad)


def _by_channel(normal: Tensor, grad: Tensor) -> dict[str, Part]:
    """The parts of a gain and an offset of each channel, (b, channels, ...)."""
    axes = tuple(range(2, grad.ndim))
    total = (lambda t: t.sum(axes)) if axes else (lambda t: t)
    return {"weight": Dense(total(grad * normal)), "bias": Dense(total(grad))}


def turned(call: Call, grad: Tensor) -> dict[str, Part]:
    """A Linear whose weight is (inputs, outputs), as GPT-2's Conv1D."""
    b, x = len(grad), call.input
    left, right = x.reshape(b, -1, x.shape[-1]), grad.reshape(b, -1, grad.shape[-1])
    return {
        "weight": Outer(left, right, left.shape[2], right.shape[2:]),
        "bias": Dense(right.sum(1)),
    }


def _alone(call: Call, grad: Tensor) -> dict[str, Part]:
    """A layer of any other kind (an RMSNorm, say): `vmap(grad)` of it alone, materialised."""
    own = {name: call.values[name] for name in call.trained}

    def pulled(params: dict[str, Tensor], x: Tensor, g: Tensor) -> Tensor:
        return (call.again({**call.values, **params}, x[None]) * g[None]).sum()

    found = vmap(gradient(pulled), in_dims=(None, 0, 0))(own, call.input, grad)
    return {name: Dense(values) for name, values in found.items()}


def spread(call: Call, n: int) -> Call:
    """A call on what n examples share, as one on a copy for each."""
    return replace(call, input=call.input.expand(n, *call.input.shape))


class _Inside(TorchFunctionMode):
    """Record the products with one weight, as calls of its layer."""

    def __init__(self, call: Call, weight: Tensor) -> None:
        super().__init__()
        self.call, self.weight, self.calls = call, weight, list[Call]()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in (F.linear, F.embedding) and args[1] is self.weight:
            inner = replace(self.call, input=args[0].detach(), output=get_gradient_edge(output))
            self.calls.append(inner)
        return output


def inside(build: Builder, call: Call, grad: Tensor) -> dict[str, Part]:
    """A Linear or Embedding with a forward of its own: by the one product with its weight there."""
    rest = call.trained - {"weight", "bias"}
    parts = _alone(replace(call, trained=rest), grad) if rest else {}
    if rest == call.trained:
        return parts
    weight = call.values["weight"].detach().requires_grad_()
    with torch.enable_grad(), _Inside(call, weight) as mode:
        output = call.again({**call.values, "weight": weight}, call.input)
    inner, batched = mode.calls[0], call.shared
    g = torch.autograd.grad(output, inner.output, grad, is_grads_batched=batched)[0]
    if batched:
        inner = spread(inner, len(grad))
    if len(mode.calls) > 1 or len(g) != len(grad) or len(inner.input) != len(grad):
        raise ValueError("not one product of its own for each example")
    return parts | build(inner, g)


SUPPORTED: dict[type[nn.Module], Builder] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
}


def builder(layer: nn.Module) -> Builder | None:
    """What makes a layer's parts by its own names; None where nothing can: by a slower way then."""
    for kind, build in SUPPORTED.items():
        if isinstance(layer, kind):
            if kind in (nn.Linear, nn.Embedding) and type(layer).forward is not kind.forward:
                return partial(inside, build)
            return build if _of_each(layer) else None
    own = dict(layer.named_parameters(recurse=False))
    if not own or any(True for _ in layer.children()):
        return None
    return turned if _is_turned(layer, own) else _alone


def _of_each(layer: nn.Module) -> bool:
    """Whether a supported layer has parameters, and takes each example alone."""
    if isinstance(layer, nn.LayerNorm):
        return bool(layer.elementwise_affine)
    if isinstance(layer, nn.GroupNorm):
        return bool(layer.affine)
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        # In training mode an example depends on its batch.
        return bool(layer.affine and layer.track_running_stats and not layer.training)
    return True


def _is_turned(layer: nn.Module, own: Mapping[str, Tensor]) -> bool:
    """Whether a layer is x @ weight + bias, found by trying it on small whole numbers."""
    if own.keys() != {"weight", "bias"} or own["weight"].ndim != 2 or own["bias"].ndim != 1:
        return False
    weight, bias = (
        (torch.arange(v.numel(), device=v.device) % 7 - 3).to(v.dtype).view(v.shape)
        for v in (own["weight"], own["bias"])
    )
    x = (torch.arange(2 * len(weight), device=weight.device) % 5).to(weight.dtype)
    x = x.view(1, 2, len(weight))
    try:
        with torch.no_grad():
            found = functional_call(layer, {"weight": weight, "bias": bias}, (x,))
        return torch.allclose(found, x @ weight + bias, rtol=1e-2)
    except FAILURES:
        return False


def owned(
    model: nn.Module, params: Container[str]
) -> tuple[dict[nn.Module, Builder], dict[tuple[int, str], str]]:
    """The layers that have one of `params`, how their parts are made, and the model's names.

    A name is looked up by the `id` of the layer and the layer's own name of the parameter.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    layers: dict[nn.Module, Builder] = {}
    parameters: dict[tuple[int, str], str] = {}
    for layer in model.modules():
        if isinstance(layer, ScriptModule):  # which takes no hooks
            continue
        own = {attribute: names[id(p)] for attribute, p in layer.named_parameters(recurse=False)}
        if any(name in params for name in own.values()) and (build := builder(layer)):
            layers[layer] = build
            parameters |= {(id(layer), attribute): name for attribute, name in own.items()}
    return layers, parameters


class Meeting(NamedTuple):
    """Where what all examples share meets them: the shared tensor, and its copies for each."""

    shared: Tensor
    copies: GradientEdge


class Recording(list[Call]):
    """The calls of some layers in order, and the meetings of what they share with the examples."""

    def __init__(self) -> None:
        self.meetings: list[Meeting] = []


@contextmanager
def recorded(
    layers: Iterable[nn.Module], n: int = 0, shares: Callable[[nn.Module, int], bool] | None = None
) -> Iterator[Recording]:
    """Record every call of `layers` made inside the block, in order.

    A call of whose output `shares` says so (given the layer and the output's first length) has no
    axis of the `n` examples: it is of positions, say. What is computed from its output is copied
    for each of them where it first meets a tensor that has that axis.
    """
    calls = Recording()
    kind = _shared_by(n, calls.meetings)

    def record(
        layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> Tensor | None:
        tensors = len(args) > 0 and isinstance(args[0], Tensor) and isinstance(output, Tensor)
        if not (tensors and output.requires_grad):
            return None
        shared = shares is not None and output.ndim > 0 and shares(layer, len(output))
        if isinstance(output, kind):
            output = output.as_subclass(Tensor)
        if output._base is not None:  # of a view, a later in-place activation changes the edge too
            output = output.clone()
        # The edge, not the tensor: a later in-place activation would change the latter.
        own = {n: v for n, v in layer._parameters.items() if v is not None}
        fixed = {n: v for n, v in layer._buffers.items() if v is not None}
        values = {n: v.detach() for n, v in chain(own.items(), fixed.items())}
        trained = frozenset(name for name, value in own.items() if value.requires_grad)
        x = args[0].detach().as_subclass(Tensor)
        edge, more = get_gradient_edge(output), args[1:]
        calls.append(Call(layer, x, edge, values, trained, more, named, len(output), shared))
        return output.as_subclass(kind) if shared else output

    handles = [layer.register_forward_hook(record, with_kwargs=True) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def laid_out(modules: Iterable[nn.Module], turned: set[nn.Module] | None = None) -> Iterator[None]:
    """Lay the gradients at outputs with their channels last out in the same way, inside the block.

    Behind a flattening they come with channels first, and pooling then goes back at a fraction of
    the speed. With `turned` they are left as they come, and the modules where they come otherwise
    are added to it: one pass tells where later ones have to change them.
    """

    def lay_out(module: nn.Module, gradient: Tensor) -> Tensor | None:
        if gradient.is_contiguous(memory_format=torch.channels_last):
            return None
        if turned is None:
            return gradient.contiguous(memory_format=torch.channels_last)
        turned.add(module)
        return None

    def follow(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad and _channels_last(output):
            output.register_hook(partial(lay_out, module))

    handles = [module.register_forward_hook(follow) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _channels_last(x: Tensor) -> bool:
    """Whether images (b, C, h, w) are kept with their channels last, and not in either order."""
    last = torch.channels_last
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=last)


def _shared_by(n: int, meetings: list[Meeting]) -> type[Tensor]:
    """The type of tensors that n examples share, until they meet one that has an axis of them."""

    class Shared(Tensor):
        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            given = args, kwargs or {}
            plain = [t for t in tree_leaves(given) if isinstance(t, Tensor)]
            each = [
                t.ndim
                for t in plain
                if not isinstance(t, Shared | nn.Parameter) and t.ndim and len(t) == n
            ]

            def met(value: Any) -> Any:
                if not isinstance(value, Shared):
                    return value
                own = value.as_subclass(Tensor)
                if (own.ndim, len(own) if own.ndim else 0) > (max(each), 1):  # no place for an axis
                    return value
                own = own[(None,) * (max(each) - own.ndim)]
                copies = own.expand(n, *own.shape[1:])
                meetings.append(Meeting(own, get_gradient_edge(copies)))
                return copies

            if each:
                args, kwargs = given = tree_map(met, given)
                if not any(isinstance(t, Shared) for t in tree_leaves(given)):
                    return func(*args, **kwargs)
            return super().__torch_function__(func, types, args, kwargs)

    return Shared
