"""The setting in which every test starts."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from experiments.laboratory import provenance
from tests.pretend_device import PretendGpu

torch.set_num_threads(1)  # tensors here are small: threads only wait for each other
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what it runs behind
    signal.signal(signal.SIGINT, signal.default_int_handler)  # programs started here listen to it


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk():
    """No machine dies in these tests: thousands of made-up runs need not wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def no_device_yet():
    """What an earlier test computed on, a pretended GPU maybe, is not where this one does."""
    provenance.forget_device()


@pytest.fixture(scope="session")
def smoke_runs(tmp_path_factory) -> Path:
    """Results of smoke presets on the CPU, which all tests of a session share: set none else."""
    home: Path = tmp_path_factory.getbasetemp()
    return (home.parent if "PYTEST_XDIST_WORKER" in os.environ else home) / "smoke-runs"


@pytest.fixture
def pretend_gpu() -> Iterator[PretendGpu]:
    """One GPU that torch, and so all code of this process, believes in; see pretend_device.py."""
    with PretendGpu() as gpu:
        yield gpu
