"""Which parameters are factored is concluded from gradients, never from their absence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.examples import Examples, count, take
from methods.rows import gradients
from methods.rows.gradients import Gradients
from methods.rows.parts import Outer
from methods.task import Task
from methods.tracin import TracIn
from tests.methods import networks

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


class Called(networks.Mlp):
    """A layer that also meets one vector that belongs to no example."""

    def weighed(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.middle(torch.linspace(0, 1, 5, dtype=x.dtype)[None]).sum() * weight


def weighed(model: Any, batch: Examples) -> Tensor:
    return batch["weight"] * networks.nll(model, batch)


def weighed_elsewhere(model: Any, batch: Examples) -> Tensor:
    return networks.nll(model, batch) + model.weighed(batch["x"], batch["weight"])


def late(n: int) -> Examples:
    """Examples of which the first three weigh nothing."""
    weight = torch.arange(n, dtype=networks.DOUBLE).sub(gradients.PROBE - 1).clamp_min(0)
    return {**networks.examples(n, 6), "weight": weight}


@pytest.mark.parametrize(
    ("make", "loss", "falls_back"),
    [
        (networks.RawWeight, weighed, {"middle.weight"}),
        (networks.Mlp, weighed, set()),
        (Called, weighed_elsewhere, set()),
    ],
    ids=[
        "a weight in a raw product",
        "layers alone",
        "a layer also called for all examples at once",
    ],
)
@pytest.mark.parametrize("batches", [(7,), (3, 4), (1, 2, 3, 1), (4, 3)])
def test_coverage_is_not_concluded_from_gradients_that_are_zero(
    make: Callable[[], nn.Module], loss: Any, falls_back: set[str], batches: tuple[int, ...]
) -> None:
    task, batch = Task.of(networks.built(make), loss), late(7)
    expected = networks.gradient_rows(task, task.loss, batch)
    source = Gradients(task, task.loss)
    parts = [source.rows(some).dense() for some in split(batch, batches)]
    torch.testing.assert_close(torch.cat(parts), expected, **CLOSE)
    assert set(source.fallback or ()) == falls_back
    assert source.unproven == ()
    torch.testing.assert_close(source.rows(batch).dense(), expected, **CLOSE)


def test_examples_are_moved_to_the_device_in_chunks_and_for_the_probe_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moved: list[int] = []
    move = Task.move

    def noted(task: Task, batch: Examples) -> Examples:
        moved.append(count(batch))
        return move(task, batch)

    monkeypatch.setattr(Task, "move", noted)
    train, query = networks.examples(300, 6), networks.examples(100, 6, seed=3)
    fitted = TracIn(False).fit(Task.of(networks.built(networks.Mlp), networks.nll), train)
    fitted.scores(query, train)
    fitted.self_influence(train)
    assert moved[0] == gradients.PROBE
    assert max(moved) == gradients.MOST
    assert sum(moved) == gradients.PROBE + 100 + 300 + 300


def split(batch: Examples, sizes: tuple[int, ...]) -> list[Examples]:
    columns = {name: column.split(sizes) for name, column in batch.items()}
    return [{name: columns[name][i] for name in batch} for i in range(len(sizes))]


def test_what_was_zero_at_first_is_factored_once_it_is_proven() -> None:
    task, batch = Task.of(networks.built(lambda: networks.Mlp(40, 30)), weighed), late(8)
    batch["x"] = networks.normal(8, 40)
    source = Gradients(task, task.loss)
    source.rows(take(batch, slice(0, gradients.PROBE)))
    assert not isinstance(source.rows(batch).parts["inner.weight"][0], Outer)
    assert isinstance(source.rows(batch).parts["inner.weight"][0], Outer)
