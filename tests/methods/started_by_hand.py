"""One of two processes as srun starts them: `python -m tests.methods.started_by_hand CASE PATH`."""

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist

from methods import workers
from methods.errors import MethodError

PATIENCE = 3  # seconds


def pretend_gpu(bus: int) -> None:
    """One GPU, as index 0, that is only asked where it is."""
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 1
    torch.cuda.set_device = lambda device: None
    place = SimpleNamespace(pci_domain_id=0, pci_bus_id=bus, pci_device_id=0)
    torch.cuda.get_device_properties = lambda device: place
    dist.is_nccl_available = lambda: True


def main(case: str, rank: int) -> str:
    """What this process has to say at the end."""
    backends, start = [], dist.init_process_group

    def init(backend: str, **options: object) -> None:
        backends.append(backend)
        start("gloo", **options)

    if case != "cpu":
        pretend_gpu(bus=rank if case == "own" else 0)
        dist.init_process_group = init
    workers.PATIENCE, workers.BEAT = timedelta(seconds=PATIENCE), 0.1
    try:
        with workers.joined() as group:
            if rank == 1 and case == "cpu":
                time.sleep(2 * PATIENCE)  # it has more to do than the other
            total = group.sum(torch.full((2,), rank + 1.0))
            alike = group.all(True) and not group.all(rank == 1)
            if rank == 1 and case == "shared":
                os.kill(os.getpid(), signal.SIGSTOP)
            group.meet()
            return f"{total.tolist()} {alike} {backends}"
    except MethodError as error:
        return f"{error} {backends}"


if __name__ == "__main__":
    rank = int(os.environ["SLURM_PROCID"])
    Path(sys.argv[2], str(rank)).write_text(main(sys.argv[1], rank))
