"""An experiment whose cells two processes can only finish together: their ranks, summed.

It declares a GPU so that one can be asked for, and computes on the CPU.
"""

from dataclasses import dataclass
from pathlib import Path

from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment, sweep
from experiments.laboratory.runs import Outcome


@dataclass(frozen=True)
class Config:
    size: int = 1


def run(config: Config, scratch: Path) -> Outcome:
    import torch

    from methods.workers import here

    if config.size == 3:
        raise UserError("size is 3: lower size")
    group = here()
    total = group.sum(torch.full((config.size,), group.rank + 1.0))
    return {"total": float(total.sum()), "processes": group.size}


PRESETS = {"smoke": sweep(Config(), size=[1, 2]), "small": [Config(3)]}
EXPERIMENT = Experiment("pair", run, PRESETS, processes=2, gpu=True)

if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
