"""Factored rows meet dense directions without being materialised, where that is cheaper."""

import pytest
import torch

from methods.rows import inner_products
from methods.rows.inner_products import inner
from methods.rows.parts import Dense, Outer
from tests.methods import networks

CLOSE = {"rtol": 1e-12, "atol": 1e-12}
ORDER = (0, 3, 1, 2)  # of a convolution's weight, kept with its channels last


def outer(terms: int, m: int = 6, n: int = 4) -> Outer:
    left, right = networks.normal(5, terms, m, seed=1), networks.normal(5, terms, n, seed=2)
    return Outer(left, right, m, (n,), scale=0.5)


PARTS = {
    "a long left side": lambda terms: outer(terms, m=7, n=4),
    "a long right side": lambda terms: outer(terms, m=4, n=7),
    "a matrix worth a product of its own": lambda terms: outer(terms, m=300, n=220),
    "words": lambda terms: Outer(
        networks.integers(9, 5, terms), networks.normal(5, terms, 4), 9, (4,)
    ),
    "a convolution": lambda terms: Outer(
        networks.normal(5, terms, 6), networks.normal(5, terms, 12), 6, (2, 3, 2), ORDER
    ),
}


@pytest.mark.parametrize("moved", [0, 1 << 40], ids=["memory for nothing", "memory alone"])
@pytest.mark.parametrize("k", [1, 2, 30])
@pytest.mark.parametrize("terms", [1, 8])
@pytest.mark.parametrize("name", PARTS)
def test_products_with_directions_are_exact_either_way(
    name: str, terms: int, k: int, moved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inner_products, "MOVED", moved)
    part = PARTS[name](terms)
    flat = part.matrix()
    directions = networks.normal(k, flat.shape[1], seed=3)
    expected = flat @ directions.T * 2.0
    own = Dense(directions, scale=2.0)
    shape = (part.m, *part.stored_shape)
    forms = [own]
    if part.order is not None:  # the same directions, stored as the part is
        inverse = sorted(range(4), key=part.order.__getitem__)
        values = directions.view(k, *(shape[axis] for axis in part.order))
        forms.append(Dense(values.permute(0, *(1 + axis for axis in inverse)), part.order, 2.0))
    for form in forms:
        torch.testing.assert_close(inner(PARTS[name](terms), form), expected, **CLOSE)
        torch.testing.assert_close(inner(form, PARTS[name](terms)), expected.T, **CLOSE)
        torch.testing.assert_close(inner(part, form), expected, **CLOSE)  # materialised already


def test_one_direction_forms_no_row_and_many_do() -> None:
    for k, formed in ((1, False), (40, True)):
        part = outer(terms=10, m=64, n=32)
        inner(part, Dense(networks.normal(k, 64 * 32)))
        assert ("dense" in vars(part)) == formed
    words = Outer(networks.integers(1000, 5, 10), networks.normal(5, 10, 4), 1000, (4,))
    inner(words, Dense(networks.normal(40, 4000)))
    assert "dense" not in vars(words)


def test_a_contraction_is_made_in_pieces_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inner_products, "BUFFER", 2 * 10 * 32)
    part = outer(terms=10, m=64, n=32)
    directions = networks.normal(2, 64 * 32)
    expected = part.matrix() @ directions.T
    alone = outer(terms=10, m=64, n=32)
    torch.testing.assert_close(inner(alone, Dense(directions)), expected, **CLOSE)


@pytest.mark.parametrize("size", [1, 100, 1 << 19])
def test_rows_formed_in_slices_are_those_formed_at_once(size, monkeypatch):
    monkeypatch.setattr(inner_products, "SLICE", size)
    left, right = networks.normal(5, 7, 11), networks.normal(5, 7, 3, seed=1)
    directions = Dense(networks.normal(40, 33, seed=2))
    rows = Outer(left, right, 11, (3,))
    formed = torch.einsum("btm,btn->bmn", left, right).flatten(1)
    torch.testing.assert_close(
        inner_products._inner_formed(rows, directions), formed @ directions.values.T
    )
    torch.testing.assert_close(inner(rows, directions), formed @ directions.values.T)
