"""An index of rows finds what the scores rank first, and refuses to be mistaken for another."""

import builtins
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from methods import matmul
from methods.attributor import Fitted
from methods.index_files import load, save
from methods.nearest import Index, build, gather, over
from methods.projected import Projected
from methods.projections import Gaussian, Projection, Rademacher, Select, TwoSided
from methods.random_projection import RandomProjection
from methods.ranking import highest, lowest
from methods.rows import Rows
from methods.search import HNSW, IVF, Exact, Search
from methods.task import Examples, MethodError, take
from methods.tracin import TracIn
from tests import networks
from tests.test_attributors import QUERY, TRAIN, equal, swapped_nll, the_task

KINDS = (Gaussian, Rademacher, Select, TwoSided)


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
    monkeypatch.setattr("methods.search.BLOCK", 90)
    equal(index.search(query, 6)[0], whole[0])
    assert torch.equal(index.search(query, 6)[1], whole[1])


def test_rows_of_a_nan_are_an_error() -> None:
    some = rows(6, 3)
    some["row"][4, 1] = float("nan")
    with pytest.raises(MethodError, match="not finite"):
        build(Given(), some)


# --- projected rows -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_of_projected_rows_ranks_as_their_scores(kind: type[Projection]) -> None:
    fitted = Projected(TracIn().fit(the_task(), TRAIN), kind(16, 3))
    index = build(fitted, TRAIN)
    assert index.dim == 32, "16 numbers a checkpoint"
    scores, ids = index.search(fitted.query_rows(QUERY), 5)
    expected, candidates = fitted.proponents(QUERY, TRAIN, 5)
    equal(scores, expected)
    assert torch.equal(ids, candidates)


@pytest.mark.parametrize("kind", KINDS)
def test_projected_scores_average_to_the_scores(kind: type[Projection]) -> None:
    whole = TracIn().fit(the_task(), TRAIN)
    draws = torch.stack(
        [Projected(whole, kind(9, seed)).scores(QUERY, TRAIN) for seed in range(150)]
    )
    errors = (draws.mean(0) - whole.scores(QUERY, TRAIN)) / (draws.std(0) / 150**0.5)
    assert float(errors.square().mean()) < 3.0
    assert float(errors.abs().max()) < 5.5


def test_every_checkpoint_has_a_map_of_its_own() -> None:
    fitted = Projected(TracIn(learning_rates=False).fit(the_task(), TRAIN), Gaussian(4))
    first, second = (fitted._map(i, term) for i, term in enumerate(fitted.addends))
    assert not torch.allclose(first.directions(), second.directions())
    again = Projected(fitted.fitted, Gaussian(4))
    assert torch.equal(again._map(1, again.addends[1]).directions(), second.directions())


def test_maps_too_large_to_hold_are_applied_slice_by_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TracIn().fit(the_task(), TRAIN)
    expected = Projected(whole, Gaussian(12)).scores(QUERY, TRAIN)
    for module in ("projections", "projected"):
        monkeypatch.setattr(f"methods.{module}.LIMIT", 5 * whole.task.size * 8)
    sliced = Projected(whole, Gaussian(12))
    assert len(list(sliced.terms())) == 6
    assert not sliced._maps
    equal(sliced.scores(QUERY, TRAIN), expected)
    equal(gather(sliced, TRAIN), Projected(whole, Gaussian(12)).train_rows(TRAIN).dense())


def test_rows_without_parameters_cannot_be_projected() -> None:
    fitted = RandomProjection(Gaussian(8)).fit(the_task(), TRAIN)
    with pytest.raises(MethodError, match="these already are"):
        Projected(fitted, TwoSided(4)).scores(QUERY, TRAIN)


# --- memory ---------------------------------------------------------------------------------------


def test_a_budget_names_the_projection_that_fits() -> None:
    fitted = TracIn().fit(the_task(), TRAIN)
    budget = 13 * 2 * 30 * 8
    with pytest.raises(MethodError, match=r"13 rows of .* TwoSided\(25\)\) fits, or raise"):
        build(fitted, TRAIN, budget=budget)
    assert build(Projected(fitted, TwoSided(25)), TRAIN, budget=budget).dim == 50
    with pytest.raises(MethodError, match="please raise"):
        build(fitted, TRAIN, budget=100)


def test_a_budget_is_held_before_any_row_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Tensor:
        raise AssertionError("rows were made")

    monkeypatch.setattr("methods.nearest.gather", refuse)
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


def recall(found: Tensor, true: Tensor) -> float:
    hits = [len(set(a) & set(b)) for a, b in zip(found.tolist(), true.tolist(), strict=True)]
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


# --- on disk --------------------------------------------------------------------------------------


def fitted_and_index(method: Search) -> tuple[Fitted, Index]:
    if not isinstance(method, Exact):
        faiss_or_skip()
    fitted = Projected(TracIn().fit(the_task(), TRAIN), TwoSided(9))
    return fitted, build(fitted, TRAIN, method)


@pytest.mark.parametrize("method", [Exact(), HNSW(links=4), IVF(lists=3, effort=2)])
def test_a_saved_index_finds_the_same(method: Search, tmp_path: Path) -> None:
    fitted, index = fitted_and_index(method)
    query = fitted.query_rows(QUERY)
    save(index, tmp_path / "here" / "index")
    again = load(tmp_path / "here" / "index", fitted, TRAIN)
    assert again.method == method
    for before, after in zip(index.search(query, 4), again.search(query, 4), strict=True):
        assert torch.equal(before, after)
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["index"]
    with pytest.raises(MethodError, match="exists"):
        save(index, tmp_path / "here" / "index")


def other_projections(fitted: Projected) -> Iterable[tuple[Fitted, Examples, str]]:
    yield fitted, take(TRAIN, slice(0, 12)), "indexes 13 candidates, these are 12"
    yield Projected(fitted.fitted, TwoSided(4)), TRAIN, "rows of 18 numbers, these have 8"
    yield Projected(fitted.fitted, TwoSided(9, seed=1)), TRAIN, "another row for candidate 0"
    yield fitted, take(TRAIN, torch.arange(12, -1, -1)), "another row for candidate 0"
    single = TracIn(False, checkpoints=(0, 0)).fit(the_task(), TRAIN)
    yield Projected(single, TwoSided(9)), TRAIN, "other checkpoints"


def test_an_index_of_something_else_is_refused(tmp_path: Path) -> None:
    fitted, index = fitted_and_index(Exact())
    assert isinstance(fitted, Projected)
    save(index, tmp_path / "index")
    for other, candidates, message in other_projections(fitted):
        with pytest.raises(MethodError, match=message):
            load(tmp_path / "index", other, candidates)
    with pytest.raises(MethodError, match="query rows of 8 numbers, the index has 18"):
        index.search(Projected(fitted.fitted, TwoSided(4)).query_rows(QUERY), 3)


@pytest.mark.parametrize("name", ["rows.npy", "index.faiss", "probe.npy", "index.json"])
def test_a_damaged_index_is_one_clear_error(name: str, tmp_path: Path) -> None:
    fitted, index = fitted_and_index(HNSW(links=4) if name == "index.faiss" else Exact())
    folder = tmp_path / "index"
    save(index, folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(MethodError, match=r"damaged index .*rm -r"):
        load(folder, fitted, TRAIN)
    (folder / name).unlink()
    with pytest.raises(MethodError, match=f"{name} is missing"):
        load(folder, fitted, TRAIN)


def test_a_folder_without_an_index_is_one_clear_error(tmp_path: Path) -> None:
    fitted, _ = fitted_and_index(Exact())
    with pytest.raises(MethodError, match=r"no index in .*index\.json is missing"):
        load(tmp_path / "nowhere", fitted, TRAIN)


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MethodError, match="cannot write"):
        save(build(Given(), rows(4, 2)), tmp_path / "file" / "index")


def test_an_exact_search_multiplies_at_the_rate_of_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, queries = (torch.randn(n, 40, generator=generator) for n in (900, 70))
    sizes: list[int] = []

    def product(a: Tensor, b: Tensor) -> Tensor:
        sizes.append(len(a))
        return matmul.product(a, b)

    monkeypatch.setattr("methods.search.product", product)
    monkeypatch.setattr("methods.search.BLOCK", 900 * 32)
    values, places = over(rows, Exact()).search(queries, 5)
    assert sizes == [32, 32, 6]
    expected, order = (queries.double() @ rows.double().T).topk(5)
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(places, order)
