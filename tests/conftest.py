"""The setting in which every test starts."""

import os

import pytest
import torch

torch.set_num_threads(1)  # tensors here are small: threads only wait for each other


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk():
    """No machine dies in these tests: thousands of made-up runs need not wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
