"""No test of tracking sees this machine's logins, and none starts a process unless it says so."""

import os
import sys

import pytest

from experiments.laboratory import progress
from experiments.laboratory.tracking import relay, wandb_server
from experiments.laboratory.tracking.lines import Machine
from experiments.laboratory.tracking.mirror import Mirror
from experiments.laboratory.tracking.wandb_pages import WandB
from tests.experiments.laboratory.tracking.fake_wandb import Fake


@pytest.fixture(autouse=True)
def wandb(tmp_path, monkeypatch):
    """A fake of wandb, and pages that are sent to it from this process."""
    for name in list(os.environ):
        if name.startswith(("WANDB_", "RETRACE_TRACK")):
            monkeypatch.delenv(name)
    for name in ("RETRACE_TRACK", "RETRACE_TRACK_FILES"):
        monkeypatch.setenv(name, "")  # what a command sets is taken back after the test
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(progress, "DELAY", 1e6)  # a busy machine draws no bars between the lines
    monkeypatch.setattr(Machine, "lines", lambda _: {"machine/hours": 0.5})
    wandb_server.answers.cache_clear()
    monkeypatch.setattr(relay, "started", lambda name, preset: Mirror(name, preset, WandB()))
    fake = Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
