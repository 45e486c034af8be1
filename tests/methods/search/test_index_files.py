"""A saved index finds the same as before; one of other rows, or damaged, is refused."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from methods.errors import MethodError
from methods.examples import Examples, take
from methods.fitted.scoring import Fitted
from methods.rows.projections import TwoSided
from methods.search.index import Index, build, load, save
from methods.search.projected import Projected
from methods.search.searches import HNSW, IVF, Exact, Search
from methods.tracin import TracIn
from tests.methods.search.test_nearest import Given, faiss_or_skip, rows
from tests.methods.test_attributors import QUERY, TRAIN, the_task


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
    with pytest.raises(MethodError, match=r"damaged index .*save it again"):
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
