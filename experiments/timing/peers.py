"""Other attribution libraries compared with ours: same network, same examples, same process.

Results are compared before anything is timed. `pip install -e .[peers]` installs the libraries.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.laboratory.errors import UserError
from experiments.models.mnist_cnn import LargeCNN
from experiments.timing.work import Timed, examples
from experiments.training.plans import cross_entropy
from methods.task import Examples, Task, chunks
from methods.tracin import TracIn

Library = Literal["captum", "backpack", "opacus"]


@dataclass(frozen=True)
class Peer:
    """Self-influence by another library; the ratio is how many times ours is faster."""

    library: Library = "captum"
    n: int = 256
    chunk: int = 64

    def build(self) -> Timed:
        module, batch = LargeCNN().build(0), examples(self.n)
        fitted = TracIn(learning_rates=False).fit(Task.of(module, cross_entropy), batch)
        try:
            importlib.import_module(self.library)
        except ImportError as error:
            raise UserError(
                f"{self.library} cannot be imported ({error}): "
                "`pip install -e .[peers]` installs it"
            ) from error
        theirs = MAKE[self.library](module, batch, self.chunk)
        _check_equal(self.library, theirs(), fitted.self_influence(batch))
        return Timed(
            f"self-influence, {self.library} ÷ ours",
            lambda: fitted.self_influence(batch),
            theirs,
            bound=1.0,
            speedup=True,
        )


def _check_equal(library: str, theirs: Tensor, ours: Tensor) -> None:
    gap = float((theirs - ours).norm() / ours.norm())
    if not gap < 1e-3:
        raise UserError(
            f"{library} and ours differ by {gap:.1%}, so their times are not compared: check that "
            "both compute self-influence of all layers"
        )


def _captum(module: nn.Module, batch: Examples, chunk: int) -> Callable[[], Tensor]:
    from captum.influence import TracInCP

    pairs = torch.utils.data.TensorDataset(batch["image"], batch["label"])
    method = TracInCP(
        module,
        pairs,
        checkpoints=["now"],
        checkpoints_load_func=lambda model, path: 1.0,
        loss_fn=nn.CrossEntropyLoss(reduction="none"),
        batch_size=chunk,
    )
    return lambda: method.self_influence().detach()


def _backpack(module: nn.Module, batch: Examples, chunk: int) -> Callable[[], Tensor]:
    from backpack import backpack, extend
    from backpack.extensions import BatchGrad

    # BackPACK asks for contiguous layouts and a loss module of its own.
    extended = extend(LargeCNN().build(0).to(memory_format=torch.contiguous_format))
    criterion = extend(nn.CrossEntropyLoss(reduction="sum"))

    def self_influence() -> Tensor:
        out = []
        for some in chunks(batch, chunk):
            extended.zero_grad()
            with backpack(BatchGrad()):
                criterion(extended(some["image"]), some["label"]).backward()
            grads = [p.grad_batch.flatten(1) for p in extended.parameters()]
            out.append(sum((g.square().sum(1) for g in grads), torch.zeros(())))
        return torch.cat(out).detach()

    return self_influence


def _opacus(module: nn.Module, batch: Examples, chunk: int) -> Callable[[], Tensor]:
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    network = LargeCNN().build(0).to(memory_format=torch.contiguous_format).train()
    wrapped = GradSampleModuleFastGradientClipping(
        network, max_grad_norm=1.0, use_ghost_clipping=True, loss_reduction="sum"
    )

    def self_influence() -> Tensor:
        out = []
        for some in chunks(batch, chunk):
            wrapped.zero_grad()
            F.cross_entropy(wrapped(some["image"]), some["label"], reduction="sum").backward()
            out.append(wrapped.get_norm_sample().square())
        return torch.cat(out).detach()

    return self_influence


MAKE: dict[str, Callable[..., Any]] = {"captum": _captum, "backpack": _backpack, "opacus": _opacus}
PEERS = [Peer(name) for name in get_args(Library)]
