"""Models in half precision, mixed or under autocast: rows in one type, as right as theirs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.errors import MethodError
from methods.examples import Examples
from methods.ihvp.cg import CG
from methods.ihvp.exact import Exact
from methods.influence import Influence
from methods.random_projection import RandomProjection
from methods.rows.projections import Rademacher
from methods.task import Task
from methods.tracin import TracIn
from tests.methods import networks

DATA = {k: v.float() if v.is_floating_point() else v for k, v in networks.examples(9, 6).items()}
HALF, SINGLE, DOUBLE = torch.bfloat16, torch.float32, torch.float64


def nll(model: Any, batch: Examples) -> Tensor:
    return F.cross_entropy(model(batch["x"]).float(), batch["y"], reduction="none")


def under_autocast(model: Any, batch: Examples) -> Tensor:
    with torch.autocast("cpu", HALF):
        return nll(model, batch)


class Mixed(networks.Mlp):
    """A trunk in one type and a head in another."""

    def __init__(self, trunk: torch.dtype, head: torch.dtype) -> None:
        super().__init__()
        self.types = trunk, head

    def typed(self) -> nn.Module:
        self.inner.to(self.types[0])
        self.middle.to(self.types[0])
        self.head.to(self.types[1])
        return self

    def forward(self, x: Tensor) -> Tensor:
        inside = self.middle(self.inner(x.to(self.types[0])).tanh()).tanh()
        return self.head(inside.to(self.types[1]))


CASES: dict[str, tuple[tuple[torch.dtype, torch.dtype], Callable[..., Tensor], torch.dtype]] = {
    "bfloat16": ((HALF, HALF), nll, SINGLE),
    "a trunk in bfloat16": ((HALF, SINGLE), nll, SINGLE),
    "a head in float64": ((SINGLE, DOUBLE), nll, DOUBLE),
    "float16": ((torch.float16, torch.float16), nll, SINGLE),
    "autocast": ((SINGLE, SINGLE), under_autocast, SINGLE),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    "method",
    [
        TracIn(False),
        RandomProjection(Rademacher(50)),
        Influence(CG(1e-2), 4.0),
        Influence(Exact(), 4.0),
    ],
    ids=lambda method: type(getattr(method, "inverse", method)).__name__,
)
def test_scores_are_those_of_the_same_parameters_in_double_precision(
    method: Any, name: str
) -> None:
    (trunk, head), loss, expected = CASES[name]
    model = networks.built(lambda: Mixed(trunk, head)).typed()
    scores = method.scores(Task.of(model, loss), DATA, DATA)
    assert scores.dtype == expected
    exact = networks.built(lambda: Mixed(DOUBLE, DOUBLE))
    exact.load_state_dict(model.state_dict())
    same = method.scores(Task.of(exact, nll), DATA, DATA)
    bound = 1e-4 if {trunk, head} <= {SINGLE, DOUBLE} and loss is nll else 0.03
    assert float((scores - same).norm()) <= bound * float(same.norm())


def test_what_overflows_in_float16_is_told_as_such() -> None:
    model = networks.built(lambda: Mixed(torch.float16, torch.float16)).typed()

    def large(model: Any, batch: Examples) -> Tensor:
        return (model(batch["x"]) * 6e4).square().mean(1)

    task = Task.of(model, large)
    for method in (TracIn(False), Influence(CG(), 1.0)):
        with pytest.raises(MethodError, match=r"not finite.*float16 ends at 65504: use bfloat16"):
            method.scores(task, DATA, DATA)


def test_whole_numbers_that_float32_does_not_hold_are_refused() -> None:
    task = Task.of(networks.built(networks.Mlp).float(), networks.nll)
    data = networks.examples(3, 6)
    for first, right in ((1 << 24, False), (5, True)):
        counted = {**data, "number": (torch.arange(3) + first).double()}
        if right:
            assert task.move(counted)["number"].dtype == torch.float32
            continue
        with pytest.raises(MethodError, match="give it as int64, or the model in float64"):
            TracIn(False).self_influence(task, counted)
