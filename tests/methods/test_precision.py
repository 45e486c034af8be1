"""Products of float32 are as precise as asked for, and torch's settings come back."""

import logging
from threading import Barrier, Thread
from typing import Any

import pytest
import torch
from torch import Tensor, backends

from methods.errors import MethodError
from methods.influence import Influence
from methods.precision import full_precision, products
from methods.rows.gradients import Gradients
from methods.task import Task
from methods.tracin import TracIn, descent, measure, watch
from tests.methods import networks
from tests.pretend_device import PretendGpu

PLACES = (
    backends.cuda.matmul,
    backends.cudnn.conv,
    backends.cudnn.rnn,
    backends.mkldnn.matmul,
    backends.mkldnn.conv,
    backends.mkldnn.rnn,
)


def settings() -> list[str]:
    return [place.fp32_precision for place in (backends, backends.cudnn, *PLACES)]


@pytest.fixture(autouse=True)
def restored():
    """Torch as it was, also where a test sets it by its older names."""
    before = settings()
    yield
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = True
    for place, value in zip((backends, backends.cudnn, *PLACES), before, strict=True):
        place.fp32_precision = value


def older():
    torch.set_float32_matmul_precision("high")
    backends.cudnn.allow_tf32 = False


GIVEN = {
    "nothing": lambda: None,
    "by the older names": older,
    "bf16": lambda: torch.set_float32_matmul_precision("medium"),
    "everywhere": lambda: setattr(backends, "fp32_precision", "tf32"),
    "everywhere on a GPU": lambda: setattr(backends.cudnn, "fp32_precision", "tf32"),
    "matrix products": lambda: setattr(backends.cuda.matmul, "fp32_precision", "tf32"),
}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("kind", ["ieee", "tf32"])
def test_products_are_set_within_the_block_alone_whatever_was_set(given, kind):
    GIVEN[given]()
    before = settings()

    def work() -> None:
        assert {place.fp32_precision for place in PLACES} == {kind}
        assert backends.cudnn.allow_tf32 == backends.cuda.matmul.allow_tf32 == (kind == "tf32")
        with products("ieee"):
            assert {place.fp32_precision for place in PLACES} == {"ieee"}
        assert {place.fp32_precision for place in PLACES} == {kind}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        products(kind)(work)()
    assert settings() == before


def test_a_function_may_be_decorated():
    @products("tf32")
    def inside() -> str:
        return str(backends.cudnn.conv.fp32_precision)

    backends.cudnn.conv.fp32_precision = "ieee"
    assert [inside(), inside(), backends.cudnn.conv.fp32_precision] == ["tf32", "tf32", "ieee"]


def images(n: int, seed: int = 0) -> dict[str, Tensor]:
    some = networks.examples(n, 2, 7, 7, seed=seed)
    return {"x": some["x"].float(), "y": some["y"]}


def network() -> Any:
    return networks.built(networks.ConvNet).float()


@pytest.mark.parametrize("given", GIVEN)
def test_attribution_is_in_full_precision_whatever_was_set(given):
    """A GPU that rounds where it may, and autocast around: the CPU's numbers all the same."""
    train, query = images(6), images(3, seed=20)
    seen = set()

    def nll(model: Any, batch: Any) -> Tensor:
        values = networks.nll(model, batch)
        seen.add((values.dtype, *(place.fp32_precision for place in PLACES)))
        return values

    def results(device: str) -> list[Tensor]:
        task = Task.of(network().to(device), nll, weight_decay=0.01)
        fitted = Influence(damping=50.0).fit(task, train)
        step = descent(task, train, 0.1)
        rows = TracIn(learning_rates=False).fit(task, train).train_rows(train).dense()
        values = [fitted.scores(query, train), fitted.self_influence(query), rows]
        return [*values, watch(task, query, step).influence, measure(task, query)]

    wanted = results("cpu")
    with PretendGpu(tf32=True):
        GIVEN[given]()
        before = settings()
        with torch.autocast("cuda", torch.bfloat16):
            have = results("cuda")
            assert torch.is_autocast_enabled("cpu")
    assert settings() == before
    assert seen == {(torch.float32, *["ieee"] * len(PLACES))}
    for one, other in zip(have, wanted, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=1e-5)


def test_convolutions_stay_factored_where_cudnn_rounds_by_default(caplog):
    train = images(4)
    with PretendGpu(tf32=True), caplog.at_level(logging.INFO):
        gradients = Gradients(Task.of(network().to("cuda"), networks.nll))
        gradients.rows(train)
    assert (gradients.fallback, gradients.unproven, caplog.records) == ((), (), [])


def test_settings_come_back_after_an_error():
    before = settings()

    def broken(model: Any, batch: Any) -> Tensor:
        raise ValueError("no loss")

    with pytest.raises(MethodError, match="no loss"):
        TracIn(learning_rates=False).scores(Task.of(network(), broken), images(3), images(2))
    assert settings() == before


def test_blocks_of_several_threads_may_overlap_in_any_order():
    before, first_in, second_in, first_out = settings(), Barrier(2), Barrier(2), Barrier(2)
    seen: list[list[str]] = []

    def first() -> None:
        with full_precision():
            first_in.wait(10)
            second_in.wait(10)
        first_out.wait(10)

    thread = Thread(target=first)
    thread.start()
    first_in.wait(10)
    with full_precision():
        second_in.wait(10)
        first_out.wait(10)
        seen.append([place.fp32_precision for place in PLACES])
    thread.join()
    assert seen == [["ieee"] * len(PLACES)]
    assert settings() == before


def test_full_precision_holds_within_a_block_that_rounds_and_rounding_returns():
    with products("tf32"):
        with full_precision(), full_precision():
            assert {place.fp32_precision for place in PLACES} == {"ieee"}
        assert {place.fp32_precision for place in PLACES} == {"tf32"}
