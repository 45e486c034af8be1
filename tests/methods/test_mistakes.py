"""Impossible settings and missing examples: one clear line each."""

import pytest

from methods.errors import MethodError
from methods.ihvp.arnoldi import Arnoldi, Krylov
from methods.ihvp.cg import CG
from methods.ihvp.compressed import Compressed
from methods.ihvp.exact import Exact
from methods.ihvp.lissa import LiSSA
from methods.ihvp.sketch import Sketch
from methods.influence import Influence
from methods.random_projection import RandomProjection
from methods.randomness import Purpose, numpy_generator, torch_generator
from methods.rows.projections import Gaussian, Rademacher, Select, TwoSided
from methods.task import Task, take
from methods.tracin import TracIn
from tests.methods import networks


@pytest.mark.parametrize(
    ("make", "name"),
    [
        *((lambda kind=kind: kind(0), "dim") for kind in (Gaussian, Rademacher, Select, TwoSided)),
        (lambda: Gaussian(seed=-1), "seed"),
        (lambda: LiSSA(0), "depth"),
        (lambda: LiSSA(repeats=-1), "repeats"),
        (lambda: LiSSA(scale=0.0), "scale"),
        (lambda: LiSSA(scale=float("nan")), "scale"),
        (lambda: Exact(sample=0), "sample"),
        (lambda: Compressed(seed=-1), "seed"),
        (lambda: Sketch(steps=0), "steps"),
        (lambda: CG(max_products=0), "max_products"),
        (lambda: Krylov(0), "iterations"),
        (lambda: Krylov(keep=0), "keep"),
        (lambda: Arnoldi(-2), "num_eigen"),
    ],
)
def test_hyper_parameters_out_of_range_are_refused_where_they_are_set(make, name):
    with pytest.raises(MethodError, match=f"^{name} is "):
        make()


def test_settings_that_may_be_left_out_may_be():
    assert LiSSA(1, sample=None, repeats=1).scale is None
    assert Exact(sample=None) == Exact()
    assert Krylov(1, None, 0, 1).sample is None


def test_a_negative_seed_is_named_wherever_it_is_used():
    with pytest.raises(MethodError, match="seed is -1"):
        torch_generator(-1, "anything")
    with pytest.raises(MethodError, match="seed is -1"):
        numpy_generator(-1, Purpose.ORDER)


@pytest.mark.parametrize(
    "method", [TracIn(False), RandomProjection(Gaussian(3)), Influence(Exact(), damping=40.0)]
)
def test_no_examples_are_an_error_that_says_of_what(method):
    train = networks.examples(6, 6)
    task = Task.of(networks.built(networks.Mlp), networks.nll)
    fitted, none = method.fit(task, train), take(train, slice(0, 0))
    for act in (fitted.self_influence, lambda some: fitted.scores(train, some)):
        with pytest.raises(MethodError, match="candidates has no examples"):
            act(none)
    with pytest.raises(MethodError, match="query has no examples"):
        fitted.scores(none, train)
    with pytest.raises(MethodError, match="candidates has no examples"):
        fitted.proponents(train, none, 1)
