"""K-FAC and EK-FAC against dense matrices, and where they are exact."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.curvature.kronecker import Fisher, covariances, eigenbasis, variances
from methods.curvature.operators import Hessian
from methods.errors import MethodError
from methods.examples import Examples, count
from methods.fitted.kronecker import thin
from methods.ihvp.kfac import EKFAC, KFAC
from methods.influence import Influence
from methods.rows.blocks import Block, blocks_of
from methods.task import Task
from tests.methods import networks

CLOSE: Any = {"rtol": 1e-8, "atol": 1e-10}


class Turned(nn.Module):
    """GPT-2's Conv1D."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.zeros(n_in, n_out)),
            nn.Parameter(torch.zeros(n_out)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


class Sequence(nn.Module):
    """Two layers over positions, one of them turned; a gain between them is of no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.middle, self.head = nn.Linear(6, 4), Turned(4, 5), nn.Linear(5, 3)
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.gain * self.inner(x).tanh()).tanh().mean(1))


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
        self.more = nn.Conv2d(3, 4, 2, padding="same", padding_mode="circular", bias=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.more(self.body(x).tanh()).tanh().mean((2, 3)))


CASES = {
    "mlp": (networks.Mlp, (9, 6)),
    "twice": (networks.Twice, (9, 6)),
    "sequence": (Sequence, (9, 5, 6)),
    "images": (Images, (9, 2, 6, 5)),
}


def case(name: str, **settings: Any) -> tuple[Task, Examples]:
    make, shape = CASES[name]
    return Task.of(networks.built(make), networks.nll, **settings), networks.examples(*shape)


def of_block(task: Task, block: Block, examples: Examples) -> Tensor:
    """The block of each example's gradient by autograd, flat."""
    rows = task.unflatten(networks.gradient_rows(task, task.loss, examples))
    return block.matrices(rows).flatten(1)


def by_hooks(task: Task, block: Block, examples: Examples) -> tuple[Tensor, Tensor]:
    """What one layer sees and what comes back at each position, by plain autograd and loops."""
    model: Any = task.loss.model  # type: ignore[attr-defined]
    layer, kept = (
        model.get_submodule(block.weight.rpartition(".")[0]),
        list[tuple[Tensor, Tensor]](),
    )

    def keep(_layer: Any, args: Any, output: Tensor) -> None:
        output.retain_grad()
        kept.append((args[0].detach(), output))

    handle = layer.register_forward_hook(keep)
    task.loss.plain(examples).sum().backward()  # type: ignore[attr-defined]
    handle.remove()
    inputs, outputs = [], []
    for x, out in kept:
        grad = out.grad
        assert grad is not None
        if isinstance(layer, nn.Conv2d):
            pad, mode = layer._reversed_padding_repeated_twice, layer.padding_mode
            x = torch.nn.functional.pad(x, pad, mode="constant" if mode == "zeros" else mode)
            (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
            for i in range(grad.shape[2]):
                for j in range(grad.shape[3]):
                    seen = x[:, :, i * sh :, j * sw :][:, :, : dh * kh : dh, : dw * kw : dw]
                    inputs.append(seen[:, :, :kh, :kw].flatten(1))
                    outputs.append(grad[:, :, i, j])
        else:
            inputs.append(x.flatten(0, -2))
            outputs.append(grad.flatten(0, -2))
    a, g = torch.cat(inputs), torch.cat(outputs)
    model.zero_grad()
    return (torch.cat([a, torch.ones(len(a), 1)], dim=1) if block.bias else a), g


@pytest.mark.parametrize("name", CASES)
def test_factors_are_second_moments_of_inputs_and_of_gradients_at_outputs(name: str) -> None:
    task, train = case(name)
    for block, (left, right) in covariances(task, train, Fisher()).items():
        a, g = by_hooks(task, block, train)
        inputs, outputs = a.T @ a / len(a), g.T @ g / count(train)
        wanted = (inputs, outputs) if block.turned else (outputs, inputs)
        torch.testing.assert_close((left, right), wanted, **CLOSE)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("inverse", [KFAC(), EKFAC(relative_damping=0.3)])
def test_scores_are_by_the_dense_matrix_in_the_kronecker_eigenbasis(
    name: str, inverse: Any
) -> None:
    task, train = case(name, weight_decay=0.01)
    query = networks.examples(4, *CASES[name][1][1:], seed=20)
    state = inverse.state(Hessian(task, train))
    wanted = torch.zeros(4, 9).double()
    for block in blocks_of(task, train):
        q, g = (of_block(task, block, some) for some in (query, train))
        left, right = (state[f"{side}.{block.weight}"] for side in ("left", "right"))
        basis, fisher = torch.kron(left, right), g.T @ g / 9
        values = (basis.T @ fisher @ basis).diagonal()  # the variances along the eigenvectors
        if not isinstance(inverse, EKFAC):
            factors = covariances(task, train, Fisher())[block]
            values = (basis.T @ torch.kron(*factors) @ basis).diagonal()
        damped = values + 0.02 + 0.01 + inverse.relative_damping * values.mean()
        wanted += (q @ basis / damped) @ (g @ basis).T
    scores = Influence(inverse, 0.02).fit(task, train, state).scores(query, train)
    torch.testing.assert_close(scores, wanted, **CLOSE)


@pytest.mark.parametrize("name", CASES)
def test_self_influence_and_rows_are_those_of_the_operator(name: str) -> None:
    task, train = case(name)
    fitted = Influence(EKFAC(), 0.1).fit(task, train)
    g = networks.gradient_rows(task, task.loss, train)
    inverse = EKFAC().invert(Hessian(task, train, 0.1), EKFAC().state(Hessian(task, train)))
    wanted = inverse.apply(g) @ g.T
    torch.testing.assert_close(fitted.scores(train, train), wanted, **CLOSE)
    torch.testing.assert_close(fitted.self_influence(train), wanted.diagonal(), **CLOSE)


@pytest.mark.parametrize("name", CASES)
def test_of_a_rank_query_rows_are_the_best_approximations(name: str) -> None:
    task, train = case(name)
    whole = Influence(EKFAC(), 0.1).fit(task, train).query_rows(train).matrices()
    fitted = Influence(EKFAC(rank=2), 0.1).fit(task, train)
    rows, wanted = fitted.query_rows(train), torch.zeros(9, 9).double()
    for block in blocks_of(task, train):
        names = block.names
        own = block.matrices({n: whole[n].view(9, *task.params[n].shape) for n in names})
        u, s, v = torch.linalg.svd(own, full_matrices=False)
        if task.params[block.weight].ndim == 2:
            s[:, 2:] = 0
        wanted += ((u * s[:, None]) @ v).flatten(1) @ of_block(task, block, train).T
        assert rows.parts.keys() == fitted.task.params.keys()
    torch.testing.assert_close(fitted.scores(train, train), wanted, **CLOSE)
    full = Influence(EKFAC(rank=99), 0.1).fit(task, train).query_rows(train).matrices()
    torch.testing.assert_close(full, whole)


def test_inverse_eigenvalues_have_thin_factors_where_gradients_are_large() -> None:
    """As gradients are the root of the eigenvalues along each axis, which are far apart."""
    rows, columns = torch.logspace(3, -6, 90), torch.logspace(2, -7, 80)
    weights = 1 / (torch.outer(rows, columns) + 0.1)
    p, q = thin(weights)
    assert p.shape[1] == q.shape[1] < 30
    sizes = torch.outer(rows.sqrt(), columns.sqrt())
    error = sizes * ((p.double() @ q.double().T) - weights)
    assert error.norm() < 1e-5 * (sizes * weights).norm()
    p, q = thin(torch.tensor([[0.0, 0.0], [0.0, 2.0]]))
    torch.testing.assert_close(p @ q.T, torch.tensor([[0.0, 0.0], [0.0, 2.0]]))


def squared(model: Any, batch: Examples) -> Tensor:
    return 0.5 * (model(batch["x"]) - batch["y"]).square().sum(1)


def test_both_are_exact_where_inputs_and_residuals_are_independent() -> None:
    """Each residual comes with each input, so that the Fisher matrix is a Kronecker product."""
    model = networks.built(lambda: nn.Linear(3, 2))
    x, residuals = networks.normal(5, 3), networks.normal(4, 2, seed=1)
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(4))
    inputs = x[pairs[:, 0]]
    with torch.no_grad():
        train = {"x": inputs, "y": model(inputs) - residuals[pairs[:, 1]]}
    task = Task.of(model, squared)
    g = networks.gradient_rows(task, task.loss, train)
    wanted = g @ torch.linalg.solve(g.T @ g / 20 + 0.3 * torch.eye(8), g.T)
    for inverse in (KFAC(relative_damping=0), EKFAC(relative_damping=0)):
        torch.testing.assert_close(Influence(inverse, 0.3).scores(task, train, train), wanted)


def test_ekfac_is_the_best_diagonal_in_the_basis_of_kfac() -> None:
    """In Frobenius norm, and so nearer to the Fisher matrix than K-FAC is."""
    task, train = case("mlp")
    base = eigenbasis(covariances(task, train, Fisher()))
    better = {**base, **variances(task, train, Fisher(), base)}
    for block in blocks_of(task, train):
        g = of_block(task, block, train)
        basis = torch.kron(*(base[f"{side}.{block.weight}"] for side in ("left", "right")))
        errors = [
            float((basis * s[f"values.{block.weight}"].flatten() @ basis.T - g.T @ g / 9).norm())
            for s in (base, better)
        ]
        assert errors[1] < errors[0]


def test_labels_are_drawn_from_the_model_whatever_the_data_s_are() -> None:
    task, train = case("mlp")
    inverse = EKFAC(labels="y")
    state = inverse.state(Hessian(task, train))
    other = inverse.state(Hessian(task, {**train, "y": (train["y"] + 1) % 3}))
    torch.testing.assert_close(state, other, rtol=0, atol=0)
    empirical = EKFAC().state(Hessian(task, train))
    assert not torch.allclose(state["values.head.weight"], empirical["values.head.weight"])
    many = {name: column[:1].expand(4000, *column.shape[1:]) for name, column in train.items()}
    drawn = [torch.cat([b["y"] for b in Fisher("y").batches(task, many, n)]) for n in (7, 4000)]
    assert torch.equal(*drawn)
    p = task.loss.model(train["x"][:1]).softmax(1)[0].detach()  # type: ignore[attr-defined]
    error = (drawn[0].bincount(minlength=3) / 4000 - p).abs() / (p * (1 - p) / 4000).sqrt()
    assert float(error.max()) < 4
    ignored = {**many, "y": torch.full((4000,), -100)}
    assert all(bool((b["y"] == -100).all()) for b in Fisher("y").batches(task, ignored, 500))


def test_labels_of_positions_are_drawn_with_classes_on_either_axis() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x)

    def loss(model: Any, batch: Examples) -> Tensor:
        return nn.functional.cross_entropy(model(batch["x"]).mT, batch["y"], reduction="none").sum(
            1
        )

    class First(Model):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).mT

    def other(model: Any, batch: Examples) -> Tensor:
        return nn.functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none").sum(1)

    train = {"x": networks.normal(7, 5, 6), "y": networks.integers(3, 7, 5)}
    states = [
        EKFAC(labels="y").state(Hessian(Task.of(networks.built(make), nll), train))
        for make, nll in ((Model, loss), (First, other))
    ]
    torch.testing.assert_close(*states)


def test_what_is_of_no_layer_is_named_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    task, train = case("sequence")
    with caplog.at_level(logging.WARNING):
        fitted = Influence(EKFAC(), 0.1).fit(task, train)
    assert "left out of the layers' blocks, as if frozen: gain" in caplog.text
    kept = task.only([name for name in task.params if name != "gain"])
    wanted = Influence(EKFAC(), 0.1).fit(kept, train)
    torch.testing.assert_close(fitted.scores(train, train), wanted.scores(train, train))
    with pytest.raises(MethodError, match="no layer to factorise among gain"):
        Influence(EKFAC(), 0.1).fit(task.only(["gain"]), train)
    tied = Task.of(networks.built(networks.Encoder), networks.nll)
    assert "words.weight" not in {b.weight for b in blocks_of(tied, networks.sentences(3))}


def test_settings_that_cannot_work_are_refused() -> None:
    task, train = case("mlp")
    for labels in ("z", "x"):
        with pytest.raises(MethodError, match="is not a column of classes: the columns are x, y"):
            Influence(KFAC(labels=labels)).fit(task, train)
    with pytest.raises(MethodError, match="Fisher matrices are singular"):
        Influence(KFAC(relative_damping=0)).fit(task, train)
    with pytest.raises(MethodError, match="relative_damping is -1"):
        KFAC(relative_damping=-1)
    state = KFAC().state(Hessian(task, train))
    wider = Task.of(networks.built(lambda: networks.Mlp(hidden=7)), networks.nll)
    with pytest.raises(MethodError, match="made for another model"):
        Influence(KFAC()).fit(wider, train, state)
    plain = replace(task, loss=lambda params, batch: networks.normal(count(batch)))
    with pytest.raises(MethodError, match=r"Task\.of\(module, loss\) alone"):
        Influence(KFAC()).fit(plain, train)


def test_factors_are_those_of_curvlinops() -> None:
    """Of the whole matrix: its Kronecker products block by block, biases with their weights."""
    curvlinops = pytest.importorskip("curvlinops")
    model = networks.built(networks.Mlp)
    train = networks.examples(9, 6)
    task = Task.of(model, networks.nll)
    theirs = curvlinops.KFACLinearOperator(
        model, nn.CrossEntropyLoss(), list(model.parameters()), [(train["x"], train["y"])],
        fisher_type="empirical", separate_weight_and_bias=False,
    )  # fmt: skip
    dense = theirs @ torch.eye(task.size).double()
    for block, pair in covariances(task, train, Fisher()).items():
        eye = task.unflatten(torch.eye(task.size).double())
        columns = block.matrices(eye).flatten(1).T  # the block's numbers, in ours of its order
        torch.testing.assert_close(columns @ dense @ columns.T, torch.kron(*pair), **CLOSE)
