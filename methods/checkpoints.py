"""Moments of training: parameters and a learning rate, from memory or from files."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods.errors import MethodError, kind, near
from methods.folders import quoted
from methods.losses.objective import Params

FORM = (
    "give a state dict or the path of a file that holds one, alone or in a pair with its learning "
    'rate, [("epoch1.pt", 0.1), ...]'
)
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")  # of a state dict in a file
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class Checkpoint:
    """Parameters at one moment of training, and its learning rate at that moment, where known.

    `params` holds the module's floating buffers too where it has any (running statistics), as
    `model.state_dict()` does. They are copied: training may go on in the same memory.
    """

    params: Params
    lr: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.params, Mapping):
            raise MethodError(
                f"the parameters of a checkpoint are {kind(self.params)}: give a dict of tensors, "
                "such as model.state_dict()"
            )
        tensors = {n: v for n, v in self.params.items() if isinstance(v, Tensor)}
        object.__setattr__(self, "params", {n: v.detach().clone() for n, v in tensors.items()})
        if self.lr is None:
            return
        single = isinstance(self.lr, Real) or (isinstance(self.lr, Tensor) and self.lr.ndim == 0)
        if not single or not 0 <= float(self.lr) < float("inf"):
            found = self.lr if single else kind(self.lr)
            raise MethodError(f"the lr of a checkpoint is {found}: give one number, 0 or more")
        object.__setattr__(self, "lr", float(self.lr))

    def of(self, trained: Iterable[str], kept: Params) -> Checkpoint:
        """The same moment with the names of a model.

        A prefix that all names in `trained` have here, such as DataParallel's "module.", is taken
        off. The parameters in `kept` that it lacks were never trained, and are added.
        """
        names, own = list(trained), self.params
        prefixes = [n.removesuffix(names[0]) for n in own if n.endswith(f".{names[0]}")]
        prefixes = [p for p in prefixes if all(p + name in own for name in names)]
        if not all(name in own for name in names) and len(prefixes) == 1:
            (prefix,) = prefixes
            own = {n.removeprefix(prefix): v for n, v in own.items() if n.startswith(prefix)}
        made = copy(self)
        object.__setattr__(made, "params", {**kept, **own})
        return made

    def check(self, wanted: Params) -> None:
        """Raise if the parameters and buffers of a model are not all here in their shapes."""
        missing = [name for name in wanted if name not in self.params]
        if missing:
            has = near(missing[0], self.params) if self.params else "it has no tensors"
            raise MethodError(
                f"the checkpoint lacks {missing[0]} ({has}): it is of another model, or lacks "
                "buffers; give what model.state_dict() would"
            )
        for name, value in wanted.items():
            if self.params[name].shape != value.shape:
                raise MethodError(
                    f"{name} is {tuple(self.params[name].shape)} in the checkpoint and "
                    f"{tuple(value.shape)} in the model: it is of another model"
                )


def rates(checkpoints: Iterable[Checkpoint], otherwise: str = "") -> list[float]:
    """The learning rates of checkpoints; where one has none, an error that says how to give it."""
    found = [each.lr for each in checkpoints]
    known = [lr for lr in found if lr is not None]
    if len(known) < len(found):
        raise MethodError(
            "a checkpoint has no learning rate: give it in a pair, Task.of(..., "
            f'checkpoints=[("epoch1.pt", 0.1), ...]){otherwise}'
        )
    return known


def gathered(given: Any) -> list[Checkpoint]:
    """The checkpoints of a task in any of the forms that people have them."""
    if isinstance(given, Checkpoint | Mapping | str | os.PathLike) or not isinstance(
        given, Iterable
    ):
        raise MethodError(f"checkpoints is {kind(given)}: give a list of them; of each, {FORM}")
    return [_one(each, i) for i, each in enumerate(given)]


def _one(given: Any, i: int) -> Checkpoint:
    if isinstance(given, Checkpoint):
        return given
    state, lr = given if isinstance(given, tuple | list) and len(given) == 2 else (given, None)
    if isinstance(state, str | os.PathLike):
        state = _read(Path(state))
    if not isinstance(state, Mapping):
        raise MethodError(f"checkpoint {i} is {kind(given)}: {FORM}")
    return Checkpoint(dict(_unwrapped(state, i)), lr)


def _unwrapped(saved: Mapping[str, Any], i: int) -> Mapping[str, Any]:
    """The state dict in what a training saved, which may hold its optimizer and more beside it."""
    if any(isinstance(value, Tensor) for value in saved.values()):
        return saved
    for name in WRAPPERS:
        if isinstance(saved.get(name), Mapping):
            return _unwrapped(saved[name], i)
    has = ", ".join(map(str, saved)) or "nothing"
    raise MethodError(
        f"checkpoint {i} has no tensors: it has {has}; give model.state_dict(), or a dict that has "
        f"it as {', '.join(WRAPPERS[:-1])} or {WRAPPERS[-1]}"
    )


def _read(path: Path) -> Any:
    """What a file of tensors holds, in the CPU's memory; no other object is ever made of it."""
    if path.is_dir():
        files = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES)
        such = f", such as {quoted(path / files[0])}" if files else ", made by torch.save"
        raise MethodError(f"{quoted(path)} is a folder: give a file in it{such}")
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        files = [f.name for f in path.parent.glob("*") if f.suffix in SUFFIXES]
        has = near(path.name, files) if files else "its folder has no checkpoints"
        raise MethodError(f"no checkpoint {quoted(path)}: {has}") from None
    except MethodError:
        raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MethodError(f"cannot read the checkpoint {quoted(path)}: {reason}") from error
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise MethodError(
            f"{quoted(path)} is damaged, or holds more than tensors, numbers and text: save the "
            "state dict alone, torch.save(model.state_dict(), path)"
        ) from error


def _safetensors(path: Path) -> Params:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MethodError(
            f"{quoted(path)} needs the package safetensors, which is not installed: install it, or "
            "save by torch.save(model.state_dict(), path)"
        ) from error
    try:
        tensors: Params = load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    return tensors
