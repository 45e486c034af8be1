"""Arnoldi's run time against the number of parameters, its memory, and what saving memory costs.

Reproduces Figure 3 of "Scaling Up Influence Functions" (Schioppa et al., 2022): n = 200 iterations
with b = 512 examples a product. Weights are random: the time does not depend on them. A cell times
Hessian products and orthogonalisation separately and adds them up; with `whole` it also runs them
together. Deviations: another machine; at the small tier fewer examples, one CPU thread, and sizes
that fit into 6 GB instead of ViT-L/32.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.images import vit_models
from experiments.laboratory import clock, counting, device
from experiments.laboratory import work as laboratory
from experiments.laboratory.experiment import Experiment, sweep
from experiments.laboratory.runs import Run
from experiments.models.vit import ViT, from_the_top
from experiments.models.wmt_transformer import WmtTransformer, sentence_loss
from experiments.training.plans import cross_entropy
from methods.curvature.krylov_basis import Basis, BFloat16, Disk, Native, Storage
from methods.curvature.operators import Hessian
from methods.curvature.products import CHUNK
from methods.examples import Examples, take
from methods.ihvp.arnoldi import Arnoldi, StoredKrylov, iterate, ritz_values
from methods.influence import Influence
from methods.task import Task

SIDE, CLASSES = 224, 1_000


@dataclass(frozen=True)
class ResNet50:
    """He et al. (2016), as torchvision defines it, its normalisation in evaluation mode."""

    @property
    def label(self) -> str:
        return "ResNet50"

    part, loss = 1.0, staticmethod(cross_entropy)

    def build(self) -> nn.Module:
        """The network."""
        from torchvision.models import resnet50

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return resnet50(weights=None).eval()

    def task(self, place: torch.device) -> Task:
        """The task of all parameters."""
        return Task.of(_frozen(self.build(), place), self.loss)

    def examples(self, n: int) -> Examples:
        """Noise and random labels."""
        return _images(n, 3, SIDE, CLASSES)


@dataclass(frozen=True)
class Vision:
    """A vision Transformer of one thousand classes; `part` of its parameters, from the top."""

    network: ViT = ViT(num_classes=CLASSES)
    part: float = 1.0

    @property
    def label(self) -> str:
        size = {192: "Ti", 384: "S", 768: "B", 1024: "L"}.get(self.network.width)
        name = f"ViT-{size}/{self.network.patch}" if size else f"ViT {self.network.width}"
        return name if self.part == 1 else f"{name}, top {self.part:.0%}"

    loss = staticmethod(cross_entropy)

    def build(self) -> nn.Module:
        """The network."""
        return self.network.build(0)

    def task(self, place: torch.device) -> Task:
        """The task of the parameters in `part`."""
        module = self.network.build(0)
        whole = Task.of(_frozen(module, place), self.loss)
        return whole if self.part == 1 else whole.only(from_the_top(module, self.part)[0])

    def examples(self, n: int) -> Examples:
        """Noise and random labels."""
        return _images(n, self.network.channels, self.network.resolution, self.network.num_classes)


@dataclass(frozen=True)
class Translation:
    """A translation Transformer on source and target sentences of `length` subwords."""

    network: WmtTransformer = WmtTransformer()
    length: int = 32

    @property
    def label(self) -> str:
        return "Transformer base" if self.network.width == 512 else "Transformer small"

    part, loss = 1.0, staticmethod(sentence_loss)

    def build(self) -> nn.Module:
        """The network."""
        return self.network.build(0)

    def task(self, place: torch.device) -> Task:
        """The task of all parameters."""
        return Task.of(_frozen(self.build(), place), self.loss)

    def examples(self, n: int) -> Examples:
        """Random subwords."""
        draw = torch.Generator().manual_seed(0)
        shape = n, self.length + 1
        source, target = (
            torch.randint(self.network.vocabulary, shape, generator=draw) for _ in range(2)
        )
        return {"source": source[:, 1:], "target": target}


Architecture = ResNet50 | Vision | Translation


def operations(task: Task, examples: Examples) -> int:
    """Multiplications and additions of a forward pass over one example."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        task.loss(task.all_params, task.move(take(examples, slice(0, 1))))
    return int(counter.get_total_flops())


def _frozen(module: nn.Module, place: torch.device) -> nn.Module:
    return module.requires_grad_(False).to(place)


def _images(n: int, channels: int, side: int, classes: int) -> Examples:
    draw = torch.Generator().manual_seed(0)
    image: Tensor = torch.rand(n, channels, side, side, generator=draw)
    return {"image": image, "label": torch.randint(classes, (n,), generator=draw)}


@dataclass(frozen=True)
class Timing:
    """Seconds of an Arnoldi iteration, in parts.

    batches   numbers of examples whose products are timed: two show the cost of an example
    wanted    examples of a product for which the total is computed
    held      basis vectors that a new one is made orthogonal to
    whole     also run all iterations with the smallest batch, as a check of the sum
    again     repetition of the same measurement: intervals are over these
    """

    architecture: Architecture = ResNet50()
    batches: tuple[int, ...] = (1, 4)
    wanted: int = 512
    iterations: int = 200
    held: int = 2
    repeats: int = 3
    storage: Storage = Native()
    whole: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    again: int = 0

    def measured(self) -> dict[str, Any]:
        """Seconds of one product by batch size, of one basis vector, and of all iterations."""
        task = self.architecture.task(device.measured(self.device))
        examples = self.architecture.examples(max(self.batches))
        draw = torch.Generator().manual_seed(self.again)
        vector = torch.randn(task.size, generator=draw).to(task.device)
        vector /= vector.norm()
        hessian, products = Hessian(task, examples), []
        whole = hessian.examples
        for n in self.batches:
            hessian.examples = take(whole, slice(0, n))
            products.append(self._seconds(lambda: hessian.apply(vector[None])))
        hessian.examples = take(whole, slice(0, self.batches[0]))
        each, size = self._clear(vector)
        metrics = {
            "work": "Timing",
            "label": self.architecture.label,
            "num_params": task.size,
            "operations": operations(task, examples),
            "product_seconds": np.array(products),
            "vector_seconds": each,
            "vector_bytes": size,
            **self._totals(products, each),
        }
        return metrics | self._run(hessian)

    def _totals(self, products: list[float], each: float) -> dict[str, float]:
        """Seconds of all iterations: products and growing orthogonalisation.

        A product is linear in the number of examples, with a fixed cost for each chunk.
        """
        n, smallest = self.iterations, products[0]
        if len(products) > 1:
            more = max(0.0, products[-1] - smallest) / (self.batches[-1] - self.batches[0])
            once = max(0.0, smallest - more * self.batches[0])  # fixed cost of a chunk
        else:
            more, once = smallest / self.batches[0], 0.0
        measured = dict(zip(self.batches, products, strict=True)).get(self.wanted)
        whole = once * -(-self.wanted // CHUNK) + more * self.wanted
        product = whole if measured is None else measured
        orthogonal = each * n * (n + 1) / 2
        return {
            "wanted_seconds": product,
            "orthogonal_seconds": orthogonal,
            "total_seconds": n * product + orthogonal,
            "smallest_seconds": n * smallest + orthogonal,
        }

    def _run(self, hessian: Hessian) -> dict[str, float]:
        if not self.whole:
            return {}
        began = clock.now(self.device)
        iterate(hessian, self.iterations, self.again, self.storage)
        return {"whole_seconds": clock.now(self.device) - began}

    def _clear(self, vector: torch.Tensor) -> tuple[float, int]:
        """Seconds a basis vector to make a vector orthogonal, and the bytes of a basis vector."""
        storage, size = self.storage, len(vector)
        basis = Basis(storage, self.held, size, vector.dtype, vector.device)
        for shift in range(self.held):
            basis.append(vector.roll(shift + 1))
        seconds = self._seconds(lambda: basis.clear(vector.clone())) - self._seconds(vector.clone)
        return max(0.0, seconds) / self.held, storage.bytes_each(size, vector.dtype)

    def _seconds(self, work: Callable[[], Any]) -> float:
        turns = clock.in_turns({"work": work}, self.repeats, partial(clock.now, self.device))
        return statistics.median(turns["work"])


@dataclass(frozen=True)
class Precision:
    """Eigenvalues of a trained network's Hessian: by bases stored in three ways, by another seed.

    The three use the same examples. The other seed shows how much eigenvalues vary by chance. All
    is computed on the experiments' device; `device` is part of the key alone.
    """

    model: vit_models.Model = vit_models.SMALL
    iterations: int = 40
    sample: int = 128
    keep: int = 20
    device: Literal["cpu"] = "cpu"

    def measured(self) -> dict[str, Any]:
        """The leading eigenvalues each way, (keep,), and each basis's distance from orthonormal."""
        tuned = vit_models.tuned(self.model)
        results: dict[str, Any] = {"work": "Precision", "label": "fine-tuned ViT"}
        ways: dict[str, tuple[Storage, int]] = {
            "native": (Native(), 0),
            "bfloat16": (BFloat16(), 0),
            "disk": (Disk(), 0),
            "another_start": (Native(), 1),
        }
        for name, (storage, seed) in ways.items():
            hessian = Hessian(tuned.task, tuned.train.examples, 0.0, self.sample, seed)
            basis, projected, _ = iterate(hessian, self.iterations, seed, storage, self.keep)
            rows = basis.rows[: basis.count].double()
            off = (rows @ rows.T - torch.eye(len(rows)).to(rows)).abs().max()
            results[name] = ritz_values(projected)[: self.keep].cpu().numpy()
            results[f"{name}_loss"] = float(off)
        return results | {"num_params": tuned.task.size}


@dataclass(frozen=True)
class Config:
    work: Timing | Precision = Timing()


@clock.threads(1)
def run(config: Config, scratch: Path) -> dict[str, Any]:
    return config.work.measured()


def work(config: Config) -> laboratory.Work:
    """What a cell takes: products and orthogonalisation, and the whole iterations."""
    timed = config.work
    if isinstance(timed, Precision):
        of, n = vit_models.unit(timed.model.network), timed.model.data.n_train
        basis = StoredKrylov(timed.iterations, timed.sample, 0, timed.keep, Disk())
        once = counting.once_per_model("", None, Influence(Arnoldi(1, basis)), of, n)
        assert once is not None
        steps = tuple(replace(step, times=4 * step.times) for step in once.steps)
        model = vit_models.work(timed.model)
        return replace(once, label="precision", steps=steps, parts=(model,), disk=0.0)
    of = _unit(timed.architecture)
    basis = StoredKrylov(timed.iterations, max(timed.batches), 0, 1, timed.storage)
    once = counting.once_per_model("", None, Influence(Arnoldi(1, basis)), of, max(timed.batches))
    assert once is not None
    rounds = timed.repeats + 1
    each = [counting.products(of, n, rounds) for n in timed.batches]
    each.append(laboratory.Step(4 * of.size * timed.held, 8, rounds))
    whole = once.steps if timed.whole else ()
    return replace(once, label=timed.architecture.label, steps=(*each, *whole), disk=0.0)


@cache
def _unit(architecture: Architecture) -> laboratory.Unit:
    columns = {
        name: (tuple(column.shape[1:]), column.dtype)
        for name, column in architecture.examples(1).items()
    }
    whole = counting.unit(architecture.build, architecture.loss, columns)
    return whole if architecture.part == 1 else whole.part(architecture.part)


def table(runs: list[Run]) -> tuple[list[str], list[list[str]]]:
    """One line per run."""
    rows = []
    for m in (one.metrics for one in runs):
        row = [m["label"], f"{m['num_params']:,}"]
        if m["work"] == "Timing":
            row += [f"{m['wanted_seconds']:.3g}", f"{m['orthogonal_seconds']:.3g}"]
            row += [f"{m['total_seconds'] / 3600:.3g}", f"{m.get('whole_seconds', 0):.3g}"]
        rows.append(row + [""] * (6 - len(row)))
    names = ["network", "parameters", "s a product", "s to orthogonalise", "hours", "s run whole"]
    return names, rows


def vision(depth: int, width: int, heads: int, part: float = 1.0) -> Vision:
    return Vision(ViT(depth, width, heads, num_classes=1_000), part)


def timings(base: Timing, runs: int, architectures: list[Architecture]) -> list[Config]:
    works = sweep(base, again=range(runs), architecture=architectures)
    return [Config(work) for work in works]


def precisions(base: Precision, seeds: int) -> list[Config]:
    models = [replace(base.model, seed=seed) for seed in range(seeds)]
    return [Config(replace(base, model=model)) for model in models]


TINY, LESS, BASE = vision(12, 192, 3), vision(12, 384, 6), vision(12, 768, 12)
HALF, LARGE = vision(24, 1024, 16, 0.5), vision(24, 1024, 16)
LITTLE: list[Architecture] = [
    *(Vision(ViT(2, width, 2, 4, 16)) for width in (16, 32, 64)),
    Translation(WmtTransformer(1, 32, 64, 2, 200), 8),
]
QUICK = Timing(iterations=20, repeats=1)
CHECKED = Vision(ViT(6, 64, 4, 8, 32))  # as fine-tuned at the small tier: runs whole in a minute
ALL: list[Architecture] = [ResNet50(), BASE, HALF, LARGE, Translation()]
ORIGINAL = replace(vit_models.SMALL, data=replace(vit_models.SMALL.data, source="original"))
ON_GPU = Timing(batches=(512,), held=8, storage=BFloat16(), device="cuda")
PRESETS: dict[str, list[Config]] = {
    "smoke": [
        *timings(QUICK, 2, LITTLE),
        *timings(replace(QUICK, whole=True), 2, LITTLE[:1]),
        *precisions(Precision(vit_models.SMOKE, 10, 50, 6), 2),
    ],
    "small": [
        *timings(Timing(), 3, [TINY, LESS, BASE, ResNet50(), Translation()]),
        *timings(Timing(batches=(8, 32), held=20, whole=True), 3, [CHECKED]),
        *precisions(Precision(), 3),
    ],
    "gpu": timings(ON_GPU, 3, ALL),
    "paper": [
        *timings(replace(ON_GPU, whole=True), 3, [ResNet50(), BASE, Translation(), HALF, LARGE]),
        *precisions(Precision(ORIGINAL, 200, 512, 100), 3),
    ],
}

EXPERIMENT = Experiment(
    "hessian_scaling",
    run,
    PRESETS,
    summary="Arnoldi: run time and memory against parameters, the basis in bfloat16 or on disk",
    table=table,
    seconds={"small": 530},
    work=work,
    shared="work",
    gpu=True,
)


if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
