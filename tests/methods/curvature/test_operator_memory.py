"""Hessian products leave nothing behind that only the garbage collector would free."""

import gc

import torch

from methods.curvature.operators import Hessian
from methods.task import Task
from tests.methods.networks import examples, nll


def test_a_product_leaves_no_cycles_of_tensors():
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.LayerNorm(6), torch.nn.Linear(6, 3)
    )
    model = model.double().eval().requires_grad_(False)
    batch = examples(8, 4, classes=3)
    hessian = Hessian(Task.of(model, nll), batch)
    for vectors in (torch.randn(1, hessian.size).double(), torch.randn(3, hessian.size).double()):
        hessian.apply(vectors)  # torch may set up its own state in the first
        gc.collect()
        gc.disable()
        try:
            hessian.apply(vectors)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = [one for one in gc.garbage if isinstance(one, torch.Tensor)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert left == []
