"""How a model is trained: losses, plans (which are configs) and the random order of examples."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.laboratory.errors import UserError
from experiments.laboratory.keys import later
from methods.errors import misfit
from methods.randomness import Purpose, numpy_generator, torch_seeds

Precision = Literal["float32", "tf32", "bf16"]
Loss = Callable[[Any, dict[str, Tensor]], Tensor]
"""A function of network and batch with one value per example, (b,), as tasks expect it."""


@dataclass(frozen=True)
class CrossEntropy:
    """Negative log-likelihood of the column `label` in nats, (b,), given the columns `inputs`."""

    inputs: tuple[str, ...] = ("image",)

    def __call__(self, model: Callable[..., Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        logits = model(*(batch[name] for name in self.inputs))
        return F.cross_entropy(logits, batch["label"], reduction="none")

    def hits(self, model: Callable[..., Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """1.0 where the given label has the largest logit, 0.0 elsewhere, (b,)."""
        logits = model(*(batch[name] for name in self.inputs))
        return (logits.argmax(-1) == batch["label"]).to(torch.float32)


cross_entropy = CrossEntropy()


def hits(loss: Loss) -> Loss | None:
    """Which examples a network has right, by its loss; None if the loss is not of classes."""
    return getattr(loss, "hits", None)


def negative_log_odds(model: Callable[[Tensor], Tensor], batch: dict[str, Tensor]) -> Tensor:
    """Minus log p / (1 - p) for the given label, (b,): a measurement that does not saturate."""
    logits, label = model(batch["image"]), batch["label"][:, None]
    others = logits.scatter(1, label, float("-inf")).logsumexp(1)
    return others - logits.gather(1, label)[:, 0]


def _within(interval: str, **settings: float) -> None:
    """Refuse a setting of a plan that no training can follow."""
    for name, value in settings.items():
        if advice := misfit(interval, value):
            raise UserError(f"fit.{name} is {value}: {advice}")


@dataclass(frozen=True)
class Adam:
    """Adam's decay rates; weight decay is added to the gradient, as for an L2 penalty."""

    beta1: float = 0.9
    beta2: float = 0.999

    def __post_init__(self) -> None:
        _within("[0, 1)", **{"adam.beta1": self.beta1, "adam.beta2": self.beta2})


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019)."""


@dataclass(frozen=True)
class Fit:
    """Minibatch descent on mean loss + weight_decay/2 |params|^2, by momentum, or Adam if given.

    `every` is the number of epochs between checkpoints; the last epoch always ends with one.
    `precision` is that of products in training: float32 in full, whatever torch is set to; by TF32;
    or in bfloat16, where torch's autocast takes it. Parameters and the optimizer's state are
    float32 all the same. With `channels_last`, convolutions keep channels together in memory, which
    is faster on a GPU, and on a CPU in bfloat16.
    """

    epochs: int = 10
    batch_size: int = 100
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    every: int = 1
    adam: Adam | None = None
    precision: Precision = later("float32")
    channels_last: bool = later(False)

    def __post_init__(self) -> None:
        _within("[1, inf)", epochs=self.epochs, batch_size=self.batch_size, every=self.every)
        _within("(0, inf)", lr=self.lr)
        _within("[0, 1)", momentum=self.momentum)
        _within("[0, inf)", weight_decay=self.weight_decay)
        if self.precision not in (known := get_args(Precision)):
            raise UserError(f"fit.precision is {self.precision!r}: give {' or '.join(known)}")

    def rate(self, epoch: float) -> float:
        """The learning rate after so many epochs."""
        return self.lr

    def batches(self, train: Mapping[str, Tensor], draw: np.random.Generator) -> list[Tensor]:
        """The examples of each step of an epoch, as positions."""
        n = len(next(iter(train.values())))
        return list(torch.from_numpy(draw.permutation(n)).split(self.batch_size))


@dataclass(frozen=True)
class Stepped(Fit):
    """The learning rate is divided by `factor` after each of these shares of the epochs.

    He et al. (2016, arXiv:1512.03385, Sec. 4.2) train so on CIFAR-10: 64k steps of 128 examples,
    drops after a half and three quarters of them, momentum 0.9, weight decay 1e-4.
    """

    drops: tuple[float, ...] = (0.5, 0.75)
    factor: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _within("(0, inf)", factor=self.factor)
        for share in self.drops:
            _within("[0, 1]", drops=share)

    def rate(self, epoch: float) -> float:
        passed = sum(epoch >= round(share * self.epochs) for share in self.drops)
        return self.lr / self.factor**passed


@dataclass(frozen=True)
class Cosine(Fit):
    """The learning rate falls to zero along half a cosine, step by step."""

    def rate(self, epoch: float) -> float:
        return self.lr * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))


@dataclass(frozen=True)
class Ending(Fit):
    """The last `epochs` epochs of the plan `of`, at its learning rates there."""

    of: Fit = field(default_factory=Fit)

    def rate(self, epoch: float) -> float:
        return self.of.rate(self.of.epochs - self.epochs + epoch)


def ending(plan: Fit, share: float) -> Ending:
    """The last `share` of a plan's epochs, at least one; momentum starts at zero."""
    if not 0 < share <= 1:
        raise UserError(f"a share of {share} of the epochs: give more than 0 and at most 1")
    epochs = max(1, round(share * plan.epochs))
    settings = {f.name: getattr(plan, f.name) for f in fields(Fit)} | {"epochs": epochs}
    return Ending(**settings | {"every": epochs}, of=plan)


@dataclass(frozen=True)
class Grouped(Fit):
    """Batches hold examples of similar `length`, which need less padding.

    The random order is cut into pools of `pool` batches; each pool is sorted by the column
    `length`; all batches then come in random order.
    """

    pool: int = 40

    def __post_init__(self) -> None:
        super().__post_init__()
        _within("[1, inf)", pool=self.pool)

    def batches(self, train: Mapping[str, Tensor], draw: np.random.Generator) -> list[Tensor]:
        length = train["length"].cpu()
        order = torch.from_numpy(draw.permutation(len(length)))
        pools = [
            pool[length[pool].argsort(stable=True)]
            for pool in order.split(self.batch_size * self.pool)
        ]
        made = [batch for pool in pools for batch in pool.split(self.batch_size)]
        return [made[i] for i in draw.permutation(len(made))]


@dataclass(frozen=True)
class Decayed(Grouped):
    """The learning rate falls linearly to zero, as is usual in fine-tuning."""

    def rate(self, epoch: float) -> float:
        return self.lr * (1 - epoch / self.epochs)


@dataclass(frozen=True)
class SharpnessAware(Fit):
    """SAM (Foret et al., 2021, arXiv:2010.01412).

    A step takes the gradient of the batch's mean loss not at the parameters but at the worst point
    within `rho` of them, to first order. The learning rate rises linearly for a share `warmup` of
    the epochs, then falls to zero along half a cosine, as for the vision Transformers of Chen et
    al. (2021, arXiv:2106.01548).
    """

    rho: float = 0.05
    warmup: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _within("(0, inf)", rho=self.rho)
        _within("[0, 1)", warmup=self.warmup)

    def rate(self, epoch: float) -> float:
        rise = self.warmup * self.epochs
        if epoch < rise:
            return self.lr * (epoch + 1 / self.epochs) / (rise + 1 / self.epochs)
        return self.lr * (1 + math.cos(math.pi * (epoch - rise) / (self.epochs - rise))) / 2


@dataclass(frozen=True)
class Warmed(Grouped):
    """The learning rate rises linearly for `warmup` epochs, then falls as 1 / sqrt(epoch).

    `lr` is the highest rate, which ends the warm-up (Vaswani et al., 2017, Sec. 5.3).
    """

    warmup: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _within("[0, inf)", warmup=self.warmup)

    def rate(self, epoch: float) -> float:
        if epoch < self.warmup:
            return self.lr * epoch / self.warmup
        return self.lr * (self.warmup / epoch) ** 0.5


class Draws(Protocol):
    """The randomness of training: the examples of each step, and the seed of its noise."""

    @property
    def count(self) -> int:
        """Examples of one network in an epoch."""

    @property
    def name(self) -> str:
        """Everything that the drawn numbers depend on."""

    def batches(self, plan: Fit, train: dict[str, Tensor], epoch: int) -> list[Tensor]:
        """Rows of the training set for each step, (b,), or (K, b) for a stack of K networks."""

    def noise(self, epoch: int, n_steps: int) -> list[int]:
        """A seed of torch's generators for every step."""


@dataclass(frozen=True)
class Shuffled:
    """All `count` examples, in a new order every epoch."""

    seed: int
    count: int

    @property
    def name(self) -> str:
        return f"{self.seed}"

    def batches(self, plan: Fit, train: dict[str, Tensor], epoch: int) -> list[Tensor]:
        return plan.batches(train, numpy_generator(self.seed, Purpose.ORDER, epoch))

    def noise(self, epoch: int, n_steps: int) -> list[int]:
        return torch_seeds(self.seed, Purpose.NOISE, epoch, n_steps)


@dataclass(frozen=True)
class Cycled:
    """An "epoch" is `count` examples for any size `n` of the training set.

    They come from one random order of all examples after another, so that training sets of
    different sizes get the same number of steps.
    """

    seed: int
    n: int
    count: int

    @property
    def name(self) -> str:
        return f"{self.seed}, {self.count} of {self.n} after {self.n}"

    def batches(self, plan: Fit, train: dict[str, Tensor], epoch: int) -> list[Tensor]:
        start, end = epoch * self.count, (epoch + 1) * self.count
        turns = []
        for turn in range(start // self.n, -(-end // self.n)):
            order = numpy_generator(self.seed, Purpose.ORDER, turn).permutation(self.n)
            turns.append(order[max(0, start - turn * self.n) : end - turn * self.n])
        rows = torch.from_numpy(np.concatenate(turns))
        some = {"length": train["length"].cpu()[rows]}
        chosen = plan.batches(some, numpy_generator(self.seed, Purpose.BATCHES, epoch))
        return [rows[batch] for batch in chosen]

    def noise(self, epoch: int, n_steps: int) -> list[int]:
        return torch_seeds(self.seed, Purpose.NOISE, epoch, n_steps)


def sharpen(module: nn.Module, rho: float, loss: Callable[[], Tensor]) -> None:
    """The step of sharpness-aware minimisation (Foret et al., 2021, arXiv:2010.01412, Eqs. 2, 3).

    Replaces the gradient g of the parameters by the gradient of the mean of `loss()` at
    params + rho g / |g|; the parameters do not change by a bit. `loss()` is the loss of the same
    batch, (b,); its random numbers must be seeded as they were for g.
    """
    params = [value for value in module.parameters() if value.grad is not None]
    originals = [value.detach().clone() for value in params]
    gradients = [value.grad.detach() for value in params if value.grad is not None]
    norm = torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt()
    with torch.no_grad():
        for value, gradient in zip(params, gradients, strict=True):
            value.add_(gradient * (rho / norm.clamp_min(torch.finfo(torch.float32).tiny)))
            value.grad = None
    values = loss()
    if values.ndim != 1:
        raise UserError(
            "sharpness-aware minimisation would mix the gradients of a stack of networks: train "
            "them one after another"
        )
    values.mean().backward()
    with torch.no_grad():
        for value, original in zip(params, originals, strict=True):
            value.copy_(original)
