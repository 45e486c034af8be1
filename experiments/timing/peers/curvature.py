"""Hessian products, steps of LiSSA, and the whole Hessian, beside other libraries."""

from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from experiments.laboratory.device import device
from experiments.models.mnist_cnn import SmallCNN
from experiments.timing.peers.beside import Beside, Call, Way
from experiments.timing.peers.scores import network
from experiments.timing.products import bert_top
from experiments.timing.work import examples
from experiments.training.plans import cross_entropy
from methods.curvature.exact_hessian import exact_hessian
from methods.curvature.operators import Hessian
from methods.examples import Examples, chunks, count, take
from methods.ihvp.lissa import LiSSA, Recursion
from methods.task import Task

CHUNK = 64  # examples at a time, of theirs
WIDTH = 256  # of the small BERT, two of whose layers are trained
STEPS, SCALE, DAMPING = 5, 1e4, 0.01  # of a recursion; this scale is far above any eigenvalue


def product(n: int = 512) -> Beside:
    """One Hessian-vector product over a fresh batch, as Arnoldi's iteration takes them."""
    module, batch = network(), examples(n)
    task = Task.of(module, cross_entropy)
    vector = torch.randn(task.size, generator=torch.Generator().manual_seed(2)).to(task.device)
    hessian = Hessian(task, batch)
    inputs = [(some["image"], some["label"]) for some in chunks(batch, CHUNK)]

    def plain() -> Call:
        params = list(module.parameters())

        def product() -> Tensor:
            total = torch.zeros_like(vector)
            for some in chunks(batch, CHUNK):
                found = double_backward(module, cross_entropy, some, params, vector)
                total.add_(found, alpha=count(some) / n)
            return total

        return product

    def pydvl() -> Call:
        from pydvl.influence.torch.functional import create_hvp_function

        apply = create_hvp_function(
            module, F.cross_entropy, inputs, precompute_grad=False, reverse_only=False
        )
        return lambda: apply(vector)

    def curvlinops() -> Call:
        from curvlinops import HessianLinearOperator

        params = list(module.parameters())
        operator = HessianLinearOperator(
            module, nn.CrossEntropyLoss(), params, inputs, check_deterministic=False
        )
        return lambda: operator @ vector

    def dattri() -> Call:
        from dattri.func.hessian import hvp

        def loss(image: Tensor, label: Tensor) -> Any:
            call = torch.func.functional_call
            return lambda flat: F.cross_entropy(call(module, task.unflatten(flat), image), label)

        flat = task.flatten(task.params)
        applied = [(hvp(loss(*one), mode="rev-fwd"), len(one[1]) / n) for one in inputs]
        return lambda: torch.stack(
            [share * apply((flat,), vector) for apply, share in applied]
        ).sum(0)

    at_a_time = f"{CHUNK} examples at a time"
    return Beside(
        f"Hessian product, fresh batch of {n}",
        "product",
        1,
        lambda: hessian.apply(vector[None])[0],
        {
            "torch": Way(f"plain double backward, {at_a_time}", plain),
            "pyDVL": Way(f"create_hvp_function, forward over reverse, {at_a_time}", pydvl),
            "curvlinops-for-pytorch": Way(f"HessianLinearOperator, {at_a_time}", curvlinops),
            "dattri": Way(f"func.hessian.hvp, forward over reverse, {at_a_time}", dattri),
        },
    )


def lissa(n: int = 1) -> Beside:
    """A step of LiSSA on n examples of a small BERT whose lower layers are frozen."""
    task, data = bert_top(WIDTH)
    objective: Any = task.loss
    module, batch = objective.model, data(n)
    draw = torch.Generator().manual_seed(2)
    vector = torch.randn(task.size, generator=draw).to(task.device)
    solver = Recursion(
        LiSSA(STEPS, n, SCALE), Hessian(task, batch, damping=DAMPING, sample=n), SCALE
    )

    def plain() -> Call:
        params = list(module.parameters())

        def steps() -> Tensor:
            h = vector
            for _ in range(STEPS):
                found = double_backward(module, objective.user_loss, batch, params, h)
                h = vector + h - (found + DAMPING * h) / SCALE
            return h / SCALE

        return steps

    def pydvl() -> Call:
        from pydvl.influence.torch.batch_operation import HessianBatchOperation
        from pydvl.influence.torch.operator import LissaOperator

        operation = HessianBatchOperation(_Alone(module), F.cross_entropy)
        states = torch.utils.data.TensorDataset(batch["hidden"], batch["label"])
        loader = torch.utils.data.DataLoader(states, n)
        operator = LissaOperator(
            operation,
            loader,
            DAMPING,
            maxiter=STEPS,
            scale=SCALE,
            rtol=0.0,
            warn_on_max_iteration=False,
        )
        return lambda: operator.apply(vector)

    return Beside(
        f"step of LiSSA, small BERT, B = {n}",
        "step",
        STEPS,
        lambda: solver.apply(vector[None])[0],
        {
            "torch": Way("plain double backward", plain),
            "pyDVL": Way("LissaOperator without regard to convergence", pydvl),
        },
    )


class _Alone(nn.Module):
    """The top of a BERT as a function of hidden states alone, all of the same length."""

    def __init__(self, top: nn.Module) -> None:
        super().__init__()
        self.top = top

    def forward(self, hidden: Tensor) -> Tensor:
        length = torch.full((len(hidden),), hidden.shape[1], device=hidden.device)
        logits: Tensor = self.top(hidden, length)
        return logits


def whole(n: int = 32, theirs: int = 2) -> Beside:
    """The whole Hessian of a small network; others take fewer examples, which is accounted for."""
    module, batch = SmallCNN().build(0).to(device()), examples(n)
    task, few = Task.of(module, cross_entropy), take(batch, slice(0, theirs))

    def plain() -> Call:
        loss = task.function(task.loss)
        hessian = torch.func.hessian(lambda flat: loss(task.unflatten(flat), few).mean())
        return lambda: hessian(task.flatten(task.params))

    def pydvl() -> Call:
        from pydvl.influence.torch.functional import hessian

        loader = [(few["image"], few["label"])]
        return lambda: hessian(module, F.cross_entropy, loader)

    return Beside(
        f"the whole Hessian, {task.size:,} parameters",
        "example",
        n,
        lambda: exact_hessian(task, batch),
        {
            "torch": Way(f"torch.func.hessian of {theirs} examples", plain, theirs),
            "pyDVL": Way(f"functional.hessian of {theirs} examples", pydvl, theirs),
        },
        same=lambda: exact_hessian(task, few),
    )


def double_backward(
    module: nn.Module, loss: Any, batch: Examples, params: list[Any], vector: Tensor
) -> Tensor:
    """The Hessian of a batch's mean loss times a flat vector, as anyone would write it."""
    with sdpa_kernel(SDPBackend.MATH):
        grads = torch.autograd.grad(loss(module, batch).mean(), params, create_graph=True)
        curved = [grad.requires_grad for grad in grads]
        parts = vector.split([p.numel() for p in params])
        along = [part.view_as(p) for part, p in zip(parts, params, strict=True)]
        found = torch.autograd.grad(
            list(compress(grads, curved)),
            params,
            list(compress(along, curved)),
            materialize_grads=True,
        )
    return torch.cat([one.flatten() for one in found])
