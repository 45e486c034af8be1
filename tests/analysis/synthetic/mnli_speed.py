"""Made-up runs of the experiment on FastIF's own analysis.

One point of a model is predicted rightly for each of `seeds`, and one fewer wrongly: a single one
has no interval.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tests.analysis.synthetic.shapes import write_made_up

N, KS, MS = 12_808, (10, 100, 163, 1_000, 1_631, 5_000, 10_000), (1, 3, 33, 100)


@dataclass(frozen=True)
class Inverse:
    damping: float | None = None
    scale: float | None = None
    whole_samples: tuple[int, ...] = (1, 8, 32)


@dataclass(frozen=True)
class Full:
    damping: float | None = None


@dataclass(frozen=True)
class Recall:
    ks: tuple[int, ...] = KS
    ms: tuple[int, ...] = MS
    plan: Full = Full()


@dataclass(frozen=True)
class Agreement:
    ks: tuple[int, ...] = (1_000, 10_000)
    full: Full = Full()
    few: Full | None = None


@dataclass(frozen=True)
class RunTime:
    ks: tuple[int, ...] = (10_000, 1_000)
    depth: int = 1_000
    repeats: int = 4


@dataclass(frozen=True)
class Product:
    batch: int = 32


@dataclass(frozen=True)
class Config:
    work: Recall | Inverse | Agreement | RunTime | Product
    seeds: int


WORKS = (
    Recall(),
    Recall(plan=Full(50.0)),
    Inverse(),
    Inverse(50.0, 1e4),
    Agreement(),
    Agreement(full=Full(50.0), few=Full(50.0)),
    RunTime(),
    Product(),
)


def write(preset: str, seeds: int, *, backwards: bool = False) -> None:
    """Write a preset that agrees with the paper, or with the opposite of its claims."""
    cells = [Config(work, seeds) for work in WORKS]
    write_made_up("mnli_speed", preset, cells, lambda cell: result(cell, backwards))


def result(cell: Config, backwards: bool = False) -> dict[str, Any]:
    right = np.arange(2 * cell.seeds - 1) < cell.seeds
    draw = np.random.default_rng([cell.seeds, WORKS.index(replace(cell.work))])
    make: dict[type, Callable[..., dict[str, Any]]] = {
        Recall: recall,
        Inverse: inverse,
        Agreement: agreement,
        RunTime: run_time,
        Product: product,
    }
    made = make[type(cell.work)](cell.work, right, draw, backwards)
    return {"right": right, "points": np.arange(len(right)), **made}


def noisy(draw: np.random.Generator, value: Any, *shape: int) -> np.ndarray:
    """Values with a few percent of noise, (*shape, *value's)."""
    value = np.asarray(value, dtype=float)
    return value * np.exp(0.03 * draw.normal(size=(*shape, *value.shape)))


def recall(work: Recall, right: np.ndarray, draw: np.random.Generator, backwards: bool) -> dict:
    share = np.array(work.ks) / N
    made = np.empty((2, 3, len(work.ms), len(work.ks), len(right)))
    for point, was_right in enumerate(right):
        harmful = 0.35 if was_right != backwards else 0.6
        powers = np.array([harmful, 0.95 - harmful, 0.4 if not backwards else 1.0])
        curves = share[None] ** noisy(draw, powers)[:, None]
        made[0, :, :, :, point] = curves[:, None]
        made[1, :, :, :, point] = curves[:, None] ** 0.7
    error = np.abs(noisy(draw, 0.1, len(right)))
    damping = 0.5 if work.plan.damping is None else work.plan.damping
    facts = {"n_train": N, "relative_error": error, "damping": damping}
    return {"recall": made.clip(0, 1), **facts}


def inverse(work: Inverse, right: np.ndarray, draw: np.random.Generator, backwards: bool) -> dict:
    repeats = min(4, len(right))  # a single point: no interval over repeats either
    samples, depths = np.array([1, 4, 16, 64]), np.array([700, 1_000, 1_300])
    noise = 0.1 / np.sqrt(samples[:, None, None] * np.arange(1, repeats + 1))
    left = np.exp(-0.003 * depths)[None, :, None]
    error = np.sqrt(noise**2 + left**2) ** (-1 if backwards else 1)
    errors = np.moveaxis(noisy(draw, error, len(right)), 0, -1)
    distance = errors.copy()
    distance[-1, -1, -1] = 0.0
    seconds = 1e-3 * samples[:, None, None] ** 0.5 * depths[None, :, None]
    steps = min(5, len(right))
    return {
        "error": errors,
        "distance": distance,
        "seconds": noisy(draw, np.repeat(seconds, repeats, 2)),
        "samples": samples,
        "depths": depths,
        "lengths": depths / 200,
        "whole_seconds": noisy(draw, np.array([[0.04], [0.2], [0.8]]).repeat(steps, 1)),
        "damping": 0.5 if work.damping is None else work.damping,
        "scale": 60.0 if work.scale is None else work.scale,
        "lowest": -0.25,
        "largest": 4.0,
        "residual": 1e-6,
        "num_params": 148_995,
        "diverged": 0,
    }


def agreement(
    work: Agreement, right: np.ndarray, draw: np.random.Generator, backwards: bool
) -> dict:
    n = max(work.ks)
    truth = draw.normal(size=(len(right), n))
    near = np.argsort(draw.random((len(right), n)), axis=1)[:, : max(work.ks)]
    systems = {"full": 0.0, **{f"fast_{k}": 0.003 if work.few else 0.02 for k in work.ks}}
    systems |= {"few": 0.005} if work.few else {}
    made: dict[str, Any] = {"neighbours": near, "n_train": n, "work": "agreement"}
    for name, spread in {**systems, "gradients": 0.01 if work.few else 0.6}.items():
        spread = 2.0 if backwards and name.startswith("fast") else spread
        made[f"scores_{name}"] = truth + spread * draw.normal(size=truth.shape)
    for name in systems:
        made |= {f"{name}_depth": 1_000, f"{name}_sample": 1, f"{name}_repeats": 2}
        made |= {f"{name}_damping": 50.0 if work.few else 8.5, f"{name}_scale": 1e4}
        made[f"error_{name}"] = np.full(len(right), np.nan if name == "full" else 0.1)
    return made


SECONDS = {
    "whole_candidate": 0.04, "whole_step_large": 3.0, "whole_step_one": 0.12,
    "cached_candidate": 0.025, "cached_step_large": 2.0, "cached_step_one": 0.08,
    "rows_candidate": 0.02, "rows_pass": 0.014, "step_one": 0.09, "product": 1.0,
    "product_pass": 0.45, "together_step": 0.045, "together_candidate": 0.011,
    "alone_step": 0.08, "alone_candidate": 0.02,
}  # fmt: skip


def run_time(work: RunTime, right: np.ndarray, draw: np.random.Generator, backwards: bool) -> dict:
    slow = {"rows_candidate", "step_one", "product", "together_step", "together_candidate"}
    factor = {name: 60.0 if backwards and name in slow else 1.0 for name in SECONDS}
    seconds = {name: factor[name] * value for name, value in SECONDS.items()}
    seconds |= {f"search_{k}": 0.01 for k in work.ks}
    return {
        **{name: noisy(draw, value, len(right)) for name, value in seconds.items()},
        "n_train": N,
        "workers": 2,
        "startup_seconds": 12.0,
        "hidden_seconds": 100.0,
        "features_seconds": 90.0,
    }


def product(work: Product, right: np.ndarray, draw: np.random.Generator, backwards: bool) -> dict:
    seconds = {"product": 3.0 if backwards else 1.0, "product_pass": 0.45}
    made = {name: noisy(draw, value, len(right)) for name, value in seconds.items()}
    return {**made, "num_params": 5_472_387}
