"""Closed forms of projected inner products of rank-1 gradients, and simulations that meet them."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from analysis import tracin_sketch
from analysis.ink import style
from analysis.numbers.claims import Claim, judge_claims
from analysis.numbers.table import from_csv, to_csv
from experiments import tracin_sketch as experiment
from experiments import tracin_sketch as sketch_cost
from experiments.digits.sketch_moments import (
    Generated,
    Pairs,
    Source,
    drawn_by_library,
    pairs,
    simulate,
    variance,
)
from experiments.laboratory.runs import describe
from experiments.tracin_sketch import Cost, Projection
from methods.rows.projections import Gaussian, Rademacher, TwoSided
from tests.analysis.synthetic import sketch_moments
from tests.methods import networks
from tests.methods.rows.test_projection_moments import one_sided, two_sided

KINDS = (Gaussian, Rademacher, TwoSided)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))


def unit(*shape: int, seed: int) -> Tensor:
    drawn = networks.normal(*shape, seed=seed)
    return drawn / drawn.norm(dim=-1, keepdim=True)


def some_pairs() -> Pairs:
    """Aligned vectors, and two pairs at angles."""
    left, right = unit(6, 7, seed=1), unit(6, 5, seed=2)
    left[1], right[1] = left[0], right[0]
    left[3] = (left[2] + left[3]) / (left[2] + left[3]).norm()
    return Pairs(left, right, ("aligned", "half", "any"))


# --- closed forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "times"), [(1_024, 66.0), (16_384, 258.0)])
def test_the_factorised_map_is_noisier_for_aligned_vectors(dim: int, times: float) -> None:
    these = some_pairs()
    dense, factorised = variance(Gaussian(dim), these)[0], variance(TwoSided(dim), these)[0]
    assert float(dense) == pytest.approx(2 / dim)
    assert float(factorised / dense) == pytest.approx(times)
    values = networks.REFERENCE["jl"]["unit_aligned"][str(dim)]
    assert float(factorised) == pytest.approx(values["factorised"])


def test_the_factorised_map_is_no_noisier_for_orthogonal_factors() -> None:
    left, right = torch.eye(4, dtype=networks.DOUBLE)[:2], torch.eye(3, dtype=networks.DOUBLE)[:2]
    these = Pairs(left, right, ("orthogonal",))
    for dim in (64, 1_024):
        assert float(variance(TwoSided(dim), these)) == pytest.approx(1 / dim)
        assert float(variance(Gaussian(dim), these)) == pytest.approx(1 / dim)


def test_theory_is_that_of_the_general_formulas() -> None:
    these = some_pairs()
    for i in range(3):
        a, b = these.left[2 * i : 2 * i + 2]
        x, y = these.right[2 * i : 2 * i + 2]
        u, v = torch.outer(a, x).flatten(), torch.outer(b, y).flatten()
        assert float(these.exact()[i]) == pytest.approx(float(u @ v))
        dense = one_sided(u, v, 16)
        signs = dense - 2 * float((u * v).square().sum()) / 16
        factorised = two_sided(a, x, b, y, 4)
        for kind, expected in zip(KINDS, (dense, signs, factorised), strict=True):
            assert float(variance(kind(16), these)[i]) == pytest.approx(expected)


def test_the_printed_condition_would_be_biased() -> None:
    """E[G1 G1^T] = I, as Sec. F prints it, makes products d/(mn) of what they should be."""
    m, n, side = 7, 5, 3
    a, x = unit(2, m, seed=3)[0], unit(2, n, seed=4)[0]
    one, other = networks.normal(10_000, side, m, seed=5), networks.normal(10_000, side, n, seed=6)
    one, other = one / math.sqrt(m), other / math.sqrt(n)  # rows of length 1 on average
    torch.testing.assert_close((one @ one.mT).mean(0), torch.eye(side).double(), rtol=0, atol=0.02)
    products = (one @ a).square().sum(1) * (other @ x).square().sum(1)
    expected = side**2 / (m * n)
    assert abs(float(products.mean()) - expected) < 4 * float(products.std()) / 10_000**0.5
    assert expected < 0.5


# --- simulation and library -----------------------------------------------------------------------


def assert_moments(products: Tensor, these: Pairs, projection: Projection) -> None:
    """Mean and variance within four of their own standard errors, for every pair."""
    theory, n = variance(projection, these), len(products)
    error = (products.mean(0) - these.exact()) / (theory / n).sqrt()
    assert float(error.abs().max()) < 4
    squares = (products - products.mean(0)).square()
    gap = (products.var(0) - theory) / (squares.std(0) / n**0.5)
    assert float(gap.abs().max()) < 4.5
    assert float((squares.std(0) / n**0.5 / theory).max()) < 0.2, "else the interval says nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_simulated_moments_are_theory(kind: type[Projection]) -> None:
    these = some_pairs()
    for dim in (16, 64):
        assert_moments(simulate(kind(dim), these, 4_000, seed=1), these, kind(dim))


@pytest.mark.parametrize("kind", KINDS)
def test_the_library_s_moments_are_theory(kind: type[Projection]) -> None:
    these = some_pairs()
    assert_moments(drawn_by_library(kind(16), these, 1_000, seed=1), these, kind(16))


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_draws_the_same_and_another_does_not(kind: type[Projection]) -> None:
    these = some_pairs()
    for draw in (simulate, drawn_by_library):
        first = draw(kind(16), these, 5, 3)
        assert torch.equal(draw(kind(16), these, 5, 3), first)
        assert not torch.allclose(draw(kind(16), these, 5, 4), first)


def test_pairs_are_unit_vectors_in_the_positions_they_are_named_after() -> None:
    these = pairs(Source(Generated()))
    for factor in (these.left, these.right):
        torch.testing.assert_close(factor.norm(dim=1), torch.ones(len(factor)).double())
    left, right = these.cosines()
    known = torch.tensor([[1.0, 0, 0], [1, 0, 1]]).double()
    torch.testing.assert_close(torch.stack([left, right])[:, :3], known)
    exact = these.exact()
    assert these.kinds[3:] == ("proponents", "proponents", "random gradients", "random gradients")
    assert float(exact[3:5].min()) > float(exact[5:].abs().max())


# --- cost -----------------------------------------------------------------------------------------


def test_peak_memory_is_that_of_the_tensors_alive() -> None:
    def work() -> None:
        first = torch.zeros(1_000)
        second = first + 1
        del first, second
        torch.zeros(1_500)

    assert sketch_cost.peak_bytes(work) == pytest.approx(8_000, abs=200)


def test_a_cost_counts_what_is_drawn() -> None:
    factorised, dense = Cost(TwoSided(64), 300, 200), Cost(Gaussian(64), 300, 200)
    assert sketch_cost.numbers(factorised) == (500 + 301) * 8
    assert sketch_cost.numbers(replace(factorised, bias=False)) == 500 * 8
    assert sketch_cost.numbers(dense) == 60_300 * 64
    for cost in (factorised, replace(factorised, bias=False)):
        measured = sketch_cost.measure(cost, 0)
        size = 4 * sketch_cost.numbers(cost)
        assert measured["map_bytes"] == size <= measured["peak_bytes"] < size + 6_000
        assert measured["seconds"] > 0
    words = 2 * 60_300 * 64  # a number of a dense map is a word of 16 bits until it is used
    assert sketch_cost.measure(dense, 0)["peak_bytes"] >= words


# --- the artifact ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """The part of a run that an artifact reads, without a disk."""

    config: dict[str, Any]
    outcome: dict[str, Any]

    @property
    def metrics(self) -> dict[str, Any]:
        return self.outcome

    def array(self, name: str) -> np.ndarray:
        return self.outcome[name]


def made_up(excess: float = 1.0, biased: float = 0.0) -> list[Any]:
    cells = sketch_moments.sketch_cells(range(6))
    return [Made(describe(cell), sketch_moments.result(cell, excess, biased)) for cell in cells]


def tabulated(excess: float = 1.0, biased: float = 0.0) -> pd.DataFrame:
    made = made_up(excess, biased)
    return tracin_sketch.tabulate(made).assign(tier="paper", missing=0)


def test_sketches_as_theory_says_are_reproduced() -> None:
    rows = tabulated()
    assert tracin_sketch.ARTIFACT.judge(rows).word == "reproduced"
    slopes = rows[rows["quantity"] == "slope of time in d"].set_index("method")["ours"]
    assert slopes["TwoSided"] == pytest.approx(0.5, abs=0.01)
    assert slopes["Gaussian"] == pytest.approx(1.0, abs=0.03)
    size = rows[(rows["quantity"] == "size of the map") & (rows["dim"] == 16_384)]
    assert size["ours"].max() == pytest.approx(1.1e12, rel=0.01)
    assert list(rows[rows["by"] == "extrapolated"]["dim"]) == [1_024, 16_384]


@pytest.mark.parametrize(
    ("excess", "biased", "wrong"),
    [
        (1.3, 0.0, tracin_sketch.NOISY),
        (1.0, 0.05, tracin_sketch.TESTED),
        (1.0, 0.05, tracin_sketch.FACTORISED),
    ],
)
def test_what_theory_does_not_say_is_not_reproduced(
    excess: float, biased: float, wrong: Claim
) -> None:
    rows = tabulated(excess, biased)
    words = {one.claim: one.word for one in judge_claims(rows, tracin_sketch.ARTIFACT.claims)}
    assert words[wrong] == "fails"
    assert (tracin_sketch.ARTIFACT.judge(rows).word != "reproduced") == (biased > 0)


def test_the_pair_furthest_from_theory_decides() -> None:
    rows = tabulated(excess=1.3, biased=0.05)
    claims = rows[(rows["kind"] == "claim") & (rows["method"] == "TwoSided")]
    worst = claims[claims["quantity"].isin(["bias", "variance ÷ theory"])]
    assert set(worst["pair"]) <= {"aligned", "orthogonal"}
    assert (worst["ours"].abs() - 1).abs().min() > 0.2


def test_few_draws_widen_the_bounds_and_say_nothing_of_the_variance() -> None:
    few = [Made(run.config, run.outcome | {"draws": 20}) for run in made_up()]
    rows = tracin_sketch.tabulate([run for run in few if run.config["work"]["type"] == "Library"])
    claims = rows[rows["kind"] == "claim"].groupby("quantity")
    assert "variance ÷ theory, library" not in claims.groups
    assert set(claims.get_group("bias, library")["at_most"]) == {3 * tracin_sketch.BIAS}
    assert set(tabulated().query("quantity == 'bias, library'")["at_most"]) == {tracin_sketch.BIAS}


@pytest.mark.parametrize("there", [{"Simulated"}, {"Library"}, {"Cost"}, {"Simulated", "Cost"}])
@pytest.mark.parametrize("left_out", ["Gaussian", "TwoSided", ""])
def test_what_is_there_is_tabulated_and_drawn(there: set[str], left_out: str) -> None:
    found = [
        run
        for run in made_up()
        if run.config["work"]["type"] in there and run.metrics["method"] != left_out
    ]
    rows = from_csv(to_csv(tracin_sketch.tabulate(found).assign(tier="paper", missing=9)))
    with style.settings():
        tracin_sketch.ARTIFACT.draw(rows).draw_without_rendering()
    assert tracin_sketch.ARTIFACT.judge(rows).word not in ("reproduced", "not reproduced")


def test_presets_draw_the_library_s_factorised_map_at_every_dimension() -> None:
    for preset in ("small", "paper"):
        works = [cell.work for cell in experiment.PRESETS[preset]]
        own: dict[str, set[int]] = {}
        for work in works:
            if isinstance(work, experiment.Library):
                own.setdefault(type(work.projection).__name__, set()).add(work.projection.dim)
        assert own["TwoSided"] == set(experiment.DIMS)
        assert own["Gaussian"] == {64, 1_024, 16_384}
