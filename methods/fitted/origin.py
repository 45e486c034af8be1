"""Where a fitted method comes from, and what identifies that in a file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from methods.examples import Examples, chunks
from methods.losses.objective import Params
from methods.task import Task

READ = 64  # examples at a time


@dataclass(frozen=True, eq=False)
class Origin:
    """The inputs of a fitted method; `train` only if it is read again."""

    method: Any  # an Attributor
    task: Task
    state: dict[str, Tensor]
    train: Examples | None


def identity(method: Any, task: Task) -> dict[str, dict[str, Any]]:
    """The settings of a fitted method, and digests of all numbers of its task."""
    moments = [
        c.params if c.lr is None else {"lr": torch.tensor(c.lr), **c.params}
        for c in task.checkpoints
    ]
    model = {
        "parameters": digest(task.params),
        "frozen parameters": digest(task.frozen or {}),
        "weight decay": task.weight_decay,
        **({"regulariser": "each example's"} if task.regularised else {}),
        "checkpoints": [digest(moment) for moment in moments],
    }
    return {"method": json.loads(json.dumps(_settings(method), default=repr)), "model": model}


def _settings(value: Any, prefix: str = "") -> dict[str, Any]:
    """The fields of a dataclass that matter to its equality, nested ones as "inverse.depth".

    Without those that it gained later while they have their default: what was saved before stays.
    """
    if not is_dataclass(value) or isinstance(value, type):
        return {prefix: value.__name__ if isinstance(value, type) else value}
    settings: dict[str, Any] = {f"{prefix}.type".lstrip("."): type(value).__name__}
    for field in fields(value):
        since = field.metadata.get("later") and getattr(value, field.name) == field.default
        if field.compare and not since:
            settings |= _settings(getattr(value, field.name), f"{prefix}.{field.name}".lstrip("."))
    return settings


def digest(params: Params) -> str:
    """SHA-256 of names, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(params.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def examples_digest(examples: Examples) -> dict[str, str]:
    """SHA-256 of each column, read once, a few examples at a time."""
    digests: dict[str, Any] = {}
    for some in chunks(examples, READ):
        for name, column in some.items():
            kind = f"{tuple(column.shape[1:])} {column.dtype} ".encode()
            whole = digests.setdefault(str(name), hashlib.sha256())
            whole.update(kind)
            whole.update(column.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return {name: whole.hexdigest() for name, whole in sorted(digests.items())}
