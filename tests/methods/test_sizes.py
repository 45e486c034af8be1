"""How much is taken at a time follows a device's free memory, and changes no number."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from methods import memory
from methods.attributor import Attributor
from methods.curvature.exact_hessian import exact_hessian
from methods.curvature.operators import GaussNewton, Hessian
from methods.examples import Examples, count
from methods.ihvp.arnoldi import Arnoldi, Krylov
from methods.influence import Influence
from methods.losses.objective import Params
from methods.random_projection import RandomProjection
from methods.rows.gradients import Gradients
from methods.rows.projections import SJLT, Gaussian, Rademacher, TwoSided
from methods.task import Task
from methods.tracin import TracIn
from tests.methods import networks
from tests.pretend_device import PretendGpu

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
KINDS = {
    "convolutions": (networks.ConvNet, networks.examples(12, 2, 6, 7)),
    "attention": (networks.Block, networks.sentences(12)),
}
METHODS = [
    TracIn(),
    Influence(Arnoldi(2, Krylov(6, None, 0, 2)), 0.1),
    *(RandomProjection(kind(8)) for kind in (Gaussian, Rademacher, SJLT, TwoSided)),
]


def task_on(device: torch.device, make: Callable[[], torch.nn.Module]) -> Task:
    module = networks.built(make).to(device)
    return Task.of(module, networks.nll, checkpoints=networks.checkpoints(module))


def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of examples that are moved to the device at a time, as they come."""
    sizes, move = list[int](), Task.move

    def noted(task: Task, batch: Examples) -> Examples:
        sizes.append(count(batch))
        return move(task, batch)

    monkeypatch.setattr(Task, "move", noted)
    return sizes


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize(
    "kind", ["convolutions", pytest.param("attention", marks=pytest.mark.long)]
)
def test_no_score_depends_on_free_memory(
    kind: str, method: Attributor, pretend_gpu: PretendGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, train = KINDS[kind]
    query = {name: column[:3] for name, column in train.items()}
    task = task_on(CPU, make)
    expected = method.scores(task, train, query), method.self_influence(task, train)
    there, most = task_on(CUDA, make), []
    for free in (1 << 17, 70 << 30):
        pretend_gpu.free = free
        with monkeypatch.context() as patch:
            sizes = taken(patch)
            seen = method.scores(there, train, query), method.self_influence(there, train)
        most.append(max(sizes))
        for ours, true in zip(seen, expected, strict=True):
            assert not pretend_gpu.holds(ours)
            torch.testing.assert_close(ours, true, **CLOSE)
    if not isinstance(method, Influence):  # its Hessian keeps all examples on the device
        assert most == [3, 12], "no more than for a probe, and all examples"


def products(task: Task, train: Examples) -> dict[str, Tensor]:
    vectors = networks.normal(3, task.size).to(task.device)
    operators = Hessian(task, train), GaussNewton(task, train), Hessian(task, train).linearized()
    each = {type(one).__name__: one.apply(vectors) for one in operators}
    return each | {"exact": exact_hessian(task, train)}


@pytest.mark.long
def test_no_curvature_depends_on_free_memory(pretend_gpu: PretendGpu) -> None:
    train = networks.examples(6, 6)
    expected = products(task_on(CPU, networks.Mlp), train)
    for free in (1 << 17, 70 << 30):
        pretend_gpu.free = free
        for name, ours in products(task_on(CUDA, networks.Mlp), train).items():
            torch.testing.assert_close(ours.to(CPU), expected[name], **CLOSE)


def test_what_fits_is_what_the_graph_keeps(pretend_gpu: PretendGpu) -> None:
    """One wide layer: its input of 4 numbers, the tanh's output and the loss's of 1,000 each."""

    def loss(params: Params, examples: Examples) -> Tensor:
        return (examples["x"] @ params["w"]).tanh().square().sum(1)

    params = {"w": networks.normal(4, 1000)}
    train = networks.examples(50, 4)
    on_cpu = Task(params, loss, loss)
    assert memory.examples_at_once(on_cpu, loss, train, 64, 3) == 64
    there = Task({name: value.to(CUDA) for name, value in params.items()}, loss, loss)
    for free in (8 * 10**6, 8 * 10**7):
        pretend_gpu.free = free
        fits = memory.examples_at_once(there, loss, train, 64, 3)
        assert 3 * fits * (4 + 1000) * 8 <= free / 8, "never more than there is"
        assert 3 * fits * (4 + 3 * 1000) * 8 >= 0.9 * free / 8


def test_memory_is_asked_for_once_a_pass(
    pretend_gpu: PretendGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, task = networks.examples(150, 6), task_on(CUDA, networks.Mlp)
    asked, available = list[torch.device](), memory.available
    monkeypatch.setattr(
        memory, "available", lambda device: asked.append(device) or available(device)
    )
    pretend_gpu.free = 1 << 16
    gradients = Gradients(task)
    assert gradients.chunk(train) < 50
    asked.clear()
    TracIn(False).fit(task, train).self_influence(train)
    assert len(asked) == 2, "once for each checkpoint"
    hessian = Hessian(task, train)
    for _ in range(3):
        hessian.apply(torch.ones(1, task.size, dtype=task.dtype, device=CUDA))
    assert len(asked) == 3


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_what_is_held_takes_a_share_of_free_memory(
    device: torch.device, pretend_gpu: PretendGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 800)
    assert memory.held(device, 60) == 100
    assert memory.held(device, 300) == 300
    assert memory.temporary(device, 60) == (60 if device == CPU else 100)
