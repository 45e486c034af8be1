"""Networks that do without a training example: trained again from the start, or fine-tuned."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from experiments import rate_sweep, runs
from experiments.classifiers import Recipe, asked, built, everything, learn, load
from experiments.plans import ending
from experiments.runs import Run
from experiments.stacked import Stack
from experiments.training import flat_buffers, flat_params, load_buffers, load_params
from methods.randomness import stream


@dataclass(frozen=True)
class Full:
    """Networks trained on all examples; their parameters are kept."""

    recipe: Recipe
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Without:
    """A network and an example, by its position in the training set, that it is to do without."""

    seed: int
    example: int


@dataclass(frozen=True)
class Retrained:
    """Networks trained from the start, each without an example."""

    recipe: Recipe
    networks: tuple[Without, ...]


@dataclass(frozen=True)
class Tuned:
    """Trained networks trained on for a `share` of the epochs, each without an example."""

    recipe: Recipe
    networks: tuple[Without, ...]
    full: tuple[Full, ...]
    share: float = 0.06


def trained(part: Full | Retrained | Tuned) -> Run:
    """The run of a stack: classes (K, n_query) int16 it gives the queries."""
    makers = {Full: _full, Retrained: _retrained, Tuned: _tuned}
    make: Any = makers[type(part)]
    return runs.once("classifiers_without", part, lambda scratch: make(part, scratch))


def _full(part: Full, scratch: Path) -> dict[str, Any]:
    recipe, seeds = part.recipe, part.seeds
    stack, plan = built(recipe, seeds), rate_sweep.planned(recipe)
    learn(stack, recipe, plan, seeds, everything(recipe, len(seeds)), scratch)
    members = [stack.at(member) for member in range(len(seeds))]
    return {
        **_answers(stack, recipe),
        "params": np.stack([flat_params(one) for one in members]),
        "buffers": np.stack([flat_buffers(one) for one in members]),
    }


def _retrained(part: Retrained, scratch: Path) -> dict[str, Any]:
    recipe, seeds = part.recipe, [one.seed for one in part.networks]
    stack, plan = built(recipe, seeds), rate_sweep.planned(recipe)
    learn(stack, recipe, plan, seeds, _masks(recipe, part.networks), scratch)
    return _answers(stack, recipe)


def _tuned(part: Tuned, scratch: Path) -> dict[str, Any]:
    recipe, plan = part.recipe, ending(rate_sweep.planned(part.recipe), part.share)
    start = {}
    for one in part.full:
        found = trained(one)
        for place, seed in enumerate(one.seeds):
            start[seed] = found.array("params")[place], found.array("buffers")[place]
    stack = Stack([_at(recipe, one.seed, *start[one.seed]) for one in part.networks])
    stack = stack.to("cuda" if torch.cuda.is_available() else "cpu")
    # An order of its own: the training's would begin again with its first epochs.
    orders = [int(stream(one.seed, "tuning").generate_state(1)[0]) for one in part.networks]
    learn(stack, recipe, plan, orders, _masks(recipe, part.networks), scratch)
    return _answers(stack, recipe) | {"epochs": plan.epochs, "lr": plan.rate(0)}


def _at(recipe: Recipe, seed: int, params: np.ndarray, buffers: np.ndarray) -> nn.Module:
    module = recipe.network.build(seed)
    return load_buffers(load_params(module, np.array(params)), np.array(buffers))


def _masks(recipe: Recipe, networks: Sequence[Without]) -> np.ndarray:
    masks = everything(recipe, len(networks))
    masks[np.arange(len(networks)), [one.example for one in networks]] = False
    return masks


def _answers(stack: Stack, recipe: Recipe) -> dict[str, Any]:
    query = load(recipe.data).query
    plain = asked(stack, recipe, query)
    return {"accuracy": float((plain == query.label).mean()), "plain": plain}
