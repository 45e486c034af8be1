"""Networks as those of an ensemble, but trained on all of its examples: what attributions explain.

The same network, plan and augmentation; more steps an epoch, as there are more examples.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from experiments import ensembles, runs
from experiments.ensembles import Ensemble
from experiments.losses import cross_entropy, negative_log_odds
from experiments.stacked import Stack, fit_stack
from experiments.training import load_buffers, load_params
from methods.randomness import stream
from methods.task import Checkpoint, Task, floating_buffers


@dataclass(frozen=True)
class Whole:
    """`count` networks, with a checkpoint every so many epochs."""

    ensemble: Ensemble = Ensemble()
    count: int = 10
    every: int = 4


def trained(whole: Whole) -> runs.Run:
    """The run of the networks, trained if no run has them yet."""
    return runs.once("whole_models", whole, lambda scratch: _train(whole, scratch))


def task(whole: Whole, member: int) -> Task:
    """One of the networks; a query is measured by minus its log-odds.

    The loss is without augmentation.
    """
    run = trained(whole)
    module = whole.ensemble.network.build(0).to(ensembles.device())
    buffers = run.array("buffers") if "buffers" in run.meta["arrays"] else None
    checkpoints = []
    for place, lr in enumerate(run.array("lrs")):
        load_params(module, np.array(run.array("params")[place, member]))
        if buffers is not None:
            load_buffers(module, np.array(buffers[place, member]))
        checkpoints.append(Checkpoint(_copied(module), float(lr)))
    decay = whole.ensemble.fit.weight_decay
    module.requires_grad_(False)
    return Task.of(
        module, cross_entropy, negative_log_odds, weight_decay=decay, checkpoints=checkpoints
    )


def _copied(module: nn.Module) -> dict[str, torch.Tensor]:
    state = {**dict(module.named_parameters()), **floating_buffers(module)}
    return {name: value.detach().clone() for name, value in state.items()}


def _train(whole: Whole, scratch: Path) -> dict[str, Any]:
    ensemble = whole.ensemble
    train, query = ensembles.on_device(ensembles.load(ensemble.data))
    seeds = [
        int(stream(ensemble.seed, "whole", member).generate_state(1)[0])
        for member in range(whole.count)
    ]
    stack = Stack([ensemble.network.build(seed) for seed in seeds]).to(ensembles.device())
    everything = np.ones((whole.count, ensemble.data.n_train), dtype=bool)
    plan = replace(ensemble.fit, every=whole.every)
    outcome = fit_stack(stack, ensembles.loss(ensemble), train, everything, plan, seeds, scratch)
    right = ensembles.answers(stack, train, query)[0].double().mean(0)
    n_train = ensemble.data.n_train
    accuracy = {
        "accuracy_train": float(right[:n_train].mean()),
        "accuracy_query": float(right[n_train:].mean()),
    }
    return {**outcome, **accuracy, "num_params": outcome["params"].shape[2]}
