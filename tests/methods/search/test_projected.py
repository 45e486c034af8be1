"""Projected rows rank as their scores, whose mean over maps is that of the whole rows."""

import pytest
import torch

from methods import memory
from methods.errors import MethodError
from methods.random_projection import RandomProjection
from methods.rows.projections import SJLT, Gaussian, Projection, Rademacher, Select, TwoSided
from methods.search.index import build, candidate_rows
from methods.search.projected import Projected
from methods.tracin import TracIn
from tests.methods.test_attributors import QUERY, TRAIN, equal, the_task

KINDS = (Gaussian, Rademacher, SJLT, Select, TwoSided)


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_of_projected_rows_ranks_as_their_scores(kind: type[Projection]) -> None:
    fitted = Projected(TracIn().fit(the_task(), TRAIN), kind(16, 3))
    index = build(fitted, TRAIN)
    assert index.dim == 32, "16 numbers per checkpoint"
    scores, ids = index.search(fitted.query_rows(QUERY), 5)
    expected, candidates = fitted.proponents(QUERY, TRAIN, 5)
    equal(scores, expected)
    assert torch.equal(ids, candidates)


@pytest.mark.long
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
    monkeypatch.setattr(memory, "held", lambda device, least: Gaussian(5).bytes(whole.task))
    sliced = Projected(whole, Gaussian(12))
    assert len(list(sliced.terms())) == 6
    assert not sliced._maps
    equal(sliced.scores(QUERY, TRAIN), expected)
    equal(candidate_rows(sliced, TRAIN), Projected(whole, Gaussian(12)).train_rows(TRAIN).dense())


def test_rows_without_parameters_cannot_be_projected() -> None:
    fitted = RandomProjection(Gaussian(8)).fit(the_task(), TRAIN)
    with pytest.raises(MethodError, match="these are projected already"):
        Projected(fitted, TwoSided(4)).scores(QUERY, TRAIN)
