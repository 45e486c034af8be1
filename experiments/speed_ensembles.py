"""How fast ensembles are trained and estimated: a stack against one network after another.

Every cell times its way and the plain one (one network after another, in float32) in turns within
one process and reports the median of their ratios. On a CPU the time is the process's own, of one
thread, so other processes count little; on a GPU, wall-clock time. Data are MNIST-sized noise.
"""

import statistics
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from experiments.laboratory import clock, device
from experiments.laboratory.experiment import Experiment, sweep
from experiments.laboratory.runs import Run
from experiments.models.digits_mlp import DigitsMLP
from experiments.models.inception import SmallInception
from experiments.models.strided_cnn import StridedCNN
from experiments.training import stacked
from experiments.training.loop import fit
from experiments.training.plans import Fit, Precision, cross_entropy
from experiments.training.stacked import fit_stack
from methods.ensembles.masks import Packed, draw_masks
from methods.ensembles.subset import Sums
from methods.examples import Examples, take
from methods.rows.matmul import count_product

Network = DigitsMLP | StridedCNN | SmallInception


@dataclass(frozen=True)
class Autocast:
    """One network after another, in bfloat16 where torch's autocast takes it."""

    size = 1

    def train(self, work: "Training", data: Examples) -> None:
        """Train `size` networks, for as many epochs as are timed."""
        _train_one(work, data, "bf16")


@dataclass(frozen=True)
class Stacked:
    """`size` networks in one stack."""

    size: int = 16

    def train(self, work: "Training", data: Examples) -> None:
        """Train `size` networks, for as many epochs as are timed."""
        _train_many(work, data, stacked.Stack, self.size, work.timed)


@dataclass(frozen=True)
class Apart:
    """`size` networks side by side, on a GPU each in a stream, channels last."""

    size: int = 8
    precision: Precision = "bf16"

    def train(self, work: "Training", data: Examples) -> None:
        """Train `size` networks, for as many epochs as are timed."""
        plan = replace(work.timed, precision=self.precision, channels_last=True)
        _train_many(work, data, stacked.Apart, self.size, plan)


@dataclass(frozen=True)
class Training:
    """Networks of an ensemble, each trained for `epochs` on 70% of `n_train` examples."""

    network: Network = DigitsMLP()
    way: Autocast | Stacked | Apart = Stacked()
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
        place = device.measured(self.device)
        data = {name: column.to(place) for name, column in data.items()}
        seconds = clock.in_turns(
            {"ours": lambda: self.way.train(self, data), "alone": lambda: _train_one(self, data)},
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
        device.measured(self.device)
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


def _train_one(work: Training, data: Examples, precision: Precision = "float32") -> None:
    mask = torch.from_numpy(draw_masks(1, work.n_train, work.subset, 0)[0])
    subset, plan = take(data, mask.to(work.device)), replace(work.timed, precision=precision)
    with tempfile.TemporaryDirectory() as folder:
        fit(work.network.build(0).to(work.device), cross_entropy, subset, plan, 0, Path(folder))


def _train_many(
    work: Training, data: Examples, kind: type[stacked.Members], size: int, plan: Fit
) -> None:
    networks = kind([work.network.build(seed) for seed in range(size)]).to(work.device)
    masks = draw_masks(size, work.n_train, work.subset, 0)
    with tempfile.TemporaryDirectory() as folder:
        fit_stack(networks, cross_entropy, data, masks, plan, range(size), Path(folder))


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
MANY, FEW = (16, 64, 256, 1024), (1, 4, 8, 16)
GPU = Training(device="cuda")
INCEPTION = Training(SmallInception(10), n_train=20_000, batch_size=128, epochs=200, device="cuda")
TINY = Training(n_train=100, repeats=1)
PRESETS: dict[str, list[Config]] = {
    "smoke": [*sweep(TINY, network=NETWORKS, way=WAYS[:2]), Estimate(50, 300, 200, repeats=1)],
    "small": [
        *sweep(Training(), again=range(3), network=NETWORKS, way=WAYS),
        *sweep(Estimate(), again=range(3)),
    ],
    "gpu": [
        *sweep(GPU, again=range(3), network=NETWORKS, way=[*map(Stacked, MANY), *map(Apart, FEW)]),
        *sweep(INCEPTION, again=range(3), way=[Stacked(4), Apart(1, "tf32"), *map(Apart, FEW)]),
    ],
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
