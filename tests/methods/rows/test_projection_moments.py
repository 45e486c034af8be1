"""Projected inner products are unbiased and as noisy as theory says."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from methods.rows.factored import Rows
from methods.rows.projections import SJLT, Gaussian, Projection, Rademacher, Select, TwoSided
from methods.task import Task
from tests.methods import networks
from tests.methods.rows.test_projections import KINDS, M, N, matrix_task

DRAWS = 2500


def products(kind: Callable[[int, int], Projection], dim: int, task: Task, pair: Tensor) -> Tensor:
    """<Gu, Gv> over draws of G, for the two rows of `pair`."""
    rows = Rows.dense_of(pair, {n: v.numel() for n, v in task.params.items()})
    out = []
    for seed in range(DRAWS):
        left, right = kind(dim, seed).draw(task).apply(rows)
        out.append(torch.dot(left, right))
    return torch.stack(out)


def assert_moments(sample: Tensor, mean: float, variance: float) -> None:
    """Mean and variance of a sample within four of their own standard errors of the given."""
    n, centred = len(sample), sample - sample.mean()
    assert abs(float(sample.mean()) - mean) < 4 * (variance / n) ** 0.5
    spread = float(centred.square().std()) / n**0.5
    assert abs(float(sample.var()) - variance) < 4 * spread
    assert spread < variance / 5  # else the interval says nothing


def one_sided(a: Tensor, b: Tensor, dim: int) -> float:
    return float(a @ a * (b @ b) + (a @ b) ** 2) / dim


def two_sided(a: Tensor, x: Tensor, b: Tensor, y: Tensor, side: int) -> float:
    """Variance of the factorised <G(a x^T), G(b y^T)>."""
    first, second = float(a @ b) ** 2, float(x @ y) ** 2
    whole = (first + one_sided(a, b, side)) * (second + one_sided(x, y, side))
    return whole - first * second


@pytest.mark.long
def test_moments_of_dense_and_selected_inner_products() -> None:
    task = matrix_task()
    u, v = pair = networks.normal(2, task.size, seed=1)
    v += u
    true, both, p = float(u @ v), u * v, task.size
    gaussian = one_sided(u, v, 6)
    assert_moments(products(Gaussian, 6, task, pair), true, gaussian)
    signs = gaussian - 2 * float(both @ both) / 6
    assert_moments(products(Rademacher, 6, task, pair), true, signs)
    assert_moments(products(partial(SJLT, nonzeros=2), 6, task, pair), true, signs)
    without_replacement = p**2 / 6 * (1 - 6 / p) * float(both.var())
    assert_moments(products(Select, 6, task, pair), true, without_replacement)


def test_moments_of_a_sparse_map_whose_ranges_differ() -> None:
    """Each of s ranges of d_i dimensions is a count sketch of variance V / d_i: V sum 1/d_i / s^2.

    With s | d that is V / d, Rademacher's.
    """
    task = matrix_task()
    u, v = pair = networks.normal(2, task.size, seed=1)
    v += u
    both = u * v
    variance = one_sided(u, v, 1) - 2 * float(both @ both)
    variance *= (1 / 2 + 1 / 2 + 1 / 3) / 9
    assert_moments(products(partial(SJLT, nonzeros=3), 7, task, pair), float(u @ v), variance)


def test_moments_of_factorised_inner_products() -> None:
    a, b = networks.normal(2, M, seed=2)
    x, y = networks.normal(2, N, seed=3)
    b, y = a + b / 2, x + y / 2
    pair = torch.stack([torch.outer(a, x).flatten(), torch.outer(b, y).flatten()])
    sample = products(TwoSided, 25, matrix_task(), pair)
    assert_moments(sample, float(a @ b * (x @ y)), two_sided(a, x, b, y, 5))


def test_moments_of_factorised_inner_products_of_any_number() -> None:
    """Products that share one of their sides are correlated: a short last row shares fewer."""
    a, b = networks.normal(2, M, seed=2)
    x, y = networks.normal(2, N, seed=3)
    b, y = a + b / 2, x + y / 2
    pair = torch.stack([torch.outer(a, x).flatten(), torch.outer(b, y).flatten()])
    rows, columns, dim = [4, 4, 2], [3, 3, 2, 2], 10
    first, second = float(a @ b) ** 2, float(x @ y) ** 2
    left, right = one_sided(a, b, 1), one_sided(x, y, 1)
    variance = dim * ((first + left) * (second + right) - first * second)
    variance += (sum(c * c for c in rows) - dim) * left * second
    variance += (sum(c * c for c in columns) - dim) * right * first
    sample = products(TwoSided, dim, matrix_task(), pair)
    assert_moments(sample, float(a @ b * (x @ y)), variance / dim**2)


def test_moments_of_factorised_inner_products_of_a_bias() -> None:
    """A bias is a matrix of one column; its sketch is independent of the weight's."""
    task = Task.of(networks.built(lambda: nn.Linear(N, M)), networks.nll)
    a, b = networks.normal(2, M, seed=5)
    b, one = a + b / 2, torch.ones(1, dtype=networks.DOUBLE)
    pair = torch.cat([torch.zeros(2, M * N, dtype=networks.DOUBLE), torch.stack([a, b])], dim=1)
    sample = products(TwoSided, 25, task, pair)
    assert_moments(sample, float(a @ b), two_sided(a, one, b, one, 5))


@pytest.mark.parametrize(("kind", "name"), [(Gaussian, "dense"), (TwoSided, "factorised")])
def test_moments_for_aligned_unit_vectors_are_the_reference(
    kind: type[Projection], name: str
) -> None:
    for dim, values in networks.REFERENCE["jl"]["unit_aligned"].items():
        one, side = torch.ones(1), int(dim) ** 0.5
        dense, factorised = one_sided(one, one, int(dim)), two_sided(one, one, one, one, int(side))
        assert dense == pytest.approx(values["dense"])
        assert factorised == pytest.approx(values["factorised"])
        assert factorised / dense == pytest.approx(values["ratio"])
    u = torch.zeros(M * N, dtype=networks.DOUBLE)
    u[4] = 1.0
    sample = products(kind, 64, matrix_task(), torch.stack([u, u]))
    assert_moments(sample, 1.0, networks.REFERENCE["jl"]["unit_aligned"]["64"][name])


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_unbiased_over_several_parameters(kind: type[Projection]) -> None:
    task = Task.of(networks.built(lambda: networks.Mlp(3, 2, 2)), networks.nll)
    pair = networks.normal(2, task.size, seed=4)
    pair[1] += pair[0]
    sample = products(kind, 9, task, pair)
    error = float(sample.std()) / DRAWS**0.5
    assert abs(float(sample.mean() - pair[0] @ pair[1])) < 4 * error
