"""An index of rows finds what the scores rank first, and refuses to be mistaken for another."""

import builtins
from typing import Any

import pytest
import torch
from torch import Tensor

from methods.errors import MethodError
from methods.examples import Examples
from methods.fitted.scoring import Fitted
from methods.rows import matmul
from methods.rows.factored import Rows
from methods.rows.projections import TwoSided
from methods.search.index import build, build_from_rows
from methods.search.projected import Projected
from methods.search.searches import HNSW, IVF, Exact, Search, highest, lowest
from methods.tracin import TracIn
from tests.methods import networks
from tests.methods.test_attributors import QUERY, TRAIN, equal, swapped_nll, the_task


class Given(Fitted):
    """Rows that are a column of the examples."""

    def __init__(self) -> None:
        self.task = the_task()

    def query_rows(self, examples: Examples) -> Rows:
        return Rows.dense_of(examples["row"])

    train_rows = query_rows


def rows(n: int, dim: int, seed: int = 0) -> Examples:
    return {"row": networks.normal(n, dim, seed=seed)}


def faiss_or_skip() -> Any:
    return pytest.importorskip("faiss", reason="FAISS is an optional extra")


# --- the order ------------------------------------------------------------------------------------


def test_equal_scores_come_in_order_of_place() -> None:
    scores = networks.integers(4, 50, 40, seed=1).float()
    for k in (1, 3, 17, 40):
        values, places = highest(scores, k)
        ordered = scores.sort(dim=1, descending=True, stable=True)
        assert torch.equal(values, ordered.values[:, :k])
        assert torch.equal(places, ordered.indices[:, :k])
        values, places = lowest(scores, k)
        ordered = scores.sort(dim=1, stable=True)
        assert torch.equal(values, ordered.values[:, :k])
        assert torch.equal(places, ordered.indices[:, :k])


@pytest.mark.parametrize("k", [0, 41])
def test_more_than_there_are_is_an_error(k: int) -> None:
    with pytest.raises(MethodError, match="from 1 to 40"):
        highest(torch.zeros(2, 40), k)
    with pytest.raises(MethodError, match="from 1 to 5"):
        build(Given(), rows(5, 3)).search(networks.normal(2, 3), k)


# --- the exact index ------------------------------------------------------------------------------


@pytest.mark.parametrize("measurement", [None, swapped_nll])
def test_an_exact_index_of_checkpoints_is_tracin(measurement: Any) -> None:
    fitted = TracIn().fit(the_task(measurement=measurement), TRAIN)
    scores, ids = build(fitted, TRAIN).search(fitted.query_rows(QUERY), 13)
    expected, candidates = fitted.proponents(QUERY, TRAIN, 13)
    equal(scores, expected)
    assert torch.equal(ids, candidates)


def test_ties_are_broken_as_the_scores_break_them() -> None:
    """Small integers: every sum is exact, so that equal scores are equal."""
    some = {"row": networks.integers(3, 60, 2, seed=2).double()}
    query = {"row": networks.integers(3, 9, 2, seed=3).double()}
    fitted = Given()
    scores, ids = build(fitted, some).search(fitted.query_rows(query), 20)
    expected, candidates = fitted.proponents(query, some, 20)
    assert len(expected[0].unique()) < 20
    assert torch.equal(scores, expected)
    assert torch.equal(ids, candidates)


def test_an_exact_search_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    index, query = build(Given(), rows(30, 4)), networks.normal(11, 4, seed=5)
    whole = index.search(query, 6)
    monkeypatch.setattr("methods.search.searches.BLOCK", 90)
    equal(index.search(query, 6)[0], whole[0])
    assert torch.equal(index.search(query, 6)[1], whole[1])


def test_rows_of_a_nan_are_an_error() -> None:
    some = rows(6, 3)
    some["row"][4, 1] = float("nan")
    with pytest.raises(MethodError, match="not finite"):
        build(Given(), some)


# --- memory ---------------------------------------------------------------------------------------


def test_a_budget_names_the_projection_that_fits() -> None:
    fitted = TracIn().fit(the_task(), TRAIN)
    budget = 13 * 2 * 30 * 8
    with pytest.raises(MethodError, match=r"13 rows of .* TwoSided\(30\)\) fits, or raise"):
        build(fitted, TRAIN, budget=budget)
    assert build(Projected(fitted, TwoSided(30)), TRAIN, budget=budget).dim == 60
    with pytest.raises(MethodError, match="please raise"):
        build(fitted, TRAIN, budget=100)


def test_a_budget_is_held_before_any_row_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Tensor:
        raise AssertionError("rows were made")

    monkeypatch.setattr("methods.search.index.candidate_rows", refuse)
    with pytest.raises(MethodError, match="budget"):
        build(Given(), rows(40, 10), budget=40 * 10 * 8 - 1)


@pytest.mark.parametrize("method", [HNSW(links=8), IVF(lists=20)])
def test_planned_memory_is_about_what_is_taken(method: Search) -> None:
    faiss = faiss_or_skip()
    n, dim = 2_000, 24
    engine = method.build(networks.normal(n, dim).float())
    taken = n * dim * 4 + len(faiss.serialize_index(engine))
    assert 0.9 * taken < method.planned(n, dim) < 1.2 * taken


# --- approximate indexes --------------------------------------------------------------------------


def recall(ids: Tensor, true: Tensor) -> float:
    hits = [len(set(a) & set(b)) for a, b in zip(ids.tolist(), true.tolist(), strict=True)]
    return sum(hits) / true.numel()


@pytest.mark.parametrize("method", [HNSW(effort=128), IVF(lists=32, effort=24)])
def test_an_approximate_index_finds_most_and_more_with_effort(method: Search) -> None:
    faiss_or_skip()
    some, query = rows(3_000, 16), networks.normal(100, 16, seed=9)
    true = build(Given(), some).search(query, 10)
    index = build(Given(), some, method)
    scores, ids = index.search(query, 10)
    assert recall(ids, true[1]) > 0.9
    assert recall(index.search(query, 10, effort=1)[1], true[1]) < recall(ids, true[1]) - 0.05
    products = (query[:, None] * some["row"][ids]).sum(2)
    torch.testing.assert_close(scores.double(), products, rtol=1e-4, atol=1e-4)


def test_every_list_looked_through_is_exact() -> None:
    faiss_or_skip()
    some, query = rows(400, 6), networks.normal(20, 6, seed=9)
    true = build(Given(), some).search(query, 7)[1]
    assert torch.equal(build(Given(), some, IVF(lists=8)).search(query, 7, effort=8)[1], true)


def test_what_was_not_found_has_no_place() -> None:
    faiss_or_skip()
    index = build(Given(), rows(40, 3), IVF(lists=20, effort=1))
    scores, ids = index.search(networks.normal(10, 3, seed=1), 30)
    assert (ids == -1).any()
    assert torch.equal(ids == -1, scores < -1e30)


def test_more_lists_than_candidates_is_an_error() -> None:
    faiss_or_skip()
    with pytest.raises(MethodError, match="256 lists for 40 candidates"):
        build(Given(), rows(40, 3), IVF())


@pytest.mark.parametrize("method", [HNSW(), IVF(lists=2)])
def test_without_faiss_the_extra_is_named_and_exact_search_works(
    method: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name == "faiss":
            raise ImportError("No module named 'faiss'")
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MethodError, match=r"pip install 'retrace\[index\]'"):
        build(Given(), rows(9, 3), method)
    assert build(Given(), rows(9, 3)).search(networks.normal(2, 3), 4)[1].shape == (2, 4)


def test_an_exact_search_multiplies_at_the_rate_of_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, queries = (torch.randn(n, 40, generator=generator) for n in (900, 70))
    sizes: list[int] = []

    def product(a: Tensor, b: Tensor) -> Tensor:
        sizes.append(len(a))
        return matmul.product(a, b)

    monkeypatch.setattr("methods.search.searches.product", product)
    monkeypatch.setattr("methods.search.searches.BLOCK", 900 * 32)
    values, places = build_from_rows(rows, Exact()).search(queries, 5)
    assert sizes == [32, 32, 6]
    expected, order = (queries.double() @ rows.double().T).topk(5)
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(places, order)
