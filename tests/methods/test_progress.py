"""Progress of long passes: how far they are is known from the first step on."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from tqdm import tqdm

from methods import Source, TracIn, show_with
from methods.fitted import scoring
from tests.methods import networks
from tests.methods.test_attributors import QUERY, the_task


def test_every_step_of_the_best_among_many_is_counted_beforehand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scoring, "SHORT", 20)
    seen: dict[str, list[tuple[int | None, int]]] = {}

    def note(iterable: Iterable[Any], label: str, total: int | None) -> Iterator[Any]:
        done = 0
        for item in iterable:
            yield item
            done += 1
        seen.setdefault(label, []).append((total, done))

    fitted = TracIn(False, checkpoints=(-1,)).fit(the_task(), QUERY)
    items = [{"x": x, "y": y} for x, y in zip(*networks.examples(210, 6).values(), strict=True)]
    with show_with(note):
        fitted.proponents(QUERY, Source(items), 3)
        fitted.scores(QUERY, items)
    assert seen["candidates"] == [(11, 11)]  # of 20 candidates, the last of 10
    assert all(total == done for total, done in seen["scores"])


def test_rows_of_queries_are_computed_once_for_all_candidates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scoring, "SHORT", 20)
    many = networks.examples(210, 6)
    fitted = TracIn(False, checkpoints=(-1,)).fit(the_task(), QUERY)
    whole = fitted.scores(QUERY, many)
    (term,) = fitted.terms()
    rows, calls = term.query_rows, []
    monkeypatch.setattr(term, "query_rows", lambda some: calls.append(1) or rows(some))
    values, places = fitted.proponents(QUERY, many, 3)
    assert len(calls) == 1
    best = whole.topk(3)
    torch.testing.assert_close(values, best.values)
    torch.testing.assert_close(places, best.indices)


def test_a_bar_shows_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    fitted = TracIn(False).fit(the_task(), QUERY)
    with show_with(tqdm):
        fitted.self_influence(QUERY)
    shown = capsys.readouterr().err
    assert "self-influence" in shown
    assert "/1 [00:00<" in shown, "one step, the time gone and the time left"
