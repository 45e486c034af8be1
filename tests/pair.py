"""An experiment whose cells two processes can only finish together: their ranks, summed."""

import sys
from dataclasses import dataclass
from pathlib import Path

from experiments.experiment import Experiment, sweep
from experiments.problems import UserError
from experiments.runs import Outcome


@dataclass(frozen=True)
class Config:
    size: int = 1


def run(config: Config, scratch: Path) -> Outcome:
    import torch
    from torch import distributed

    if config.size == 3:
        raise UserError("size is 3: lower size")
    distributed.init_process_group("gloo")
    total = torch.full((config.size,), float(distributed.get_rank() + 1))
    distributed.all_reduce(total)
    processes = distributed.get_world_size()
    distributed.destroy_process_group()
    return {"total": float(total.sum()), "processes": processes}


EXPERIMENT = Experiment(
    "pair", run, {"smoke": sweep(Config(), size=[1, 2]), "small": [Config(3)]}, processes=2
)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
