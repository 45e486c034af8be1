"""A module's state as vectors, and back: its parameters, and the buffers that training changes."""

import numpy as np
import torch
from torch import nn

from experiments.problems import UserError
from experiments.runs import Run
from methods.task import Checkpoint, floating_buffers


def flat_params(module: nn.Module) -> np.ndarray:
    """All parameters as one vector (p,), in the order of `named_parameters`."""
    pieces = [value.detach().reshape(-1) for _, value in module.named_parameters()]
    return torch.cat(pieces).cpu().numpy()


def flat_buffers(module: nn.Module) -> np.ndarray:
    """What training changes beside parameters, such as BatchNorm's running statistics, (q,)."""
    pieces = [value.reshape(-1) for value in floating_buffers(module).values()]
    return torch.cat(pieces).cpu().numpy() if pieces else np.empty(0, np.float32)


def load_buffers(module: nn.Module, flat: np.ndarray) -> nn.Module:
    """Put a vector of `flat_buffers` back into a module of the same architecture."""
    values = list(floating_buffers(module).values())
    wanted = sum(value.numel() for value in values)
    if flat.shape != (wanted,):
        raise UserError(
            f"checkpoint has buffers of shape {flat.shape}, {type(module).__name__} has {wanted:,} "
            "numbers: it is of another architecture; give the network it was trained with"
        )
    vector = torch.from_numpy(np.array(flat))
    for value, part in zip(values, vector.split([v.numel() for v in values]), strict=True):
        value.copy_(part.view(value.shape))  # shares the buffer's memory
    return module


def load_params(module: nn.Module, flat: np.ndarray) -> nn.Module:
    """Put a vector of `flat_params` back into a module of the same architecture."""
    wanted = sum(value.numel() for value in module.parameters())
    if flat.shape != (wanted,):
        found = f"{flat.size:,}" if flat.ndim == 1 else f"shape {flat.shape}, not a vector, of"
        raise UserError(
            f"checkpoint has {found} parameters, {type(module).__name__} has {wanted:,}: "
            "it is of another architecture; give the network it was trained with"
        )
    vector = torch.from_numpy(np.array(flat))
    at = 0
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(vector[at : at + value.numel()].view(value.shape))
            at += value.numel()
    return module


def checkpoints(module: nn.Module, run: Run) -> list[Checkpoint]:
    """The checkpoints of a run of `fit`, of which the module is left as the last."""
    found = []
    for row, lr in zip(run.array("params"), run.array("lrs"), strict=True):
        load_params(module, np.array(row))
        params = {name: p.detach().clone() for name, p in module.named_parameters()}
        found.append(Checkpoint(params, float(lr)))
    return found
