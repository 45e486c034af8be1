"""The one training loop: seeded, with checkpoints; killed and resumed, it gives the same bits."""

import hashlib
import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from experiments.laboratory import disk, process, progress
from experiments.laboratory.errors import Diverged, UserError
from experiments.laboratory.keys import key
from experiments.training.plans import AdamW, Draws, Fit, Loss, SharpnessAware, Shuffled
from methods.progress import track
from methods.task import floating_buffers

Module = TypeVar("Module", bound=nn.Module)

LOOK_STEPS = 20  # between two checks of the loss, each of which waits for the device
SAVE_SECONDS = 5.0  # between two saved states: the most that a kill can lose
SLOW_SAVE = 0.25  # seconds; if saving takes longer, states are saved proportionally less often


def fit(
    module: nn.Module, loss: Loss, train: dict[str, Tensor], plan: Fit, seed: int, scratch: Path
) -> dict[str, np.ndarray]:
    """Train `module` in place; `loss(module, batch)` gives (b,), one value per example.

    Returns `params` (n_checkpoints, p), flattened in the order of `named_parameters`; `lrs` and
    `steps` (n_checkpoints,); `train_loss` (epochs,), the mean over the epoch, without weight decay;
    and `buffers` (n_checkpoints, q) of `flat_buffers` if the module has any. The module ends in
    evaluation mode. State is saved in `scratch`: after a kill at any moment, the next call resumes
    and gives the same bits (on the same kind of CPU).
    """
    check(plan, train)
    count = len(next(iter(train.values())))
    return descend(module, loss, train, plan, Shuffled(seed, count), scratch)


def descend(
    module: nn.Module, loss: Loss, train: dict[str, Tensor], plan: Fit, draws: Draws, scratch: Path
) -> dict[str, np.ndarray]:
    """`fit` with the batches that `draws` gives, for one network or a stack of K networks.

    A stack's loss gives (K, b), its train_loss (epochs, K); each network descends its own mean.
    """
    work = _Training(module, loss, train, plan, draws, scratch)
    devices = [work.device] if work.device.type == "cuda" else []
    module.train()
    with torch.random.fork_rng(devices=devices):
        for epoch in track(range(work.epoch, plan.epochs), "training"):
            work.run_epoch(epoch)
    module.eval()
    return work.results()


@dataclass(eq=False)
class _Training:
    module: nn.Module
    loss: Loss
    train: dict[str, Tensor]
    plan: Fit
    draws: Draws
    scratch: Path

    def __post_init__(self) -> None:
        self.count, self.device = self.draws.count, next(self.module.parameters()).device
        self.optimizer = _optimizer(self.module, self.plan)
        # The name says all that the state depends on: another model or other data start anew.
        name = f"fit-{_fingerprint(self.module, self.train, self.plan, self.draws)}"
        self.saved = Saved(self.scratch, name)
        self.epoch, self.step = 0, 0
        self.sum: Any = 0.0  # of the losses so far in the epoch; (K,) for a stack
        self.steps: list[int] = []
        self.train_loss: list[Any] = []
        state = self.saved.read(self.device)
        if state is not None:
            self._restore(state)

    def run_epoch(self, epoch: int) -> None:
        plan = self.plan
        batches = self.draws.batches(plan, self.train, epoch)
        noise = self.draws.noise(epoch, len(batches))
        recent: list[Tensor] = []
        steps = range(self.step, len(batches))
        for step in track(steps, f"epoch {epoch + 1} of {plan.epochs}"):
            for group in self.optimizer.param_groups:
                group["lr"] = plan.rate(epoch + step / len(batches))
            torch.manual_seed(noise[step])  # dropout is the same after a restart within an epoch
            rows = batches[step].to(self.device)
            batch = {name: column[rows] for name, column in self.train.items()}
            values = self.loss(self.module, batch)
            self.optimizer.zero_grad()
            values.mean(-1).sum().backward()
            if isinstance(plan, SharpnessAware):
                torch.manual_seed(noise[step])
                sharpen(self.module, plan.rho, partial(self.loss, self.module, batch))
            self.optimizer.step()
            recent.append(values.detach().double().sum(-1))
            last = step == len(batches) - 1
            due = process.stop_requested() or self.saved.due
            if last or due or len(recent) == LOOK_STEPS:
                self._add(recent, epoch, step, len(batches))
                recent = []
            if due and not last:
                self._save(epoch, step + 1)
                seen = (step + 1) * plan.batch_size  # all batches are full but the last
                progress.report(epoch=epoch + (step + 1) / len(batches), loss=self.sum / seen)
                process.stop_if_requested()
        self._finish(epoch)

    def results(self) -> dict[str, np.ndarray]:
        count, per_epoch = len(self.steps), -(-self.count // self.plan.batch_size)
        rows = self.saved.checkpoints(count)
        params, buffers = np.split(rows, [rows.shape[1] - flat_buffers(self.module).size], axis=1)
        arrays = {
            "params": params,
            "lrs": np.array([self.plan.rate(step // per_epoch - 1) for step in self.steps]),
            "steps": np.array(self.steps, dtype=np.int64),
            "train_loss": np.array(self.train_loss),
        }
        return {**arrays, "buffers": buffers} if buffers.size else arrays

    def _add(self, recent: list[Tensor], epoch: int, step: int, n_steps: int) -> None:
        for offset, value in enumerate(torch.stack(recent).cpu().numpy()):
            self.sum = self.sum + value  # in the order of the steps, for any grouping
            if not np.isfinite(value).all():
                raise self._diverged("the loss", value, epoch, step - len(recent) + 1 + offset)
        if step == n_steps - 1 and not np.isfinite(flat_params(self.module)).all():
            raise self._diverged("a parameter", np.array(np.nan), epoch, step)

    def _finish(self, epoch: int) -> None:
        plan = self.plan
        self.train_loss.append(self.sum / self.count)
        progress.report(epoch=epoch + 1, loss=self.train_loss[-1])
        self.sum = 0.0
        if (epoch + 1) % plan.every == 0 or epoch + 1 == plan.epochs:
            values = np.concatenate([flat_params(self.module), flat_buffers(self.module)])
            self.saved.write_checkpoint(len(self.steps), values)
            self.steps.append((epoch + 1) * -(-self.count // plan.batch_size))
        self.step = 0
        if self.saved.due or epoch + 1 == plan.epochs:
            self._save(epoch + 1, 0)

    def _save(self, epoch: int, step: int) -> None:
        self.saved.write(
            {
                "module": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "progress": {"epoch": epoch, "step": step, "sum": np.asarray(self.sum).tolist()},
                "steps": self.steps,
                "train_loss": np.asarray(self.train_loss).tolist(),
            }
        )

    def _restore(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step = state["progress"]["epoch"], state["progress"]["step"]
        self.sum = np.array(state["progress"]["sum"])
        self.steps, self.train_loss = state["steps"], state["train_loss"]

    def _diverged(self, what: str, value: np.ndarray, epoch: int, step: int) -> Diverged:
        lr = self.plan.lr
        if value.ndim:
            member = int(np.flatnonzero(~np.isfinite(value))[0])
            what, value = f"{what} of network {member} of the stack", value[member]
        return Diverged(
            f"training diverged: {what} is {value} in epoch {epoch + 1}, step {step + 1}: "
            f"lower lr, which is {lr:g}, for instance to {lr / 3:.1g}"
        )


def _optimizer(module: nn.Module, plan: Fit) -> torch.optim.Optimizer:
    shared: dict[str, Any] = {"lr": plan.lr, "weight_decay": plan.weight_decay, "fused": True}
    if plan.adam is not None:
        betas = (plan.adam.beta1, plan.adam.beta2)
        kind = torch.optim.AdamW if isinstance(plan.adam, AdamW) else torch.optim.Adam
        return kind(module.parameters(), betas=betas, **shared)
    return torch.optim.SGD(module.parameters(), momentum=plan.momentum, **shared)


def check(plan: Fit, train: dict[str, Tensor]) -> None:
    """Refuse settings and training sets that cannot be trained with."""
    sizes = {name: len(column) for name, column in train.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise UserError(f"columns of the training set must have one length above 0: {sizes}")
    for name in ("epochs", "batch_size", "every", "lr", "rho"):
        if getattr(plan, name, 1) <= 0:
            raise UserError(f"fit.{name} is {getattr(plan, name)}: give a positive number")


def _fingerprint(module: nn.Module, train: dict[str, Tensor], plan: Fit, draws: Draws) -> str:
    digest = hashlib.sha256(f"{key(plan)} {draws.name}".encode())
    for name, value in [*module.state_dict().items(), *sorted(train.items())]:
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


class Saved:
    """The files of one training in its scratch; `name` says all that its state depends on."""

    def __init__(self, scratch: Path, name: str) -> None:
        self.scratch, self.name, self._state = scratch, name, scratch / f"{name}.pt"
        self.pause = _pause()
        self.due_at = time.monotonic() + self.pause

    @property
    def due(self) -> bool:
        """Whether it is time to save another state."""
        return time.monotonic() > self.due_at

    def write(self, state: dict[str, Any]) -> None:
        began, content = time.monotonic(), io.BytesIO()
        torch.save(state, content)
        disk.write_file(self._state, content.getvalue())
        took = time.monotonic() - began
        self.due_at = time.monotonic() + self.pause * max(1.0, took / SLOW_SAVE)

    def read(self, device: torch.device) -> dict[str, Any] | None:
        """The state that was written last, by this process or by one that was killed."""
        if not self._state.exists():
            return None
        state: dict[str, Any] = torch.load(self._state, map_location=device, weights_only=True)
        return state

    def write_checkpoint(self, index: int, checkpoint: np.ndarray) -> None:
        content = io.BytesIO()
        np.save(content, checkpoint)
        disk.write_file(self._checkpoint(index), content.getvalue())

    def checkpoints(self, count: int) -> np.ndarray:
        """The first `count` checkpoints, one per row."""
        return np.stack([np.load(self._checkpoint(index)) for index in range(count)])

    def _checkpoint(self, index: int) -> Path:
        return self.scratch / f"{self.name}-{index:04d}.npy"


def _pause() -> float:
    """Seconds between two states; a cluster with a busy disk may need more."""
    given = os.environ.get("RETRACE_SAVE_SECONDS")
    try:
        return float(given) if given else SAVE_SECONDS
    except ValueError as error:
        raise UserError(f"RETRACE_SAVE_SECONDS is {given!r}: give a number, as 60") from error


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


def flat_params(module: nn.Module) -> np.ndarray:
    """All parameters as one vector (p,), in the order of `named_parameters`."""
    vectors = [value.detach().reshape(-1) for _, value in module.named_parameters()]
    return torch.cat(vectors).cpu().numpy()


def flat_buffers(module: nn.Module) -> np.ndarray:
    """The state that training changes besides parameters, e.g. BatchNorm's statistics, (q,)."""
    vectors = [value.reshape(-1) for value in floating_buffers(module).values()]
    return torch.cat(vectors).cpu().numpy() if vectors else np.empty(0, np.float32)


def load_params(module: Module, flat: np.ndarray) -> Module:
    """Put a vector of `flat_params` back into a module of the same architecture."""
    _fill(module, list(module.parameters()), flat, "parameters")
    return module


def load_buffers(module: Module, flat: np.ndarray) -> Module:
    """Put a vector of `flat_buffers` back into a module of the same architecture."""
    _fill(module, list(floating_buffers(module).values()), flat, "numbers in buffers")
    return module


@torch.no_grad()
def _fill(module: nn.Module, values: list[Any], flat: np.ndarray, what: str) -> None:
    sizes = [value.numel() for value in values]
    if flat.shape != (sum(sizes),):
        given = f"{flat.size:,}" if flat.ndim == 1 else f"an array of shape {flat.shape} as"
        raise UserError(
            f"checkpoint has {given} {what}, {type(module).__name__} has {sum(sizes):,}: "
            "it is of another architecture; give the network it was trained with"
        )
    for value, part in zip(values, torch.from_numpy(np.array(flat)).split(sizes), strict=True):
        value.copy_(part.view(value.shape))
