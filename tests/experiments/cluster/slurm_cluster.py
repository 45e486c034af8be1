"""A Slurm of two nodes on one machine, in a folder: its daemons are stopped by their ids."""

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
NODES = ("one", "two")
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
MaxArraySize=4
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
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
NodeName=DEFAULT CPUs=32 RealMemory=64000 Gres=gpu:2
NodeName=one NodeHostname=localhost Port={ports[1]}
NodeName=two NodeHostname=localhost Port={ports[2]}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
GRES = """
Name=gpu File=/dev/null
Name=gpu File=/dev/zero
"""


_daemons: list[subprocess.Popen[bytes]] = []  # of the cluster that is running


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
    for node in NODES:
        (folder / f"spool-{node}").mkdir()
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
    commands = [
        ["munged", "--foreground", *munge],
        ["slurmctld", "-D"],
        *(["slurmd", "-D", "-N", node] for node in NODES),
    ]
    try:
        for name, *options in commands:
            with (folder / f"{name}.out").open("ab") as out:
                words = [_program(name), *options]
                process = subprocess.Popen(
                    words, env=os.environ | environment, stdout=out, stderr=out
                )
            _daemons.append(process)
            if name == "munged":
                until((folder / "munge.socket").exists, "munged answers")
        idle = ["sinfo", "--noheader", "--format=%T"]

        def is_up() -> bool:
            asked = subprocess.run(
                idle, env=os.environ | environment, capture_output=True, text=True
            )
            return set(asked.stdout.split()) == {"idle"}

        until(is_up, f"the nodes are idle: see {folder}/*.log")
        yield environment
    finally:
        for process in reversed(_daemons):
            process.terminate()
        while _daemons:
            _daemons.pop().wait()


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds, as long as all daemons live; else say what did not."""
    while not holds():
        ended = [process.args for process in _daemons if process.poll() is not None]
        assert not ended, f"waited until {what}, but {ended} ended"
        time.sleep(0.2)  # between two looks, whose number decides nothing


def _program(name: str) -> str:
    return shutil.which(name, path=":".join(PLACES)) or ""


def _ports() -> list[int]:
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        sockets = [one, two, three]
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]
