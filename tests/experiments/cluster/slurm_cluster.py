"""A Slurm of one machine in a folder: munged, slurmctld and slurmd, stopped by their ids."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
PLACES = (*os.environ.get("PATH", "").split(":"), "/usr/sbin", "/sbin")

CONF = """
ClusterName=retrace
SlurmctldHost=localhost
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
KillWait=10
GresTypes=gpu
# More CPUs and GPUs than there are: what is tested sleeps most of its time.
SlurmdParameters=config_overrides
NodeName=localhost CPUs=8 Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
GRES = """
Name=gpu File=/dev/null
Name=gpu File=/dev/zero
"""


def missing() -> str:
    """Why there can be no Slurm here; "" if there can."""
    absent = [name for name in (*DAEMONS, "sbatch", "squeue") if not _program(name)]
    if absent:
        return f"no {', '.join(absent)} here: `apt-get install slurm-wlm munge`"
    return "" if os.geteuid() == 0 else "Slurm's daemons are started by root alone"


@contextlib.contextmanager
def started(folder: Path) -> Iterator[dict[str, str]]:
    """Run a cluster whose files are in `folder`; yield the environment that its commands need."""
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, ports=_ports(), user="root"))
    (folder / "gres.conf").write_text(GRES)
    environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": ":".join(PLACES)}
    munge = [
        "--force", f"--key-file={key}", f"--socket={folder}/munge.socket",
        f"--log-file={folder}/munged.log", f"--pid-file={folder}/munged.pid",
        f"--seed-file={folder}/munged.seed",
    ]  # fmt: skip
    commands = {
        "munged": ["--foreground", *munge],
        "slurmctld": ["-D"],
        "slurmd": ["-D", "-N", "localhost"],
    }
    processes = []
    try:
        for name, options in commands.items():
            with (folder / f"{name}.out").open("wb") as out:
                words = [_program(name), *options]
                process = subprocess.Popen(
                    words, env=os.environ | environment, stdout=out, stderr=out
                )
            processes.append(process)
            if name == "munged":
                until((folder / "munge.socket").exists, "munged answers")
        idle = ["sinfo", "--noheader", "--format=%T"]

        def is_up() -> bool:
            asked = subprocess.run(
                idle, env=os.environ | environment, capture_output=True, text=True
            )
            return asked.stdout.strip() == "idle"

        until(is_up, f"the node is idle: see {folder}/*.log")
        yield environment
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in reversed(processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def until(holds: Callable[[], bool], what: str, seconds: float = 300.0) -> None:
    """Wait until something holds; an AssertionError says what did not."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"waited {seconds:.0f} s until {what}"
        time.sleep(0.2)


def _program(name: str) -> str:
    return shutil.which(name, path=":".join(PLACES)) or ""


def _ports() -> list[int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("localhost", 0))
        two.bind(("localhost", 0))
        return [one.getsockname()[1], two.getsockname()[1]]
