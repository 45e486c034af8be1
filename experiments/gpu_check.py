"""Whether a GPU computes what the CPU does, and how fast: one command, eight minutes at most.

    python -m experiments.gpu_check                  # on the GPU there is; without one, on the CPU

It needs torch, numpy, scipy, pandas, tqdm and transformers alone; data are random. Every part has
seconds to spend, from which its sizes follow; each number is printed as it comes, and each part is
a run of its own. Preset `paper` is the check of a GPU, `small` the same on the CPU.
"""

import importlib.util
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from experiments.laboratory.device import device, measured
from experiments.laboratory.errors import USER_MISTAKE, UserError
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.runs import Run
from experiments.models.bert import Bert, TinyBert
from experiments.models.digits_mlp import DigitsMLP
from experiments.models.inception import SmallInception
from experiments.models.mnist_cnn import DigitsCNN, LargeCNN
from experiments.models.resnet import ResNet
from experiments.models.strided_cnn import StridedCNN
from experiments.models.transformer import Transformer, TranslationLoss
from experiments.models.vit import ViT
from experiments.timing import contract
from experiments.training.plans import CrossEntropy, Fit, Loss, cross_entropy
from experiments.training.stacked import fit_stack, together
from methods import workers
from methods.curvature.operators import Hessian
from methods.errors import MethodError
from methods.examples import Examples, take
from methods.random_projection import RandomProjection
from methods.rows.projections import Gaussian
from methods.task import Task
from methods.tracin import TracIn

OPTIONAL = (
    "tyro", "wandb", "datasets", "faiss", "sklearn", "torchvision", "matplotlib", "captum", "trak",
)  # fmt: skip
TOLERANCE = 1e-3  # relative, of what a device computes from what the CPU does
Place = Literal["cpu", "cuda"]
Lines = Iterator[tuple[str, str, float]]  # what, of what quantity, how much


def timed(
    work: Callable[[int], Any], seconds: float, most: int, least: int = 1
) -> tuple[int, float]:
    """A size whose call takes a third of the time, and the seconds of such a call.

    A call of the least size warms up; sizes double while time lasts.
    """
    began, size = now(), min(least, most)
    work(size)
    while True:
        start = now()
        work(size)
        spent = now() - start
        if 2 * size > most or now() - began + 2 * spent > seconds / 2 or spent > seconds / 3:
            return size, spent
        size *= 2


def now() -> float:
    """Wall-clock seconds, after the device has done what it was given."""
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass(frozen=True)
class Contract:
    """Every method, inverse and projection on the device, against the CPU."""

    seconds: float = 80.0

    def lines(self) -> Lines:
        began, on = now(), device()
        for name, method in contract.checked():
            if now() - began > self.seconds:
                yield name, "not reached", 0.0
                continue
            start = now()
            try:
                yield name, "difference from the CPU", contract.difference(method, on)
            except (RuntimeError, MethodError) as error:
                print(f"  {name} failed: {' '.join(str(error).split())[:200]}", flush=True)
                yield name, "difference from the CPU", contract.FAR
            yield name, "seconds on both", now() - start


@dataclass(frozen=True)
class Speed:
    """Examples a second of a pass and of each kind of work, ours and others'."""

    network: LargeCNN | DigitsCNN = LargeCNN()
    dim: int = 512
    seconds: float = 100.0
    most: int = 8_192

    def lines(self) -> Lines:
        module = self.network.build(0).to(device()).requires_grad_(False)
        task, whole = Task.of(module, cross_entropy), self._examples(self.most)
        tracin = TracIn(learning_rates=False).fit(task, whole)
        projected = RandomProjection(Gaussian(self.dim)).fit(task, whole)
        vector = torch.randn(1, task.size, device=task.device)
        works: dict[str, Callable[[Examples], Any]] = {
            "pass, plain torch": partial(_pass, module),
            "self-influence": tracin.self_influence,
            "self-influence, plain torch": partial(_plain_rows, module),
            f"projection to {self.dim}": lambda some: projected.train_rows(some).dense(),
            f"projection to {self.dim}, plain torch": partial(_plain_projection, module, self.dim),
            "scores of 64 queries": lambda some: tracin.scores(take(whole, slice(0, 64)), some),
            "Hessian product": lambda some: Hessian(task, some).apply(vector),
            "Hessian product, plain torch": partial(_plain_product, module, vector[0]),
            **_others(module, self.dim),
        }
        rates: dict[str, float] = {}
        for name, work in works.items():
            try:
                sized, each = partial(_sized, work, whole), self.seconds / len(works)
                n, spent = timed(sized, each, self.most, least=64)
            except (RuntimeError, MethodError, ImportError, TypeError, ValueError) as error:
                print(f"  {name} failed: {' '.join(str(error).split())[:200]}", flush=True)
                continue
            rates[name] = n / spent
            yield name, "examples a second", rates[name]
            yield name, "passes", rates["pass, plain torch"] / rates[name]

    def _examples(self, n: int) -> Examples:
        draw = torch.Generator().manual_seed(0)
        image = torch.rand(n, *self.network.image_shape, generator=draw)
        label = torch.randint(0, 10, (n,), generator=draw)
        return {"image": image.to(device()), "label": label.to(device())}


def _pass(module: nn.Module, some: Examples) -> None:
    params = [value.requires_grad_(True) for value in module.parameters()]
    torch.autograd.grad(cross_entropy(module, some).mean(), params)
    module.requires_grad_(False)


def _rows(module: nn.Module, some: Examples) -> Tensor:
    """The gradient of each example, (n, p), by torch's own transforms."""
    params: dict[str, Tensor] = dict(module.named_parameters())

    def loss(values: dict[str, Tensor], one: Examples) -> Tensor:
        batch = {name: column[None] for name, column in one.items()}
        return cross_entropy(partial(functional_call, module, values), batch).sum()

    each = vmap(grad(loss), (None, 0))(params, some)
    return torch.cat([value.flatten(1) for value in each.values()], 1)


def _in_chunks(work: Callable[[Examples], Tensor], some: Examples, size: int = 64) -> Tensor:
    n = len(some["label"])
    return torch.cat([work(take(some, slice(i, i + size))) for i in range(0, n, size)])


def _plain_rows(module: nn.Module, some: Examples) -> Tensor:
    return _in_chunks(lambda part: _rows(module, part).square().sum(1), some)


def _plain_projection(module: nn.Module, dim: int, some: Examples) -> Tensor:
    """The map is drawn anew, as one that fits no memory would be."""
    size = sum(value.numel() for value in module.parameters())
    drawn = torch.randn(size, dim, device=some["label"].device)
    return _in_chunks(lambda part: _rows(module, part) @ drawn, some)


def _plain_product(module: nn.Module, vector: Tensor, some: Examples) -> Tensor:
    params = [value.requires_grad_(True) for value in module.parameters()]
    grads = torch.autograd.grad(cross_entropy(module, some).mean(), params, create_graph=True)
    flat = torch.cat([value.flatten() for value in grads])
    product = torch.autograd.grad(flat @ vector, params)
    module.requires_grad_(False)
    return torch.cat([value.flatten() for value in product])


def _others(module: nn.Module, dim: int) -> dict[str, Callable[[Examples], Any]]:
    """The same by captum and TRAK, where they are installed."""
    works: dict[str, Callable[[Examples], Any]] = {}
    if _installed("captum"):
        from experiments.timing.peers.scores import tracin

        works["self-influence, captum"] = lambda some: tracin(module, some).self_influence()
    if _installed("trak"):
        from trak.projectors import BasicProjector, ProjectionType

        size = sum(value.numel() for value in module.parameters())
        projector = BasicProjector(
            grad_dim=size, proj_dim=dim, seed=0, proj_type=ProjectionType.normal, device=device()
        )
        works[f"projection to {dim}, TRAK"] = lambda some: _in_chunks(
            lambda part: projector.project(_rows(module, part), model_id=0), some
        )
    return works


@dataclass(frozen=True)
class Ensembles:
    """Networks an hour of the sizes that ensembles are trained in, each for its paper's steps."""

    network: DigitsMLP | StridedCNN | SmallInception = SmallInception()
    size: int = 8
    batch: int = 128
    steps: int = 54_600
    precision: Literal["float32", "tf32", "bf16"] = "bf16"
    seconds: float = 40.0
    most: int = 256

    def lines(self) -> Lines:
        on, shape = device(), getattr(self.network, "image_shape", (3, 32, 32))
        draw = torch.Generator().manual_seed(0)
        n = self.batch * self.most
        data = {
            "image": torch.rand(n, *shape, generator=draw).to(on),
            "label": torch.randint(0, 10, (n,), generator=draw).to(on),
        }
        name = f"{type(self.network).__name__}, {self.size} together"

        def train(steps: int) -> None:
            networks = [self.network.build(seed) for seed in range(self.size)]
            plan = Fit(1, self.batch, 0.01, precision=self.precision)
            masks = np.zeros((self.size, n), dtype=bool)
            masks[:, : steps * self.batch] = True
            with tempfile.TemporaryDirectory() as folder:
                seeds = range(self.size)
                members = together(networks, on)
                fit_stack(members, cross_entropy, data, masks, plan, seeds, Path(folder))

        steps, spent = timed(train, self.seconds, self.most)
        yield name, "steps a second of each", steps / spent
        yield name, "networks an hour", 3600 * self.size * steps / spent / self.steps


@dataclass(frozen=True)
class Family:
    """A network of the paper tier, with random weights and data: training, scores, a product.

    batch  most examples of a step
    """

    name: str
    network: LargeCNN | DigitsCNN | ResNet | ViT | Transformer | Bert | TinyBert
    batch: int = 64
    seconds: float = 18.0

    def lines(self) -> Lines:
        module, loss, some = self._made()
        whole = {name: column.to(device()) for name, column in some.items()}
        task = Task.of(module, loss)
        yield self.name, "parameters", float(task.size)
        tracin = TracIn(learning_rates=False).fit(task, whole)
        vector = torch.randn(1, task.size, device=task.device)
        works: dict[str, Callable[[Examples], Any]] = {
            "training step": partial(_step, module, loss),
            "self-influence": tracin.self_influence,
            "Hessian product": lambda part: Hessian(task, part).apply(vector),
        }
        for name, work in works.items():
            n, spent = timed(
                partial(_checked, name, work, whole), self.seconds / len(works), self.batch
            )
            yield self.name, f"{name}, examples a second", n / spent
        if device().type == "cuda":
            yield self.name, "peak GB of the GPU", torch.cuda.max_memory_allocated() / 1e9
            torch.cuda.reset_peak_memory_stats()

    def _made(self) -> tuple[nn.Module, Loss, Examples]:
        """The network on the device, its loss, and random examples."""
        n, draw, network = self.batch, torch.Generator().manual_seed(0), self.network
        label = torch.randint(0, 2, (n,), generator=draw)
        if isinstance(network, Transformer):
            words = 32_000 if network.width >= 512 else 300
            text = torch.randint(4, words, (2, n, 31), generator=draw)
            module: nn.Module = network.build(words, 0)
            columns = {"source": text[0], "target": text[1], "length": torch.full((n,), 62)}
            return self._placed(module), TranslationLoss(0.1), columns
        if isinstance(network, Bert | TinyBert):
            encoder = network.shaped()
            tokens = min(40, encoder.length)
            hidden = torch.randn(n, tokens, encoder.width, generator=draw)
            module = encoder.top(2, 0.0, 0)
            if next(module.parameters()).is_meta:
                module = module.to_empty(device="cpu")
                for value in module.parameters():
                    nn.init.normal_(value, 0.0, 0.02, generator=draw)
            inputs = ("hidden", "length")
            columns = {"hidden": hidden, "length": torch.full((n,), tokens), "label": label}
            return self._placed(module), CrossEntropy(inputs), columns
        shape = getattr(network, "image_shape", (3, 32, 32))
        columns = {"image": torch.rand(n, *shape, generator=draw), "label": label}
        return self._placed(network.build(0)), cross_entropy, columns

    def _placed(self, module: nn.Module) -> nn.Module:
        return module.to(device()).eval().requires_grad_(False)


def _step(module: nn.Module, loss: Loss, some: Examples) -> Tensor:
    params = [value.requires_grad_(True) for value in module.parameters()]
    mean = loss(module, some).mean()
    used = torch.autograd.grad(mean, params, allow_unused=True)
    module.requires_grad_(False)
    return torch.stack([one.norm() for one in used if one is not None])


def _sized(work: Callable[[Examples], Any], whole: Examples, size: int) -> Any:
    return work(take(whole, slice(0, size)))


def _checked(name: str, work: Callable[[Examples], Any], whole: Examples, size: int) -> None:
    values = _sized(work, whole, size)
    if not bool(torch.isfinite(values).all()):
        raise UserError(f"{name}: a number is not finite on this device")


@dataclass(frozen=True)
class Together:
    """Processes that sum a tensor of `megabytes`: one, and with several GPUs one for each.

    On the CPU, one and two.
    """

    megabytes: int = 64
    rounds: int = 5

    def lines(self) -> Lines:
        for size in self._sizes():
            spent, right = workers.run(_summed, size, self.megabytes, self.rounds)
            name = f"{size} process{'es' if size > 1 else ''}"
            yield name, "sum is right", float(right)
            yield name, "GB a second of a sum", self.megabytes / 1e3 / max(spent, 1e-9)

    def _sizes(self) -> tuple[int, ...]:
        most = torch.cuda.device_count() if device().type == "cuda" else 2
        return (1,) if most < 2 else (1, most)


def _summed(group: workers.Group, megabytes: int, rounds: int) -> tuple[float, bool]:
    """Seconds of a sum over the processes, and whether it is right."""
    on = workers.own_device() if group.size > 1 and torch.cuda.is_available() else device()
    values, wanted = torch.ones(megabytes * 250_000, device=on), group.size * (group.size + 1) / 2
    spent, right = math.inf, True
    for _ in range(rounds):
        part = values * (group.rank + 1)
        began = now()
        total = group.sum(part)
        spent = min(spent, now() - began)
        right = right and bool((total == wanted).all())
    return spent, right


Work = Contract | Speed | Ensembles | Family | Together


@dataclass(frozen=True)
class Config:
    work: Work = Contract()
    device: Place = "cpu"


def run(config: Config, scratch: Path) -> dict[str, Any]:
    on = measured(config.device)
    about, began = [], time.perf_counter()
    print(f"{type(config.work).__name__} on {on}", flush=True)
    with _everywhere(on):
        for what, quantity, value in config.work.lines():
            about.append((what, quantity, value))
            print(f"  {what}: {quantity} {value:.4g}", flush=True)
    whats, quantities, values = zip(*about, strict=True)
    return {
        "work": type(config.work).__name__,
        "spent": time.perf_counter() - began,
        "what": np.array(whats),
        "quantity": np.array(quantities),
        "values": np.array(values),
    }


@contextmanager
def _everywhere(on: torch.device) -> Iterator[None]:
    """Let all code, and processes that are started, compute on one kind of device."""
    before = os.environ.get("RETRACE_DEVICE")
    os.environ["RETRACE_DEVICE"] = before if on.type != "cpu" and before else on.type
    try:
        yield
    finally:
        os.environ.pop("RETRACE_DEVICE")
        if before is not None:
            os.environ["RETRACE_DEVICE"] = before


def table(runs: list[Run]) -> tuple[list[str], list[list[str]]]:
    """Every number, and whether those of the contract hold."""
    rows = []
    for one in runs:
        columns = (one.array(name) for name in ("what", "quantity", "values"))
        for what, quantity, value in zip(*columns, strict=True):
            met = ""
            if quantity == "difference from the CPU":
                met = "yes" if value <= TOLERANCE else "NO"
            rows.append([one.metrics["work"], str(what), str(quantity), f"{value:.4g}", met])
    return ["part", "what", "quantity", "value", f"within {TOLERANCE:g}"], rows


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def absent() -> str:
    """In a line, the packages that are not installed, and done without."""
    missing = [name for name in OPTIONAL if not _installed(name)]
    without = f"not installed, and done without: {', '.join(missing)}" if missing else ""
    return without or "every optional package is installed"


FAMILIES = (
    Family("digits", LargeCNN(), 1_024),
    Family("CIFAR images", ResNet(), 512),
    Family("vision Transformer", ViT(), 64),
    Family("translation", Transformer(), 128),
    Family("sentence pairs", Bert("bert-base-cased", frozen=10, length=128), 256),
)
INCEPTION = Ensembles()
PARTS: tuple[Work, ...] = (
    Contract(), Speed(), INCEPTION, Ensembles(DigitsMLP(), 64, 50, 560, "float32"), *FAMILIES,
    Together(),
)  # fmt: skip
BASE = Family("vision Transformer", ViT(12, 768, 12), 2, 9.0)  # not ViT-L, too slow on a CPU
SHORT: tuple[Work, ...] = (
    Contract(60.0),
    Speed(DigitsCNN(), 64, 24.0, 512),
    replace(INCEPTION, size=1, precision="float32", seconds=6.0, most=4, batch=32),
    Ensembles(DigitsMLP(), 8, 50, 560, "float32", 6.0, 32),
    *(replace(one, batch=4, seconds=9.0) for one in FAMILIES if one.name != BASE.name),
    BASE,
    Together(8, 3),
)
TINY: tuple[Work, ...] = (
    Contract(60.0),
    Speed(DigitsCNN(), 16, 1.0, 8),
    Ensembles(DigitsMLP((16,), (1, 8, 8)), 2, 10, 100, "float32", 0.5, 2),
    Family("digits", DigitsCNN(), 8, 0.5),
    Family("CIFAR images", ResNet(depth=8, width=4), 4, 0.5),
    Family("vision Transformer", ViT(2, 16, 2, 2, 8, channels=1), 4, 0.5),
    Family("translation", Transformer(width=32, heads=2, layers=1, inner=64, longest=64), 4, 0.5),
    Family("sentence pairs", TinyBert(), 4, 0.5),
    Together(1, 1),
)
PRESETS: dict[str, list[Config]] = {
    "smoke": [Config(work) for work in TINY],
    "small": [Config(work) for work in SHORT],
    "paper": [Config(work, "cuda") for work in PARTS],
}

EXPERIMENT = Experiment(
    "gpu_check",
    run,
    PRESETS,
    summary="a GPU against the CPU, method by method, and its speed: eight minutes at most",
    table=table,
    shared="work",
    gpu=True,
    seconds={"paper": 460},
)


def main(words: list[str]) -> int:
    """Check the GPU if there is one and nothing else is asked for; if not, the CPU."""
    print(absent(), flush=True)
    if "--preset" not in " ".join(words):
        try:
            on_gpu = not {"cpu", "--device=cpu"} & set(words) and device().type == "cuda"
        except UserError as error:  # a GPU was given and cannot be used
            print(f"error: {error}", file=sys.stderr)
            return USER_MISTAKE
        words = ["--preset", "paper" if on_gpu else "small", *words]
    return EXPERIMENT.main(words)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
