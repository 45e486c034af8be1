"""An experiment for tests of the laboratory: quick, exact, resumable, and free of torch."""

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from experiments.laboratory import disk, process, progress, runs
from experiments.laboratory.experiment import Experiment, sweep
from methods.progress import track

GATE = os.environ.get("TINY_GATE", "")  # a file, until which no walk goes beyond its middle


@dataclass(frozen=True)
class Model:
    seed: int = 0
    steps: int = 5
    remark: str = field(default="", compare=False)


@dataclass(frozen=True)
class Mean:
    weight: float = 1.0


@dataclass(frozen=True)
class Power:
    exponent: float = 2.0
    centred: bool = True


@dataclass(frozen=True)
class Config:
    model: Model = Model()
    method: Mean | Power = Mean()
    size: int = 50


def train(model: Model, folder: Path) -> runs.Outcome:
    """A walk whose every step is saved, so that a kill loses one at most."""
    state = folder / "state.json"
    walk = json.loads(state.read_bytes()) if state.exists() else []
    for step in track(range(len(walk), model.steps), "walk"):
        while GATE and step == model.steps // 2 and not Path(GATE).exists():
            process.stop_if_requested()
            time.sleep(0.05)
        draw = np.random.default_rng(np.random.SeedSequence([model.seed, step]))
        walk.append((walk[-1] if walk else 0.0) + float(draw.normal()))
        disk.write_file(state, json.dumps(walk).encode())
        progress.report(epoch=step + 1, loss=walk[-1])
        process.stop_if_requested()
    return {"walk": np.array(walk), "end": walk[-1]}


def run(config: Config, folder: Path) -> runs.Outcome:
    model = runs.once("tiny_model", config.model, lambda inner: train(config.model, inner))
    walk = np.resize(model.array("walk"), config.size)
    method = config.method
    if isinstance(method, Mean):
        score = walk * method.weight
    else:
        score = np.abs(walk - walk.mean() * method.centred) ** method.exponent
    folder.joinpath("half.bin").write_bytes(score.tobytes())
    name = type(method).__name__
    return {"method": name, "level": float(score.mean()), "score": score}


METHODS = [Mean(), Power()]
EXPERIMENT = Experiment(
    "tiny",
    run,
    {
        "smoke": sweep(Config(), model__seed=range(3), method=METHODS),
        "slow": sweep(Config(Model(steps=12)), model__seed=range(3), method=METHODS),
        "big": sweep(Config(), size=[100, 200, 500_000]),
    },
    summary="a walk and its levels",
    seconds={"smoke": 0.6},
)

if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
