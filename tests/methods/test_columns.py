"""Columns that make their rows when they are read give what the same rows in memory give."""

import pytest
import torch
from torch import nn

from methods.curvature.operators import Hessian
from methods.errors import MethodError
from methods.examples import count, take
from methods.ihvp.cg import CG
from methods.ihvp.exact import Exact
from methods.ihvp.lissa import LiSSA
from methods.influence import Influence
from methods.rows import gradients
from methods.sources import Column
from methods.task import Task
from methods.tracin import TracIn


class Squares(Column):
    """Rows (i / 10)^2 + j / 8, made as they are read; `most` is how many at once."""

    def __init__(self, n: int, width: int) -> None:
        self.shape, self.dtype, self.most = (n, width), torch.float32, 0

    def __getitem__(self, index):
        rows = torch.arange(len(self))[index]
        self.most = max(self.most, len(rows))
        return (rows[:, None] / 10).square() + torch.arange(self.shape[1]) / 8

    def fingerprint(self) -> bytes:
        return repr(self.shape).encode()


METHODS = [TracIn(learning_rates=False), Influence(LiSSA(20, 8, 1e4), 0.5), Influence(CG(), 0.5)]


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    task = Task.of(nn.Linear(3, 2).eval(), lambda model, batch: model(batch["x"]).logsumexp(1))
    made = Squares(200, 3)
    return task, {"x": made, "y": torch.arange(200)}, {"x": made[:], "y": torch.arange(200)}


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{type(m).__name__}")
def test_a_method_gives_the_same(method, parts, monkeypatch):
    monkeypatch.setattr(gradients, "MOST", 64)
    task, made, kept = parts
    made["x"].most = 0
    query = take(kept, slice(0, 5))
    one, other = (method.fit(task, train) for train in (made, kept))
    torch.testing.assert_close(one.scores(query, made), other.scores(query, kept))
    torch.testing.assert_close(one.self_influence(made), other.self_influence(kept))
    assert 0 < made["x"].most <= 64, "no more rows than a chunk are made at once"


@pytest.mark.parametrize("inverse", [Exact(), LiSSA(5, 8, 1e4)])
def test_rows_made_on_the_cpu_go_where_the_model_is(inverse, parts, pretend_gpu):
    task, made, kept = parts
    query, influence = take(kept, slice(0, 5)), Influence(inverse, 0.5)
    wanted = influence.scores(task, kept, query)
    module = nn.Linear(3, 2).eval()
    module.load_state_dict({name.split(".")[-1]: value for name, value in task.params.items()})
    there = Task.of(module.cuda(), lambda model, batch: model(batch["x"]).logsumexp(1))
    torch.testing.assert_close(influence.scores(there, made, query), wanted, rtol=1e-4, atol=1e-5)
    vector = torch.ones(1, task.size)
    product = Hessian(there, made).apply(vector.cuda())
    torch.testing.assert_close(product.cpu(), Hessian(task, kept).apply(vector))
    module.double()
    there = Task.of(module, lambda model, batch: model(batch["x"]).logsumexp(1))
    close = {"rtol": 1e-3, "atol": 1e-4, "check_dtype": False}
    torch.testing.assert_close(influence.scores(there, made, query), wanted, **close)


def test_a_hessian_of_all_examples_reads_them_chunk_by_chunk(parts):
    task, made, kept = parts
    made["x"].most = 0
    vector = torch.ones(1, task.size)
    torch.testing.assert_close(Hessian(task, made).apply(vector), Hessian(task, kept).apply(vector))
    assert 0 < made["x"].most <= 64


def test_a_column_counts_like_the_others(parts):
    _, made, _ = parts
    assert count(made) == 200
    with pytest.raises(MethodError, match="columns of different lengths"):
        count(made | {"y": torch.arange(3)})
