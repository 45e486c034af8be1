"""How fast ensembles are trained and estimated: a stack against one network after another.

Every cell times its way and the plain one (one network after another, in float32) in turns within
one process and reports the median of their ratios. On a CPU the time is the process's own, of one
thread, so other processes count little; on a GPU, wall-clock time. Data are MNIST-sized noise.
"""

import statistics
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from experiments.laboratory import clock
from experiments.laboratory.experiment import Experiment, sweep
from experiments.laboratory.runs import Run
from experiments.models.digits_mlp import DigitsMLP
from experiments.models.strided_cnn import StridedCNN
from experiments.training.loop import fit
from experiments.training.plans import Fit, Loss, cross_entropy
from experiments.training.stacked import Stack, fit_stack
from methods.ensembles.masks import Packed, draw_masks
from methods.ensembles.subset import Sums
from methods.rows.matmul import count_product
from methods.task import Examples, take

Network = DigitsMLP | StridedCNN


@dataclass(frozen=True)
class Autocast:
    """One network after another, in bfloat16 where torch's autocast takes it."""

    size = 1

    def train(self, work: "Training", data: Examples) -> None:
        """Train `size` networks, for as many epochs as are timed."""

        def loss(model: Any, batch: Examples) -> Tensor:
            with torch.autocast(work.device, torch.bfloat16):
                return cross_entropy(model, batch)

        _train_one(work, data, loss)


@dataclass(frozen=True)
class Stacked:
    """`size` networks in one stack."""

    size: int = 16

    def train(self, work: "Training", data: Examples) -> None:
        """Train `size` networks, for as many epochs as are timed."""
        stack = Stack([work.network.build(seed) for seed in range(self.size)]).to(work.device)
        masks = draw_masks(self.size, work.n_train, work.subset, 0)
        with tempfile.TemporaryDirectory() as folder:
            seeds = range(self.size)
            fit_stack(stack, cross_entropy, data, masks, work.timed, seeds, Path(folder))


@dataclass(frozen=True)
class Training:
    """Networks of an ensemble, each trained for `epochs` on 70% of `n_train` examples."""

    network: Network = DigitsMLP()
    way: Autocast | Stacked = Stacked()
    n_train: int = 2_000
    batch_size: int = 50
    epochs: int = 20
    device: Literal["cpu", "cuda"] = "cpu"
    repeats: int = 3
    again: int = 0
    """Which of several runs of the same: intervals are over them."""

    @property
    def subset(self) -> int:
        return round(0.7 * self.n_train)

    @property
    def timed(self) -> Fit:
        """One epoch of the plan."""
        return Fit(epochs=1, batch_size=self.batch_size, lr=0.01, momentum=0.9)

    def measured(self) -> dict[str, Any]:
        """Models per hour this way and alone, on one thread or one GPU, and their ratio."""
        draw = torch.Generator().manual_seed(0)
        data = {
            "image": torch.rand(self.n_train, *self.network.image_shape, generator=draw),
            "label": torch.randint(0, 10, (self.n_train,), generator=draw),
        }
        data = {name: column.to(self.device) for name, column in data.items()}
        seconds = clock.in_turns(
            {
                "ours": lambda: self.way.train(self, data),
                "alone": lambda: _train_one(self, data, cross_entropy),
            },
            self.repeats,
            partial(clock.now, self.device),
        )
        each, alone = [total / self.way.size for total in seconds["ours"]], seconds["alone"]
        return {
            "work": type(self.network).__name__,
            "way": type(self.way).__name__,
            "size": self.way.size,
            "ratio": statistics.median(b / a for a, b in zip(each, alone, strict=True)),
            "models_per_hour": 3600 / (statistics.median(each) * self.epochs),
            "models_per_hour_alone": 3600 / (statistics.median(alone) * self.epochs),
        }


@dataclass(frozen=True)
class Estimate:
    """Influence and standard errors of all pairs, compared with the 0/1 matrix product alone."""

    n_models: int = 2_000
    n_train: int = 50_000
    n_query: int = 2_000
    device: Literal["cpu"] = "cpu"
    repeats: int = 3
    again: int = 0

    def measured(self) -> dict[str, Any]:
        """Seconds of the estimate, and of the product at its best rate on this machine."""
        masks = Packed.of(draw_masks(self.n_models, self.n_train, round(0.7 * self.n_train), 0))
        draw = torch.Generator().manual_seed(0)
        right = Packed.of(torch.rand(self.n_models, self.n_query, generator=draw) < 0.8)
        operations = 2.0 * self.n_models * self.n_train * self.n_query
        sides = (min(1_024, self.n_query), self.n_models), (self.n_models, min(8_192, self.n_train))
        left, other = (torch.ones(shape, dtype=torch.int8) for shape in sides)
        sums, now = Sums.of(masks, right), partial(clock.now, self.device)
        seconds = clock.in_turns(
            {
                "estimate": lambda: Sums.of(masks, right).influence(),
                "product": lambda: count_product(left, other),
            },
            self.repeats,
            now,
        )
        errors = clock.in_turns({"errors": sums.standard_errors}, self.repeats, now)["errors"]
        estimate = statistics.median(seconds["estimate"])
        rate = 2.0 * left.numel() * other.shape[1] / min(seconds["product"])
        return {
            "work": "Estimate",
            "seconds": estimate,
            "errors_seconds": statistics.median(errors),
            "product_seconds": operations / rate,
            "over_limit": estimate * rate / operations,
            "product_gops": rate / 1e9,
        }


Config = Training | Estimate


@clock.threads(1)
def run(config: Config, scratch: Path) -> dict[str, Any]:
    return config.measured()


def _train_one(work: Training, data: Examples, loss: Loss) -> None:
    mask = torch.from_numpy(draw_masks(1, work.n_train, work.subset, 0)[0])
    subset = take(data, mask.to(work.device))
    with tempfile.TemporaryDirectory() as folder:
        fit(work.network.build(0).to(work.device), loss, subset, work.timed, 0, Path(folder))


def table(runs: list[Run]) -> tuple[list[str], list[list[str]]]:
    """One line per run."""
    rows = []
    for m in (one.metrics for one in runs):
        if m["work"] == "Estimate":
            seconds, ratio = f"{m['seconds']:.2f} s", f"{m['over_limit']:.2f} x the product alone"
            rows.append([m["work"], "", seconds, ratio])
        else:
            way = f"{m['way']} {m['size']}"
            rows.append([m["work"], way, f"{m['models_per_hour']:,.0f}", f"{m['ratio']:.2f} x"])
    return ["work", "way", "models an hour, or time", "against alone"], rows


NETWORKS: tuple[Network, ...] = (DigitsMLP(), StridedCNN())
WAYS = (Autocast(), Stacked(4), Stacked(16), Stacked(64))
TINY = Training(n_train=100, repeats=1)
PRESETS: dict[str, list[Config]] = {
    "smoke": [*sweep(TINY, network=NETWORKS, way=WAYS[:2]), Estimate(50, 300, 200, repeats=1)],
    "small": [
        *sweep(Training(), again=range(3), network=NETWORKS, way=WAYS),
        *sweep(Estimate(), again=range(3)),
    ],
    "gpu": sweep(
        Training(device="cuda"),
        again=range(3),
        network=NETWORKS,
        way=[Stacked(size) for size in (16, 64, 256, 1024)],
    ),
}

EXPERIMENT = Experiment(
    "speed_ensembles",
    run,
    PRESETS,
    summary="models per hour, stacked and one after another; time of the estimate",
    table=table,
    seconds={"smoke": 3, "small": 121},
    gpu=True,
)

if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
