"""Trained networks: each is trained once, as a run, and restored as methods need it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import numpy as np
import torch
from torch import Tensor, nn

from experiments.laboratory import runs
from experiments.laboratory.counting import FLOAT, forward
from experiments.laboratory.device import device
from experiments.laboratory.runs import Outcome, Run
from experiments.laboratory.work import Step, Unit, Work
from experiments.training.loop import Module, load_buffers, load_params
from experiments.training.plans import Fit, Loss, SharpnessAware
from methods.checkpoints import Checkpoint
from methods.task import Task, floating_buffers


@dataclass(frozen=True)
class Trained(Generic[Module]):
    """A network without gradients; `task` has its checkpoints; `run` is the run that trained it."""

    module: Module
    task: Task
    run: Run

    @property
    def metrics(self) -> dict[str, Any]:
        """The numbers of the training, such as accuracies."""
        return self.run.metrics


def train_once(
    name: str,
    model: Any,
    build: Callable[[], Module],
    loss: Loss,
    train: Callable[[Module, Path], Outcome],
    *,
    weight_decay: float = 0.0,
    dtype: torch.dtype = torch.float32,
    with_checkpoints: bool = True,
) -> Trained[Module]:
    """The network of `model`, trained as the run `name` if no run has it yet.

    `train(network, scratch)` trains a network of `build()` in place and returns what `fit` does,
    with metrics. The parameters are those of its last checkpoint, or of its array `final`. The
    network and its task are on the experiments' device.
    """

    def compute(scratch: Path) -> Outcome:
        module = build().to(device())
        size = sum(value.numel() for value in module.parameters())
        return {**train(module, scratch), "num_params": size}

    run = runs.once(name, model, compute)
    module = build().to(device(), dtype)
    params, has = run.array("params"), run.meta["arrays"]
    buffers = run.array("buffers") if "buffers" in has else None
    moments = []
    if with_checkpoints:
        moments = checkpoints(module, params, run.array("lrs"), buffers)
    final = run.array("final") if "final" in has else params[-1]
    restore(module, final, None if buffers is None else buffers[-1])
    module.requires_grad_(False)
    task = Task.of(module, loss, weight_decay=weight_decay, checkpoints=moments)
    return Trained(module, task, run)


def restore(module: Module, params: np.ndarray, buffers: np.ndarray | None = None) -> Module:
    """Put one checkpoint back into a module of the same architecture."""
    load_params(module, params)
    if buffers is not None:
        load_buffers(module, buffers)
    return module


def checkpoints(
    module: nn.Module, params: np.ndarray, lrs: np.ndarray, buffers: np.ndarray | None = None
) -> list[Checkpoint]:
    """Checkpoints of rows of `params` (n, p) and `buffers` (n, q); the module is left as the last.

    A checkpoint has the buffers too if they are given.
    """
    made = []
    for place, lr in enumerate(lrs):
        restore(module, params[place], None if buffers is None else buffers[place])
        state: dict[str, Tensor] = dict(module.named_parameters())
        if buffers is not None:
            state |= floating_buffers(module)
        made.append(Checkpoint(state, float(lr)))
    return made


def training_work(
    name: str,
    config: Any,
    of: Unit,
    n: int,
    plan: Fit,
    label: str,
    *,
    networks: int = 1,
    parts: tuple[Work, ...] = (),
    scored: float = 0,
    kept: bool = True,
    together: bool = False,
) -> Work:
    """The work of training networks by a plan on n examples each.

    `scored` examples pass forward at the end. The checkpoints are stored if they are `kept`.
    Networks are trained one after another, or `together`, as `fit_stack` does.
    """
    passes = 2 if isinstance(plan, SharpnessAware) else 1
    copies = 2 + (2 if plan.adam else 1)  # parameters, gradients, the state of the optimizer
    step = Step(
        of.operations * min(plan.batch_size, n) * passes,
        of.kernels * passes,
        networks * plan.epochs * max(1, n / plan.batch_size),
        plan.precision,
        together,
    )
    low = 0.5 if plan.precision == "bf16" else 1.0
    one = FLOAT * of.size * copies + low * of.held * min(plan.batch_size, n)
    stored = networks * -(-plan.epochs // plan.every) if kept else 0
    return Work(
        label,
        (step, forward(of, networks * scored)) if scored else (step,),
        parts,
        name,
        config,
        "training",
        one * (networks if together else 1),
        FLOAT * of.size * stored + networks * scored,
    )
