"""Several processes, on one node or on several, that compute a cell together under torchrun.

`python -m experiments.cluster.together NODES PROCESSES HOST:PORT ID EXPERIMENT WORDS` is the agent
of one node of several: it starts the processes of that node, which meet those of the others.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence

from experiments.laboratory import process
from experiments.laboratory.errors import USER_MISTAKE
from experiments.laboratory.process import INTERRUPTED

CRASHED = 1
LOOK = 0.5  # seconds between two looks at whether to stop


def compute(name: str, words: Sequence[str], processes: int, nodes: int) -> int:
    """Run a cell by `processes` on each of the nodes of this job; return the exit code."""
    if nodes == 1:
        _share_cores(processes)
        return _agent(["--standalone", f"--nproc-per-node={processes}"], name, words)
    meeting = f"{socket.gethostname()}:{_free_port()}"
    id = f"{os.environ.get('SLURM_JOB_ID', 'job')}-{'-'.join(words[-1:]).replace('/', '-')}"
    agent = [sys.executable, "-m", "experiments.cluster.together"]
    cores = os.environ.get("SLURM_CPUS_PER_TASK", "1")
    step = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    step += [f"--cpus-per-task={cores}", "--kill-on-bad-exit=0"]
    return _followed([*step, *agent, str(nodes), str(processes), meeting, id, name, *words])


def _followed(words: Sequence[str]) -> int:
    """Run a step of Slurm, to which a request to stop is passed on."""
    step, asked = subprocess.Popen(words), False
    while True:
        try:
            code = step.wait(timeout=LOOK)
            break
        except subprocess.TimeoutExpired:
            if process.stop_requested() and not asked:
                asked = True
                step.terminate()
    if process.stop_requested():
        return INTERRUPTED
    return code if code in (0, USER_MISTAKE) else CRASHED


def main(argv: Sequence[str]) -> int:
    """The agent of one node."""
    nodes, processes, meeting, id, name, *words = argv
    _share_cores(int(processes))
    options = [f"--nnodes={nodes}", f"--nproc-per-node={processes}", f"--rdzv-id={id}"]
    options += ["--rdzv-backend=c10d", f"--rdzv-endpoint={meeting}"]
    return _agent(options, name, words)


def _agent(options: Sequence[str], name: str, words: Sequence[str]) -> int:
    """Start the processes of this node and wait for them.

    Each cell has a torchrun of its own, so that all processes start in the same state. They compute
    the run together; the first to finish writes it.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    try:
        run(parse_args([*options, "-m", f"experiments.{name}", *words]))
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        return USER_MISTAKE if codes == {USER_MISTAKE} else CRASHED
    except SignalException:
        return INTERRUPTED
    return 0


def _share_cores(processes: int) -> None:
    """Divide the cores among the processes, if array.sbatch gave all of them to one."""
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    if cores and cores == os.environ.get("OMP_NUM_THREADS"):
        os.environ["OMP_NUM_THREADS"] = str(max(1, int(cores) // processes))


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        port: int = one.getsockname()[1]
        return port


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
