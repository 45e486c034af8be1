"""The one training loop: seeded, with checkpoints; resumed on a CPU, it gives the same bits."""

import copy
import hashlib
import io
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from experiments.laboratory import disk, process, provenance
from experiments.laboratory.errors import Diverged, UserError, quoted
from experiments.laboratory.keys import key
from experiments.laboratory.reported import Reported
from experiments.laboratory.tensors import Feed
from experiments.training.plans import (
    AdamW,
    Draws,
    Fit,
    Loss,
    SharpnessAware,
    Shuffled,
    hits,
    sharpen,
)
from methods.precision import products
from methods.progress import track
from methods.sources import Column
from methods.task import floating_buffers

Step = Callable[[dict[str, Tensor]], Tensor]
Module = TypeVar("Module", bound=nn.Module)

LOOK_STEPS = 20  # between two checks of the loss, each of which waits for the device
SAVE_SECONDS = 5.0  # between two saved states: the most that a kill can lose
SLOW_SAVE = 0.25  # seconds; if saving takes longer, states are saved proportionally less often


def fit(
    module: nn.Module, loss: Loss, train: dict[str, Tensor], plan: Fit, seed: int, scratch: Path
) -> dict[str, np.ndarray]:
    """Train `module` in place; `loss(module, batch)` gives (b,), one value per example.

    Training runs on the device of the module; the training set may be elsewhere (`Feed`).
    Returns `params` (n_checkpoints, p), flattened in the order of `named_parameters`; `lrs` and
    `steps` (n_checkpoints,); `train_loss` (epochs,), the mean over the epoch, without weight decay;
    and `buffers` (n_checkpoints, q) of `flat_buffers` if the module has any. The module ends in
    evaluation mode. State is saved in `scratch`: after a kill at any moment, the next call resumes
    and gives the same bits, on the same kind of CPU with as many threads and the same PyTorch.
    """
    check(train)
    count = len(next(iter(train.values())))
    draws = Shuffled(seed, count)
    return descend(module, loss, train, plan, draws, scratch, hits=hits(loss))


def descend(
    module: nn.Module,
    loss: Loss,
    train: dict[str, Tensor],
    plan: Fit,
    draws: Draws,
    scratch: Path,
    on_host: Collection[str] = (),
    seen: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    replayed: Callable[[Step, Callable[[], None]], Step] | None = None,
    hits: Loss | None = None,
) -> dict[str, np.ndarray]:
    """`fit` with the batches that `draws` gives, for one network or a stack of K networks.

    A stack's loss gives (K, b), its train_loss (epochs, K); each network descends its own mean.
    `seen(batch)` is what the loss gets of a batch; it gets the columns `on_host` on the CPU.
    `replayed(step, drop the gradients)` stands for the step that it is given, as `Graphed` does.
    `hits(module, batch)`, (b,) or (K, b), says for whoever watches which examples are right.
    """
    work = _Training(module, loss, train, plan, draws, scratch, on_host, seen, replayed, hits)
    devices = [work.device] if work.device.type == "cuda" else []
    provenance.note("precision", {"training": plan.precision})
    module.train()
    full = products("tf32" if plan.precision == "tf32" else "ieee")
    with torch.random.fork_rng(devices=devices), full, work.autocast(False):
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
    on_host: Collection[str]
    seen: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None
    replayed: Callable[[Step, Callable[[], None]], Step] | None
    hits: Loss | None

    def __post_init__(self) -> None:
        plan, self.device = self.plan, next(self.module.parameters()).device
        self.count = self.draws.count
        self.feed = Feed(self.train, self.device, self.on_host)
        if plan.channels_last:
            for value in self.module.parameters():
                if value.ndim == 4:
                    value.data = value.data.contiguous(memory_format=torch.channels_last)
        self.optimizer = _optimizer(self.module, plan)
        # The name says all that the state depends on: another model or other data start anew.
        name = f"fit-{_fingerprint(self.module, self.train, plan, self.draws)}"
        self.saved = Saved(self.scratch, name)
        self.epoch, self.step = 0, 0
        self.sum: Any = 0.0  # of the losses so far in the epoch; (K,) for a stack
        self.steps: list[int] = []
        self.train_loss: list[Any] = []
        self._resume()
        self.reported = Reported(self.module, None if self.hits is None else self._accuracy)
        self.take: Step = self._take
        if self.replayed is not None:
            self.take = self.replayed(self._take, self.optimizer.zero_grad)
        for group in self.optimizer.param_groups:  # a graph reads its rate from memory
            plain = self.replayed is None
            group["lr"] = plan.lr if plain else torch.tensor(plan.lr, device=self.device)
            group |= {} if "capturable" not in group else {"capturable": not plain}

    def run_epoch(self, epoch: int) -> None:
        plan = self.plan
        batches = self.draws.batches(plan, self.train, epoch)
        noise = self.draws.noise(epoch, len(batches))
        recent: list[Tensor] = []
        steps = range(self.step, len(batches))
        examples = self.feed.batches(batches[self.step :])
        for step in track(steps, f"epoch {epoch + 1} of {plan.epochs}"):
            self._set_rate(plan.rate(epoch + step / len(batches)))
            self.noise = noise[step]  # dropout is the same after a restart within an epoch
            torch.manual_seed(self.noise)
            batch = next(examples)
            values = self.take(batch if self.seen is None else self.seen(batch))
            recent.append(values.double().sum(-1))
            self.reported.seen(values.numel())
            last = step == len(batches) - 1
            due = process.stop_requested() or self.saved.due
            if last or due or len(recent) == LOOK_STEPS:
                self._add(recent, epoch, step, len(batches))
                recent = []
            if due and not last:
                self._save(epoch, step + 1)
                seen = (step + 1) * plan.batch_size  # all batches are full but the last
                self._tell(epoch, step + 1, len(batches), self.sum / seen)
                process.stop_if_requested()
        self._finish(epoch)

    def _take(self, batch: dict[str, Tensor]) -> Tensor:
        """One step of descent; the loss of each example before it."""
        torch.clear_autocast_cache()  # of a loss with an autocast of its own: casts of old values
        self.optimizer.zero_grad()
        values = self._values(batch)
        values.mean(-1).sum().backward()
        if isinstance(self.plan, SharpnessAware):
            torch.manual_seed(self.noise)
            sharpen(self.module, self.plan.rho, partial(self._values, batch))
        self.optimizer.step()
        return values.detach()

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _values(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss of each example, (b,) or (K, b), in float32 at least."""
        with self.autocast(self.plan.precision == "bf16"):
            values = self.loss(self.module, batch)
        return values.to(torch.promote_types(values.dtype, torch.float32))

    def autocast(self, enabled: bool) -> torch.autocast:
        """Torch's, without its cache: that would keep casts of parameters past a step."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled, cache_enabled=False)

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
        if step == n_steps - 1 and not _finite(self.module):
            raise self._diverged("a parameter", np.array(np.nan), epoch, step)

    def _finish(self, epoch: int) -> None:
        plan = self.plan
        self.train_loss.append(self.sum / self.count)
        per_epoch = -(-self.count // plan.batch_size)
        self._tell(epoch, per_epoch, per_epoch, self.train_loss[-1])
        self.sum = 0.0
        if (epoch + 1) % plan.every == 0 or epoch + 1 == plan.epochs:
            values = np.concatenate([flat_params(self.module), flat_buffers(self.module)])
            self.saved.write_checkpoint(len(self.steps), values)
            self.steps.append((epoch + 1) * -(-self.count // plan.batch_size))
        self.step = 0
        if self.saved.due or epoch + 1 == plan.epochs:
            self._save(epoch + 1, 0)

    def _tell(self, epoch: int, step: int, n_steps: int, loss: Any) -> None:
        """Report how far it is after so many steps of an epoch."""
        done = epoch + 1 if step == n_steps else epoch + step / n_steps
        rate = self.plan.rate(epoch + (step - 1) / n_steps)
        # Within an epoch, graphs of several shapes of batches have gradients that lie elsewhere.
        measure = self.replayed is None or step == n_steps
        self.reported.tell(done, epoch * n_steps + step, loss, rate, measure)

    @torch.no_grad()
    def _accuracy(self) -> Tensor:
        """The share of the first batch that each network has right now, () or (K,)."""
        assert self.hits is not None
        batch = next(self.feed.batches(self.draws.batches(self.plan, self.train, 0)[:1]))
        self.module.eval()
        with self.autocast(self.plan.precision == "bf16"):
            right = self.hits(self.module, batch if self.seen is None else self.seen(batch))
        self.module.train()
        return right.double().mean(-1)

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

    def _resume(self) -> None:
        """Go on from the newest state that can be used; without one, begin."""
        begin = None
        for file, state in self.saved.states(self.device, lambda state: len(state["steps"])):
            begin = begin or copy.deepcopy(self.module.state_dict())
            try:
                self._restore(state)
                return
            except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                # Of other code, which was to be resumed anyway: leave nothing of it behind.
                disk.discard(file, error)
                self.module.load_state_dict(begin)
                self.optimizer = _optimizer(self.module, self.plan)
                self.epoch, self.step, self.sum, self.steps, self.train_loss = 0, 0, 0.0, [], []

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


def check(train: dict[str, Tensor]) -> None:
    """Refuse a training set that cannot be trained with; a plan is refused where it is set."""
    sizes = {name: len(column) for name, column in train.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise UserError(f"columns of the training set must have one length above 0: {sizes}")


def _fingerprint(module: nn.Module, train: dict[str, Tensor], plan: Fit, draws: Draws) -> str:
    digest = hashlib.sha256(f"{key(plan)} {draws.name}".encode())
    for name, value in [*module.state_dict().items(), *sorted(train.items())]:
        if isinstance(value, Column):
            digest.update(value.fingerprint())
            continue
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


class Saved:
    """The files of one training in its scratch; `name` says all that its state depends on.

    Each ends with its checksum. Of states, the last two are kept: a damaged one is said and
    discarded, and training goes on from the one before, or anew. So is one that needs a checkpoint
    that is damaged.
    """

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
        disk.write_sealed(self._state, content.getvalue(), keep=True)
        took = time.monotonic() - began
        self.due_at = time.monotonic() + self.pause * max(1.0, took / SLOW_SAVE)

    def read(self, device: torch.device) -> dict[str, Any] | None:
        """The state that was written last, by this process or by one that was killed."""
        return next((state for _, state in self.states(device)), None)

    def states(
        self, device: torch.device, checkpoints: Callable[[dict[str, Any]], int] = lambda _: 0
    ) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Files and states that can be used, the newest first; each needs some `checkpoints`."""
        for file, content in disk.intact(self._state):
            try:
                state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
                for index in range(checkpoints(state)):
                    disk.check_sealed(self._checkpoint(index))
            except Exception as error:  # of torch, of many kinds: another version wrote it
                disk.discard(file, error)
                continue
            yield file, state

    def write_checkpoint(self, index: int, checkpoint: np.ndarray) -> None:
        content = io.BytesIO()
        np.save(content, checkpoint)
        disk.write_sealed(self._checkpoint(index), content.getvalue())

    def checkpoints(self, count: int) -> np.ndarray:
        """The first `count` checkpoints, one per row."""
        return np.stack([self._read_checkpoint(index) for index in range(count)])

    def _read_checkpoint(self, index: int) -> np.ndarray:
        path = self._checkpoint(index)
        try:
            return np.load(io.BytesIO(disk.read_sealed(path)))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{quoted(path)} was damaged during the training ({error}): run the same command "
                "again, which goes on from a state before it"
            ) from error

    def _checkpoint(self, index: int) -> Path:
        return self.scratch / f"{self.name}-{index:04d}.npy"


def _pause() -> float:
    """Seconds between two states; a cluster with a busy disk may need more."""
    given = os.environ.get("RETRACE_SAVE_SECONDS")
    try:
        return float(given) if given else SAVE_SECONDS
    except ValueError as error:
        raise UserError(f"RETRACE_SAVE_SECONDS is {given!r}: give a number, as 60") from error


def _finite(module: nn.Module) -> bool:
    """Whether all parameters are finite: one answer that waits for the device."""
    return bool(torch.stack([value.isfinite().all() for value in module.parameters()]).all())


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
