"""The pretend GPU keeps the rules of a GPU: what fails there fails here, and what works, works."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, linearize, vmap
from torch.utils._device import _device_constructors

from methods import memory
from tests.pretend_device import GPU, PretendGpu, main


def gpu_tensor(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to("cuda")


def small_network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)]
    return nn.Sequential(*layers).eval()


def on_gpu(*tensors: Tensor) -> bool:
    return all(t.device == GPU and t.is_cuda and not t.is_cpu for t in tensors)


def test_torch_believes_in_one_gpu_while_the_block_lasts() -> None:
    really = torch.cuda.is_available()
    with PretendGpu() as gpu:
        assert torch.cuda.is_available()
        assert torch.cuda.device_count() == 1
        assert memory.available(GPU) == gpu.free
        kept = torch.ones(2, device="cuda")
        assert on_gpu(kept)
        torch.cuda.synchronize()
    assert torch.cuda.is_available() == really
    assert kept.device.type == "cpu"


@pytest.mark.parametrize(
    "make",
    [
        lambda d: torch.zeros(2, 2, device=d),
        lambda d: torch.tensor([1.0, 2.0], device=d),
        lambda d: torch.as_tensor(np.ones(2), device=d),
        lambda d: torch.zeros(2).new_ones(3, device=d),
        lambda d: torch.ones(2).to(d),
        lambda d: torch.ones(2).to(d, torch.float64, non_blocking=True),
        lambda d: torch.ones(2).to(device=d, dtype=torch.float64),
        lambda d: torch.ones(2).to(torch.ones(3, dtype=torch.float64).to(d)),
        lambda d: torch.empty_like(torch.zeros(2), device=d),
        lambda d: nn.Linear(2, 2, device=d).weight,
        lambda d: nn.Linear(2, 2).to(d).weight,
    ],
)
def test_a_device_places_what_is_made(pretend_gpu: PretendGpu, make: Any) -> None:
    for device in ("cuda", "cuda:0", torch.device("cuda"), torch.device("cuda", 0)):
        made = make(device)
        assert on_gpu(made)
        assert on_gpu(made[0], made.sum(), made.new_zeros(2), torch.zeros_like(made))
        assert on_gpu(
            made.new_tensor([1]), made.view(-1), made.to(made), torch.ones(1).type_as(made)
        )
        assert not on_gpu(torch.zeros_like(made, device="cpu"), made.cpu(), made.to("cpu"))
    assert not on_gpu(make("cpu"))


def test_moving_to_where_a_tensor_is_returns_it(pretend_gpu: PretendGpu) -> None:
    x = gpu_tensor(3)
    assert x.to("cuda") is x
    assert x.cuda() is x
    assert x.to(x.dtype) is x
    assert x.to("cuda", copy=True) is not x
    y = x.cpu()
    assert y.cpu() is y
    y += 1
    assert not torch.equal(x.cpu(), y)


MISTAKES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a sum": lambda g, c: g + c,
    "a product": lambda g, c: c @ g,
    "in place": lambda g, c: c.add_(g),
    "a number on the CPU changed": lambda g, c: c.sum().add_(g.sum()),
    "a concatenation": lambda g, c: torch.cat([g, c]),
    "a stack of numbers": lambda g, c: torch.stack([g.sum(), c.sum()]),
    "a layer": lambda g, c: F.linear(g, c),
    "a GPU index": lambda g, c: c[torch.zeros(2, dtype=torch.long, device="cuda")],
    "a GPU mask": lambda g, c: c[g > 0],
    "an assignment of GPU values": lambda g, c: c.__setitem__(torch.tensor([0, 1]), g[:2]),
    "a gather": lambda g, c: g.gather(0, torch.zeros(1, 2, dtype=torch.long)),
    "a loss": lambda g, c: F.cross_entropy(g, torch.zeros(2, dtype=torch.long)),
    "integers": lambda g, c: g.long() @ g.long(),
    "the CPU's generator": lambda g, c: g.normal_(generator=torch.Generator()),
    "the CPU's generator, new": lambda g, c: torch.randn(
        2, device="cuda", generator=torch.Generator()
    ),
    "oneDNN": lambda g, c: torch.ops.mkldnn._linear_pointwise(g, g, None, "none", [], ""),
    "a second GPU": lambda g, c: g.to("cuda:1"),
    "numpy": lambda g, c: g.numpy(),
    "numpy's array": lambda g, c: np.asarray(g),
    "a gradient": lambda g, c: torch.autograd.grad(g * g, g, c),
    "vmap": lambda g, c: vmap(lambda a: a @ c)(g),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_what_fails_on_a_gpu_fails(pretend_gpu: PretendGpu, what: str) -> None:
    tensor = gpu_tensor(2, 2).requires_grad_(what == "a gradient")
    with pytest.raises((RuntimeError, TypeError), match=r"CUDA|cuda|device"):
        MISTAKES[what](tensor, torch.ones(2, 2))


def test_what_a_gpu_allows_works(pretend_gpu: PretendGpu) -> None:
    g, c = gpu_tensor(3, 3), torch.ones(3, 3)
    allowed = [
        g * torch.tensor(2.0),
        g[torch.tensor([0, 2])],
        torch.where(g > 0, g, torch.tensor(0.0)),
        torch.randn(2, device="cuda", generator=torch.Generator("cuda").manual_seed(1)),
        F.one_hot(torch.tensor([0, 2], device="cuda"), 3),
        torch.utils.checkpoint.checkpoint(torch.sin, g, use_reentrant=False),
    ]
    assert on_gpu(*allowed)
    c[:] = g
    assert torch.equal(c, g.cpu())
    g[0] = c[1]
    g.copy_(c)
    g[torch.tensor([1])] = 0.0
    assert on_gpu(g)
    assert not on_gpu(c)
    with torch.device("cuda"):
        assert on_gpu(torch.ones(2), nn.Linear(2, 2).weight)
    with torch.random.fork_rng(devices=[g.device]), torch.autocast("cuda", torch.bfloat16):
        assert (g @ g).dtype == torch.bfloat16


def test_transforms_give_the_cpu_s_numbers(pretend_gpu: PretendGpu) -> None:
    net, x = small_network(), torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))

    def results(net: nn.Module, x: Tensor) -> list[Tensor]:
        params = {name: p.detach() for name, p in net.named_parameters()}

        def loss(params: Any, x: Tensor) -> Tensor:
            output = functional_call(net, params, (x[None],))
            return F.cross_entropy(output, torch.zeros(1, dtype=torch.long, device=x.device))

        def gradient(params: Any) -> Any:
            return grad(lambda p: vmap(loss, (None, 0))(p, x).sum())(params)

        each = vmap(grad(loss), in_dims=(None, 0))(params, x)
        moved = jvp(gradient, (params,), (params,))[1]
        again = linearize(gradient, params)[1](params)
        optimiser = torch.optim.AdamW(net.parameters(), lr=0.1)
        net(x).square().sum().backward()
        optimiser.step()
        stepped = dict(net.named_parameters())
        return [value for part in (each, moved, again, stepped) for value in part.values()]

    have = results(copy.deepcopy(net).to("cuda"), x.to("cuda"))
    assert on_gpu(*have)
    for one, other in zip(have, results(net, x), strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-6, atol=1e-6)


def test_a_module_s_copy_and_file_stay_where_the_module_was(pretend_gpu: PretendGpu) -> None:
    net, file = small_network().to("cuda"), io.BytesIO()
    assert on_gpu(*copy.deepcopy(net).state_dict().values())
    torch.save(net.state_dict(), file)
    for where, there in (
        (None, True),
        ("cuda", True),
        ("cpu", False),
        (torch.device("cpu"), False),
    ):
        file.seek(0)
        loaded = torch.load(file, map_location=where)
        assert all(on_gpu(value) == there for value in loaded.values())
        for name, value in net.state_dict().items():
            assert torch.equal(loaded[name].cpu(), value.cpu())


@pytest.mark.parametrize(
    ("waits", "times"),
    [
        (lambda g: g.sum().item(), 1),
        (lambda g: bool((g > 0).any()), 1),
        (lambda g: g.tolist(), 1),
        (lambda g: g.cpu(), 1),
        (lambda g: torch.zeros(2, 2).copy_(g), 1),
        (lambda g: (g > 0).nonzero(), 1),
        (lambda g: g[g > 0], 1),
        (lambda g: g.__setitem__(g > 0, 0.0), 1),
        (lambda g: torch.tensor([g.sum(), g.max()]), 2),
        (lambda g: f"{g.sum():.1f}", 1),
        (lambda g: torch.cuda.synchronize(), 1),
        (lambda g: (g.T @ g, g.argmax(), g.cumsum(0), g.masked_fill(g > 0, 0.0)), 0),
        (lambda g: F.one_hot((g > 0).long(), 3), 0),
        (lambda g: (g.to(torch.float64), g.to("cuda"), len(g), g.shape), 0),
    ],
)
def test_synchronisations_are_counted(pretend_gpu: PretendGpu, waits: Any, times: int) -> None:
    tensor = gpu_tensor(2, 2)
    with pretend_gpu.counting() as counts:
        waits(tensor)
        waits(torch.ones(2, 2).clone()) if times < 1 else None
    assert counts.syncs.total() == times
    assert all(line.startswith("tests/test_pretend_device.py:") for line in counts.syncs)


def test_launches_are_counted_by_line_without_views(pretend_gpu: PretendGpu) -> None:
    g = gpu_tensor(4, 4)
    with pretend_gpu.counting() as counts:
        h = g.T[1:].reshape(-1)
        h = (h + 1) * 2  # reshape copies once; this line launches twice
        torch.ones(3) + 1
    assert sorted(counts.launches.values()) == [1, 2]


@pytest.fixture
def own_precision() -> Iterator[None]:
    """Torch's settings, put back as they were."""
    settings = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [each.fp32_precision for each in settings]
    yield
    for each, value in zip(settings, before, strict=True):
        each.fp32_precision = value


def test_with_tf32_products_are_rounded_as_the_settings_allow(own_precision: None) -> None:
    with PretendGpu(tf32=True):
        x, kernel = gpu_tensor(8, 8), gpu_tensor(1, 1, 3, 3)
        image, whole = x[None, None], {}
        for setting in ("ieee", "tf32"):
            torch.backends.cuda.matmul.fp32_precision = setting
            torch.backends.cudnn.conv.fp32_precision = setting
            whole[setting] = [x @ x, F.conv2d(image, kernel)]
        torch.testing.assert_close(whole["ieee"][0].cpu(), x.cpu() @ x.cpu())
        for exact, rounded in zip(*whole.values(), strict=True):
            error = float((exact - rounded).norm() / exact.norm())
            assert 1e-5 < error < 1e-3


def test_a_program_s_mistakes_are_listed_by_line(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["import torch", "x = torch.ones(2, device='cuda')", "for _ in range(3):"]
    (tmp_path / "mixing.py").write_text("\n".join([*lines, "    x + torch.ones(2)", "x.tolist()"]))
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["mixing"]) == 1
    report = capsys.readouterr().err
    assert "1 mistakes" in report
    assert "3 x" in report
    assert "1 synchronisations" in report


def test_a_default_device_is_the_same_within_and_afterwards() -> None:
    """torch finds its constructors once a process, and never again."""
    _device_constructors.cache_clear()

    def devices() -> list[str]:
        with torch.device("meta"):
            return [make([1.0]).device.type for make in (torch.tensor, torch.as_tensor)]

    with PretendGpu():
        assert devices() == ["meta", "meta"]
    assert devices() == ["meta", "meta"]
