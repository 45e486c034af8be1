"""Impossible settings and missing examples: one clear line each."""

import pytest
import torch
from torch import nn

from methods.checkpoints import Checkpoint
from methods.errors import MethodError
from methods.examples import take
from methods.fastif import FastIF
from methods.ihvp.arnoldi import Arnoldi, Krylov
from methods.ihvp.cg import CG
from methods.ihvp.compressed import Compressed
from methods.ihvp.exact import Exact
from methods.ihvp.lissa import LiSSA
from methods.ihvp.sketch import Sketch
from methods.influence import Influence
from methods.random_projection import RandomProjection
from methods.randomness import Purpose, numpy_generator, torch_generator
from methods.representer import Representer
from methods.rows.projections import SJLT, Gaussian, Rademacher, Select, TwoSided
from methods.task import Task
from methods.tracin import TracIn
from tests.methods import networks

NAN, INF = float("nan"), float("inf")


def decayed(weight_decay):
    return Task.of(networks.built(networks.Mlp), networks.nll, weight_decay=weight_decay)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        *(
            (lambda kind=kind: kind(0), "dim")
            for kind in (Gaussian, Rademacher, SJLT, Select, TwoSided)
        ),
        (lambda: Gaussian(seed=-1), "seed"),
        (lambda: LiSSA(0), "depth"),
        (lambda: LiSSA(repeats=-1), "repeats"),
        (lambda: LiSSA(scale=0.0), "scale"),
        (lambda: LiSSA(scale=float("nan")), "scale"),
        (lambda: Exact(sample=0), "sample"),
        (lambda: Compressed(seed=-1), "seed"),
        (lambda: Sketch(steps=0), "steps"),
        (lambda: CG(max_products=0), "max_products"),
        *((lambda value=value: CG(value), "tolerance") for value in (0.0, 1.0, -1.0, NAN, INF)),
        (lambda: LiSSA(scale=INF), "scale"),
        (lambda: Sketch(lr=-0.5), "lr"),
        (lambda: Sketch(lr=NAN), "lr"),
        (lambda: Sketch(momentum=1.0), "momentum"),
        (lambda: Sketch(average=1.5), "average"),
        *((lambda value=value: Influence(damping=value), "damping") for value in (NAN, INF, -1.0)),
        (lambda: FastIF(damping=INF), "damping"),
        (lambda: Representer(lam=INF), "lam"),
        (lambda: Representer(tolerance=1.0), "tolerance"),
        *((lambda value=value: decayed(value), "weight_decay") for value in (NAN, INF, -1e-3)),
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


def linear():
    return networks.built(lambda: nn.Linear(6, 3))


def lazy():
    return Task.of(nn.Sequential(nn.LazyLinear(3)).eval(), networks.nll)


def made_in_inference_mode():
    with torch.inference_mode():
        model = linear()
    return Task.of(model, networks.nll)


def of_outputs(change):
    task = Task.of(linear(), lambda model, batch: change(model(batch["x"]).square().sum(1)))
    return TracIn(False).self_influence(task, networks.examples(4, 6))


@torch.inference_mode()
def called_in_inference_mode(task):
    return TracIn(False).self_influence(task, networks.examples(4, 6))


def scored(column):
    task = Task.of(linear(), networks.nll)
    return TracIn(False).self_influence(task, {**networks.examples(4, 6), **column})


RAGGED = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)] * 2)
STATE = linear().state_dict()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lazy, r"0\.weight has no shape yet: run the model once"),
        (
            lambda: Task.of(nn.Linear(6, 3, device="meta").eval(), networks.nll),
            "on the meta device",
        ),
        (made_in_inference_mode, "weight was made inside torch.inference_mode"),
        (lambda: called_in_inference_mode(Task.of(linear(), networks.nll)), "called inside torch"),
        (lambda: Task.of(nn.ReLU().eval(), networks.nll), "the model has no parameters"),
        (
            lambda: Task.of(nn.Linear(6, 3).to(torch.cfloat).eval(), networks.nll),
            "weight is torch.complex64: gradients are of real parameters",
        ),
        (lambda: of_outputs(lambda v: v + 1j), "returned values of torch.complex128"),
        (lambda: of_outputs(lambda v: v.long()), "returned values of torch.int64"),
        (lambda: Checkpoint(STATE, -0.1), "lr of a checkpoint is -0.1: give one number"),
        (lambda: Checkpoint(STATE, [0.1, 0.2]), "lr of a checkpoint is a list of 2: give one"),
        (lambda: Checkpoint(STATE, float("nan")), "lr of a checkpoint is nan"),
        (lambda: Checkpoint(linear(), 0.1), "parameters of a checkpoint are a Linear: give a dict"),
        (lambda: scored({"x": RAGGED}), "x is a nested tensor: pad it"),
        (lambda: scored({"offsets": torch.arange(3)}), "columns of different lengths"),
    ],
)
def test_what_cannot_be_attributed_is_told_in_one_line(make, message):
    with pytest.raises(MethodError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_examples_made_in_inference_mode_are_like_others():
    task, train = Task.of(linear(), networks.nll), networks.examples(5, 6)
    with torch.inference_mode():
        same = {name: column.clone() for name, column in train.items()}
    expected = TracIn(False).self_influence(task, train)
    torch.testing.assert_close(TracIn(False).self_influence(task, same), expected)


def summed(model, batch):
    return networks.nll(model, batch)


def flat(model, batch):
    return 0 * summed(model, batch)


def tiny(model, batch):
    return 1e-30 * summed(model, batch)


def small(model, batch):
    return 1e-12 * summed(model, batch)


@pytest.mark.parametrize(
    ("method", "losses", "said"),
    [
        (Influence(Arnoldi(3, Krylov(8, None, keep=3)), 1e18), (tiny,), "lower `damping` or"),
        (Influence(Exact(), 1e38), (small,), "the queries have gradients, of which the method"),
        (Influence(LiSSA(2, None, scale=1e38), 1.0), (small,), "lower `damping` or `scale`"),
        (TracIn(), (), "checkpoints whose learning rate is not 0"),
        (TracIn(False), (summed, flat), "every gradient of the measurement is, over all queries"),
        (TracIn(False), (flat, summed), "every gradient of the loss is, over all candidates"),
        (TracIn(False), (tiny,), "are too small for float32: give a model in float64"),
    ],
)
@pytest.mark.parametrize("ask", ["scores", "self_influence", "proponents"])
def test_scores_that_are_all_zero_say_why(method, losses, said, ask):
    model, train = networks.built(networks.Mlp).float(), networks.examples(6, 6)
    train = {name: v.float() if v.is_floating_point() else v for name, v in train.items()}
    moments = [Checkpoint(model.state_dict(), 0.0)]
    fitted = method.fit(Task.of(model, *(losses or (summed,)), checkpoints=moments), train)
    calls = {
        "scores": lambda: fitted.scores(train, train),
        "self_influence": lambda: fitted.self_influence(train),
        "proponents": lambda: fitted.proponents(train, train, 2),
    }
    if ask == "self_influence" and len(losses) == 2:
        said = "every gradient of the"
    with pytest.raises(MethodError, match="every score is 0") as caught:
        calls[ask]()
    assert said in str(caught.value)


def test_words_in_common_are_no_duty(caplog):
    model = nn.EmbeddingBag(8, 2, mode="sum")
    task = Task.of(model.eval(), lambda model, batch: model(batch["word"]).square().sum(1))
    one, other = ({"word": torch.tensor([[i]])} for i in (1, 2))
    assert TracIn(False).fit(task, one).scores(one, other).tolist() == [[0.0]]
    assert "no parameter has a gradient both for queries and candidates" in caplog.text
