"""The linear last layer of a model: its inputs, and the model with other weights in it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from methods.errors import MethodError
from methods.examples import Examples, chunks, count, take
from methods.losses.failures import explained
from methods.losses.objective import Objective
from methods.rows.factored import Rows
from methods.rows.gradients import Gradients
from methods.rows.layers import recorded
from methods.rows.parts import Outer
from methods.task import Task


class Head:
    """The last layer of a model: the Linear whose output is the model's, found by a forward pass.

    task     narrowed to its parameters
    weights  (classes, features), float64; a bias is the last column, for a feature that is 1
    """

    def __init__(self, task: Task, examples: Examples) -> None:
        if count(examples) == 0:
            raise MethodError("train has no examples: give one at least")
        task.check()
        names = _last_linear(task, examples)
        self.weight, self.bias = names["weight"], names.get("bias")
        outside = [name for name in names.values() if name not in task.params]
        if outside:
            raise MethodError(
                f"{outside[0]} is not among the parameters of the task: representer points are of "
                "the last layer, so keep it in `only`"
            )
        self.task = replace(
            task,
            params={name: task.params[name] for name in names.values()},
            frozen={n: v for n, v in task.all_params.items() if n not in names.values()},
        )
        values = [v.flatten(1) if v.ndim > 1 else v[:, None] for v in self.task.params.values()]
        self.weights = torch.cat(values, dim=1).double()
        self.gradients = Gradients(self.task, self.task.loss)
        self.chunk = self.gradients.chunk(examples)
        for some in chunks(examples, self.chunk):
            if not self.gradients.unproven:
                break  # until a gradient is not zero, `Gradients` would not keep the factors
            self.gradients.rows(some)

    def features(self, examples: Examples) -> Tensor:
        """The inputs of the last layer, (b, features), float64."""
        part = self.outer(self.gradients.rows(examples))
        return self.extended(part).double()

    def extended(self, part: Outer) -> Tensor:
        """The layer's inputs, with a feature that is 1 if there is a bias."""
        inputs = part.right[:, 0]
        ones = inputs.new_ones(len(inputs), 1)
        return inputs if self.bias is None else torch.cat([inputs, ones], dim=1)

    def outer(self, rows: Rows) -> Outer:
        """The layer's output gradient and input of each example: one pair, or an error."""
        parts = rows.parts[self.weight]
        if len(parts) != 1 or not isinstance(parts[0], Outer) or parts[0].terms != 1:
            raise MethodError(
                f"{self.weight} acts on more than one vector an example, or outside of its layer: "
                "representer points need logits that are one product of it with features"
            )
        return parts[0]

    def refitted(self, weights: Tensor) -> Task:
        """The task of the last layer with other weights."""
        if weights.shape != self.weights.shape:
            raise MethodError(
                f"a refitted head {tuple(weights.shape)} for one of {tuple(self.weights.shape)}: "
                "it is of another model"
            )
        weights = weights.to(self.task.device, self.task.dtype)
        params = {self.weight: weights if self.bias is None else weights[:, :-1].contiguous()}
        if self.bias is not None:
            params[self.bias] = weights[:, -1].contiguous()
        return replace(self.task, params=params)


def _last_linear(task: Task, examples: Examples) -> dict[str, str]:
    """The model's names of the last layer's parameters, by the layer's own names."""
    if not isinstance(task.loss, Objective):
        raise MethodError("Representer needs a task made by Task.of(module, loss)")
    model = task.loss.model
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    known = dict(model.named_parameters())
    params = {n: v.detach().requires_grad_(n in known) for n, v in task.all_params.items()}
    probe = task.move(take(examples, slice(0, 2)))
    record = recorded(list(dict.fromkeys([model, *linear])))
    with explained(task, task.loss, probe, examples), torch.enable_grad(), record as calls:
        task.loss(params, probe)
    whole = [call for call in calls if call.layer is model]
    if len(whole) != 1:
        raise MethodError(
            f"the loss called its model {len(whole)} times on one tensor: Representer needs one "
            "call that takes a tensor and returns the logits"
        )
    node, place = whole[0].output[:2]
    for call in calls:
        if isinstance(call.layer, nn.Linear) and call.output[:2] == (node, place):
            if sum(other.layer is call.layer for other in calls) > 1:
                raise MethodError("the last layer is used more than once in a forward pass")
            names = {id(value): name for name, value in model.named_parameters()}
            own = call.layer.named_parameters(recurse=False)
            return {attribute: names[id(value)] for attribute, value in own}
    raise MethodError(
        f"the output of {type(model).__name__} is not that of an nn.Linear layer: representer "
        "points are defined for a last layer that is linear in its features"
    )
