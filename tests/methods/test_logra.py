"""LoGra by its formula with dense matrices."""

import pytest
import torch

from methods.curvature.kronecker import Fisher, covariances
from methods.errors import MethodError
from methods.logra import LoGra
from methods.rows.blocks import blocks_of
from methods.task import Task
from tests.methods import networks
from tests.methods.test_kfac import CASES, case, of_block


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", [LoGra(2, 3), LoGra(3, 2, "random", damping=0.4), LoGra(99, 99)])
def test_scores_are_those_of_projected_gradients(name: str, method: LoGra) -> None:
    task, train = case(name)
    query = networks.examples(4, *CASES[name][1][1:], seed=20)
    state = method.state(task, train)
    wanted = torch.zeros(4, 9).double()
    for block in blocks_of(task, train):
        sides = [state[f"{side}.{block.weight}"] for side in ("left", "right")]
        both = torch.kron(*sides)
        q, g = (of_block(task, block, some) @ both for some in (query, train))
        fisher = g.T @ g / 9
        damping = 0.1 * fisher.trace() / len(fisher) if method.damping is None else 0.4
        wanted += q @ torch.linalg.solve(fisher + damping * torch.eye(len(fisher)), g.T)
    fitted = method.fit(task, train, state)
    torch.testing.assert_close(fitted.scores(query, train), wanted)


def test_with_all_dimensions_it_is_the_fisher_matrix_of_each_layer() -> None:
    """Principal directions are orthonormal, so that nothing but the basis changes."""
    task, train = case("mlp")
    wanted = torch.zeros(9, 9).double()
    for block in blocks_of(task, train):
        g = of_block(task, block, train)
        wanted += g @ torch.linalg.solve(g.T @ g / 9 + 0.2 * torch.eye(g.shape[1]), g.T)
    torch.testing.assert_close(LoGra(99, 99, damping=0.2).scores(task, train, train), wanted)


def test_principal_directions_are_those_of_most_variance() -> None:
    task, train = case("images")
    state = LoGra(2, 3).state(task, train)
    for block, pair in covariances(task, train, Fisher()).items():
        for side, factor, d in zip(("left", "right"), pair, (2, 3), strict=True):
            kept = state[f"{side}.{block.weight}"]
            d = min(d, len(factor))
            torch.testing.assert_close(kept.T @ kept, torch.eye(d).double())
            largest = torch.linalg.eigvalsh(factor)[-d:].sum()
            torch.testing.assert_close((kept.T @ factor @ kept).trace(), largest)


def test_random_directions_keep_inner_products_in_expectation() -> None:
    """E[P P^T] = 1 on either side: 80 draws, each entry within five standard errors."""
    task, train = case("mlp")
    block = blocks_of(task, train)[0]
    drawn = [LoGra(3, 4, "random", seed=seed)._drawn(task, train)[block] for seed in range(80)]
    for side, dim in ((0, 3), (1, 4)):
        mean = torch.stack([pair[side] @ pair[side].T for pair in drawn]).mean(0)
        eye = torch.eye(len(mean)).double()
        assert bool(((mean - eye).abs() < 5 * ((1 + eye) / dim / 80).sqrt()).all())


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(MethodError, match='give "pca" or "random"'):
        LoGra(initial="PCA")  # type: ignore[arg-type]
    with pytest.raises(MethodError, match="rows is 0: give 1 or more"):
        LoGra(0)
    with pytest.raises(MethodError, match="damping is -1: give a positive number"):
        LoGra(damping=-1)
    task, train = case("mlp")
    state = LoGra(2, 2).state(task, train)
    wider = Task.of(networks.built(lambda: networks.Mlp(hidden=7)), networks.nll)
    with pytest.raises(MethodError, match="made for another model"):
        LoGra(2, 2).fit(wider, train, state)
