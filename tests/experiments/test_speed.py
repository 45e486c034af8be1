"""The speed experiment: every work runs, and operations are counted right."""

from dataclasses import replace

import pytest
import torch

from experiments import speed
from experiments.models.mnist_cnn import LargeCNN
from experiments.speed import peak_memory
from experiments.timing import work as speed_work
from experiments.timing.peers.cells import Peer
from experiments.timing.projected import Projected
from methods.rows.projections import TwoSided

OWN = [cell for cell in speed.PRESETS["smoke"] if not isinstance(cell.work, Peer)]

SCORING = [
    speed_work.LastLayer(32, 4),
    speed_work.BeyondMemory(16, 4, 2, 8),
    Projected(8, TwoSided(7)),
]
LATER = [speed.Config(work, 1, judged=False) for work in SCORING]


@pytest.mark.parametrize("cell", [*OWN, *LATER], ids=lambda c: type(c.work).__name__)
def test_a_tiny_cell_reports_its_ratio_and_its_operations(cell, tmp_path):
    before = torch.get_num_threads()
    metrics = speed.run(cell, tmp_path)
    assert torch.get_num_threads() == before
    assert 0 < metrics["ratio_low"] <= metrics["ratio"] <= metrics["ratio_high"]
    assert metrics["over_limit"] == pytest.approx(
        metrics["seconds"] * metrics["gemm_gflops"] * 1e9 / metrics["flops"]
    )
    assert metrics["flops"] > metrics["bytes"] / 4  # each number read is used at least once


def test_forward_operations_are_two_a_weight_and_position():
    module = LargeCNN().build(0)
    shapes = []

    def note(layer, args, output):
        if hasattr(layer, "weight"):
            positions = output[0].numel() // len(layer.bias)
            shapes.append(2 * layer.weight.numel() * positions)

    handles = [layer.register_forward_hook(note) for layer in module.modules()]
    module(speed_work.examples(1)["image"])
    for handle in handles:
        handle.remove()
    assert speed_work.forward_flops(module, 3) == 3 * sum(shapes)


def test_a_bound_is_judged_in_its_own_direction(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "peak_memory", lambda work, threads: {})
    slow = speed_work.Timed("slow", lambda: sum(range(200_000)), lambda: None, bound=1.0)
    for speedup, met in ((False, False), (True, True)):
        timed = replace(slow, speedup=speedup, bound=1.0 if not speedup else 1e-9)

        class Work(speed_work.TimedWork):
            n = 1

            def build(self, timed=timed):
                return timed

        assert speed.run(speed.Config(Work(), 3), tmp_path)["within"] is met


@pytest.mark.long
def test_peak_memory_is_that_of_the_work_alone():
    parent = torch.ones(1 << 26)  # 256 MB in the parent process must not count
    metrics = peak_memory(speed_work.SelfInfluence(n=64), 1)
    assert 1e6 < metrics["peak_bytes"] < 4 * parent.numel()
    assert metrics["peak_bytes_x4"] < 4 * parent.numel()


def test_candidates_beyond_memory_are_other_than_each_other_and_the_same_at_each_read():
    many = speed_work.Endless(1_200)
    whole = many[slice(0, 1_200)]["image"]
    assert len(torch.unique(whole.flatten(1), dim=0)) == 1_200
    torch.testing.assert_close(many[slice(700, 710)]["image"], whole[700:710], rtol=0, atol=0)
